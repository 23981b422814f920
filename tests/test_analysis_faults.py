"""Known faults of the published analysis: what the study's rule gives, and what is right."""

import pandas as pd
import pytest

from probejax.analysis.faults import COLUMNS, faults
from probejax.analysis.published import read
from probejax.analysis.quiver import quiver
from tests.published_cases import PUBLISHED, golden, small_folder, write

HEADER = "test_f1,test_acc,test_auc,val_auc,k,dataset,layer,sae_id,reg_type"


@golden
def test_the_faults_of_the_published_analysis():
    table = faults(PUBLISHED)
    rows = table[table["fault"] == "rows compared by position"]
    assert rows["level"].tolist() == pytest.approx([x / 20 for x in range(11)])
    assert rows["published"].tolist() == [47, 50, 46, 54, 49, 51, 47, 48, 53, 57, 59]
    assert rows["corrected"].tolist() == [10, 21, 23, 28, 30, 29, 27, 29, 43, 53, 58]
    shift = table[table["fault"] == "in-distribution file named OOD"].iloc[0]
    assert shift["published"] == pytest.approx(0.103344, abs=1e-6)
    assert shift["corrected"] == pytest.approx(-0.103430, abs=6e-7)
    bands = table[table["fault"] == "bands of independent means"].set_index("quantity")
    assert bands["published"].round(6).tolist() == [0.039289, 2, 0.029989, 0]
    assert bands["corrected"].round(6).tolist() == [0.009380, 8, 0.004500, 9]
    bars = table[table["fault"] == "two probes in one bar"]
    assert bars["published"].round(6).tolist() == [0.803501, 0.898910]
    assert bars["corrected"].round(6).tolist() == [0.813383, 0.910869]


@golden
def test_the_file_named_ood_equals_the_standard_rows():
    table = pd.read_csv(PUBLISHED / "sae_probes_gemma-2-9b" / "OOD_setting" / "all_metrics.csv")
    standard = read(PUBLISHED, ranking="new").query("regime == 'standard'")
    both = table.merge(
        standard, left_on=["dataset", "sae_id", "k"], right_on=["task", "sae_id", "k"]
    )
    assert len(both) == 48
    assert (both["test_auc_x"] - both["test_auc_y"]).abs().max() < 2.6e-7


def _llama(root):
    """Llama's files: no MLP under imbalance, XGBoost up to 0.50, one SAE, no shifted test."""
    base, saes = "baseline_probes_llama-3.1-8b", "sae_probes_llama-3.1-8b"
    for layer, auc in ((8, 0.6), (16, 0.8)):
        lines = [f"{t},{m},.7,.7,{auc},.9" for t in "ab" for m in ("logreg", "xgboost", "mlp")]
        write(
            root,
            f"{base}/normal_settings/layer{layer}_results.csv",
            "\n".join(["dataset,method,test_f1,test_acc,test_auc,val_auc", *lines]),
        )
    lines = []
    for task in "ab":
        for ratio in ("0.45", "0.5", "0.55"):
            methods = ("logreg", "pca", "xgboost")[: 2 if ratio == "0.55" else 3]
            lines += [f"{task},{method},{ratio},100,.7,.7,.8,.8" for method in methods]
    header = "dataset,method,ratio,num_train,test_f1,test_acc,test_auc,val_auc"
    write(root, f"{base}/imbalance/all_results.csv", "\n".join([header, *lines]))
    lines = [f".7,.7,.9,1.0,128,{task},16,l16r_32x,l1" for task in "ab"]
    write(root, f"{saes}/normal_setting/all_metrics.csv", "\n".join([HEADER, *lines]))
    lines = [
        f".7,.7,.7,.9,16,{task},16,l16r_32x,l1,{frac}"
        for task in "ab"
        for frac in ("0.44999999999999996", "0.5", "0.5499999999999999")
    ]
    write(
        root,
        f"{saes}/class_imbalance_setting/all_metrics.csv",
        "\n".join([HEADER + ",frac", *lines]),
    )
    return root


def test_llama_s_files_and_their_baselines_of_another_layer(tmp_path):
    root = _llama(tmp_path)
    table = faults(root, "llama-3.1-8b")
    assert tuple(table.columns) == COLUMNS
    row = table.set_index("fault").loc["baselines of another layer"]
    assert row["published"] == pytest.approx(0.3) and row["corrected"] == pytest.approx(0.1)
    assert "baselines of resid_post.8 beside SAE probes of resid_post.16" in row["explanation"]
    levels = quiver(read(root, "llama-3.1-8b")).query("regime == 'imbalance' and level == level")
    assert levels["level"].tolist() == [0.45, 0.5, 0.55]
    assert levels["cells"].tolist() == [2, 2, 2] and levels["unpaired"].sum() == 0
    assert levels["incomplete"].tolist() == [0, 0, 2]  # no XGBoost at 0.55
    everything = read(root, "llama-3.1-8b", every_layer=True)
    assert sorted(everything["layer"].unique()) == [8, 16]
    assert everything[everything["layer"] == 8]["test_auc"].unique().tolist() == [0.6]


def test_gemma_2_2b_with_other_columns(tmp_path):
    base, saes = "baseline_probes_gemma-2-2b", "sae_probes_gemma-2-2b"
    header = "dataset,method,test_f1,test_acc,test_auc,val_auc"
    write(tmp_path, f"{base}/normal_settings/layer12_results.csv", f"{header}\na,logreg,1,1,.8,.9")
    write(
        tmp_path,
        f"{base}/scarcity/all_results.csv",  # this model alone has no folder `summary`
        "dataset,method,num_train,test_f1,test_acc,test_auc,val_auc\na,logreg,4,1,1,.7,.9",
    )
    sae_id = "gemma-2-2b_top_k_width-2pow14_date-0107/resid_post_layer_12/trainer_1"
    row = f".7,.7,.6,1.0,16,a,12,{sae_id},l1"
    write(tmp_path, f"{saes}/ood_setting/all_metrics.csv", f"{HEADER},sae_l0\n{row},40")
    write(tmp_path, f"{saes}/normal_setting/all_metrics.csv", f"{HEADER},sae_l0\n{row},40")
    write(
        tmp_path,
        f"{saes}/scarcity_setting/all_metrics.csv",
        f"{HEADER},num_train,sae_l0\n{row},4,40",
    )
    write(tmp_path, f"{base}/ood/all_results.csv", f"{header}\na,logreg,1,1,.75,.9")
    table = quiver(read(tmp_path, "gemma-2-2b")).query("level != level").set_index("regime")
    assert table["delta"].round(9).to_dict() == {
        "standard": -0.2,
        "scarcity": -0.1,
        "covariate_shift": -0.15,
    }
    assert faults(tmp_path, "gemma-2-2b").empty


def test_faults_that_need_absent_files_have_no_row(tmp_path):
    found = faults(small_folder(tmp_path)).set_index("fault")
    assert set(found.index) == {
        "rows compared by position",
        "in-distribution file named OOD",
        "bands of independent means",
    }
    row = found.loc["in-distribution file named OOD"]
    assert (row["published"], row["corrected"]) == pytest.approx((0.099, 0.05))
