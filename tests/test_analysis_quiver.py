"""The quiver on tables small enough to work out by hand."""

import numpy as np
import pandas as pd
import pytest

from probejax import analysis
from probejax.analysis.facts import is_control
from probejax.analysis.head_to_head import head_to_head
from probejax.analysis.quiver import choices, quiver
from probejax.analysis.tables import as_results
from probejax.analysis.ties import TIE_RULES

NARROW, WIDE = "layer_20/width_16k/average_l0_408", "layer_20/width_1m/average_l0_193"


def _fit(method, val, test, task="a", level=2.0, sae_id="", k=None, **others):
    row = {"task": task, "regime": "scarcity", "level": level, "method": method, "seed": 42}
    row |= {
        "protocol": "paper",
        "model": "m",
        "site": "resid_post.20",
        "sae_id": sae_id,
        "k": k,
        "code": 0,
    }
    return row | {"val_auc": val, "test_auc": test} | others


def _table(*rows):
    return as_results(pd.DataFrame(list(rows)))


# One cell in which everything ties.
TIED = (
    _fit("mlp", 1.0, 0.50),
    _fit("knn", 1.0, 0.60),
    _fit("logreg", 1.0, 0.70),
    _fit("lda", 1.0, 0.75),
    _fit("sae_k16", 1.0, 0.80, sae_id=NARROW, k=16),
    _fit("sae_k128", 1.0, 0.90, sae_id=NARROW, k=128),
    _fit("sae_k128", 1.0, 0.40, sae_id=WIDE, k=128),
)


