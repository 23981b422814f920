"""Reading the study's files: a small folder in its layout, always; its real numbers where present.

The golden numbers are those of the study's Gemma-2-9B files under each tie rule, to 6 decimals.
"""

import functools

import numpy as np
import pandas as pd
import pytest

from probejax import analysis
from probejax.analysis import intervals, published
from probejax.analysis.published import read
from probejax.analysis.quiver import quiver
from probejax.analysis.tables import COLUMNS
from probejax.analysis.ties import TIE_RULES
from tests.published_cases import (
    MIDDLE,
    NARROW,
    PUBLISHED,
    WIDE,
    golden,
    published_results,
    small_folder,
    write,
)

# ---- a small folder in the study's layout ---------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return small_folder(tmp_path)


def test_every_regime_comes_into_the_one_table(folder):
    table = read(folder)
    assert tuple(table.columns) == COLUMNS
    counts = table.groupby("regime", sort=False).size().to_dict()
    assert counts == {
        "standard": 4,
        "scarcity": 5,
        "imbalance": 2,
        "label_noise": 3,
        "covariate_shift": 2,
    }
    assert set(table["site"]) == {"resid_post.20"} and set(table["protocol"]) == {"paper"}
    assert set(table["seed"]) == {42} and set(table["model"]) == {"gemma-2-9b"}


def test_levels_with_rounding_errors_find_their_partners(folder):
    table = quiver(read(folder)).query("level == level").set_index("regime")
    assert table["level"].to_dict() == {"scarcity": 2, "imbalance": 0.55, "label_noise": 0.15}
    assert table["cells"].to_dict() == {"scarcity": 2, "imbalance": 1, "label_noise": 1}
    assert table["unpaired"].sum() == 1  # label noise 0 has no baseline in this folder


def test_numbers_are_exact(folder):
    values = read(folder).query("regime == 'standard' and task == '5_hist'")["val_auc"]
    assert values.tolist() == [0.9995998399359742, 0.9, 0.9995998399359742]


def test_noise_free_rows_stand_in_for_the_standard_sae_file(folder):
    row = quiver(read(folder)).query("regime == 'standard'").iloc[0]
    assert (row["cells"], row["unpaired"], row["tied"]) == (1, 1, 1)
    assert (row["baseline"], row["with_sae"], row["sae_chosen"]) == (0.8, 0.85, 1)
    first = quiver(read(folder), tie_rule="baseline_first").query("regime == 'standard'").iloc[0]
    assert (first["with_sae"], first["sae_chosen"]) == (0.8, 0)


def test_a_standard_sae_file_is_used_where_there_is_one(folder):
    write(
        folder,
        "sae_probes_gemma-2-9b/normal_setting/all_metrics_old.csv",
        f"""test_f1,test_acc,test_auc,val_auc,k,dataset,layer,sae_id,reg_type,binarize
        0.7,0.7,0.11,1.0,16,5_hist,20,{NARROW},l1,False
        0.7,0.7,0.22,1.0,16,5_hist,20,{NARROW},l1,True
        0.7,0.7,0.33,1.0,16,5_hist,20,{NARROW},l2,False""",
    )
    rows = read(folder).query("regime == 'standard' and sae_id != ''")
    methods = dict(zip(rows["method"], rows["test_auc"], strict=True))
    assert methods == {"sae_k16": 0.11, "sae_k16_binarised": 0.22, "sae_k16_l2": 0.33}


def test_both_rankings_and_the_choice_of_k(folder):
    def auc(**options):
        table = read(folder, **options)
        return table[(table["sae_id"] == WIDE)]["test_auc"].tolist()

    assert auc() == [0.3]
    assert auc(ranking="new") == [0.4]
    assert auc(ks=None) == [0.3, 0.1]
    with pytest.raises(ValueError, match="Unknown ranking 'raw'; there are old and new"):
        read(folder, ranking="raw")


def test_covariate_shift_is_the_shifted_file_and_not_the_folder_of_that_name(folder):
    table = read(folder).query("regime == 'covariate_shift'")
    assert table["test_auc"].tolist() == [0.9, 0.95]
    assert table["sae_id"].tolist() == ["", "layer_20/width_131k/average_l0_114"]
    assert table["val_auc"].isna().all()


