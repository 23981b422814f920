"""Runs at several sites: the table that compares them, and that nothing else mixes them."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from probejax.analysis import intervals, layer_figures, overview_figures
from probejax.analysis.by_layer import answer, by_layer, chosen_sites, summary
from probejax.analysis.drawing import style
from probejax.analysis.findings import find
from probejax.analysis.report import report
from probejax.analysis.run import read_run
from probejax.analysis.saebench import write_saebench
from probejax.analysis.tables import results_table
from probejax.runs.progress import rolling
from tests.report_cases import (
    ARROWS,
    CONFIG,
    NARROW,
    TASKS,
    WIDE,
    quick_figures,
    unit,
    without_figures,
    write_run,
)

SITES = ("mlp_out.12", "resid_post.9")
POOLED = (("attention", "", None), ("sae_max_k16", NARROW, 16))


def moved(payload, by):
    """A unit whose AUCs are others, within their range."""
    fits = payload["fits"]
    aucs = {name: np.clip(np.add(fits[name], by), 0, 1) for name in ("val_auc", "test_auc")}
    return payload | {"fits": fits | {name: values.tolist() for name, values in aucs.items()}}


def results_at(site, arrows=(*ARROWS, *POOLED)):
    units = [unit(task, *arrow, site=site) for task in TASKS for arrow in arrows]
    strict = {"protocol": "strict", "regimes": ("standard",)}
    units += [unit(task, *arrow, site=site, **strict) for task in TASKS for arrow in arrows[:3]]
    for number, payload in enumerate(units):
        # With dates and architectures, so that every table of the analysis has rows.
        if payload["unit"]["sae_id"] in (NARROW, WIDE):
            wide = payload["unit"]["sae_id"] == WIDE
            payload["sae"] = {"architecture": ("relu", "topk")[wide], "l0": 40.0 + wide}
            payload["sae"]["released"] = f"202{4 + wide}-01-01"
        units[number] = moved(payload, 0.01 * (site == SITES[0]))
    return units


@pytest.fixture(scope="module")
def both():
    return find(results_table([each for site in SITES for each in results_at(site)]))


@pytest.mark.parametrize("site", SITES)
def test_every_table_of_a_site_is_that_of_a_run_at_it_alone(both, site, tmp_path):
    alone = find(results_table(results_at(site)))
    assert alone.layers.empty and not both.layers.empty
    tables = 0
    for name, table in alone._asdict().items():
        if isinstance(table, pd.DataFrame) and name != "layers":
            assert not table.empty, name
            here = getattr(both, name)
            here = here[here["site"] == site].reset_index(drop=True)
            pd.testing.assert_frame_equal(here, table, check_exact=True, check_dtype=False)
            tables += 1
    assert tables == 6
    places = {group.name: i for i, group in enumerate(both.groups)}
    assert len(places) == 2 * len(alone.groups) == 4
    for i, group in enumerate(alone.groups):
        place = places[group.name]
        pd.testing.assert_frame_equal(both.groups[place].cells, group.cells)
        assert both.groups[place].head_to_head == group.head_to_head
        assert both.verdicts[place] == alone.verdicts[i]
        for regime in group.regimes:
            ours, theirs = both.methods[place, regime], alone.methods[i, regime]
            pd.testing.assert_frame_equal(ours, theirs)
    group = alone.groups[0]
    studies = {study.method: study for study in both.studies if study.group == group.name}
    assert len(studies) == len(alone.studies) > 0
    for study in alone.studies:
        pd.testing.assert_frame_equal(studies[study.method].saes, study.saes)
        assert studies[study.method].slope == study.slope
    written = [write_saebench(tmp_path / name, each.results)
               for name, each in (("both", both), ("alone", alone))]  # fmt: skip
    assert len(written[0]) == 2 * len(written[1]) > 0  # the same SAE at both sites
    said = [{path.name: json.loads(path.read_text()) for path in paths} for paths in written]
    assert all(each in said[0].values() for each in said[1].values())


def test_panels_over_all_tokens_are_of_one_site_each(both):
    with style():
        pictures = overview_figures.token_panels(both.tokens)
    standard = {name: each for name, each in pictures.items() if "_standard" not in name}
    rows = both.tokens[both.tokens["panel"] != "method"]
    assert len(pictures) == len(rows.groupby(["site", "regime"])) == 2 * rows["regime"].nunique()
    for site in SITES:
        (picture, *_) = [each for each in standard.values() if site in each.label]
        assert len(picture.axes[0].get_yticklabels()) == len(
            rows[(rows["site"] == site) & (rows["regime"] == "standard")]
        )


def test_the_verdict_so_far_is_of_each_site(both):
    quiver = both.quiver[both.quiver["protocol"] == "paper"]
    parts = {site: quiver[quiver["site"] == site] for site in SITES}
    line = rolling(quiver)
    assert all(f"{site}: {rolling(part)}" in line for site, part in parts.items())


def test_latents_and_units_are_told_of_their_site(tmp_path):
    config = CONFIG | {"site": list(SITES), "sae": [NARROW]}
    arrows = [arrow for arrow in ARROWS[:4] if arrow[1] in ("", NARROW)]
    config["methods"] = [method for method, *_ in arrows]
    out = write_run(tmp_path / "run", tasks=TASKS[:2], arrows=arrows, config=config, site=SITES[1])
    assert read_run(out).expected == 6 * (2 * 2 + 1 * 2)  # baselines at both, SAE probes at one
    write_run(out, tasks=TASKS[:2], arrows=arrows[:2], config=config, site=SITES[0])
    run = read_run(out)
    assert (run.done, run.expected) == (2 * 6, 6 * 6)
    (where,) = run.latents
    assert where == ("paper", "gemma-3-270m", SITES[1])


# ---- the table ----------------------------------------------------------------------------------

AT = ("resid_pre.0", "resid_post.3", "resid_post.9", "mlp_out.12")
LIFT = dict(zip(AT, (-0.2, 0.0, 0.05, -0.04), strict=True))


def sweep(methods=ARROWS[:2], sites=AT):
    """Units of a run that compares sites alone; the SAE stands at one of them."""
    made = [
        moved(unit(task, *arrow, site=site, regimes=("standard",)), LIFT[site])
        for site, task, arrow in itertools.product(sites, TASKS, methods)
    ]
    return [*made, *(unit(task, *ARROWS[2], site=AT[2], regimes=("standard",)) for task in TASKS)]


@pytest.fixture(scope="module")
def table():
    return by_layer(results_table(sweep()))


def test_one_site_is_nothing_to_compare():
    assert by_layer(results_table(results_at(SITES[0], ARROWS[:2]))).empty
    assert summary(pd.DataFrame()) == "" and chosen_sites(pd.DataFrame()) == {}


def test_sites_are_compared_task_by_task(table):
    results = results_table(sweep())
    auc = results.pivot_table(index="task", columns=["method", "site"], values="test_auc")
    val = results.pivot_table(index="task", columns=["method", "site"], values="val_auc")
    for method in ("logreg", "pca"):
        rows = table[table["method"] == method].set_index("site")
        assert rows.index.tolist() == list(AT)
        best = val[method].mean().idxmax()
        assert rows.index[rows["chosen"]].tolist() == [best] == ["resid_post.9"]
        for site, row in rows.iterrows():
            np.testing.assert_allclose(row["test_auc"], auc[method, site].mean())
            difference = (auc[method, site] - auc[method, best]).to_numpy()
            np.testing.assert_allclose(row["delta"], difference.mean(), atol=1e-15)
            if site != best:
                _, low, high = intervals.paired_bootstrap(difference, auc.index.to_numpy(str))
                np.testing.assert_allclose([row["ci_low"], row["ci_high"]], [low, high])
                assert row["band_low"] < row["delta"] < row["band_high"]
    alone = table[table["method"] == "sae_k16"]
    assert alone["site"].tolist() == ["resid_post.9"] and not alone["chosen"].any()
    assert chosen_sites(table) == {("paper", "gemma-3-270m"): "resid_post.9"}


def test_a_cell_that_one_site_lacks_counts_at_none():
    units = sweep()
    missing = {"method": "logreg", "task": TASKS[0], "site": AT[1]}
    less = [each for each in units if not missing.items() <= each["unit"].items()]
    assert len(less) == len(units) - 1
    rows = by_layer(results_table(less)).set_index(["method", "site"])
    assert set(rows.loc["logreg", "cells"]) == {5} and set(rows.loc["logreg", "unpaired"]) == {1}
    assert set(rows.loc["pca", "cells"]) == {6}
    whole = [each for each in units if each["unit"]["task"] != TASKS[0]]
    expected = by_layer(results_table(whole)).set_index(["method", "site"])
    np.testing.assert_array_equal(rows.loc["logreg", "delta"], expected.loc["logreg", "delta"])


def test_of_equal_sites_the_first_is_chosen_and_of_saes_the_best_by_validation():
    units = [unit(task, *ARROWS[0], site=f"resid_post.{i}") for task in TASKS for i in (4, 9)]
    for each in units:
        each["fits"]["val_auc"] = [0.75] * len(each["fits"]["val_auc"])
    rows = by_layer(results_table(units))
    assert rows["site"][rows["chosen"]].tolist() == ["resid_post.4"]
    saes = [
        moved(unit(task, "sae_k16", sae_id, 16, site=site), 0.05 * (sae_id == WIDE))
        for task, sae_id, site in itertools.product(TASKS, (NARROW, WIDE), SITES)
    ]
    assert set(by_layer(results_table(saes))["sae_id"]) == {WIDE}


def test_the_answer_names_the_site_and_what_is_like_it(table):
    first, rest = answer(table)
    assert first == "Read gemma-3-270m at resid_post.9: of 4 sites, logreg validates best there."
    assert "over 6 tasks, standard conditions. Of the other 3, 3 are certainly worse" in rest
    assert rest.endswith("With 6 tasks the limits are rough.")
    text = summary(table)
    assert max(map(len, text.splitlines())) <= 80 and text.count("chosen") == 2
    assert "sae_k16" in text and "nan" not in text  # which stands at one site alone


# ---- figure and page ----------------------------------------------------------------------------


def test_a_line_for_each_method_and_a_panel_for_each_kind_of_site(table):
    with style():
        (picture,) = layer_figures.layers(table).values()
    stream, mlp = picture.axes
    assert [axes.get_title(loc="left") for axes in picture.axes] == ["resid_post", "mlp_out"]
    lines = {line.get_label(): line for line in stream.lines if len(line.get_xdata())}
    logreg = table[table["method"] == "logreg"].set_index("site")["test_auc"]
    assert list(lines["logreg"].get_xdata()) == [-1, 3, 9]
    expected = logreg[["resid_pre.0", "resid_post.3", "resid_post.9"]]
    np.testing.assert_array_equal(lines["logreg"].get_ydata(), expected)
    assert list(lines["sae_k16"].get_xdata()) == [9]
    assert [list(line.get_xdata()) for line in mlp.lines] == [[12], [12]]
    assert "embed" in [text.get_text() for text in stream.get_xticklabels()]
    assert picture.axes[0].get_ylim() == mlp.get_ylim()


def test_a_run_that_compares_sites_alone_asks_which_layer(tmp_path):
    baselines = [each for each in sweep() if not each["unit"]["sae_id"]]
    with quick_figures():
        said = report(tmp_path, results_table(baselines))
    page = (tmp_path / "report.html").read_text()
    assert "Which layer? · gemma-3-270m, resid_post.9" in page
    assert page.count("Read gemma-3-270m at resid_post.9") == 1
    assert "What follows is about gemma-3-270m, resid_post.9, paper protocol: the site that" in page
    first, *_ = [part for part in page.split("<section")[1:]]
    assert 'id="layers"' in first and "Test AUC against layer" in first
    assert said.startswith("gemma-3-270m, paper protocol: mean test AUC by site")
    assert said.count("paper protocol: mean test AUC\n") == 1  # of the chosen site alone
    saved = pd.read_csv(tmp_path / "layers.csv")
    assert len(saved) == 8 and (tmp_path / "figures" / "layers.png").exists()


def test_with_saes_the_sites_that_compare_are_shown(tmp_path):
    with without_figures():
        said = report(tmp_path, results_table(sweep()))
    page = (tmp_path / "report.html").read_text()
    assert "Do SAE probes help? · gemma-3-270m, resid_post.9" in page
    assert "where SAE probes and baselines can be compared" in page
    assert page.index('id="layers"') < page.index('id="standard"')
    assert said.count("mean test AUC of the quivers") == 1 and "nothing to compare" not in said
