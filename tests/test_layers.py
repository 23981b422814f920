"""The rules of the house: imports run one way, and what the library may never do."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("probejax/**/*.py"), *ROOT.glob("experiments/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))

# A room imports rooms of lower layers only.
LAYERS = (
    ("foreign", "rules", "inputs", "positions", "sites", "sizes", "report_size"),
    ("stored_unit",),
    ("stored_scores",),
    ("artifacts", "storage", "devices", "hosts", "metrics", "spreadsheet"),
    ("solvers",),
    ("tasks", "models", "saes"),
    ("activations",),
    ("probes",),
    ("sweep", "analysis"),
    ("comparison", "runs", "auditing"),
    ("experiments",),
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

# Inside a room, files import those that stand before them; what is not listed must not be cyclic.
ORDER = {
    "artifacts": (
        "cache", "checked", "wheels", "archives", "hub_errors", "hub", "hub_models", "ids",
    ),
    "tasks": (
        "registry", "families", "content", "classes", "csv_files", "json_lines", "parquet",
        "columns", "folder", "own", "plans", "splits", "regimes", "distinct", "catalog", "draw",
    ),
    "models": (
        "rope", "config", "quantised", "layouts", "family", "families", "presets", "hf_fields",
        "hf_rope", "hf_config", "gguf_config", "blocks", "transformer", "weights", "safetensors",
        "gguf_header", "gguf", "ggml_vocabulary", "byte_bpe", "sentencepiece_bpe", "bos", "chat",
        "tokens", "checkpoint",
    ),
    "saes": (
        "model_names", "winners", "sae", "stored", "part", "formats", "absent", "stream", "select",
        "quality", "describe", "sae_lens_list", "releases", "suites", "random_sae", "registry",
        "named", "top", "architectures", "train", "fit",
    ),
    "solvers": (
        "codes", "lanes", "tables", "engine", "cholesky", "interior_point", "l1", "newton",
        "l2_float64", "rotated_newton", "rotated", "l2", "small_logreg", "ridge",
    ),
    "activations": (
        "ragged", "packing", "npz", "stored", "shared", "reading", "forward", "cache",
        "language_model", "forecast", "sample",
    ),
    "probes": (
        "methods", "folds", "rows", "scale", "tiles", "aggregators", "token_chunks",
        "token_scores", "nearest", "pooled_latents", "families", "scores", "given",
        "logreg", "ridge", "closed_form", "mean_difference", "lda", "knn", "pca", "logreg_l1",
        "minibatch", "mlp", "xgboost", "sae", "token_training", "attention",
        "attention_newton", "pooled_logreg", "concat_pca", "sae_pooled", "token_methods",
        "baselines", "arrays", "saved", "fit",
    ),
    "sweep": (
        "config", "places", "source", "units", "data", "standard_scores", "plan", "memory",
        "execute", "token_disk", "processes", "workers", "cluster",
    ),
}  # fmt: skip

# Tests that some machines cannot run, and on what that depends.
MAY_BE_SKIPPED = {
    "published_cases.py": "the study's own result files",
    "test_saes_live.py": "sae_lens, dictionary_learning, sparsify",
    "test_report_browser.py": "a browser and playwright",
    "test_saes_sae.py": "sae_lens",
    "test_ahead_of_time.py": "libtpu and the CUDA compiler, and it is slow",
}

NOT_TIMED_BUT_TIMING = {"ahead_of_time.py"}  # reports how long compiling took, and asserts nothing


def parse(path):
    return ast.parse(path.read_text(), str(path))


def module_of(path):
    """`probejax.saes.train` for a file, `probejax.saes` for a package's `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path, tree=None):
    """The dotted names that a file imports, wherever the statement stands."""
    for node in ast.walk(tree or parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def own_imports(module):
    """The modules of the project that a module imports."""
    for name in imports(MODULES[module]):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name and name != "probejax":
            yield name


def room_of(module):
    """`saes` for `probejax.saes.train`, `experiments` for an entry point, '' for the package."""
    parts = module.split(".")
    return "experiments" if parts[0] == "experiments" else ".".join(parts[1:2])


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_to_lower_layers(module):
    if module == "probejax":
        return  # lists everything
    room = room_of(module)
    for other in own_imports(module):
        to = room_of(other)
        assert to in LAYER, f"{module} imports {other}, which has no layer"
        if to == room:
            continue
        assert LAYER[to] < LAYER[room], f"{module} (of {LAYER[room]}) imports {other} ({LAYER[to]})"


def test_every_room_has_a_layer():
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == set(LAYER)


@pytest.mark.parametrize("room", ORDER)
def test_inside_a_room_imports_run_one_way(room):
    order = ORDER[room]
    for module in MODULES:
        name = module.rpartition(".")[2]
        if room_of(module) != room or module == f"probejax.{room}":
            continue
        for other in own_imports(module):
            if room_of(other) != room:
                continue
            assert other != f"probejax.{room}", f"{module} imports its own package"
            target = other.rpartition(".")[2]
            if name in order and target in order:
                assert order.index(target) < order.index(name), f"{module} imports {other}"
    stale = [name for name in order if f"probejax.{room}.{name}" not in MODULES]
    assert not stale, f"{stale} of {room} do not exist"


def test_no_import_is_circular():
    graph = {
        module: {other for other in own_imports(module) if other != module} for module in MODULES
    }
    # A package imports its files to list their names; that is no dependency of theirs.
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    files = {m: others - packages for m, others in graph.items() if m not in packages}
    tuple(graphlib.TopologicalSorter(files).static_order())  # raises CycleError
    rooms = {room: set() for room in LAYER}
    for module, others in graph.items():
        if room := room_of(module):
            rooms[room] |= {room_of(other) for other in others} - {room}
    tuple(graphlib.TopologicalSorter(rooms).static_order())


LIBRARY = [path for path in FILES if path.is_relative_to(ROOT / "probejax")]


@pytest.mark.parametrize("path", LIBRARY, ids=module_of)
def test_the_library_has_no_torch_no_flags_and_no_print(path):
    for name in imports(path):
        assert name.split(".")[0] not in ("torch", "torchvision"), f"{path} imports {name}"
        assert name not in ("absl.flags", "absl.app"), f"{path} imports {name}"
        assert not name.startswith(("absl.flags.", "absl.app.", "experiments", "tests"))
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    assert "print" not in names, f"{path} prints"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_are_small_and_named_for_what_they_hold(path):
    assert path.read_text().count("\n") <= 400
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


def skips(path):
    """The lines on which a test file lets a test be skipped or fail."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and node.attr in (
            "skip", "skipif", "importorskip", "xfail", "skipTest", "SkipTest",
        ):  # fmt: skip
            yield node.lineno


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_every_test_that_may_be_skipped_is_listed(path):
    if path == Path(__file__):
        return
    found = list(skips(path))
    listed = path.name in MAY_BE_SKIPPED
    assert listed or not found, f"{path.name} may skip on lines {found}; list it in test_layers.py"


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.name)
def test_no_test_depends_on_how_fast_the_machine_is(path):
    """Speed is a ratio, in `experiments.benchmark`; a busy machine must not fail a test."""
    if path.name in NOT_TIMED_BUT_TIMING:
        return
    clocks = {"perf_counter", "perf_counter_ns", "time_ns"}
    read = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(parse(path))}
    assert not clocks & read


def test_the_list_of_skips_is_not_stale():
    by_name = {path.name: path for path in TESTS}
    for name in MAY_BE_SKIPPED:
        assert list(skips(by_name[name])), f"{name} skips nothing"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("import torch.nn as n", ["torch.nn"]),
        ("def f():\n    from absl import flags, logging", ["absl.flags", "absl.logging"]),
        ("from probejax.saes.train import fold", ["probejax.saes.train.fold"]),
    ],
)
def test_the_walk_sees_every_form_of_import(text, expected):
    assert list(imports("some file", ast.parse(text))) == expected