def test_another_model_with_fewer_files_methods_and_columns(folder):
    base, saes = "baseline_probes_llama-3.1-8b", "sae_probes_llama-3.1-8b"
    for layer, auc in ((8, 0.1), (16, 0.7)):
        write(
            folder,
            f"{base}/normal_settings/layer{layer}_results.csv",
            f"dataset,method,test_auc,val_auc\n5_hist,logreg,{auc},0.8",
        )
    write(
        folder,
        f"{base}/scarcity/all_results.csv",
        "dataset,method,num_train,test_auc,val_auc\n5_hist,knn,2,0.6,0.5",
    )
    write(
        folder,
        f"{saes}/normal_setting/all_metrics.csv",
        "dataset,k,layer,sae_id,test_auc,val_auc\n5_hist,16,16,l16r_32x,0.9,0.9",
    )
    write(
        folder,
        f"{saes}/scarcity_setting/all_metrics.csv",
        "dataset,k,layer,sae_id,test_auc,val_auc,num_train\n5_hist,16,16,l16r_32x,0.5,0.9,2",
    )
    write(
        folder,
        f"{saes}/ood_setting/all_metrics.csv",
        "dataset,k,layer,sae_id,test_auc,val_auc\n5_hist,16,16,l16r_32x,0.4,0.9",
    )
    write(
        folder, f"{base}/ood/all_results.csv", "dataset,method,test_auc,val_auc\n5_hist,logreg,1,1"
    )
    table = quiver(read(folder, "llama-3.1-8b")).query("level != level").set_index("regime")
    assert table["site"].unique().tolist() == ["resid_post.16"]  # the SAEs', so not 8
    assert table["baseline"].to_dict() == {"standard": 0.7, "scarcity": 0.6, "covariate_shift": 1.0}
    assert table["with_sae"].to_dict() == {"standard": 0.9, "scarcity": 0.5, "covariate_shift": 1.0}
    with pytest.raises(ValueError, match="holds the old ranking, the only one published"):
        read(folder, "llama-3.1-8b", ranking="new")


def test_a_model_without_results_names_those_that_have_some(folder):
    with pytest.raises(FileNotFoundError, match=r"results are there of: gemma-2-9b\."):
        read(folder, "gemma-9")
    (folder / "baseline_probes_empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no result file of the study's names"):
        read(folder, "empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset,method,test_auc,val_auc\n5_hist,logreg,0.9,1", "lacks the columns num_train"),
        (
            "dataset,method,num_train,test_auc\n5_hist,logreg,2,0.9x",
            "column test_auc: could not convert string to float: '0.9x'",
        ),
        ("dataset,num_train,test_auc\n5_hist,2,0.9,8,9,7\na,2\nb,1,2,3,4,5,6,7", "is no CSV file"),
    ],
)
def test_a_damaged_file_is_named(folder, text, message):
    write(folder, "baseline_probes_gemma-2-9b/scarcity/summary/all_results.csv", text)
    with pytest.raises(ValueError, match=f"summary/all_results.csv.*{message}"):
        read(folder)


# ---- the study's own numbers -------------------------------------------------------------------


@functools.cache
def _quiver(ranking):
    return quiver(published_results(ranking), tie_rule=tuple(TIE_RULES))


def _overall(ranking, regime, rule):
    table = _quiver(ranking)
    rows = table[(table["regime"] == regime) & (table["tie_rule"] == rule)]
    return rows[rows["level"].isna()].iloc[0]