@pytest.mark.parametrize(
    ("rule", "baseline", "with_sae", "sae_chosen"),
    [
        ("documented", 0.70, 0.90, 1),
        ("documented_tolerance", 0.70, 0.90, 1),
        ("baseline_first", 0.70, 0.70, 0),
        ("row_order", 0.50, 0.50, 0),
        ("neutral", 2.55 / 4, 4.65 / 7, None),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_each_rule_breaks_ties_as_it_says(rule, baseline, with_sae, sae_chosen, reverse):
    table = _table(*(TIED[::-1] if reverse else TIED))
    row = quiver(table, tie_rule=rule).iloc[-1]
    if rule == "row_order" and reverse:
        baseline, with_sae, sae_chosen = 0.75, 0.40, 1
    assert row["baseline"] == pytest.approx(baseline) and row["with_sae"] == pytest.approx(with_sae)
    assert row["delta"] == pytest.approx(with_sae - baseline)
    assert (row["cells"], row["tied"], row["tie_rule"]) == (1, 1, rule)
    assert pd.isna(row["sae_chosen"]) if sae_chosen is None else row["sae_chosen"] == sae_chosen


def test_the_documented_order_among_baselines_and_among_saes():
    rows = list(TIED)
    order = []
    while len(rows) > 1:
        table = _table(*rows)
        chosen = choices(table)["chosen_row"].iloc[0]
        if chosen < 0 or not any(row["sae_id"] for row in rows):
            break
        order.append((rows[chosen]["method"], rows[chosen]["sae_id"]))
        rows.pop(chosen)
    assert order == [("sae_k128", NARROW), ("sae_k16", NARROW), ("sae_k128", WIDE)]
    rows = [*TIED[:4], TIED[4] | {"val_auc": 0.1}]
    order = []
    while len(rows) > 1:
        chosen = choices(_table(*rows))["baseline_row"].iloc[0]
        order.append(rows.pop(chosen)["method"])
    assert order == ["logreg", "knn", "mlp", "lda"]


@pytest.mark.parametrize(
    ("names", "levels"),
    [
        ({"a": ("de", "en"), "b": ("de", "en")}, [0.0, 1.0]),
        ({"a": ("de", "en"), "b": ("2001", "2002")}, []),
        ({"a": ("", ""), "b": ("", "")}, []),
        ({"a": ("de", "en")}, [0.0, 1.0]),
    ],
)
def test_groups_of_different_tasks_are_compared_only_where_they_are_the_same(names, levels):
    rows = [
        _fit(method, val, test, task, float(i), sae_id, k, regime="group_shift", group=name)
        for task, groups in names.items()
        for i, name in enumerate(groups)
        for method, val, test, sae_id, k in (
            ("logreg", 0.8, 0.9, "", None),
            ("sae_k16", 0.9, 0.7, NARROW, 16),
        )
    ]
    for table in (quiver(_table(*rows)), head_to_head(_table(*rows), "logreg", NARROW, 16)):
        assert table["level"].dropna().tolist() == levels
        assert table["cells"].iloc[-1] == len(rows) / 2
    old = quiver(_table(*rows).drop(columns="group"))
    assert old["level"].dropna().tolist() == (levels if len(names) == 1 else [])


def test_validation_auc_chooses_and_test_auc_is_reported():
    table = _table(
        _fit("logreg", 0.8, 0.9),
        _fit("pca", 0.9, 0.6),
        _fit("sae_k16", 0.95, 0.7, sae_id=NARROW, k=16),
    )
    row = quiver(table).iloc[0]
    assert (row["baseline"], row["with_sae"], row["sae_chosen"], row["tied"]) == (0.6, 0.7, 1, 0)


def test_only_the_tolerant_rules_take_near_values_as_tied():
    table = _table(
        _fit("logreg", 0.9 + 1e-12, 0.8),
        _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16),
    )
    table = quiver(table, tie_rule=tuple(TIE_RULES)).query("level != level").set_index("tie_rule")
    assert table["with_sae"].round(9).to_dict() == {
        "documented": 0.8,
        "documented_tolerance": 0.6,
        "baseline_first": 0.8,
        "row_order": 0.8,
        "neutral": 0.7,
    }
    assert table["tied"].to_dict() == {
        "documented": 0,
        "documented_tolerance": 1,
        "baseline_first": 0,
        "row_order": 0,
        "neutral": 1,
    }


def test_levels_and_the_mean_over_all_cells():
    rows = []
    for task, level, base, sae in (("a", 2, 0.5, 0.6), ("b", 2, 0.7, 0.6), ("a", 4, 0.6, 0.9)):
        rows.append(_fit("logreg", 0.5, base, task=task, level=level))
        rows.append(_fit("sae_k16", 0.9, sae, task=task, level=level, sae_id=NARROW, k=16))
    table = quiver(_table(*rows))
    assert table["level"].tolist()[:2] == [2, 4] and np.isnan(table["level"].iloc[2])
    assert table["cells"].tolist() == [2, 1, 3]
    assert table["tasks"].tolist() == [2, 1, 2]
    np.testing.assert_allclose(table["delta"], [0.0, 0.3, 0.1])
    assert np.isnan(table["ci_low"].iloc[1])  # one task says nothing about tasks
    assert table["ci_low"].iloc[0] == pytest.approx(-0.1)


def test_cells_without_a_partner_are_counted_and_left_out():
    table = _table(
        _fit("logreg", 0.5, 0.5),
        _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16),
        _fit("logreg", 0.5, 0.1, task="b"),
        _fit("sae_k16", 0.9, 0.1, task="c", sae_id=NARROW, k=16),
        _fit("logreg", 0.5, 0.1, seed=43),
        _fit("sae_k16", 0.9, np.nan, seed=43, sae_id=NARROW, k=16),
    )
    row = quiver(table).iloc[-1]
    assert (row["cells"], row["unpaired"], row["baseline"], row["with_sae"]) == (1, 3, 0.5, 0.6)
    cells = choices(table).set_index(["task", "seed"])
    assert np.isnan(cells["delta"].drop(index=("a", 42))).all()
    assert cells.loc[("b", 42), "baseline_row"] == 2 and cells.loc[("c", 42), "baseline_row"] == -1


def test_cells_that_lack_a_method_are_counted():
    table = _table(
        _fit("logreg", 0.5, 0.5),
        _fit("mlp", 0.6, 0.6),
        _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16),
        _fit("logreg", 0.5, 0.5, task="b"),
        _fit("mlp", np.nan, 0.5, task="b"),
        _fit("sae_k16", 0.9, 0.6, task="b", sae_id=NARROW, k=16),
    )
    row = quiver(table).iloc[-1]
    assert (row["cells"], row["incomplete"], row["unpaired"]) == (2, 1, 0)


@pytest.mark.parametrize("auc", ["val_auc", "test_auc"])
def test_a_fit_without_an_auc_is_not_chosen_and_shows(auc):
    lost = _fit("sae_k128", 0.95, 0.9, sae_id=WIDE, k=128) | {auc: np.nan}
    table = _table(lost, _fit("logreg", 0.5, 0.5), _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16))
    row = quiver(table).iloc[-1]
    assert (row["with_sae"], row["cells"], row["incomplete"], row["unpaired"]) == (0.6, 1, 1, 0)


