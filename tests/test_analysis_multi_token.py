"""The study's three panels, on numbers worked out by hand and on the study's own."""

import numpy as np
import pandas as pd
import pytest

from probejax.analysis import intervals, multi_token, overview_figures
from probejax.analysis.facts import with_facts
from probejax.analysis.grid import grid
from probejax.analysis.group import groups
from probejax.analysis.quiver import quiver
from probejax.analysis.report import report
from probejax.analysis.study_layout import write_study
from probejax.analysis.tables import as_results
from probejax.analysis.ties import tie_orders
from tests.published_cases import NARROW as PUBLISHED_SAE
from tests.published_cases import golden, published_results

SAE = "layer_9/width_4k/average_l0_78"
TASKS = tuple("abcde")
# (validation AUC, test AUC) per task. Where a side may pool: a takes the last token at a tie, b and
# c pool, d has its better test AUC not chosen; e lacks the pooled SAE probe.
LOGREG = ((0.9, 0.80), (0.8, 0.80), (0.8, 0.80), (0.9, 0.80), (0.9, 0.80))
ATTENTION = ((0.9, 0.99), (0.9, 0.84), (0.9, 0.85), (0.8, 0.90), (0.9, 0.90))
LAST = ((0.9, 0.70), (0.8, 0.70), (0.8, 0.804), (0.8, 0.82), (0.9, 0.70))
POOLED = ((0.9, 0.95), (0.9, 0.90), (0.9, 0.852), (0.7, 0.90), None)
METHODS = (("logreg", "", None, LOGREG), ("attention", "", None, ATTENTION),
           ("sae_k128", SAE, 128, LAST), ("sae_max_k128", SAE, 128, POOLED))  # fmt: skip


def table(methods=METHODS, **more):
    rows = [
        {"task": task, "regime": "standard", "method": method, "seed": 42, "protocol": "paper",
         "model": "gemma-3-270m", "site": "resid_post.9", "sae_id": sae_id, "k": k,
         "val_auc": found[0], "test_auc": found[1], "code": 0, **more}
        for method, sae_id, k, aucs in methods
        for task, found in zip(TASKS, aucs, strict=True)
        if found
    ]  # fmt: skip
    return as_results(pd.DataFrame(rows))


def found_in(results):
    return groups(results, quiver(results, tie_rule=("documented", "neutral")))


@pytest.fixture(scope="module")
def rows():
    return multi_token.multi_token(found_in(table())).set_index("panel")


def test_the_panels_are_the_study_s(rows):
    # Last token: d is ahead by 0.02, c by 0.004, which is less than the margin.
    last = rows.loc["fair_last"]
    assert (last["tasks"], last["wins"], last["losses"], last["unpaired"]) == (5, 1, 3, 0)
    # Pooled against logreg: all four tasks; e has no partner.
    illusion = rows.loc["illusion"]
    assert (illusion["tasks"], illusion["wins"], illusion["losses"]) == (4, 4, 0)
    assert illusion["unpaired"] == 1
    # Both may pool: a 0.80 and 0.70, b 0.84 and 0.90, c 0.85 and 0.852, d 0.80 and 0.82.
    both = rows.loc["fair_pooling"]
    deltas = np.array([-0.10, 0.06, 0.002, 0.02])
    assert (both["tasks"], both["wins"], both["losses"], both["unpaired"]) == (4, 2, 1, 1)
    assert both["delta"] == pytest.approx(deltas.mean())
    expected = intervals.paired_bootstrap(deltas, np.array(TASKS[:4]))
    np.testing.assert_allclose([both["ci_low"], both["ci_high"]], expected[1:], atol=1e-12)
    assert both["win_rate"] == 0.5 and both["loss_rate"] == 0.25
    np.testing.assert_allclose([both["win_low"], both["win_high"]], intervals.wilson(2, 4))
    np.testing.assert_allclose([both["loss_low"], both["loss_high"]], intervals.wilson(1, 4))
    assert both["baseline"] == "logreg or attention" and both["k"] == 128


def test_every_method_stands_against_last_token_logreg(rows):
    methods = rows.loc["method"].set_index("contender")
    assert list(methods.index) == ["logreg", "attention", "sae_k128", "sae_max_k128"]
    assert methods.loc["attention", "contender_auc"] == pytest.approx(
        np.mean([0.99, 0.84, 0.85, 0.9, 0.9])
    )
    assert methods.loc["attention", "delta"] == pytest.approx(0.096)
    assert methods.loc["sae_max_k128", "unpaired"] == 1 and methods.loc["logreg", "delta"] == 0


def test_seeds_of_a_task_count_once():
    results = pd.concat([table(), table(seed=43)])
    found = multi_token.multi_token(found_in(results)).set_index("panel")
    assert found.loc["fair_last", "cells"] == 10 and found.loc["fair_last", "tasks"] == 5
    assert found.loc["fair_last", "wins"] == 1


def test_attention_without_bos_has_a_panel_of_its_own():
    other = table()
    other = other[other["method"] == "attention"].assign(method="attention_no_bos", val_auc=0.0)
    found = multi_token.multi_token(found_in(pd.concat([table(), other]))).set_index("panel")
    panel = found.loc["fair_pooling_no_bos"]
    assert panel["baseline"] == "logreg or attention_no_bos"
    # Its validation AUC is never the better one, so that logreg stands for the baseline.
    assert panel["baseline_auc"] != found.loc["fair_pooling", "baseline_auc"]


