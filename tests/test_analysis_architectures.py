"""The study of SAE architectures: choices, intervals, slope and win rates, and where they show."""

import numpy as np
import pandas as pd
import pytest

from probejax import storage
from probejax.analysis import architectures, intervals, sae_figures
from probejax.analysis.figures import write_figures
from probejax.analysis.findings import find
from probejax.analysis.group import groups
from probejax.analysis.quiver import quiver
from probejax.analysis.report import report
from probejax.analysis.tables import as_results
from tests.report_cases import ARROWS, NARROW, TASKS, WIDE, unit, without_figures, write_run

FACTS = {
    "old_20": {"architecture": "relu", "l0": 20.0, "released": "2023-01-01"},
    "old_80": {"architecture": "relu", "l0": 80.0, "released": "2023-01-01"},
    "new_20": {"architecture": "topk", "l0": 20.0, "released": "2024-01-01"},
    "newest": {"architecture": "gated", "l0": 40.0, "released": "2025-01-01"},
    "nameless": {"architecture": None, "l0": 1.0, "released": None},
}
# Mean validation AUC prefers old_80, mean test AUC old_20.
VAL = {"old_20": 0.80, "old_80": 0.85, "new_20": 0.7, "newest": 0.9, "nameless": 0.99}
TEST = {
    "old_20": [0.90, 0.80, 0.70, 0.85],
    "old_80": [0.80, 0.70, 0.60, 0.75],
    "new_20": [0.81, 0.69, 0.604, 0.76],
    "newest": [0.85, 0.80, 0.60, 0.80],
    "nameless": [0.5, 0.5, 0.5, 0.5],
}
LOGREG = [0.9, 0.8, 0.7, 0.8]


def results(logreg=True, seeds=(42,)):
    row = {"regime": "standard", "level": None, "protocol": "paper", "model": "m"}
    row |= {"site": "resid_post.1"}
    rows = []
    for task in range(4):
        for seed in seeds:
            cell = row | {"task": f"t{task}", "seed": seed, "num_train": 9, "num_test": 9}
            for sae_id, auc in TEST.items():
                method = {"method": "sae_k16", "sae_id": sae_id, "k": 16, "val_auc": VAL[sae_id]}
                rows.append(cell | method | {"test_auc": auc[task]})
            method = {"method": "logreg", "sae_id": "", "val_auc": 0.9, "test_auc": LOGREG[task]}
            rows += [cell | method] if logreg else []
    return as_results(pd.DataFrame(rows), FACTS)


def study_of(table, facts=FACTS):
    table = as_results(table, facts)
    found = groups(table, quiver(table, tie_rule=("documented", "neutral")))
    return architectures.studies(found)


def test_the_choice_is_made_on_validation_and_the_study_s_is_beside_it():
    (study,) = study_of(results())
    assert (study.method, study.tasks, study.cells, study.dated) == ("sae_k16", 4, 4, 3)
    chosen, by_test = study.chosen, study.by_test
    assert chosen["sae_id"].tolist() == ["old_80", "new_20", "newest"]  # by date
    assert by_test["sae_id"].tolist() == ["old_20", "new_20", "newest"]
    np.testing.assert_allclose(chosen["test_auc"], [0.7125, 0.716, 0.7625])
    np.testing.assert_allclose(by_test["test_auc"], [0.8125, 0.716, 0.7625])
    np.testing.assert_allclose(chosen["val_auc"], [0.85, 0.7, 0.9])
    assert study.saes["l0"].tolist() == [20, 80, 20, 40] and "nameless" not in set(
        study.saes["sae_id"]
    )


@pytest.mark.parametrize("seeds", [(42,), (1, 2)])
def test_intervals_are_paired_and_over_tasks(seeds):
    (study,) = study_of(results(seeds=seeds))
    delta = np.repeat(np.subtract(TEST["old_80"], LOGREG), len(seeds))
    tasks = np.repeat([f"t{i}" for i in range(4)], len(seeds))
    expected = intervals.paired_bootstrap(delta, tasks)
    found = study.chosen.iloc[0][["delta", "ci_low", "ci_high"]].tolist()
    assert study.against == "logreg" and found == pytest.approx(list(expected))
    assert found == pytest.approx([-0.0875, -0.1, -0.0625]) and study.cells == 4 * len(seeds)


def test_without_logreg_the_reference_is_the_mean_of_the_chosen():
    (study,) = study_of(results(logreg=False))
    assert study.against == "mean of all"
    assert study.chosen["delta"].sum() == pytest.approx(0)
    assert study.chosen["delta"].iloc[2] == pytest.approx(0.7625 - (0.7125 + 0.716 + 0.7625) / 3)


def test_the_slope_is_that_of_the_mean_auc_on_the_date():
    (study,) = study_of(results())
    years = np.array([0, 365, 731]) / 365.25
    means = study.chosen["test_auc"].to_numpy(float)
    assert study.slope.mean == pytest.approx(np.polyfit(years, means, 1)[0], rel=1e-9)
    each = [
        np.polyfit(years, [TEST[i][task] for i in ("old_80", "new_20", "newest")], 1)[0]
        for task in range(4)
    ]
    expected = intervals.paired_bootstrap(np.array(each), np.arange(4))
    assert list(study.slope) == pytest.approx(list(expected)) and min(each) < study.slope.low
    assert "changes by +0.0250 per year of release date [95 % over tasks" in (
        architectures.slope_text(study)
    )


