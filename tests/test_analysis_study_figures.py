"""The study's types of figure: there where the results allow them, with the results' numbers."""

import numpy as np
import pandas as pd
import pytest

from probejax.analysis.facts import with_facts
from probejax.analysis.group import groups
from probejax.analysis.quiver import quiver
from probejax.analysis.study_figures import layer_figure, study_figures
from probejax.analysis.tables import results_table
from tests.report_cases import ARROWS, NARROW, TASKS, unit


def _group(results):
    return groups(results, quiver(results, tie_rule=("documented", "neutral")))[0]


@pytest.fixture(scope="module")
def results():
    table = results_table([unit(task, *arrow) for task in TASKS for arrow in ARROWS])
    denser = table[table["sae_id"] == NARROW].assign(sae_id=NARROW.replace("l0_78", "l0_20"))
    return with_facts(pd.concat([table, denser], ignore_index=True), {})


def _drawn(results):
    drawn = {name: draw() for name, draw in study_figures(_group(results)).items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


@pytest.fixture(scope="module")
def figures(results):
    return _drawn(results)


def test_every_type_is_drawn(figures):
    assert set(figures) == {
        "regimes", "win_rates", "curves", "auc_against_k", "auc_against_l0", "auc_against_width",
        "l0_by_width", "difference_by_sae", "covariate_shift_tasks", "tasks_scarcity",
        "tasks_imbalance", "tasks_label_noise", "chosen_scarcity", "chosen_imbalance",
        "chosen_label_noise",
    }  # fmt: skip


def test_the_bars_are_the_means_of_the_quivers(results, figures):
    table = quiver(results).query("level != level").set_index("regime")
    heights = [bar.get_height() for bar in figures["regimes"].axes[0].patches]
    for column in ("baseline", "with_sae"):
        assert all(np.isclose(heights, value).any() for value in table[column])
    logreg = results[(results["method"] == "logreg") & (results["regime"] == "scarcity")]
    assert np.isclose(heights, logreg["test_auc"].mean()).any()


def test_lines_against_k_are_means_over_tasks(results, figures):
    axes = figures["auc_against_k"].axes[0]
    rows = results[(results["regime"] == "standard") & (results["sae_id"] == NARROW)]
    means = rows.groupby("method")["test_auc"].mean()
    line = next(line for line in axes.lines if line.get_label() == "4k L0 78")
    np.testing.assert_allclose(line.get_ydata(), means[["sae_k16", "sae_k128"]])
    assert len(axes.lines) == 3  # neither controls nor random SAEs


def test_the_heat_map_and_the_counts_are_the_cells(results, figures):
    image = figures["tasks_scarcity"].axes[0].images[0].get_array()
    group = _group(results)
    cells = group.compared("scarcity")
    assert image.shape == (6, 4)
    assert np.asarray(image).mean() == pytest.approx(cells["delta"].mean())
    bars = figures["chosen_scarcity"].axes[0].patches
    share = cells.groupby("level")["sae_chosen"].mean()
    assert [bar.get_height() for bar in bars[:4]] == pytest.approx(share.tolist())


def test_types_without_data_are_left_out(results):
    one = results[(results["sae_id"].isin(["", NARROW])) & (results["method"] != "sae_k128")]
    one = one[one["regime"] == "standard"]
    assert set(_drawn(one)) == {"regimes", "win_rates", "difference_by_sae"}
    assert _drawn(results[results["sae_id"] == ""]) == {}


def test_baselines_by_layer(results):
    assert layer_figure(results) is None
    deeper = [unit(task, *arrow, site="resid_post.12") for task in TASKS for arrow in ARROWS[:2]]
    both = pd.concat([results, results_table(deeper)], ignore_index=True)
    missing = both.assign(test_auc=both["test_auc"].where(both["layer"] != 12))
    assert layer_figure(missing) is None
    missing = both.assign(test_auc=both["test_auc"].where(both["task"] != TASKS[0]))
    assert sum(bar.get_height() for bar in layer_figure(missing).axes[1].patches) == 10
    left, right = layer_figure(both).axes
    standard = both[(both["regime"] == "standard") & (both["method"] == "pca")]
    line = next(line for line in left.lines if line.get_label() == "pca")
    means = standard.groupby("layer")["test_auc"].mean()
    np.testing.assert_allclose(line.get_ydata(), means[[9, 12]])
    assert sum(bar.get_height() for bar in right.patches) == 12