def test_without_attention_or_pooled_latents_there_is_nothing():
    for left_out in (1, 3):
        kept = [method for i, method in enumerate(METHODS) if i != left_out]
        found = multi_token.multi_token(found_in(table(kept)))
        assert found.empty and multi_token.summary(found) == ""
    controls = [(f"{m}_shuffled" if i == 3 else m, *rest) for i, (m, *rest) in enumerate(METHODS)]
    assert multi_token.multi_token(found_in(table(controls))).empty


def test_the_report_shows_them(tmp_path):
    text = report(tmp_path, table())
    assert "SAE wins 2/4 (50.0 %, 15 to 85), baseline wins 1/4 (25.0 %, 5 to 70)" in text
    assert "illusion: the SAE probe alone pools: sae_max_k128 against logreg" in text
    assert "; 1 cells lack a partner" in text and "-0.0045 [" in text
    assert max(map(len, text.splitlines()[:-1])) <= 100
    back = pd.read_csv(tmp_path / "multi_token.csv").set_index("panel")
    assert back.loc["fair_pooling", "wins"] == 2 and len(back) == 3 + 4
    page = (tmp_path / "report.html").read_text()
    assert page.count('<section id="multi_token"') == 1 and 'href="#multi_token"' in page
    section = page[page.index('<section id="multi_token"') :]
    section = section[: section.index("</section>")]
    assert "4 (100 %)" in section and "2 (50 %)" in section and "\N{MINUS SIGN}0.0045" in section
    svg = (tmp_path / "figures" / "multi_token.svg").read_text()
    assert "illusion: the SAE probe alone pools" in svg and "% of 5 tasks" in svg


def test_the_figure_has_the_shares(rows):
    found = multi_token.multi_token(found_in(table()))
    ((name, picture),) = overview_figures.token_panels(found).items()
    widths = [bar.get_width() for bar in picture.axes[0].patches]
    assert name == "multi_token"
    np.testing.assert_allclose(widths, [-60, 20, 0, 100, -25, 50], atol=1e-9)


def test_reports_of_other_runs_stay_as_they_are(tmp_path):
    text = report(tmp_path, table(METHODS[:1] + METHODS[2:3]))
    assert (
        "protocol, standard conditions: all tokens" not in text
        and not (tmp_path / "multi_token.csv").exists()
    )
    assert 'id="multi_token"' not in (tmp_path / "report.html").read_text()


STUDY_TASKS = (
    6, 7, 21, 24, 44, 48, 54, 59, 62, 63, 66, 67, 68, 71, 73, 78, 79, 89, 90, 94, 96, 100, 105, 106,
    110, 114, 119, 120, 121, 124, 127, 129, 132, 133, 134, 137, 139, 141, 144, 145, 149, 150, 155,
    158, 162, 163,
)  # fmt: skip


@golden
@pytest.mark.parametrize("ranking, wins, losses", [("old", 1, 26), ("new", 2, 25)])
def test_the_last_token_panel_is_the_published_one(ranking, wins, losses):
    """The files of attention and of pooled latents were not published: the first panel only."""
    results = published_results(ranking)
    results = results[(results["regime"] == "standard") & (results["layer"] == 20)]
    number = results["task"].str.split("_").str[0].astype(int)
    part = results[number.isin(STUDY_TASKS) & results["sae_id"].isin(["", PUBLISHED_SAE])]
    found = grid(part.reset_index(drop=True))
    assert not multi_token.reads_tokens(found)
    (row,) = (row for row in multi_token.panels(found, "standard") if row["k"] == 128)
    assert row["panel"] == "fair_last" and row["tasks"] == 46 and row["unpaired"] == 0
    assert (row["wins"], row["losses"]) == (wins, losses)
    if ranking == "old":
        assert 100 * row["loss_rate"] == pytest.approx(56.521739, abs=1e-6)
        assert 100 * row["win_rate"] == pytest.approx(2.173913, abs=1e-6)
        assert row["baseline_auc"] == pytest.approx(0.934031, abs=1e-6)
        assert row["contender_auc"] == pytest.approx(0.918648, abs=1e-6)


# ---- what stands beside -------------------------------------------------------------------------


def test_token_probes_come_last_among_ties():
    names = ["softmax", "lda", "attention", "mlp", "concat_pca", "logreg"]
    saes = ["sae_mean_k16", "sae_max_k16", "sae_k16", "sae_max_k128"]
    arrows = pd.DataFrame(
        {
            "method": names + saes,
            "sae_id": [""] * 6 + [SAE] * 4,
            "k": [np.nan] * 6 + [16, 16, 16, 128],
        }
    )
    arrows = with_facts(arrows.assign(task="a"))
    stated, baselines_first = tie_orders(arrows)
    expected = ["sae_max_k128", "sae_k16", "sae_max_k16", "sae_mean_k16"]
    order = ["logreg", "mlp", "lda", "attention", "concat_pca", "softmax"]
    assert arrows["method"].to_numpy()[np.argsort(stated)].tolist() == expected + order
    assert arrows["method"].to_numpy()[np.argsort(baselines_first)].tolist() == order + expected


def test_the_study_s_layout_has_no_place_for_them(tmp_path):
    write_study(tmp_path, table())
    paths = sorted((tmp_path / "study").rglob("*.csv"))
    methods = {m for path in paths for m in pd.read_csv(path).get("method", pd.Series(dtype=str))}
    assert methods == {"logreg"}
    (saes,) = (path for path in paths if path.name == "all_metrics.csv")
    assert len(pd.read_csv(saes)) == 5