def test_without_dates_there_is_no_slope_and_it_says_so():
    facts = {key: value | {"released": None} for key, value in FACTS.items()}
    (study,) = study_of(results(), facts)
    assert np.isnan(study.slope.mean) and study.dated == 0
    text = architectures.summary([study])
    assert "No SAE here has a release date, so there is no slope." in text
    assert text.count("no date") == 3 and max(map(len, text.splitlines())) <= 100
    assert study.chosen["architecture"].tolist() == ["gated", "relu", "topk"]  # by name
    one = facts | {"newest": FACTS["newest"]}
    assert "Fewer than two release dates" in architectures.slope_text(study_of(results(), one)[0])


def test_win_rates_have_the_margin_of_the_report():
    (study,) = study_of(results())
    # new_20 - old_80: +0.01, -0.01, +0.004 (a tie), +0.01; newest - old_80: all but one ahead.
    assert study.wins.loc["topk", "relu"] == 0.5 and study.wins.loc["relu", "topk"] == 0.25
    assert study.wins.loc["gated", "relu"] == 0.75 and study.wins.loc["relu", "gated"] == 0
    assert np.isnan(np.diag(study.wins)).all()


def test_only_cells_that_every_sae_has_count():
    table = results()
    missing = (table["task"] == "t2") & (table["sae_id"] == "newest")
    (study,) = study_of(table[~missing].reset_index(drop=True))
    assert (study.tasks, study.cells) == (3, 3)
    assert study.chosen["test_auc"].iloc[0] == pytest.approx(np.mean([0.8, 0.7, 0.75]))
    alone = table[table["sae_id"].isin(["", "old_20", "old_80", "nameless"])]
    assert study_of(alone.reset_index(drop=True)) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose two SAEs are of two architectures, one with a date."""
    out = write_run(tmp_path_factory.mktemp("architectures") / "run", arrows=ARROWS[:2])
    store = storage.Store(out)
    for task in TASKS:
        for method, sae_id, k in ARROWS[2:6]:
            payload = unit(task, method, sae_id, k)
            kind = "relu" if sae_id == NARROW else "matryoshka"
            released = "2024-12-19" if sae_id == WIDE else None
            payload["sae"] = {"architecture": kind, "l0": 77.6, "released": released}
            store.put(storage.unit_id(payload["unit"]), payload)
    with without_figures():
        text = report(out, cache_dir=out / "no_cache")
    return out, text


def test_the_report_shows_it(run):
    out, text = run
    assert "SAE architectures, sae_k16, standard conditions, 6 tasks" in text
    assert "Matryoshka   2024-12-19      78" in text and "ReLU         no date" in text
    page = (out / "report.html").read_text()
    section = page[page.index('<section id="architectures"') :]
    section = section[: section.index("</section>")]
    assert 'href="#architectures"' in page and section.count("<h3>") == 2
    assert "Fewer than two release dates" in section
    table = pd.read_csv(out / "architectures.csv")
    assert table["method"].tolist() == ["sae_k16"] * 2 + ["sae_k128"] * 2
    assert table["chosen"].all() and set(table["against"]) == {"logreg"}
    results = pd.read_csv(out / "results.csv")
    here = results[(results["regime"] == "standard") & (results["method"] == "sae_k16")]
    means = here.groupby("sae_id")["test_auc"].mean()
    np.testing.assert_allclose(table["test_auc"][:2], means[table["sae_id"][:2]], rtol=1e-12)
    wins = pd.read_csv(out / "architecture_wins.csv")
    assert len(wins) == 4 and set(wins["tasks"]) == {6}
    assert pd.read_csv(out / "architecture_slopes.csv")["slope_per_year"].isna().all()


def test_a_run_with_one_architecture_has_no_such_section(tmp_path):
    out = write_run(tmp_path / "run", tasks=TASKS[:2], arrows=ARROWS[:4])
    with without_figures():
        text = report(out, cache_dir=tmp_path / "no_cache")
    assert "SAE architectures" not in text and not (out / "architectures.csv").exists()
    assert 'id="architectures"' not in (out / "report.html").read_text()


def test_the_figure_has_a_line_per_architecture_and_a_ring_per_choice(tmp_path):
    table = results()
    found = find(table)
    studies = found.studies
    nothing_else = [group._replace(cells=group.cells.iloc[:0]) for group in found.groups]
    (shown,) = write_figures(tmp_path, found._replace(groups=nothing_else))
    assert shown.section == "architectures" and shown.svg.count("chosen") == 3
    text = (tmp_path / "figures" / "architectures.svg").read_text()
    assert all(name in text for name in ("ReLU", "TopK", "Gated", "sae_k16, 4 tasks"))
    axes = sae_figures.architectures(studies).axes[0]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[20, 80], [20], [40]]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.8125, 0.7125])
    np.testing.assert_allclose(
        axes.collections[0].get_offsets(), [[80, 0.7125], [20, 0.716], [40, 0.7625]]
    )