@golden
@pytest.mark.parametrize(
    ("ranking", "regime", "rule", "baseline", "with_sae", "delta", "chosen"),
    [
        ("old", "standard", "documented", 0.939976, 0.936690, -0.003286, 48),
        ("new", "standard", "documented", 0.939976, 0.936337, -0.003639, 49),
        ("old", "standard", "baseline_first", 0.939976, 0.936854, -0.003123, 14),
        ("new", "standard", "baseline_first", 0.939976, 0.936656, -0.003321, 16),
        ("old", "standard", "neutral", 0.939289, 0.936386, -0.002903, None),
        ("new", "standard", "neutral", 0.939289, 0.936164, -0.003126, None),
        ("old", "scarcity", "documented", 0.826287, 0.815174, -0.011114, 1813),
        ("old", "scarcity", "documented_tolerance", 0.826320, 0.815166, -0.011153, 1821),
        ("old", "scarcity", "baseline_first", 0.826287, 0.824755, -0.001533, 793),
        ("old", "scarcity", "row_order", 0.826287, 0.823765, -0.002522, 793),
        ("old", "scarcity", "neutral", 0.814950, 0.813558, -0.001392, None),
        ("new", "scarcity", "documented", 0.826287, 0.815973, -0.010314, 1958),
        ("new", "scarcity", "documented_tolerance", 0.826320, 0.815975, -0.010345, 1967),
        ("new", "scarcity", "baseline_first", 0.826287, 0.826287, -0.000001, 956),
        ("new", "scarcity", "row_order", 0.826287, 0.823062, -0.003226, 956),
        ("new", "scarcity", "neutral", 0.814950, 0.811615, -0.003335, None),
        ("old", "imbalance", "documented", 0.921525, 0.918314, -0.003211, 1196),
        ("old", "imbalance", "documented_tolerance", 0.921549, 0.918322, -0.003227, 1205),
        ("old", "imbalance", "baseline_first", 0.921525, 0.918755, -0.002770, 477),
        ("old", "imbalance", "row_order", 0.921525, 0.918713, -0.002812, 477),
        ("old", "imbalance", "neutral", 0.920160, 0.917671, -0.002489, None),
        ("new", "imbalance", "documented", 0.921525, 0.916412, -0.005113, 1315),
        ("new", "imbalance", "documented_tolerance", 0.921549, 0.916387, -0.005163, 1324),
        ("new", "imbalance", "baseline_first", 0.921525, 0.917049, -0.004476, 588),
        ("new", "imbalance", "row_order", 0.921525, 0.917048, -0.004477, 588),
        ("new", "imbalance", "neutral", 0.920160, 0.916084, -0.004075, None),
    ],
)
def test_the_quivers_of_the_study(ranking, regime, rule, baseline, with_sae, delta, chosen):
    row = _overall(ranking, regime, rule)
    figures = [row["baseline"], row["with_sae"], row["delta"]]
    np.testing.assert_allclose(figures, [baseline, with_sae, delta], rtol=0, atol=5.1e-7)
    assert row["cells"] == {"standard": 113, "scarcity": 2247, "imbalance": 2147}[regime]
    assert (row["unpaired"], row["incomplete"], row["tasks"]) == (0, 0, 113)
    assert pd.isna(row["sae_chosen"]) if chosen is None else row["sae_chosen"] == chosen
    assert row["ci_low"] < row["delta"] < row["ci_high"]


@golden
def test_the_study_s_printed_digits():
    assert _overall("old", "standard", "documented")["baseline"] == pytest.approx(
        0.9399762998876823, abs=1e-14
    )
    assert _overall("new", "standard", "baseline_first")["with_sae"] == pytest.approx(
        0.9366557775652804, abs=1e-14
    )


@golden
@pytest.mark.parametrize(
    ("ranking", "regime", "tied"),
    [
        ("old", "scarcity", 1323),
        ("new", "scarcity", 1437),
        ("old", "imbalance", 813),
        ("new", "imbalance", 827),
    ],
)
def test_how_many_cells_tie(ranking, regime, tied):
    assert _overall(ranking, regime, "neutral")["tied"] == tied


@golden
@pytest.mark.parametrize(
    ("ranking", "signs", "error"), [("old", (4, 10), 0.001508), ("new", (1, 15), 0.001249)]
)
def test_standard_differences_task_by_task(ranking, signs, error):
    table = published_results(ranking).query("regime == 'standard'")
    delta = analysis.choices(table, tie_rule="baseline_first")["delta"].to_numpy()
    assert ((delta > 0).sum(), (delta < 0).sum()) == signs
    assert delta.std() / np.sqrt(113) == pytest.approx(error, abs=5.1e-7)


