"""Settings that must be made before JAX, or a Hugging Face library, is used for the first time."""

import os
import shutil
import signal
import tempfile

# No test may reach the Hub; the pinned archives come through pip and obey PROBEJAX_CACHE.
os.environ["HF_HUB_OFFLINE"] = "1"
# What a script starts beside itself ignores Ctrl-C, and so would the commands that are tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# LAPACK's own threads and XLA's would wait for each other, as experiments/__init__.py explains;
# those of PyTorch and scikit-learn spin, and every core has a process of tests already.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


import hypothesis
import jax
import pytest
import sklearn  # noqa: F401  like JAX, it sets variables of the environment when imported
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# Most of the suite's time is compiling. What one process has compiled the others read, those that
# tests start among them; whoever names a folder keeps the programs for the next run.
_OURS = "JAX_COMPILATION_CACHE_DIR" not in os.environ
_CACHE = {
    "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or tempfile.mkdtemp(prefix="probejax-tests-"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_enable_xla_caches": "none",  # else the folder is a part of every key
}
for _name, _value in _CACHE.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)

# The same inputs on every machine, however slow it is.
hypothesis.settings.register_profile("ours", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ours")

# The longest files begin: whatever comes last, one process has all to itself.
_LONG = {
    *("test_probes_aggregators", "test_probes_attention", "test_probes_logreg", "test_probes_pca"),
    *("test_probes_sae", "test_probes_sae_pooled", "test_probes_saved", "test_processes"),
    *("test_solvers_l2", "test_sweep", "test_sweep_workers"),
}
_ALL_TOKENS = {
    *("test_probes_aggregators", "test_probes_attention", "test_probes_attention_newton"),
    *("test_probes_concat_pca", "test_probes_fit", "test_probes_given", "test_probes_sae_pooled"),
    "test_probes_saved",
}
_SETTINGS = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_default_matmul_precision")


def pytest_configure(config):
    """Programs that run for milliseconds are not worth optimising, which saves a fifth of the time.

    What must hold of programs as they are shipped is marked thorough; those run by themselves.
    """
    quick = config.option.markexpr != "thorough"
    if quick:  # as programs of lanes are compiled, see `spread`
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        )
    jax.config.update("jax_disable_most_optimizations", quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))


def pytest_unconfigure():
    if _OURS:
        shutil.rmtree(_CACHE["jax_compilation_cache_dir"], ignore_errors=True)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in _LONG)


@pytest.fixture(autouse=True)
def nothing_leaks():
    """A test leaves the environment, the working folder and JAX's settings as it found them."""

    def state():
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        return environment, os.getcwd(), {name: getattr(jax.config, name) for name in _SETTINGS}

    before = state()
    yield
    assert state() == before


@pytest.fixture(autouse=True, scope="session")
def one_device():
    """Of the four devices tests use one, unless they say `jax.default_device(None)`."""
    jax.config.update("jax_default_device", jax.local_devices()[0])
    yield
    jax.config.update("jax_default_device", None)


@pytest.fixture(autouse=True)
def one_cache_of_programs():
    """A run sets the cache of its own folder; the tests after it use the suite's again."""
    yield
    for name, value in _CACHE.items():
        if getattr(jax.config, name) != value:
            jax.config.update(name, value)
            compilation_cache.reset_cache()


@pytest.fixture(autouse=True, scope="module")
def tiles_of_few_lengths(request):
    """The prompts of these files are short, and every length that tiles may have is compiled."""
    if request.path.stem not in _ALL_TOKENS:
        yield
        return
    from probejax.probes import tiles

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_LENGTHS", (8, 64))
        yield


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drops compiled programs before there are too many: some 2,000 tests make as many."""
    from probejax import devices  # imported sooner, its annotations would not be checked

    yield
    devices.limit_programs()


@pytest.fixture(autouse=True, scope="session")
def _devices_of_a_cpu_share_lanes():
    from probejax import devices  # not before the types of its functions are checked

    devices.SPREADS_ON_CPU = True
