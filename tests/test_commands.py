"""What a person meets at the commands' door: mistakes told at once, in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Runs a command and says whether it has imported what is slow, and whether it fetched anything.
CODE = """
import os, runpy, sys
sys.argv, os._exit = sys.argv[1:], sys.exit
try:
    runpy.run_module("experiments." + sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(end.code if isinstance(end.code, (int, str)) else "", file=sys.stderr)
print("jax" in sys.modules)
"""


def run(command: str, *flags: str, cache: Path) -> tuple[bool, str]:
    """Returns whether JAX was imported, and the last line of the errors."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, command, *flags],
        env=os.environ | {"PROBEJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stderr.strip()
    assert "Traceback" not in said, said
    return done.stdout.strip().endswith("True"), said


MISTAKES = {
    ("sweep",): "Give --out; only --dry_run needs none.",
    ("train_sae",): "Give --sae_out; only --dry_run needs none.",
    ("sweep", "--out=x", "--target=h100"): "--target=h100 is for --dry_run; give both or neither.",
    ("harvest", "--target=h100"): "--target=h100 is for --dry_run; give both or neither.",
    ("sweep", "--dry_run", "--target=v9"): "value should be one of <cpu|v5e-8",
    ("sweep", "--out=x", "--regims=standard"): "Unknown command line flag 'regims'",
    ("sweep", "--out=x", "--tasks=zzz"): "there is no task 'zzz'",
    ("sweep", "--out=x", "--methods=logrg"): "Did you mean logreg?",
    ("sweep", "--out=x", "--regimes=noise"): "--regimes=noise does not exist",
    ("sweep", "--out=x", "--protocol=lax"): "value should be one of",
    ("sweep", "--out=x", "--seeds=1,1"): "--seeds names 1 2 times; give each once.",
    ("sweep", "--out=x", "--regimes=standard,standard"): "--regimes names standard 2 times",
    ("sweep", "--out=x", "--seeds=²"): "--seeds=² is not a whole number.",
    ("sweep", "--out=x", "--seeds=4294967296"): "--seeds=4294967296 is no seed",
    ("sweep", "--out=x", "--layer=²"): "--site=² is no site: give a kind and a zero-based layer",
    ("sweep", "--out=x", "--site=mlp.3"): "--site=mlp.3 is no site: give a kind and a zero-based",
    ("sweep", "--out=x", "--layer=3", "--site=embed"): "and --site=embed is given too; leave one",
    ("sweep", "--out=x", "--layer=3,x"): "--site=x is no site: give a kind and a zero-based layer",
    ("sweep", "--out=x", "--site="): "--site is empty; give at least one.",
    ("train_sae", "--sae_out=x", "--layer=3,4"): "and --site names 3, 4; give one.",
    ("train_sae", "--sae_out=x", "--site="): "and --site names none; give one.",
    ("train_sae", "--sae_out=x", "--positive=a"): "--positive=a is about --data; give that, too.",
    ("harvest", "--text_column=a"): "--text_column=a is about --data; give that, too.",
    ("sweep", "--out=x", "--memory_gb=inf"): "--memory_gb=inf is no number to work with.",
    ("sweep", "--out=x", "--memory_gb=nan"): "--memory_gb=nan is no number to work with.",
    ("sweep", "--out="): "--out is empty",
    ("sweep", "--out=s3://x"): "--out=s3://x is no place for results",
    ("sweep", "--out=foo://x"): "--out=foo://x is no place for results",
    ("sweep", "--out=gs://"): "--out=gs:// is no place for results",
    ("sweep", "--out=x", "--process_id=1"): "Give both --process_id and --num_processes",
    ("sweep", "--out=x", "word"): "Unknown arguments: ['word']",
    ("sweep", "--out=x", "--data=absent"): "--data=absent is neither a file nor a folder",
    ("sweep", "--out=x", "--labels=y.npy"): "--labels are those of --activations; give both.",
    ("sweep", "--out=x", "--activations=x.npy", "--tasks=all"): "so --tasks has no place beside",
    ("sweep", "--out=x", "--activations=x.npy", "--data=x"): "so --data has no place beside",
    ("sweep", "--out=x", "--activations=x", "--layer=7"): "so --site=7 means none",
    ("sweep", "--out=x", "--activations=x", "--model=m"): "so --model=m means none",
    ("sweep", "--out=x", "--activations=x", "--dtype=bfloat16"): "so --dtype=bfloat16 means none",
    ("sweep", "--out=x", "--activations=x", "--max_length=7"): "so --max_length=7 means none",
    ("sweep", "--out=x", "--position=after:\x1b[2J"): "and of control characters line ends",
    ("report", "--out=x", "--published_ranking=new"): "--published_ranking is about --published",
    ("report", "--out=x", "--model=gemma-3-270m"): "--model is about --published; give that, too",
    ("sweep", "--out=x", "--text_column=a"): "--text_column names a column of --data; give that",
    ("sweep", "--out=x", "--groups=a"): "--groups names a column of --data; give that, too.",
    ("sweep", "--out=x", "--positive=a"): "--positive names a label of --data or --activations",
    ("sweep", "--out=x", "--regimes=group_shift"): "holds out groups; name their column: --groups",
    ("audit", "--out=x", "--tasks=zzz"): "there is no task 'zzz'",
    ("audit", "--out=x", "--regimes=standard"): "--regimes has no effect on this command.",
    ("audit", "--out=x", "--corpus=absent.txt"): "No such file or directory: 'absent.txt'",
    ("audit", "--out=x", "--keep=absent.txt"): "No such file or directory: 'absent.txt'",
    ("audit", "--out=x", "--target=h100"): "--target=h100 is for --dry_run; give both or neither.",
    ("audit", "--tasks=demo"): "Give --out; only --dry_run needs none.",
    ("audit", "--out=x", "--groups=a"): "--groups names a column of --data; give that, too.",
    ("harvest", "--tasks=zzz"): "there is no task 'zzz'",
    ("train_sae", "--sae_out=x", "--architecture=gate"): "value should be one of <jumprelu|relu|",
    ("train_sae", "--sae_out=x", "--tasks=zzz"): "there is no task 'zzz'",
    ("train_sae", "--sae_out=x", "--layer=-1"): "--site=-1 is no site",
    ("harvest", "--disk_gb=inf"): "--disk_gb=inf is no number to work with.",
}


@pytest.mark.parametrize("command", MISTAKES, ids=" ".join)
def test_a_mistake_is_told_before_anything_slow(command, tmp_path):
    imported, said = run(*command, cache=tmp_path / "cache")
    assert MISTAKES[command] in said
    assert not imported and not (tmp_path / "cache").exists()
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("sweep", ("model", "tasks", "data", "dtype", "max_length", "disk_gb", "cache_dir")),
        ("harvest", ("model", "site", "layer", "tasks", "data", "dtype", "max_length", "disk_gb")),
        ("train_sae", ("model", "site", "layer", "tasks", "data", "dtype", "max_length")),
        ("report", ("cache_dir",)),
        (
            "audit",
            ("model", "sae", "tasks", "data", "groups", "activations", "corpus", "keep", "dry_run"),
        ),
    ],
)
def test_help_lists_the_flags_that_a_command_obeys(command, flags, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{command}", "--help"],
        env=os.environ | {"PROBEJAX_CACHE": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0  # to ask for help is no failure
    for flag in flags:
        assert f"\n  --{flag}:" in done.stdout or f"\n  --[no]{flag}:" in done.stdout, flag


def test_a_flag_without_effect_is_refused(tmp_path):
    _, said = run("report", "--out=x", "--tasks=all", cache=tmp_path)
    assert "--tasks has no effect on this command." in said


def test_the_commands_are_all_here():
    entries = {
        path.stem for path in ROOT.glob("experiments/*.py") if "run(main)" in path.read_text()
    }
    assert entries == {"audit", "sweep", "harvest", "report", "train_sae", "benchmark"}


def test_a_dry_run_of_a_benchmark_names_its_records(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", "--suite=probes", "--only=fits/*/640",
         "--dry_run"],
        env=os.environ | {"PROBEJAX_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The suite `probes` of the benchmark")
    records = done.stdout.partition("the ratio to reach:\n")[2].splitlines()
    assert records == ["fits/logreg/640  8.0", "fits/sae_k128/640  8.0"]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("lines", [1, 10_000])  # what a buffer holds, and more
def test_a_reader_who_has_seen_enough_is_no_error(lines):
    program = f"""
from experiments import entry
def main(_):
    print("a line\\n" * {lines})
entry.run(main)
"""
    done = subprocess.run(
        ["bash", "-c", '(sleep 1; "$0" -c "$1"; echo code $? >&2) | true', sys.executable, program],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == "code 141\n"


@pytest.mark.parametrize(
    "error", [KeyError("x"), RecursionError("deep"), MemoryError(), TypeError("a\nb")]
)
def test_an_error_that_nobody_foresaw_is_a_sentence_too(error, capsys, monkeypatch):
    from absl import flags

    from experiments import entry

    def main(_):
        raise error

    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(entry.os, "_exit", sys.exit)
    values = flags.FlagValues()
    flags.DEFINE_integer("verbosity", -1, "", flag_values=values)
    values(["x"])
    monkeypatch.setattr(entry.flags, "FLAGS", values)
    monkeypatch.setattr(entry.app, "run", lambda guarded: guarded(["x"]))
    with pytest.raises(SystemExit) as end:
        entry.run(main)
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith(f"Error: {type(error).__name__}: ")
    assert said.endswith("(--verbosity=1 shows where).\n") and said.count("\n") == 1
    values.verbosity = 1
    with pytest.raises(type(error)):
        entry.run(main)


# A thread that is always inside compiled code, which calls Python, as a harvest is.
BUSY = """
import threading
import jax, numpy as np
from experiments import entry

def work():
    while True:
        jax.block_until_ready(busy(1.0))

def call(x):
    started.set()
    return np.float32(x)

busy = jax.jit(lambda x: jax.lax.fori_loop(
    0, 100, lambda _, x: jax.pure_callback(call, jax.ShapeDtypeStruct((), "float32"), x), x))
started = threading.Event()
def main(_):
    threading.Thread(target=work, daemon=True).start()
    started.wait()
    raise {error}
entry.run(main)
"""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("KeyboardInterrupt", 130, "\nInterrupted; the same command goes on.\n"),
        ("ValueError('It is so.')", 1, "Error: It is so.\n"),
    ],
)
def test_a_command_ends_in_its_sentence_whatever_its_threads_do(error, code, said):
    done = subprocess.run(
        [sys.executable, "-c", BUSY.format(error=error)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_a_command_ends_in_its_sentence_when_nobody_reads_its_output():
    script = """
from experiments import entry
def main(_):
    print("a line")
    raise ValueError("It is so.")
entry.run(main)
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "Error: It is so.\n")