# level: (baseline, with SAE, delta, SAEs chosen), rule D, old ranking
SCARCITY = """
2 .688432 .605216 -.083215 113|3 .708133 .626844 -.081289 113|4 .706440 .706786 .000346 111
5 .724256 .712495 -.011760 107|7 .732562 .733908 .001346 103|10 .749412 .754691 .005279 100
14 .776666 .777776 .001110 108|20 .791652 .798629 .006977 104|28 .818120 .814670 -.003450 101
38 .831753 .825073 -.006680 100|53 .851570 .846656 -.004915 103|74 .870974 .866353 -.004620 94
103 .888232 .876447 -.011786 84|143 .884374 .877809 -.006565 87|198 .896712 .891996 -.004716 81
275 .909219 .902954 -.006265 72|382 .914943 .912378 -.002565 71|531 .922378 .919720 -.002658 61
737 .931832 .928105 -.003727 57|1024 .941137 .939026 -.002112 43
"""
IMBALANCE = """
.05 .881868 .879269 -.002600 82|.10 .910797 .906699 -.004098 72|.15 .919627 .913488 -.006140 70
.20 .923419 .919250 -.004169 68|.25 .927233 .925106 -.002127 60|.30 .929346 .924419 -.004927 59
.35 .928197 .925391 -.002806 59|.40 .929947 .925528 -.004419 56|.45 .932005 .928610 -.003395 50
.50 .932942 .930251 -.002690 49|.55 .933847 .930802 -.003045 48|.60 .935728 .932849 -.002879 53
.65 .929131 .927159 -.001973 59|.70 .929558 .927917 -.001641 57|.75 .926847 .925603 -.001244 64
.80 .926949 .923761 -.003188 66|.85 .919310 .912415 -.006894 71|.90 .908237 .903620 -.004617 74
.95 .883989 .885825 .001836 79
"""


@golden
@pytest.mark.parametrize(("regime", "text"), [("scarcity", SCARCITY), ("imbalance", IMBALANCE)])
def test_the_documented_rule_level_by_level(regime, text):
    expected = np.array(
        [row.split() for line in text.strip().splitlines() for row in line.split("|")], float
    )
    table = _quiver("old").query("tie_rule == 'documented' and level == level")
    table = table[table["regime"] == regime]
    assert table["level"].tolist() == expected[:, 0].tolist()
    figures = table[["baseline", "with_sae", "delta"]].to_numpy(dtype=float)
    np.testing.assert_allclose(figures, expected[:, 1:4], rtol=0, atol=6e-7)
    assert table["sae_chosen"].tolist() == expected[:, 4].tolist()


def _mean(ranking, regime, method, sae_id=""):
    table = published_results(ranking)
    same = (table["regime"] == regime) & (table["method"] == method) & (table["sae_id"] == sae_id)
    return table[same]["test_auc"].mean()


@golden
@pytest.mark.parametrize(
    ("regime", "means"),
    [
        ("standard", (0.941396, 0.926899, 0.887244, 0.932871, 0.936606)),
        ("scarcity", (0.835758, 0.809754, 0.765343, 0.728509, 0.813237)),
        ("imbalance", (0.929401, 0.907211, 0.865791, 0.914741, 0.920891)),
    ],
)
def test_baseline_means(regime, means):
    for method, mean in zip(("logreg", "pca", "knn", "xgboost", "mlp"), means, strict=True):
        assert _mean("old", regime, method) == pytest.approx(mean, abs=5.1e-7)


@golden
@pytest.mark.parametrize(
    ("ranking", "regime", "means"),
    [  # 16k, 131k, 1m; k=16 before k=128
        ("old", "standard", (0.893363, 0.921433, 0.891048, 0.917943, 0.879034, 0.914244)),
        ("new", "standard", (0.903778, 0.920960, 0.898821, 0.918213, 0.888718, 0.913019)),
        ("old", "scarcity", (0.793619, 0.813383, 0.793928, 0.810073, 0.784044, 0.802540)),
        ("new", "scarcity", (0.799900, 0.815786, 0.793797, 0.809812, 0.785357, 0.800970)),
        ("old", "imbalance", (0.886951, 0.910869, 0.882740, 0.905149, 0.873959, 0.900355)),
        ("new", "imbalance", (0.897609, 0.909492, 0.890237, 0.905584, 0.881542, 0.899487)),
    ],
)
def test_sae_means(ranking, regime, means):
    arrows = [(sae_id, f"sae_k{k}") for sae_id in (NARROW, MIDDLE, WIDE) for k in (16, 128)]
    for (sae_id, method), mean in zip(arrows, means, strict=True):
        assert _mean(ranking, regime, method, sae_id) == pytest.approx(mean, abs=5.1e-7)


