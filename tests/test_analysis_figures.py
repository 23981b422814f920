"""Every figure is drawn once, with the numbers of the tables; the page embeds its file."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from probejax import analysis
from probejax.analysis import layer_figures, regime_figures
from probejax.analysis.drawing import canvas, embedded, encoded, style
from probejax.analysis.facts import with_facts
from probejax.analysis.figures import _OF_GROUP, write_figures
from probejax.analysis.findings import find
from probejax.analysis.page.page import Story, page
from probejax.analysis.report import report
from probejax.analysis.tables import as_results, results_table
from tests.report_cases import ARROWS, NARROW, TASKS, unit


def _results(regime, levels, tasks=6, val=True):
    rng = np.random.default_rng(0)
    rows = []
    for task in range(tasks):
        for level in levels:
            for method, sae_id, k in (("logreg", "", None), ("sae_k16", "width_16k", 16)):
                row = {"task": f"t{task}", "regime": regime, "level": level, "seed": 42}
                row |= {
                    "method": method,
                    "sae_id": sae_id,
                    "k": k,
                    "model": "m",
                    "site": "resid_post.9",
                }
                row |= {"protocol": "paper", "test_auc": rng.uniform(0.6, 1.0)}
                rows.append(row | {"val_auc": rng.uniform(0.6, 1.0) if val else None, "code": 0})
    return as_results(pd.DataFrame(rows))


def draw(results, regime):
    (group,) = find(results).groups
    with style():
        return regime_figures.change(group, regime)


def _texts(picture):
    axes = picture.axes[0]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    return picture.label, axes.get_xlabel(), axes.get_ylabel(), legend


@pytest.mark.parametrize(
    ("regime", "levels", "label"),
    [
        ("scarcity", [2, 16, 1024], "training examples"),
        ("imbalance", [0.05, 0.5, 0.95], "share of positives, in training and test"),
        ("label_noise", [0.0, 0.25, 0.5], "share of training labels flipped"),
    ],
)
def test_the_difference_against_the_level_with_its_paired_band(regime, levels, label):
    results = _results(regime, levels)
    quiver = analysis.quiver(results)
    figure = draw(results, regime)
    axes = figure.axes[0]
    line = next(line for line in axes.lines if line.get_label() == "SAEs win ties")
    np.testing.assert_allclose(line.get_xydata(), quiver[["level", "delta"]].to_numpy()[:-1])
    for place, name in enumerate(("band", "ci")):
        band = axes.collections[place].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(quiver[f"{name}_low"][:-1].min())
        assert band[:, 1].max() == pytest.approx(quiver[f"{name}_high"][:-1].max())
    _, xlabel, ylabel, legend = _texts(figure)
    assert xlabel == label and ylabel == "change of test AUC"
    assert legend == ["95 %, all levels at once", "95 %, each level", "SAEs win ties",
                      "mean over ties"]  # fmt: skip
    if regime == "scarcity":
        assert axes.get_xscale() == "log"
    (texts,) = figure.tips.values()
    assert len(texts) == len(levels) and texts[0].startswith(label)


@pytest.mark.parametrize("regime", ["standard", "covariate_shift"])
def test_each_task_is_a_point_without_against_with_saes(regime):
    results = _results(regime, [None])
    cells = analysis.choices(results)
    figure = draw(results, regime)
    points = np.concatenate([c.get_offsets() for c in figure.axes[0].collections])
    expected = cells[["baseline", "with_sae"]].to_numpy()
    np.testing.assert_allclose(np.sort(points, axis=0), np.sort(expected, axis=0))
    worse, better = (cells["delta"] < 0).sum(), (cells["delta"] > 0).sum()
    _, xlabel, _, legend = _texts(figure)
    assert xlabel == "test AUC, best of the baselines"
    assert legend == [
        f"unchanged: {6 - worse - better} of 6",
        f"worse with SAEs: {worse} of 6",
        f"better with SAEs: {better} of 6",
    ]
    assert worse + better > 0


def test_two_methods_without_validation_auc_are_shown_head_to_head():
    results = _results("covariate_shift", [None], val=False)
    figure = draw(results, "covariate_shift")
    assert _texts(figure)[1:3] == ("test AUC, logreg", "test AUC, sae_k16")
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 6


def test_a_regime_without_pairs_has_no_figure(tmp_path):
    scarcity, standard = _results("scarcity", [2]), _results("standard", [None])
    assert draw(scarcity[scarcity["sae_id"] == ""], "scarcity") is None
    for rows in (standard[standard["sae_id"] != ""], standard[standard["sae_id"] == ""]):
        assert write_figures(tmp_path, find(rows)) == []
    assert not (tmp_path / "figures").exists()


def test_groups_are_points_that_have_names():
    """Groups have no order, and no line leads from one to the next."""
    results = _results("group_shift", (0, 1, 2)).assign(
        group=lambda table: table["level"].map({0: "de", 1: "en", 2: "fr"})
    )
    picture = draw(results, "group_shift")
    (axes,) = picture.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["de", "en", "fr"]
    assert axes.get_xlabel() == "group held out"
    assert {line.get_linestyle() for line in axes.lines if len(line.get_xdata()) == 3} == {"None"}
    (group,) = find(results).groups
    assert group.levels("group_shift")["group"].tolist() == ["de", "en", "fr"]
    with style():
        shares = regime_figures.chosen(group, "group_shift").axes[0]
        every = regime_figures.tasks_by_level(group, "group_shift").axes[0]
    for axes in (shares, every):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["de", "en", "fr"]
    html = page(find(results), Story())
    assert html.count(">fr</td>") >= 1 + 6  # of all tasks, and of each


def test_one_task_alone_is_drawn():
    for regime, levels in (("scarcity", [2, 4]), ("standard", [None])):
        assert draw(_results(regime, levels, tasks=1), regime) is not None


def test_files_are_written_readable_and_the_same_each_time(tmp_path):
    results = pd.concat([_results("standard", [None]), _results("scarcity", [2, 4])])
    found = find(results.reset_index(drop=True))
    shown = [write_figures(tmp_path / name, found) for name in "ab"]
    assert shown[0] == shown[1]
    files = sorted((tmp_path / "a" / "figures").iterdir())
    names = {path.stem for path in files if path.suffix == ".png"}
    assert names == {path.stem for path in files if path.suffix == ".svg"}
    assert names >= {"standard", "scarcity", "regimes", "win_rates", "tasks_scarcity"}
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()
    image = imread(tmp_path / "a/figures/scarcity.png")
    assert image.shape[:2] == (700, 1040) and image[..., :3].std() > 0.05
    assert "training examples" in (tmp_path / "a/figures/scarcity.svg").read_text()


def test_nothing_is_cut_off():
    for regime, levels in (("standard", [None]), ("scarcity", [2, 4])):
        picture = draw(_results(regime, levels), regime)
        picture.figure.draw_without_rendering()
        axes, box = picture.axes[0], picture.figure.bbox
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_legend().get_texts()):
            extent = text.get_window_extent()
            assert box.x0 <= extent.x0 and extent.x1 <= box.x1, text.get_text()
            assert box.y0 <= extent.y0 and extent.y1 <= box.y1, text.get_text()


def test_each_layer_and_protocol_has_figures_of_its_own(tmp_path):
    results = _results("standard", [None])
    other = results[results["task"] != "t0"].assign(site="resid_post.12")
    strict = results.assign(protocol="strict")
    bare = results[results["sae_id"] == ""].assign(site="resid_post.3")  # nothing to compare
    write_figures(tmp_path, find(pd.concat([strict, other, results, bare], ignore_index=True)))
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("standard.png"))
    assert found == [
        "figures/m_resid_post.12_paper/standard.png",
        "figures/m_resid_post.9_strict/standard.png",
        "figures/standard.png",
    ]


# ---- every figure -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    table = results_table([unit(task, *arrow) for task in TASKS for arrow in ARROWS])
    denser = table[table["sae_id"] == NARROW].assign(sae_id=NARROW.replace("l0_78", "l0_20"))
    return find(with_facts(pd.concat([table, denser], ignore_index=True), {}))


def _drawn(found):
    group = found.groups[0]
    with style():
        made = {name: draw(group) for name, (_, _, draw) in _OF_GROUP.items()}
        for regime in group.compared_regimes:
            made[f"tasks_{regime}"] = regime_figures.tasks_by_level(group, regime)
            made[f"chosen_{regime}"] = regime_figures.chosen(group, regime)
    return {name: picture for name, picture in made.items() if picture is not None}


@pytest.fixture(scope="module")
def pictures(found):
    return _drawn(found)


def test_every_type_is_drawn(pictures):
    assert set(pictures) == {
        *_OF_GROUP, "tasks_scarcity", "tasks_imbalance", "tasks_label_noise", "chosen_scarcity",
        "chosen_imbalance", "chosen_label_noise", "chosen_standard", "chosen_covariate_shift",
    }  # fmt: skip
    assert all(picture.label for picture in pictures.values())


def test_the_bars_are_the_means_of_the_quivers(found, pictures):
    table = found.groups[0].quiver.query("level != level and tie_rule == 'documented'")
    heights = [bar.get_height() for bar in pictures["regimes"].axes[0].patches]
    for column in ("baseline", "with_sae"):
        assert all(np.isclose(heights, value).any() for value in table[column])
    logreg = found.results.query("method == 'logreg' and regime == 'scarcity'")
    assert np.isclose(heights, logreg["test_auc"].mean()).any()


def test_lines_against_k_are_means_over_tasks(found, pictures):
    axes = pictures["auc_against_k"].axes[0]
    rows = found.results.query(f"regime == 'standard' and sae_id == '{NARROW}'")
    means = rows.groupby("method")["test_auc"].mean()
    line = next(line for line in axes.lines if line.get_label() == "4k L0 78")
    np.testing.assert_allclose(line.get_ydata(), means[["sae_k16", "sae_k128"]])
    assert len(axes.lines) == 4  # three SAEs and logreg; neither controls nor random SAEs
    logreg = found.results.query("regime == 'standard' and method == 'logreg'")["test_auc"].mean()
    assert axes.lines[-1].get_ydata()[0] == pytest.approx(logreg)


def test_the_heat_map_and_the_counts_are_the_cells(found, pictures):
    mesh = pictures["tasks_scarcity"].axes[0].collections[0].get_array()
    cells = found.groups[0].compared("scarcity")
    assert mesh.shape == (6, 4)
    assert np.asarray(mesh).mean() == pytest.approx(cells["delta"].mean())
    axes = pictures["chosen_scarcity"].axes[0]
    share = {box.get_label(): [bar.get_height() for bar in box] for box in axes.containers}
    assert np.sum(list(share.values()), axis=0) == pytest.approx([1.0] * 4)
    saes = sum(np.array(heights) for name, heights in share.items() if name.startswith("sae"))
    assert saes == pytest.approx(cells.groupby("level")["sae_chosen"].mean().tolist())


def test_types_without_data_are_left_out(found):
    results = found.results
    one = results[results["sae_id"].isin(["", NARROW]) & (results["method"] != "sae_k128")]
    one = find(one[one["regime"] == "standard"].reset_index(drop=True))
    assert set(_drawn(one)) == {"regimes", "win_rates", "difference_by_sae", "chosen_standard"}


def test_the_best_baseline_of_each_layer(found):
    assert layer_figures.best_baselines(found.results) == {}
    deeper = results_table(
        [unit(t, *arrow, site="resid_post.12") for t in TASKS for arrow in ARROWS[:2]]
    )
    both = pd.concat([found.results, deeper], ignore_index=True)
    missing = both.assign(test_auc=both["test_auc"].where(both["site"] != "resid_post.12"))
    assert layer_figures.best_baselines(missing) == {}
    missing = both.assign(test_auc=both["test_auc"].where(both["task"] != TASKS[0]))
    for rows, tasks in ((missing, 5), (both, 6)):
        (axes,) = layer_figures.best_baselines(rows)["layers_best"].axes
        assert sum(bar.get_height() for bar in axes.patches) == 2 * tasks


# ---- on the page --------------------------------------------------------------------------------


def test_the_page_embeds_every_figure_that_is_written(found, tmp_path):
    results = found.results[found.results["regime"].isin(["standard", "scarcity"])]
    report(tmp_path, results.reset_index(drop=True))
    page = (tmp_path / "report.html").read_text()
    files = list((tmp_path / "figures").rglob("*.svg"))
    assert page.count('<svg class="chart"') + page.count('class="chart" role="img"') == len(files)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:url\(#|href="#)(f\d+-\w+)', page))
    assert used and used <= set(ids)  # clips and markers are found, under the names they have here
    assert "var(--accent)" in page and page.count("<style") == 1 and "<metadata" not in page


@pytest.mark.parametrize("name", ["chosen_scarcity", "auc_against_k", "tasks_scarcity", "regimes"])
def test_every_mark_says_what_it_is(pictures, name):
    picture = pictures[name]
    shown = embedded(encoded(picture)["svg"], picture, "f1")
    texts = [text for texts in picture.tips.values() for text in texts if text]
    assert len(re.findall("data-t=", shown)) == len(texts) > 3
    assert f'aria-label="{picture.label}"' in shown
    assert not re.search("#[0-9a-f]{6}", shown)  # every colour is the style sheet's, by name
    assert {*re.findall(r"#(f1-\w+)", shown)} <= {*re.findall('id="(.*?)"', shown)}


def test_text_that_is_no_xml_is_left_out_of_a_picture():
    with style():
        picture = canvas("a \0 label & <b>")
        (line,) = picture.axes[0].plot([1, 2], [1, 2], "o", label="\1 <script>")
        picture.tell(line, ["\2 first", "second"])
        picture.axes[0].legend()
    shown = embedded(encoded(picture)["svg"], picture, "f1")
    assert not re.search("[\0-\x08]", shown) and "<script" not in shown
    assert 'aria-label="a  label &amp; &lt;b&gt;"' in shown and 'data-t=" first"' in shown