def test_rows_of_different_seeds_protocols_models_or_sites_are_never_compared():
    for other in ({"seed": 1}, {"protocol": "strict"}, {"model": "n"}, {"site": "resid_post.9"}):
        table = _table(
            _fit("logreg", 0.5, 0.5), _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16, **other)
        )
        assert quiver(table)["cells"].sum() == 0
        assert quiver(table).query("level != level")["unpaired"].sum() == 2


def test_each_protocol_gets_its_own_rows():
    rows = [_fit("logreg", 0.5, 0.5), _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16)]
    strict = [row | {"protocol": "strict", "test_auc": row["test_auc"] / 2} for row in rows]
    table = quiver(_table(*rows, *strict)).query("level != level").set_index("protocol")
    assert table["delta"].round(9).to_dict() == {"paper": 0.1, "strict": 0.05}


def test_the_baseline_quiver_can_be_named():
    row = quiver(_table(*TIED), baseline_methods=["knn"], tie_rule="baseline_first").iloc[-1]
    assert (row["baseline"], row["with_sae"]) == (0.6, 0.6)
    with pytest.raises(ValueError, match="baseline svm; there are knn, lda, logreg, mlp"):
        quiver(_table(*TIED), baseline_methods=["svm"])


def test_fits_that_did_not_converge_are_counted():
    rows = [_fit("logreg", 0.5, 0.5), _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16)]
    codes = [0, 1, 2, 3]
    table = [r | {"code": c, "seed": c} for c in codes for r in rows]
    assert quiver(_table(*table)).iloc[-1]["not_converged"] == 4  # codes 1 and 3, both methods
    unknown = [row | {"code": None} for row in rows]
    assert pd.isna(quiver(_table(*unknown)).iloc[-1]["not_converged"])


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="Unknown tie rule 'best'; there are documented, "):
        quiver(_table(*TIED), tie_rule="best")
    with pytest.raises(ValueError, match=r"1 fits occur twice, the first: .*task=a.*method=mlp"):
        quiver(_table(*TIED, TIED[0]))
    with pytest.raises(ValueError, match="lacks the columns seed, val_auc"):
        quiver(_table(*TIED).drop(columns=["seed", "val_auc"]))


def test_an_empty_table_gives_an_empty_quiver():
    assert len(quiver(_table(*TIED).iloc[:0])) == 0


def test_the_table_is_not_changed():
    table = _table(*TIED)
    before = table.copy()
    quiver(table, tie_rule=tuple(TIE_RULES))
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("sae_id", "width"),
    [
        (NARROW, 16e3),
        ("layer_20/width_131k/average_l0_276", 131e3),
        (WIDE, 1e6),
        ("gemma-2-2b_top_k_width-2pow14_date-0107", 16384),
        ("gemma-3-270m/layer_9/width_4096", 4096),
        ("l16r_32x", np.nan),
    ],
)
def test_the_width_is_read_from_the_id_unless_the_unit_says_it(sae_id, width):
    fit = _fit("sae_k16", 1.0, 0.8, sae_id=sae_id, k=16)
    assert as_results(pd.DataFrame([fit]))["sae_width"].tolist() == pytest.approx(
        [width], nan_ok=True
    )
    said = as_results(pd.DataFrame([fit]), {sae_id: {"width": 12288, "l0": None}})
    assert said["sae_width"].tolist() == [12288]


def test_head_to_head_matches_rows_by_cell_and_not_by_position():
    rows = [_fit("logreg", 0, auc, task=t) for t, auc in (("a", 0.5), ("b", 0.9), ("c", 0.7))]
    rows += [
        _fit("sae_k16", 0, auc, task=t, sae_id=NARROW, k=16)
        for t, auc in (("b", 0.8), ("a", 0.7), ("d", 0.1))
    ]
    row = analysis.head_to_head(_table(*rows), "logreg", NARROW, 16).iloc[-1]
    assert (row["cells"], row["unpaired"]) == (2, 2)
    assert (row["sae_wins"], row["baseline_wins"]) == (1, 1)
    assert row["delta"] == pytest.approx(0.05)
    margin = analysis.head_to_head(_table(*rows), "logreg", NARROW, 16, margin=0.15).iloc[-1]
    assert (margin["sae_wins"], margin["baseline_wins"]) == (1, 0)