@golden
@pytest.mark.parametrize(
    ("ranking", "sae_id", "wins", "losses"),
    [
        ("old", NARROW, 2, 64),
        ("old", MIDDLE, 1, 62),
        ("old", WIDE, 0, 66),
        ("new", NARROW, 3, 61),
        ("new", MIDDLE, 2, 64),
        ("new", WIDE, 2, 66),
    ],
)
def test_wins_over_logreg_by_a_margin(ranking, sae_id, wins, losses):
    table = published_results(ranking).query("regime == 'standard'")
    row = analysis.head_to_head(table, "logreg", sae_id, 128, margin=0.005).iloc[-1]
    assert (row["cells"], row["sae_wins"], row["baseline_wins"]) == (113, wins, losses)


# fraction flipped: logreg, SAE old, SAE new, wins of the SAE (old)
NOISE = """
0 .941289 .921433 .920960 10|.05 .933486 .915257 .913830 21|.10 .927740 .910214 .905857 23
.15 .916512 .903321 .901413 28|.20 .904517 .893447 .891634 30|.25 .896177 .878345 .871193 29
.30 .873380 .849441 .844053 27|.35 .839307 .795570 .790873 29|.40 .756837 .727335 .700342 43
.45 .624069 .594223 .590673 53|.50 .497945 .500562 .497263 58
"""


@golden
def test_label_noise_head_to_head():
    expected = np.array(
        [row.split() for line in NOISE.strip().splitlines() for row in line.split("|")], float
    )
    for column, ranking, overall in ((2, "old", 0.808104), (3, "new", 0.802554)):
        table = published_results(ranking).query("regime == 'label_noise'")
        table = analysis.head_to_head(table, "logreg", NARROW, 128)
        levels, last = table[table["level"].notna()], table.iloc[-1]
        np.testing.assert_allclose(levels["level"], expected[:, 0])
        np.testing.assert_allclose(levels["baseline"], expected[:, 1], rtol=0, atol=5.1e-7)
        np.testing.assert_allclose(levels["sae"], expected[:, column], rtol=0, atol=5.1e-7)
        if ranking == "old":
            assert levels["sae_wins"].tolist() == expected[:, 4].tolist()
        assert (last["cells"], last["unpaired"]) == (1243, 0)
        assert last["baseline"] == pytest.approx(0.828296, abs=5.1e-7)
        assert last["sae"] == pytest.approx(overall, abs=5.1e-7)


@golden
def test_covariate_shift_head_to_head():
    table = published_results("old").query("regime == 'covariate_shift'")
    sae = "layer_20/width_131k/average_l0_114"
    row = analysis.head_to_head(table, "logreg", sae, 128).iloc[-1]
    assert (row["cells"], row["sae_wins"], row["baseline_wins"]) == (8, 2, 6)
    figures = [row["baseline"], row["sae"], row["delta"]]
    np.testing.assert_allclose(figures, [0.826480, 0.723051, -0.103430], rtol=0, atol=6e-7)
    for method, half in (("logreg", 0.085496), ("sae_k128", 0.114825)):
        auc = table[table["method"] == method]["test_auc"]
        assert 1.96 * auc.std() / np.sqrt(8) == pytest.approx(half, abs=5.1e-7)


