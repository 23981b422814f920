"""One figure per regime, with the numbers of the quiver in it."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from probejax import analysis
from probejax.analysis.figures import draw, write_figures
from probejax.analysis.tables import as_results


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


def _texts(figure):
    axes = figure.axes[0]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    return axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel(), legend


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
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(quiver["ci_low"][:-1].min())
    assert band[:, 1].max() == pytest.approx(quiver["ci_high"][:-1].max())
    title, xlabel, ylabel, legend = _texts(figure)
    assert xlabel == label and "with SAEs minus baselines" in ylabel
    assert legend == ["95 %, paired, over tasks", "SAEs win ties", "mean over ties"]
    assert f"{quiver['delta'].iloc[-1]:+.4f}".replace("-", "\N{MINUS SIGN}") in title
    if regime == "scarcity":
        assert axes.get_xscale() == "log"


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
        f"unchanged: {6 - worse - better} of 6 tasks",
        f"worse with SAEs: {worse} of 6 tasks",
        f"better with SAEs: {better} of 6 tasks",
    ]
    assert worse + better > 0


def test_two_methods_without_validation_auc_are_shown_head_to_head():
    results = _results("covariate_shift", [None], val=False)
    figure = draw(results, "covariate_shift")
    assert _texts(figure)[1:3] == ("test AUC, logreg", "test AUC, SAE probe (k=16)")
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 6


def test_a_regime_without_pairs_has_no_figure(tmp_path):
    results = _results("scarcity", [2])
    assert draw(results[results["sae_id"] == ""], "scarcity") is None
    standard = _results("standard", [None])
    assert write_figures(tmp_path, standard[standard["sae_id"] != ""]) == []
    # Baselines alone make no figure either.
    assert write_figures(tmp_path, standard[standard["sae_id"] == ""]) == []
    assert not (tmp_path / "figures").exists()


def test_one_task_alone_is_drawn():
    for regime, levels in (("scarcity", [2, 4]), ("standard", [None])):
        assert "95 %:" not in _texts(draw(_results(regime, levels, tasks=1), regime))[0]


def test_files_are_written_readable_and_the_same_each_time(tmp_path):
    results = pd.concat([_results("standard", [None]), _results("scarcity", [2, 4])])
    results = results.reset_index(drop=True)
    written = write_figures(tmp_path / "a", results)
    names = {path.stem for path in written if path.suffix == ".png"}
    assert names == {path.stem for path in written if path.suffix == ".svg"}
    assert names >= {"standard", "scarcity", "regimes", "win_rates", "tasks_scarcity"}
    write_figures(tmp_path / "b", results)
    for path in written:
        again = tmp_path / "b" / "figures" / path.name
        assert path.read_bytes() == again.read_bytes()
    image = imread(tmp_path / "a/figures/scarcity.png")
    assert image.shape[:2] == (840, 1400) and image[..., :3].std() > 0.05
    svg = (tmp_path / "a/figures/scarcity.svg").read_text()
    assert "training examples" in svg


def test_nothing_is_cut_off():
    for regime, levels in (("standard", [None]), ("scarcity", [2, 4])):
        figure = draw(_results(regime, levels), regime)
        figure.draw_without_rendering()
        axes = figure.axes[0]
        box = figure.bbox
        for text in (axes._left_title, axes.xaxis.label, axes.yaxis.label):
            extent = text.get_window_extent()
            assert box.x0 <= extent.x0 and extent.x1 <= box.x1, text.get_text()
            assert box.y0 <= extent.y0 and extent.y1 <= box.y1, text.get_text()


def test_each_layer_and_protocol_has_figures_of_its_own(tmp_path):
    results = _results("standard", [None])
    other = results[results["task"] != "t0"].assign(site="resid_post.12")
    strict = results.assign(protocol="strict")
    bare = results[results["sae_id"] == ""].assign(site="resid_post.3")  # nothing to compare
    write_figures(tmp_path, pd.concat([strict, other, results, bare], ignore_index=True))
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("standard.png"))
    assert found == [
        "figures/m_resid_post.12_paper/standard.png",
        "figures/m_resid_post.9_strict/standard.png",
        "figures/standard.png",
    ]
    alone = tmp_path / "alone"
    write_figures(alone, results)
    kept = (alone / "figures" / "standard.png").read_bytes()
    assert kept == (tmp_path / "figures" / "standard.png").read_bytes()
