"""What a person sees while a sweep runs."""

import io
import itertools
import sys
import types

import pytest

from probejax.runs import progress
from probejax.sweep import Unit

REGIMES = ("standard", "scarcity")
TASKS = tuple(f"task_{number}" for number in range(8))


def _unit(task, method):
    sae = "an_sae" if method.startswith("sae") else ""
    return Unit(
        *(task, sae or "resid", method, "paper", "model", "w", "float32", 1024, "9", sae, sae),
        *(16 if sae else None, "normalised", REGIMES, (42,), "", 3),
    )


def _payload(unit):
    """Returns two fits; an SAE validates better everywhere, and tests better under scarcity."""
    sae = bool(unit.sae_id)
    many = {"num_train": 9, "num_test": 9, "seed": 42, "test_acc": 0.5, "test_f1": 0.5}
    fits = {name: [value] * 3 for name, value in {**many, "hyperparameter": 1.0}.items()}
    fits |= {"regime": ["standard", "scarcity", "scarcity"], "level": [None, 8.0, 16.0]}
    fits |= {"val_auc": [0.7 + 0.1 * sae] * 3, "gap": [0.0] * 3, "code": [0] * 3}
    fits |= {"test_auc": [0.8, 0.6 + 0.1 * sae, 0.6 + 0.1 * sae]}
    return {"unit": unit.facts, "fits": fits}


UNITS = [_unit(*each) for each in itertools.product(TASKS, ("logreg", "sae_k16"))]
PAYLOADS = {unit.name: _payload(unit) for unit in UNITS}


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def never_waits(monkeypatch):
    monkeypatch.setattr(progress, "_SHARE", 1)


def test_a_log_gets_a_line_for_every_whole_task(capsys, never_waits):
    progress.watch(iter(UNITS[2:]), UNITS, dict(list(PAYLOADS.items())[:2]), PAYLOADS.__getitem__)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" [")[0] for line in lines] == [f"{n} of 8 tasks" for n in range(2, 9)]
    assert lines[0].endswith("too early for a verdict (2 of at least 6 tasks)")
    assert lines[-1].endswith("with SAEs better in scarcity")
    assert all(len(line) <= 80 and "\r" not in line for line in lines)


def test_a_task_counts_only_when_all_its_methods_are_there(capsys, never_waits):
    progress.watch(iter(UNITS[::2]), UNITS, {}, PAYLOADS.__getitem__)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_for_every_regime(monkeypatch, never_waits):
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress.watch(iter(UNITS), UNITS, {}, PAYLOADS.__getitem__)
    shown = terminal.getvalue()
    # Two methods, eight tasks; one fit and two of them in each.
    assert "16/16" in shown and "32/32" in shown and "2/32" in shown
    assert "standard" in shown and "SAEs +0.0000" in shown
    assert "SAEs +0.1000" in shown and "with SAEs better in scarcity" in shown


def test_the_verdict_waits_where_it_would_take_long(monkeypatch):
    asked = []
    monkeypatch.setattr(progress, "quiver", lambda *a, **k: asked.append(1))
    monkeypatch.setattr(progress, "_SHARE", 1e-9)
    list(progress._verdicts(UNITS, UNITS, {}, PAYLOADS.__getitem__))
    assert len(asked) == 1


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_gets_bars_if_it_has_widgets(monkeypatch, widgets):
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if widgets else None)
    kind = progress._bar()
    assert kind is None if not widgets else kind.__name__ == "tqdm_notebook"