@golden
@pytest.mark.parametrize(
    ("ranking", "regime", "method", "ks", "mean", "half"),
    [
        ("old", "standard", "logreg", None, 0.941396, 0.016712),
        ("old", "scarcity", "logreg", None, 0.835758, 0.006968),
        ("old", "imbalance", "logreg", None, 0.929401, 0.004427),
        ("old", "label_noise", "logreg", None, 0.828296, 0.009996),
        ("old", "standard", None, [128], 0.921433, 0.020300),
        ("old", "scarcity", None, [16, 128], 0.803501, 0.005209),
        ("old", "imbalance", None, [16, 128], 0.898910, 0.003732),
        ("old", "label_noise", None, [128], 0.808104, 0.009905),
        ("new", "standard", None, [128], 0.920960, 0.019933),
        ("new", "scarcity", None, [16, 128], 0.807843, 0.005250),
        ("new", "imbalance", None, [16, 128], 0.903550, 0.003658),
        ("new", "label_noise", None, [128], 0.802554, 0.010024),
    ],
)
def test_the_bars_of_figure_1(ranking, regime, method, ks, mean, half):
    table = published_results(ranking)
    table = table[table["regime"] == regime]
    if method:
        auc = table[table["method"] == method]["test_auc"]
    else:
        auc = table[(table["sae_id"] == NARROW) & table["k"].isin(ks)]["test_auc"]
    assert auc.mean() == pytest.approx(mean, abs=5.1e-7)
    assert 1.96 * auc.std() / np.sqrt(len(auc)) == pytest.approx(half, abs=5.1e-7)


@golden
def test_the_paired_interval_excludes_zero_where_paired_errors_do():
    # With paired 95 % intervals the SAE quiver is behind at these ratios under D, B and neutral.
    behind = {0.15, 0.30, 0.40, 0.45, 0.50, 0.55, 0.60, 0.80, 0.85}
    for rule in ("documented", "baseline_first", "neutral"):
        cells = analysis.choices(
            published_results("old").query("regime == 'imbalance'"), tie_rule=rule
        )
        found = set()
        for level, part in cells.groupby("level"):
            delta, tasks = part["delta"].to_numpy(), part["task"].to_numpy(dtype=str)
            mean, low, high = intervals.paired_bootstrap(delta, tasks)
            half = 1.96 * delta.std(ddof=1) / np.sqrt(len(delta))
            assert (high - low) / 2 == pytest.approx(half, rel=0.12)
            if mean + half < 0:
                found.add(level)
        assert found == behind


@golden
def test_scarcity_intervals_exclude_zero_where_paired_errors_do():
    expected = {
        "documented": ({2, 3, 103, 143, 198, 275, 737, 1024}, set()),
        "baseline_first": ({103, 275, 737}, set()),
        "neutral": (None, {2}),
    }
    for rule, (below, above) in expected.items():
        cells = analysis.choices(
            published_results("old").query("regime == 'scarcity'"), tie_rule=rule
        )
        levels = cells.groupby("level")["delta"]
        mean, half = levels.mean(), 1.96 * levels.std() / np.sqrt(levels.count())
        assert set(mean.index[mean - half > 0]) == above
        assert below is None or set(mean.index[mean + half < 0]) == below


@golden
@pytest.mark.parametrize(
    ("regime", "alone", "together", "holm"),
    [
        ("scarcity", 8, [2, 3, 103], [2, 3, 103, 275, 737]),
        ("imbalance", 9, [], [0.40, 0.45, 0.55]),
    ],
)
def test_after_correction_fewer_levels_exclude_zero(regime, alone, together, holm):
    table = _quiver("old").query("tie_rule == 'documented' and level == level")
    rows = table[table["regime"] == regime].set_index("level")
    assert (rows["ci_high"] < 0).sum() == pytest.approx(alone, abs=1)
    assert rows.index[rows["band_high"] < 0].tolist() == together
    assert rows.index[(rows["p_holm"] < 0.05)].tolist() == holm
    assert not (rows["band_low"] > 0).any()


@golden
@pytest.mark.parametrize(
    ("regime", "shares"), [("imbalance", (9.78, 90.22)), ("scarcity", (14.12, 85.88))]
)
def test_which_k_is_chosen_among_the_saes(regime, shares):
    rows = published_results("old").query(f"regime == '{regime}'").reset_index(drop=True)
    cells = analysis.choices(rows)
    k = rows.loc[cells[cells["sae_chosen"]]["chosen_row"], "k"]
    assert tuple(round(100 * (k == value).mean(), 2) for value in (16, 128)) == shares


