"""Any table of results has a report: what cannot be drawn costs a line, the tables always come."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from probejax import probes, storage
from probejax.analysis import figures
from probejax.analysis.page.page import Story
from probejax.analysis.report import report
from probejax.analysis.tables import as_results, results_table
from tests.report_cases import (
    ARROWS,
    CONFIG,
    LEVELS,
    NARROW,
    TASKS,
    WIDE,
    quick_figures,
    unit,
    write_run,
)

BASELINES = ("logreg", "pca", "attention", "multimax", "a_method_of_tomorrow")
PROBES = (
    ("sae_k16", 16), ("sae_k128", 128), ("sae_max_k128", 128), ("sae_mean_k16", 16),
    ("sae_k16_binarised", 16), ("sae_k16_shuffled", 16), ("sae_of_tomorrow", None),
)  # fmt: skip
SAES = ("unknown", "other", NARROW, WIDE, f"random/{NARROW}")
VALUES = (0.5, 1.0, 0.73, 0.81, float("nan"))
CONDITIONS = LEVELS | {"regime_of_tomorrow": (None, 1.0)}


def _some(draw, values, least=0, most=3):
    return draw(st.lists(st.sampled_from(values), unique=True, min_size=least, max_size=most))


@st.composite
def runs(draw):
    """A small results table."""
    saes = _some(draw, SAES)
    arrows = [(name, "", None) for name in _some(draw, BASELINES, 0 if saes else 1)]
    arrows += [(name, sae_id, k) for name, k in _some(draw, PROBES, 1) for sae_id in saes]
    values, tasks = _some(draw, VALUES, 1), draw(st.integers(1, 3))
    seeds, share = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 0.7]))
    sites = _some(draw, ("resid_post.9", "resid_pre.0", "mlp_out.9"), 1)
    protocols = _some(draw, ("paper", "strict"), 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = [
        (f"t{task}", regime, level, seed, protocol, site, method, sae_id, k)
        for task in range(tasks)
        for regime in _some(draw, tuple(CONDITIONS), 1)
        for level in CONDITIONS[regime]
        for seed in range(42, 42 + seeds)
        for protocol in protocols
        for site in sites
        for method, sae_id, k in arrows
    ]
    rows = [row for row in rows if rng.random() < share] or rows[:1]
    names = ("task", "regime", "level", "seed", "protocol", "site", "method", "sae_id", "k")
    table = pd.DataFrame(rows, columns=pd.Index(names)).assign(model="m", num_train=9, num_test=9)
    aucs = {name: rng.choice(values, len(rows)) for name in ("val_auc", "test_auc")}
    facts = st.fixed_dictionaries(
        {
            "architecture": st.sampled_from(["relu", "topk", None]),
            "l0": st.sampled_from([None, 0.0, 40.0]),
            "released": st.sampled_from([None, "2024-01-01", "2023-05-06", "in spring"]),
        }
    )
    return as_results(table.assign(**aucs), {sae_id: draw(facts) for sae_id in saes})


def _reported(results):
    """Writes a report; returns its lines about parts that are left out."""
    with tempfile.TemporaryDirectory() as out, quick_figures():
        text = report(out, results, story=Story())
        page = (Path(out) / "report.html").read_text()
        assert page.endswith("</html>\n")
        assert "<table" in page or results["test_auc"].isna().all()
        assert len(pd.read_csv(Path(out) / "results.csv")) == len(results)
        assert (Path(out) / "quiver.csv").exists()
    lines = [line for line in text.splitlines() if line.startswith("Left out: ")]
    assert page.count("<li>Left out: ") == len(lines)
    return lines


EXPECTED = ("(no fit has a test AUC)", "(the L0 of no SAE is known)", "is no date)")


def _holds(run):
    unexpected = [line for line in _reported(run) if not any(text in line for text in EXPECTED)]
    assert not unexpected


ANY = {"suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=4, **ANY)
@given(runs())
def test_a_report_of_anything(run):
    _holds(run)


@pytest.mark.slow
@settings(max_examples=200, **ANY)
@given(runs())
def test_a_report_of_anything_at_length(run):
    _holds(run)


METHODS = (
    "logreg", "pca", "lda", "attention", "attention_no_bos", "concat_pca", "multimax",
    "sae_k16", "sae_k128", "sae_k16_binarised", "sae_max_k128", "sae_mean_k128",
    "sae_max_k16_binarised", "logreg_shuffled", "sae_k16_shuffled", "sae_k16_random_latents",
    "sae_max_k128_shuffled",
)  # fmt: skip
TWINS = ("a_release/layer_9/width_16k", "another/layer_9/width_16k")  # of equal width
NO_TEXTS = "rows alone are shown (the task is not at hand)"
ISSUE = ("logreg", "attention", "sae_max_k128", "sae_mean_k128", "concat_pca", "multimax")


@st.composite
def flags(draw):
    """Flags of a sweep: methods, regimes, seeds, SAEs, tasks."""
    methods = tuple(_some(draw, METHODS, 1, 6))
    saes = draw(st.sampled_from([(), TWINS[:1], TWINS, (NARROW, f"random/{NARROW}")]))
    regimes = tuple(_some(draw, tuple(LEVELS), 1))
    return methods, regimes, draw(st.sampled_from([(42,), (0, 1)])), saes, draw(st.integers(1, 3))


def _swept(out, methods, regimes, seeds, saes, tasks):
    """Writes the units that a sweep with these flags would have written."""
    k = {name: probes.parse(name).k for name in methods}
    methods = [name for name in methods if saes or not k[name]]
    arrows = [(name, sae_id, k[name] or None) for name in methods
              for sae_id in (saes if k[name] else ("",))]  # fmt: skip
    given = {"methods": list(methods), "sae": list(saes), "tasks": list(TASKS[:tasks])}
    write_run(out, tasks=TASKS[:tasks], arrows=arrows, config=CONFIG | given, seeds=seeds,
              regimes=regimes)  # fmt: skip
    return len(arrows) * tasks


def _every_flag_has_a_report(run):
    with tempfile.TemporaryDirectory() as root, quick_figures():
        out = Path(root) / "run"
        if not (units := _swept(out, *run)):
            return
        text = report(out, cache_dir=out / "no_cache")
        left_out = [line for line in text.splitlines() if line.startswith("Left out: ")]
        assert f"Complete: {units} units" in text
        assert all(NO_TEXTS in line for line in left_out), left_out
        assert (out / "report.html").read_text().endswith("</html>\n")
        methods, regimes, _, saes, _ = run
        plain = saes and {"sae_k16", "sae_k128"} & set(methods)
        named = [sae_id for sae_id in saes if not sae_id.startswith("random/")]
        found = list((out / "saebench").glob("*.json")) if (out / "saebench").exists() else []
        assert len(found) == (len(named) if plain and "standard" in regimes else 0)
        last = {"logreg", "pca", "lda"} & set(methods)
        assert (out / "study").exists() == bool(
            last or (named and (plain or "sae_k16_binarised" in methods))
        )


@settings(max_examples=5, deadline=None, **ANY)
@given(flags())
@example((ISSUE, ("standard",), (42,), TWINS[:1], 2))
@example((("sae_k16_binarised",), ("standard", "scarcity"), (42,), TWINS, 2))
@example((("logreg_shuffled", "sae_k16_random_latents"), tuple(LEVELS), (0, 1), TWINS[:1], 2))
def test_every_combination_of_flags_has_a_report(run):
    _every_flag_has_a_report(run)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, **ANY)
@given(flags())
def test_every_combination_of_flags_has_a_report_at_length(run):
    _every_flag_has_a_report(run)


def _table(arrows, regimes=("standard", "scarcity"), tasks=TASKS[:2], **columns):
    table = results_table([unit(task, *arrow) for task in tasks for arrow in arrows])
    return table[table["regime"].isin(regimes)].reset_index(drop=True).assign(**columns)


UNKNOWN = (("logreg", "", None), ("sae_k16", NARROW, 16), ("sae_k16", WIDE, 16))
RENAMED = {NARROW: "first", WIDE: "second", "": ""}


@pytest.mark.parametrize(
    ("table", "lines"),
    [
        pytest.param(
            as_results(
                _table(UNKNOWN, ["standard"]).assign(sae_id=lambda x: x["sae_id"].map(RENAMED)),
                {name: {"architecture": name, "l0": None} for name in ("first", "second")},
            ),
            ["Left out: figures/architectures (the L0 of no SAE is known)."],
            id="no L0 is known",
        ),
        pytest.param(
            _table((("logreg", "", None), ("attention", "", None), ("sae_max_k128", NARROW, 128),
                    ("multimax", "", None)), ["standard"]),
            [], id="pooled probes alone",
        ),
        pytest.param(_table(UNKNOWN, val_auc=0.5, test_auc=0.5), [], id="all alike"),
        pytest.param(
            _table(UNKNOWN, val_auc=np.nan, test_auc=np.nan),
            ["Every method: Data scarcity, gemma-3-270m, resid_post.9, paper protocol (no fit"],
            id="no AUC",
        ),
        pytest.param(_table(UNKNOWN[:1]), [], id="one method"),
        pytest.param(_table(UNKNOWN[1:]), [], id="no baseline"),
        pytest.param(_table(ARROWS[6:8]), [], id="controls alone"),
        pytest.param(_table(UNKNOWN, tasks=TASKS[:1]), [], id="one task"),
        pytest.param(_table((*UNKNOWN, ("tomorrow", "", None))), [], id="unknown method"),
    ],
)  # fmt: skip
def test_reports_that_once_failed(table, lines):
    found = _reported(table)
    assert len(found) >= len(lines) and all(any(line in one for one in found) for line in lines)
    assert lines or not found


def test_a_figure_that_fails_costs_a_line_and_a_full_disk_the_report(tmp_path, monkeypatch):
    table = _table(UNKNOWN, ["standard", "scarcity"])

    def fail(group, regime):
        raise RuntimeError("of no  reason\nat all")

    monkeypatch.setitem(figures._OF_REGIME, "", ("Change", fail))
    assert _reported(table) == [
        f"Left out: figures/{regime} (of no reason at all)." for regime in ("standard", "scarcity")
    ]

    def full(group, regime):
        raise storage.StorageError("Cannot write: no space is left")

    monkeypatch.setitem(figures._OF_REGIME, "", ("Change", full))
    with pytest.raises(storage.StorageError, match="no space is left"), quick_figures():
        report(tmp_path, table)


def test_what_dead_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    table = _table(UNKNOWN[:2], ["standard"])
    names = ("figures", "units", "study/x")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        for part in (f".{'0' * 32}.part", ".notes.part", "mine.part"):
            (tmp_path / name / part).write_text("")
        os.utime(tmp_path / name / f".{'0' * 32}.part", (0, 0))
    fresh = tmp_path / "units" / f".{'1' * 32}.part"
    fresh.write_text("")
    with quick_figures():
        report(tmp_path, table)
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.part")}
    kept = {Path(name, part) for name in names for part in (".notes.part", "mine.part")}
    assert left == {*kept, fresh.relative_to(tmp_path)}
