"""From units to tables, files and the printed summary."""

import math

import pandas as pd
import pytest

from probejax import analysis
from probejax.analysis.group import groups
from probejax.analysis.quiver import quiver as quiver_of
from probejax.analysis.tables import (
    COLUMNS,
    as_results,
    means,
    results_table,
    summary,
    write_tables,
)
from probejax.analysis.ties import TIE_RULES
from probejax.storage import StorageError, Store

SAE = "gemma-3-270m/layer_9/width_4096"


def _unit(task, method, auc, sae_id="", k=None, source="resid"):
    return {
        "unit": {
            "task": task,
            "source": source,
            "method": method,
            "protocol": "paper",
            "model": "gemma-3-270m",
            "site": "resid_post.9",
            "sae_id": sae_id,
            "k": k,
        },
        "fits": {
            "regime": ["standard", "scarcity", "scarcity", "covariate_shift"],
            "level": [None, 2, 4, None],
            "seed": [42, 42, 42, 42],
            "num_train": [1024, 2, 4, 1024],
            "num_test": [500, 500, 500, 300],
            "val_auc": [auc, auc, auc, math.nan],
            "test_auc": [auc - 0.1, auc - 0.2, auc - 0.3, None],
            "test_acc": [0.5] * 4,
            "test_f1": [0.5] * 4,
            "hyperparameter": [1e5, 0.27825594022071259, 1.0, 1.0],
            "gap": [1e-9, 1e-9, 1e-3, None],
            "code": [0, 0, 1, 3],
        },
    }


UNITS = [
    _unit("b", "logreg", 0.8),
    _unit("a", "sae_k16", 0.9, SAE, 16, source=SAE),
    _unit("a", "logreg", 0.7),
    _unit("b", "sae_k16", 0.6, SAE, 16, source=SAE),
]


def test_one_row_per_fit_in_an_order_that_does_not_depend_on_the_units():
    table = results_table(UNITS)
    assert tuple(table.columns) == COLUMNS and len(table) == 16
    pd.testing.assert_frame_equal(table, results_table(UNITS[::-1]))
    assert table["regime"].unique().tolist() == ["standard", "scarcity", "covariate_shift"]
    assert table["level"].tolist()[4:12] == [2] * 4 + [4] * 4
    assert table["method"].tolist()[:4] == ["logreg", "sae_k16", "logreg", "sae_k16"]
    first = table.iloc[1].to_dict()
    assert first == first | {
        "task": "a",
        "sae_id": SAE,
        "k": 16,
        "site": "resid_post.9",
        "layer": 9,
        "num_train": 1024,
        "val_auc": 0.9,
        "hyperparameter": 1e5,
        "code": 0,
    }
    assert math.isnan(first["level"]) and table["k"].isna().sum() == 8
    assert table["val_auc"].isna().sum() == 4 and table["test_auc"].dtype == float


def test_no_units_give_an_empty_table():
    table = results_table([])
    assert tuple(table.columns) == COLUMNS and len(table) == 0


def test_a_unit_with_missing_or_uneven_fields_is_named():
    unit = _unit("a", "logreg", 0.7)
    del unit["unit"]["site"], unit["fits"]["gap"]
    with pytest.raises(ValueError, match=r"'task': 'a'.*lacks unit\.site, fits\.gap"):
        results_table([unit])
    unit = _unit("a", "logreg", 0.7)
    unit["fits"]["seed"] = [42]
    with pytest.raises(ValueError, match=r"different lengths: .*'seed': 1"):
        results_table([unit])


def test_units_go_through_the_store_into_the_files(tmp_path):
    store = Store(tmp_path)
    for i, unit in enumerate(UNITS):
        store.put(f"u{i}", unit, timing={"seconds": i})
    results = results_table(store.read_all())
    table = quiver_of(results, tie_rule=tuple(TIE_RULES))
    write_tables(tmp_path, results, table)
    csv = pd.read_csv(tmp_path / "results.csv", dtype={"layer": str}, keep_default_na=True)
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    pd.testing.assert_frame_equal(as_results(csv), results)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), results)
    quiver = pd.read_csv(tmp_path / "quiver.csv")
    assert (
        list(quiver.columns[:11])
        == (
            "regime level tie_rule cells tied baseline with_sae delta ci_low ci_high sae_chosen"
        ).split()
    )
    assert len(quiver) == len(table) == 5 * len(TIE_RULES)
    assert set(quiver["tie_rule"]) == set(TIE_RULES)
    # task a takes the SAE probe (+0.2), task b stays with logreg
    row = quiver.query("regime == 'scarcity' and tie_rule == 'documented' and level != level").iloc[
        0
    ]
    assert (row["cells"], row["sae_chosen"], row["not_converged"]) == (4, 2, 4)
    assert row["delta"] == pytest.approx(0.1) and row["baseline"] == pytest.approx(0.5)