@golden
def test_baselines_by_layer():
    table = read(PUBLISHED, every_layer=True).query("regime == 'standard' and sae_id == ''")
    means = table.pivot_table(index="site", columns="method", values="test_auc")
    expected = {  # layer embed, 9, 20, 31, 41
        "logreg": (0.688695, 0.921996, 0.941396, 0.938260, 0.938174),
        "pca": (0.666206, 0.904750, 0.926899, 0.921271, 0.918542),
        "knn": (0.653445, 0.871131, 0.887244, 0.882830, 0.876102),
        "xgboost": (0.682505, 0.912546, 0.932871, 0.929254, 0.925672),
        "mlp": (0.686264, 0.918614, 0.936606, 0.932938, 0.930583),
    }
    sites = ["resid_pre.0", *(f"resid_post.{layer}" for layer in (9, 20, 31, 41))]
    for method, values in expected.items():
        np.testing.assert_allclose(means.loc[sites, method], values, rtol=0, atol=5.1e-7)
    combined = table.groupby("site")["test_auc"].mean()[sites]
    np.testing.assert_allclose(
        combined, (0.675423, 0.905807, 0.925003, 0.920910, 0.917815), rtol=0, atol=5.1e-7
    )
    # Half-widths: the spread between the five method means, over all rows.
    halves = 1.96 * means.loc[sites].std(axis=1, ddof=0) / np.sqrt(5 * 113)
    np.testing.assert_allclose(
        halves, (0.001114, 0.001509, 0.001605, 0.001635, 0.001799), rtol=0, atol=5.1e-7
    )
    here = table[table["layer"] == 20].reset_index(drop=True)
    best = here.loc[here.groupby("task")["test_auc"].idxmax(), "method"].value_counts()
    assert best.to_dict() == {"logreg": 84, "xgboost": 13, "mlp": 12, "pca": 4}


SUITE = "dataset,k,layer,sae_id,sae_l0,reg_type,test_auc,val_auc"


def _suite(folder, rows):
    write(folder, "sae_probes_gemma-2-9b/normal_setting/all_metrics.csv", "\n".join([SUITE, *rows]))


def test_saes_that_share_an_id_are_told_apart_by_their_l0(folder):
    name = "jump_relu_width-2pow14_date-0107"
    _suite(folder, [f"5_hist,16,20,{name},{l0},l1,0.{l0},0.9" for l0 in (20, 80)])
    rows = read(folder).query("regime == 'standard' and sae_id != ''")
    assert rows["sae_id"].tolist() == [f"{name}/l0_20", f"{name}/l0_80"]
    assert rows["sae_l0"].tolist() == [20, 80] and set(rows["sae_width"]) == {16384}
    assert set(rows["sae_architecture"]) == {"jumprelu"} and set(rows["sae_released"]) == {
        "2024-07-19"
    }
    assert analysis.quiver(rows)["cells"].tolist() == [0]  # and no fit is twice


def test_a_table_that_cannot_be_read_costs_a_line_and_no_other_table(folder):
    _suite(folder, ["5_hist,16,20,an_sae,20,l1,0.7,0.9"] * 2)
    with pytest.raises(ValueError, match=r"1 fits occur twice, the first: .*an_sae"):
        read(folder)
    lines = []
    rest = read(folder, left_out=lines)
    assert len(lines) == 1 and "gemma-2-9b, SAE probes, standard" in lines[0]
    assert set(rest["regime"]) == set(read(folder, left_out=[])["regime"])
    assert (rest[rest["regime"] == "scarcity"]["sae_id"] != "").any()


@golden
def test_every_model_of_the_published_tree_is_read():
    assert set(published.models(PUBLISHED)) >= {"gemma-2-2b", "gemma-2-9b"}
    rows = read(PUBLISHED, "gemma-2-2b")
    shifted = rows[(rows["regime"] == "covariate_shift") & (rows["sae_id"] != "")]
    assert len(shifted) == 8 * 48 * 2 and shifted["sae_id"].nunique() == 48
    assert shifted.groupby("sae_architecture")["sae_id"].nunique().to_dict() == dict.fromkeys(
        ("batchtopk", "gated", "jumprelu", "matryoshka", "p_anneal", "relu", "relu_new", "topk"), 6
    )
