"""Only like is set beside like: the same SAE, the same cells, the same run, the same claim."""

import numpy as np
import pandas as pd
import pytest

from probejax.analysis.by_layer import answer, by_layer
from probejax.analysis.drawing import style
from probejax.analysis.findings import find
from probejax.analysis.layer_figures import best_baselines
from probejax.analysis.multiplicity import simultaneous_bands
from probejax.analysis.overview_figures import regimes
from probejax.analysis.page.page import Story, page
from probejax.analysis.report import report
from probejax.analysis.run import read_run
from probejax.analysis.tables import results_table
from tests.report_cases import NARROW, TASKS, WIDE, unit, without_figures, write_run

BASE = (("logreg", "", None), ("pca", "", None))
SAE, OTHER = ("sae_k16", NARROW, 16), ("sae_k16", WIDE, 16)


def units(*arrows, tasks=TASKS, **options):
    return [unit(task, *arrow, **options) for task in tasks for arrow in arrows]


def _with(payload, **values):
    """Sets results of all fits of a unit."""
    for name, value in values.items():
        payload["fits"][name] = [value] * len(payload["fits"]["regime"])
    return payload


def test_architectures_win_what_they_win():
    """The one with a date and one without: its rows and columns had stood in another order."""
    made = []
    for sae_id, architecture, released, auc in (
        ("s/jump", "jumprelu", "2024-07-19", 0.7),
        ("scope/jump", "jumprelu", None, 0.9),
        ("s/matr", "matryoshka", "2024-12-19", 0.8),
    ):
        for each in units(SAE, regimes=("standard",)):
            each["unit"]["sae_id"] = sae_id
            each["sae"] = {"architecture": architecture, "released": released, "l0": 100 * auc}
            made.append(_with(each, val_auc=auc, test_auc=auc))
    (study,) = find(results_table(made + units(*BASE, regimes=("standard",)))).studies
    assert study.wins.loc["jumprelu", "matryoshka"] == 1
    assert study.wins.loc["matryoshka", "jumprelu"] == 0
    assert study.by_test["architecture"].tolist() == study.chosen["architecture"].tolist()
    assert study.by_test["test_auc"].tolist() == study.chosen["test_auc"].tolist()


@pytest.mark.parametrize(
    "strict, cells",
    [((SAE,), 6), ((OTHER,), 0), ((SAE, OTHER), 6), ((SAE, ("sae_k16_shuffled", *SAE[1:])), 6)],
)
def test_protocols_are_compared_of_the_same_sae(strict, cells):
    regimes = ("standard",)
    made = units(*BASE, SAE, regimes=regimes)
    made += units(*BASE, *strict, protocol="strict", regimes=regimes)
    table = find(results_table(made)).protocols
    ours = table[table["label"].str.startswith("sae_k16") & (table["cells"] > 0)]
    assert ours["cells"].tolist() == [cells] * bool(cells)
    assert (table["label"] == "logreg").sum() == 1


def test_bands_hold_where_tasks_are_few():
    """Six tasks, thirty looks and nothing to find: half of all runs had found something."""
    rng = np.random.default_rng(0)
    tasks, looks = (each.ravel() for each in np.indices((6, 30)))
    missed = 0
    for trial in range(60):
        values = rng.normal(size=(6, 30)) + rng.normal(size=(6, 1))
        bands = simultaneous_bands(values.ravel(), tasks, looks, resamples=500, seed=trial)
        missed += bool(((bands.low > 0) | (bands.high < 0)).any())
    assert missed <= 12


def test_a_site_is_chosen_by_the_cells_that_all_validate():
    sites = ("resid_post.4", "resid_post.9")
    made = [each for site in sites for each in units(BASE[0], site=site, regimes=("standard",))]
    for place, each in enumerate(made):
        good = each["unit"]["site"] == sites[1]
        _with(each, val_auc=None if place == len(TASKS) else 0.9 if good else 0.8, test_auc=0.7)
    table = by_layer(results_table(made))
    assert table.set_index("site")["chosen"].to_dict() == {sites[0]: False, sites[1]: True}
    first, _ = answer(table)
    assert first.startswith("Read gemma-3-270m at resid_post.9")


