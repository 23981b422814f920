"""Results written in the study's own layout come back through its reader."""

import numpy as np
import pandas as pd
import pytest

from probejax.analysis.facts import with_facts
from probejax.analysis.published import read
from probejax.analysis.quiver import quiver
from probejax.analysis.study_layout import write_study
from probejax.analysis.tables import results_table
from tests.published_cases import golden, published_results
from tests.report_cases import ARROWS, NARROW, TASKS, WIDE, unit

KEYS = ["regime", "level", "task", "method", "sae_id", "k", "site", "model"]
NUMBERS = ["val_auc", "test_auc", "test_acc", "test_f1"]


def _same(left, right):
    left, right = (
        table[KEYS + NUMBERS].sort_values(KEYS, ignore_index=True) for table in (left, right)
    )
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_run_comes_back_without_controls_other_seeds_and_protocols(tmp_path):
    units = [
        unit(task, *arrow, protocol=protocol, seeds=(42, 43))
        for task in TASKS[:3]
        for arrow in ARROWS
        for protocol in ("strict", "paper")
    ]
    units += [unit(TASKS[0], "logreg", "", None, site="resid_post.5")]
    results = results_table(units)
    written = write_study(tmp_path, results)
    back = read(tmp_path / "study", "gemma-3-270m", ks=None, every_layer=True)
    expected = results[(results["protocol"] == "paper") & (results["seed"] == 42)]
    expected = expected[expected["sae_id"].isin(["", NARROW, WIDE])]
    expected = expected[~expected["method"].str.endswith("_shuffled")]
    other = (expected["layer"] == 5) & (expected["regime"] != "standard")
    _same(back, expected[~other])
    assert len(back) == 12 * 3 * 6 + 1
    names = {str(path.relative_to(tmp_path / "study")) for path in written}
    assert names == {
        "baseline_probes_gemma-3-270m/normal_settings/layer9_results.csv",
        "baseline_probes_gemma-3-270m/normal_settings/layer5_results.csv",
        "baseline_probes_gemma-3-270m/scarcity/summary/all_results.csv",
        "baseline_probes_gemma-3-270m/imbalance/all_results.csv",
        "baseline_probes_gemma-3-270m/corrupt/all_results.csv",
        "baseline_probes_gemma-3-270m/ood/all_results.csv",
        "sae_probes_gemma-3-270m/normal_setting/all_metrics.csv",
        "sae_probes_gemma-3-270m/scarcity_setting/all_metrics.csv",
        "sae_probes_gemma-3-270m/class_imbalance_setting/all_metrics.csv",
        "sae_probes_gemma-3-270m/label_noise_setting/all_metrics.csv",
        "sae_probes_gemma-3-270m/ood_setting/all_metrics.csv",
    }


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("baseline_probes_m/normal_settings/layer9_results.csv",
         "dataset,method,test_f1,test_acc,test_auc,val_auc"),
        ("baseline_probes_m/scarcity/summary/all_results.csv",
         "dataset,method,num_train,test_f1,test_acc,test_auc,val_auc"),
        ("baseline_probes_m/imbalance/all_results.csv",
         "dataset,method,ratio,num_train,test_f1,test_acc,test_auc,val_auc"),
        ("baseline_probes_m/corrupt/all_results.csv",
         "dataset,method,ratio,num_train,test_f1,test_acc,test_auc,val_auc"),
        ("sae_probes_m/normal_setting/all_metrics.csv",
         "test_f1,test_acc,test_auc,val_auc,k,dataset,layer,sae_id,reg_type,binarize"),
        ("sae_probes_m/class_imbalance_setting/all_metrics.csv",
         "test_f1,test_acc,test_auc,val_auc,k,dataset,layer,sae_id,reg_type,binarize,frac"),
        ("sae_probes_m/label_noise_setting/all_metrics.csv",
         "test_f1,test_acc,test_auc,val_auc,k,dataset,layer,sae_id,reg_type,binarize,corrupt_frac"),
    ],
)  # fmt: skip
def test_the_columns_are_the_study_s(tmp_path, path, header):
    units = [unit(TASKS[0], *arrow) for arrow in ARROWS[:3]]
    write_study(tmp_path, results_table(units).assign(model="some/m"))
    lines = (tmp_path / "study" / path).read_text().splitlines()
    assert lines[0] == header
    if "sae_" in path:
        assert f",16,{TASKS[0]},9,{NARROW},l1,False" in lines[1]


def test_binarised_probes_keep_their_name_and_other_kinds_are_left_out(tmp_path):
    units = [unit(TASKS[0], *arrow) for arrow in ARROWS[:3]]
    table = results_table(units)
    more = [
        table[table["method"] == "sae_k16"].assign(method=name)
        for name in ("sae_k16_binarised", "sae_max_k16")
    ]
    write_study(tmp_path, with_facts(pd.concat([table, *more], ignore_index=True), {}))
    back = read(tmp_path / "study", "gemma-3-270m", ks=None)
    assert set(back["method"]) == {"logreg", "pca", "sae_k16", "sae_k16_binarised"}


@golden
def test_the_published_files_survive_the_round_trip(tmp_path):
    before = published_results("old").query("regime != 'covariate_shift'")
    write_study(tmp_path, before)
    after = read(tmp_path / "study", "gemma-2-9b")
    _same(before, after)
    # Of the three SAEs the quiver comes out the same to the last digit.
    tables = [
        quiver(table, tie_rule="neutral").sort_values(["regime", "level"])
        for table in (before, after)
    ]
    np.testing.assert_allclose(tables[0]["delta"], tables[1]["delta"], atol=1e-15)