def test_files_of_the_same_results_have_the_same_bytes(tmp_path):
    for name, units in (("a", UNITS), ("b", UNITS[::-1])):
        results = results_table(units)
        write_tables(tmp_path / name, results, quiver_of(results))
    for name in ("results.parquet", "results.csv", "quiver.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_unwritable_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match=r"Cannot write .*results\.parquet: a file is where a folder should be"
    ):
        write_tables(tmp_path / "file", results_table(UNITS), quiver_of(results_table(UNITS)))


def test_the_summary_says_what_was_compared():
    text = summary(analysis.quiver(results_table(UNITS), tie_rule=tuple(TIE_RULES)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("gemma-3-270m, resid_post.9, paper protocol")
    found = {line.split()[0]: line.split() for line in lines[4:7]}
    assert (
        found["standard"]
        == ("standard 2 0 0.6500 0.7500 +0.1000 [+0.0000,+0.2000] +0.1000 50%").split()
    )
    assert found["scarcity"][-1] == "50%"
    assert lines[6] == "covariate_shift     0  nothing to compare"
    assert "covariate_shift: 2 cells left out (no partner)" in lines
    assert "Fits that did not converge: 4 in scarcity, 4 in covariate_shift." in lines
    assert "Ties (documented): exact ties: SAEs first" in " ".join(lines)


def test_the_summary_names_what_is_missing():
    units = [*UNITS, _unit("a", "pca", 0.1), _unit("c", "logreg", 0.5)]
    text = summary(analysis.quiver(results_table(units)))
    assert "standard: 1 cells left out (no partner)" in text
    assert "scarcity: 2 cells lack some method" in text


def test_without_a_comparison_the_summary_is_what_each_method_reaches():
    units = [_unit("a", "knn", 0.9), _unit("b", "knn", 0.5), _unit("a", "logreg", 0.75)]
    units += [{"unit": u["unit"] | {"protocol": "strict"}, "fits": u["fits"]} for u in units[:2]]
    results = results_table(units)
    text = means(results, groups(results, analysis.quiver(results)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "gemma-3-270m, resid_post.9, paper protocol: mean test AUC"
    assert lines[2].split() == ["method", "standard", "scarcity", "covariate_shift"]
    assert lines[4].split() == ["logreg", "0.6500", "0.5000", "-"]  # 0.75 less 0.2 and 0.3
    assert lines[5].split() == ["knn", "0.6000", "0.4500", "-"]
    assert lines[7] == "Fits that did not converge: 3 in scarcity, 3 in covariate_shift."
    assert text.count("did not converge: 2 in scarcity, 2 in") == 1  # strict


def test_the_summary_has_a_part_for_each_protocol():
    units = [*UNITS]
    for unit in UNITS:
        units.append({"unit": unit["unit"] | {"protocol": "strict"}, "fits": unit["fits"]})
    text = summary(analysis.quiver(results_table(units)))
    assert text.count("regime ") == 2 and "resid_post.9, strict protocol" in text


def test_two_metrics_may_be_missing_in_older_units():
    newer = _unit("c", "logreg", 0.5)
    newer["fits"] |= {"test_tpr": [0.1, 0.2, 0.3, None], "test_ece": [0.01] * 4}
    table = results_table([*UNITS, newer]).set_index("task")
    assert table.loc["a", "test_tpr"].isna().all() and table.loc["b", "test_ece"].isna().all()
    assert table.loc["c", "test_tpr"].tolist()[:3] == [0.1, 0.2, 0.3]
    newer["fits"]["test_ece"] = [0.01]
    with pytest.raises(ValueError, match=r"different lengths: .*'test_ece': 1"):
        results_table([newer])