def test_head_to_head_nothing_was_chosen():
    made = units(BASE[0], ("sae_k128", NARROW, 128), regimes=("standard",))
    html = page(find(results_table([_with(each, val_auc=None) for each in made])), Story())
    assert "nothing could be chosen" in html and "<th>chosen" not in html.replace("\n", "")
    assert "6 (100" not in html


def test_latents_are_named_by_their_sae(tmp_path):
    out = write_run(tmp_path / "run", tasks=TASKS[:1], arrows=(*BASE, SAE))
    (own,) = (path for path in (out / "units").iterdir() if "latents" in path.read_text())
    for place, sae_id in enumerate((WIDE, f"random/{NARROW}")):  # with the same latents
        text = own.read_text().replace(NARROW, sae_id)
        own.with_name(f"{place:016x}.json").write_text(text)
    (by_task,) = read_run(out).latents.values()
    assert set(by_task[TASKS[0]]) == {f"sae_k16 ({NARROW})", f"sae_k16 ({WIDE})"}


def test_runs_side_by_side_keep_all_that_they_have(tmp_path):
    """Tasks of either, a model without SAEs, and fits that both have."""
    first = write_run(tmp_path / "a", tasks=TASKS[:4], arrows=(*BASE, SAE))
    second = write_run(tmp_path / "b", tasks=TASKS[3:], arrows=(*BASE, SAE))
    third = write_run(tmp_path / "c", tasks=TASKS, arrows=BASE)
    for path in (third / "units").iterdir():
        path.write_text(path.read_text().replace('"gemma-3-270m"', '"another-model"'))
    with without_figures():
        report(first, also=[second, third], cache_dir=tmp_path / "no_cache")
    html = (first / "report.html").read_text()
    assert html.count(f"latent of sae_k16 ({NARROW})") == len(TASKS)
    assert "fits stand in several of" in html
    assert "another-model, resid_post.9, paper protocol: no SAE probe stands beside" in html
    table = pd.read_csv(first / "results.csv")
    assert not table.duplicated(["task", "regime", "level", "seed", "method", "model"]).any()


def test_methods_are_ranked_over_the_tasks_that_all_have():
    made = units(BASE[0], regimes=("standard",))
    made += units(BASE[1], tasks=TASKS[-1:], regimes=("standard",))  # the easiest of all
    (found,) = find(results_table(made)).verdicts
    assert found.numbers.startswith("Means over 1 task that all of them have")


def test_logreg_stands_beside_the_quivers_of_the_same_cells():
    made = units(BASE[0], regimes=("standard",)) + units(
        SAE, tasks=TASKS[:3], regimes=("standard",)
    )
    (group,) = find(results_table(made)).groups
    with style():
        heights = [bar.get_height() for bar in regimes(group).axes[0].patches]
    assert heights[0] == pytest.approx(heights[1])  # logreg, and the best of no more than logreg


def test_seeds_are_no_tasks():
    sites, seeds = ("resid_post.4", "resid_post.9"), (1, 2, 3)
    made = [
        each
        for site in sites
        for each in units(*BASE, site=site, seeds=seeds, regimes=("standard",))
    ]
    with style():
        (picture,) = best_baselines(results_table(made)).values()
    assert sum(bar.get_height() for bar in picture.axes[0].patches) == len(TASKS) * len(sites)


def test_what_seeds_choose_differently_is_no_choice():
    made = units(*BASE, SAE, tasks=TASKS[:1], seeds=(1, 2), regimes=("imbalance",))
    for each in made:
        first = each["unit"]["method"] == "logreg"
        each["fits"]["val_auc"] = [
            0.9 if first == (seed == 1) else 0.5 for seed in each["fits"]["seed"]
        ]
    html = page(find(results_table(made)), Story())
    assert "2 methods" in html


def test_a_fit_that_did_not_converge_is_named_by_its_sae():
    made = units(*BASE, SAE, OTHER, regimes=("standard",))
    for each in made:
        each["fits"]["code"] = [int(each["unit"]["sae_id"] == WIDE)]
    (label,) = find(results_table(made)).unconverged["label"]
    assert label.startswith("sae_k16 (16k")