def test_head_to_head_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="no row of svm"):
        analysis.head_to_head(_table(*TIED), "svm", NARROW, 16)
    with pytest.raises(ValueError, match=f"no row of sae_k16 on {WIDE}"):
        analysis.head_to_head(_table(*TIED), "logreg", WIDE, 16)
    mixed = [*TIED, *[row | {"site": "resid_post.9"} for row in TIED]]
    with pytest.raises(ValueError, match=r"mixes the sites resid_post\.20, resid_post\.9"):
        analysis.head_to_head(_table(*mixed), "logreg", NARROW, 16)
    with pytest.raises(ValueError, match="logreg twice in a cell"):
        analysis.head_to_head(_table(*TIED, TIED[2]), "logreg", NARROW, 16)


def _paired(task, level, base, sae, regime="scarcity", seed=42):
    rows = (
        _fit("logreg", 0.5, base, task, level),
        _fit("sae_k16", 0.9, sae, task, level, sae_id=NARROW, k=16),
    )
    return [row | {"regime": regime, "seed": seed} for row in rows]


def test_levels_are_corrected_for_their_number_and_regimes_for_theirs():
    rng = np.random.default_rng(0)
    rows = []
    for regime, levels, shift in (("scarcity", (2, 4, 8), 0.02), ("imbalance", (0.5,), 0.0)):
        for task in range(20):
            for level in levels:
                gain = rng.normal(shift, 0.02)
                rows += _paired(f"t{task}", level, 0.7, 0.7 + gain, regime)
    table = quiver(_table(*rows))
    levels = table.query("regime == 'scarcity' and level == level")
    assert (levels["band_low"] < levels["ci_low"]).all()
    assert (levels["band_high"] > levels["ci_high"]).all()
    assert (levels["p_holm"] >= levels["p_value"]).all()
    smallest = levels["p_value"].min()
    assert levels["p_holm"].min() == pytest.approx(3 * smallest) and smallest < 0.01
    alone = table.query("regime == 'imbalance' and level == level").iloc[0]
    assert alone["p_holm"] == alone["p_value"]  # one level is one look
    assert alone["band_low"] == pytest.approx(alone["ci_low"], abs=1e-3)
    overall = table.query("level != level").set_index("regime")
    assert overall.loc["scarcity", "p_holm"] == 2 * overall.loc["scarcity", "p_value"] < 0.01
    assert overall.loc["scarcity", "band_low"] > 0 > overall.loc["imbalance", "band_low"]


def test_wins_are_tasks_whose_mean_difference_is_beyond_the_margin():
    rows = _paired("a", 2, 0.5, 0.6) + _paired("a", 4, 0.5, 0.5)  # mean 0.05: a win
    rows += _paired("b", 2, 0.5, 0.51) + _paired("b", 4, 0.51, 0.5)  # mean 0: neither
    rows += _paired("c", 2, 0.6, 0.5, seed=1) + _paired("c", 2, 0.6, 0.61, seed=2)
    row = quiver(_table(*rows)).iloc[-1]
    assert (row["wins"], row["losses"], row["tasks"], row["cells"]) == (1, 1, 3, 6)
    assert row["win_rate"] == pytest.approx(1 / 3)
    assert (row["win_low"], row["win_high"]) == pytest.approx((0.0615, 0.7923), abs=1e-4)
    assert row["p_sign"] == 1.0


@pytest.mark.parametrize(
    "control",
    [
        {"method": "sae_k128_shuffled"},
        {"method": "sae_k128_random_latents"},
        {"sae_id": "random/width_16k", "method": "sae_k128"},
        {"method": "logreg_shuffled", "sae_id": "", "k": None},
    ],
)
def test_a_control_is_no_arrow(control):
    rows = [_fit("logreg", 0.5, 0.5), _fit("sae_k16", 0.9, 0.6, sae_id=NARROW, k=16)]
    lure = _fit("sae_k128", 1.0, 0.1, sae_id=NARROW, k=128) | control
    row = quiver(_table(*rows, lure)).iloc[-1]
    assert (row["with_sae"], row["baseline"], row["incomplete"]) == (0.6, 0.5, 0)
    assert is_control(_table(*rows, lure)).tolist() == [False, False, True]
