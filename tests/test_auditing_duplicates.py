"""Duplicates: planted pairs and no others; groups: the one with wrong labels is the worst."""

import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probejax import metrics
from probejax.auditing.by_group import by_group, clusters
from probejax.auditing.dataset import dataset
from probejax.auditing.duplicates import duplicates
from probejax.auditing.near_texts import near
from probejax.auditing.out_of_fold import Judged
from tests.audit_cases import D, N

LONG = "A harbour master wrote that the lamp on pier {} had failed in the storm of that night."
WORDS = np.random.default_rng(0).integers(97, 123, (N, 60)).astype(np.uint8)


@pytest.fixture(scope="module")
def data():
    named = [bytes(row).decode() for row in WORDS]
    named[0], named[1] = LONG.format(1), LONG.format(2).upper()  # nearly equal, labels conflict
    named[10], named[30] = "equal", "equal"  # and so are their labels
    named[11], named[40] = "torn", "torn"  # labels conflict
    named[50] = named[52] = named[54] = "thrice"
    x = np.random.default_rng(1).normal(size=(N, D))
    return dataset(x, np.arange(N) % 2, texts=named, classes=("ham", "spam"))


def test_planted_pairs_are_found_and_no_others(data):
    table = duplicates(data).tables[0].rows
    found = {
        row: (other, conflict)
        for row, other, conflict in table[["row", "most_like", "conflict"]].itertuples(index=False)
    }
    assert found == {
        **{0: (1, True), 1: (0, True), 11: (40, True), 40: (11, True)},
        **{10: (30, False), 30: (10, False)},
        **{50: (52, False), 52: (50, False), 54: (50, False)},
    }
    assert table["conflict"].tolist() == [True] * 4 + [False] * 5
    assert len(set(table["cluster"])) == 4 and table.groupby("row")["cluster"].nunique().max() == 1
    near = table[table["row"] == 0].iloc[0]
    assert 0.8 <= near["likeness"] < 1 and near["other_text"] == data.texts[1]
    copies, nearly, torn, minority = duplicates(data).claims
    assert (copies.value, nearly.value, torn.value, minority.value) == (4, 2, 1, 1)
    assert minority.chance == "labels of rows permuted"


def test_how_many_conflict_does_not_depend_on_the_order_of_rows():
    labels = np.r_[np.arange(30) % 2, 0, np.ones(10, int)]  # one of eleven copies is different
    named = [*(bytes(row).decode() for row in WORDS[:30]), *["the copied one"] * 11]
    x, order = np.random.default_rng(0).normal(size=(41, 3)), np.arange(41)
    for rows in (order, np.r_[order[:30], order[:29:-1]], np.random.default_rng(1).permutation(41)):
        finding = duplicates(dataset(x[rows], labels[rows], texts=[named[row] for row in rows]))
        assert [claim.value for claim in finding.claims] == [10, 0, 1, 1]
        assert finding.claims[-1].by_chance > 1
        table = finding.tables[0].rows
        assert len(table) == 11 and table["conflict"].all()
        assert (table["label"] != table["other_label"]).all()


def test_where_nothing_comes_again_the_table_has_its_columns():
    x = np.random.default_rng(0).normal(size=(40, 3))
    table = duplicates(dataset(x, np.arange(40) % 2)).tables[0].rows
    assert len(table) == 0 and "most_like" in table


def exact(one, other):
    pieces = [{t[i : i + 5] for i in range(len(t) - 4)} for t in (one.lower(), other.lower())]
    return len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1])


def test_likeness_is_exact_and_has_a_limit():
    far = LONG.format(1)[:50] + "a wholly different end of the sentence stands here."
    found = near([LONG.format(1), far, LONG.format(23)])
    assert found.nearest.tolist() == [2, -1, 0] and found.cluster.tolist() == [0, 1, 0]
    assert found.likeness[0] == pytest.approx(exact(LONG.format(1), LONG.format(23)))
    assert near(["", "a", "b"]).nearest.tolist() == [-1] * 3
    assert near(["a"]).nearest.tolist() == [-1] and len(near([]).cluster) == 0


def test_nearly_all_pairs_at_the_limit_are_found():
    """Of pairs that share 80 to 85 % of their pieces; more in common is easier to find."""
    rng = np.random.default_rng(0)
    random = lambda count: bytes(rng.integers(97, 123, count).astype(np.uint8)).decode()
    pairs = []
    for count in rng.integers(12, 24, 600).tolist():
        whole = random(200)
        pairs.append((whole, whole[: 200 - count] + random(count)))
    pairs = [pair for pair in pairs if 0.8 <= exact(*pair) < 0.85]
    texts = [text for pair in pairs for text in pair]
    found = near(texts)
    beside = np.arange(len(texts)) ^ 1
    assert len(pairs) > 200 and (found.nearest == beside).mean() > 0.99
    for row in np.flatnonzero(found.nearest == beside)[:50]:
        assert found.likeness[row] == pytest.approx(exact(texts[row], texts[beside[row]]))


def test_a_template_that_all_share_is_one_cluster_and_ends():
    template = "Consider the statement and say whether it is true, in one word and no more. " * 4
    texts = [f"{template}Item {number}" for number in range(600)]
    chain = [LONG.format(1), LONG.format(1)[8:], LONG.format(1)[16:]]  # each like the next alone
    assert exact(chain[0], chain[2]) < 0.8
    found = near([chain[0], chain[2], *texts, chain[1]])
    assert len(set(found.cluster[2:-1])) == 1 and (found.nearest[2:-1] >= 0).all()
    assert len({found.cluster[row] for row in (0, 1, -1)}) == 1 and found.nearest[0] == 602
    best = max(range(600), key=lambda i: (i != 17) * exact(texts[17], texts[i]))
    assert found.likeness[19] == pytest.approx(exact(texts[17], texts[best]))
    x, y = np.random.default_rng(1).normal(size=(600, D)), np.arange(600) % 2
    table = duplicates(dataset(x, y, texts=texts)).tables[0].rows
    assert len(table) == 600 and set(table["cluster"]) == {0}


def test_without_texts_equal_activations_are_found():
    x = np.random.default_rng(1).normal(size=(N, D))
    x[7] = x[2]
    finding = duplicates(dataset(x, np.arange(N) % 2))
    rows = finding.tables[0].rows[["row", "most_like", "conflict"]].to_numpy().tolist()
    assert rows == [[2, 7, True], [7, 2, True]] and "Without texts" in finding.notes[0]


def test_without_datasketch_a_sentence_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ValueError, match=r"an audit needs datasketch: pip install"):
        duplicates(data)


def judged(data, wrong):
    p = np.where(data.y == 1, 0.8, 0.2) + 0.1 * np.random.default_rng(2).normal(size=N)
    p = np.clip(np.where(wrong, 1 - p, p), 0, 1)
    chance = np.random.default_rng(3).random(N)
    own = roc_auc_score(data.y, p)
    return Judged("logreg", p, own, chance, roc_auc_score(data.permuted(), chance), 0)


def test_the_worst_group_comes_first(data):
    names = np.array(["a", "b", "c", "d"], dtype=object)[np.arange(N) // 2 % 4]
    names[199], names[198], names[196] = "alone", "pure", "pure"
    grouped = data._replace(groups=tuple(names.tolist()))
    finding = by_group(grouped, judged(data, names == "c"))
    table = finding.tables[0].rows
    assert table["group"][0] == "c" and table["auc"][0] < 0.1 and table["auc"][1] > 0.9
    first = table.iloc[0]
    own = names == "c"
    p = judged(data, names == "c").probability
    assert first["auc"] == pytest.approx(roc_auc_score(data.y[own], p[own]))
    assert first["rows"] == own.sum() and first["example"] in np.array(data.texts)[own]
    assert finding.claims[1].value == first["auc"]
    assert "1 groups have one row, such as 'alone'" in finding.notes[0]
    assert "1 groups have rows of one class alone" in finding.notes[1]


def test_a_line_of_each_group_is_what_its_rows_alone_give():
    rng = np.random.default_rng(0)
    y, groups = rng.permutation(np.arange(500) % 2), rng.integers(0, 40, 500)
    p = np.round(rng.random(500), 1).astype(np.float32)  # on the edges of bins, 0 and 1 too
    data = dataset(rng.normal(size=(500, 2)), y, groups=groups.tolist())
    told = Judged("logreg", p, 0.5, p, 0.5, 0)
    table = by_group(data, told).tables[0].rows.set_index("group")
    assert set(table.index) == set(map(str, groups.tolist()))
    for group, line in table.iterrows():
        own = groups == int(group)
        assert line["rows"] == own.sum()
        assert line["auc"] == pytest.approx(roc_auc_score(y[own], p[own]))
        assert line["accuracy"] == pytest.approx(((p > 0.5) == y)[own].mean())
        assert line["share_1"] == pytest.approx(y[own].mean())
        error = metrics.calibration_error(p[own], y[own], np.ones(own.sum(), bool))
        assert line["calibration_error"] == pytest.approx(float(error), abs=1e-6)


def test_the_worst_of_many_groups_stands_beside_the_worst_of_shuffled_ones():
    rng = np.random.default_rng(0)
    y, groups = rng.permutation(np.arange(600) % 2), rng.permutation(np.arange(600) // 25)
    data = dataset(rng.normal(size=(600, 2)), y, groups=groups.tolist())
    p = 1 / (1 + np.exp(-1.2 * y - rng.normal(size=600)))
    told = Judged("logreg", p, roc_auc_score(y, p), p, 0.5, 0)
    worst = lambda p: by_group(data, told._replace(probability=p)).claims[1]
    by_hand = [min(roc_auc_score(y[own == g], p[own == g]) for g in range(24))
               for own in (rng.permutation(groups) for _ in range(100))]  # fmt: skip
    claim = worst(p)
    assert claim.by_chance == pytest.approx(np.median(by_hand), abs=0.02)
    assert claim.value < claim.by_chance + 0.1  # far below the AUC of all, and nothing is wrong
    assert float(claim.chance.removeprefix("groups shuffled, p = ")) > 0.05
    assert worst(np.where(groups == 3, 1 - p, p)).chance == "groups shuffled, p = 0.005"
    small = by_group(data._replace(groups=tuple(map(str, range(600)))), told).claims[1]
    assert np.isnan(small.value) and small.chance == "groups shuffled"


def test_groups_of_other_class_shares_are_no_fault():
    """Of two positives in 25 an AUC is far noisier than of twelve: shuffled groups keep theirs."""
    certain = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        groups = np.arange(500) // 25
        y = (rng.random(500) < np.where(groups % 2, 0.1, 0.9)).astype(int)
        p = 1 / (1 + np.exp(-1.2 * y - rng.normal(size=500)))  # depends on the label alone
        data = dataset(rng.normal(size=(500, 2)), y, groups=groups.tolist())
        told = Judged("logreg", p, roc_auc_score(y, p), p, 0.5, 0)
        claim = by_group(data, told, seed=seed).claims[1]
        certain.append(float(claim.chance.removeprefix("groups shuffled, p = ")) <= 0.05)
    assert np.mean(certain) < 0.2  # 0.6 of shuffles that take no heed of labels


def test_clusters_have_no_chance_to_stand_beside(data):
    finding = by_group(data, judged(data, np.zeros(N, bool)))
    assert [claim.text for claim in finding.claims] == ["AUC over all groups"]


def test_long_texts_that_begin_otherwise_are_not_alike():
    rng = np.random.default_rng(0)
    body = lambda: " ".join(f"w{i}" for i in rng.integers(0, 10**6, 600))
    ending = body()[:3000]
    found = near([body()[:3000] + ending, body()[:3000] + ending])
    assert (found.nearest == -1).all()
    found = near([ending + "a" + body()[:50] + ending, ending + body()[:60] + ending])
    assert (found.nearest >= 0).all()


def test_without_groups_there_are_clusters_of_activations(data):
    x = data.x + 40 * (np.arange(N) % 2)[:, None] * (np.arange(D) < 12).astype(np.float32)
    found = clusters(data._replace(x=x))
    assert len(set(found)) == 10
    for name in set(found):
        assert len(set(np.arange(N)[found == name] % 2)) == 1  # never across the gap
    finding = by_group(data, judged(data, np.zeros(N, bool)))
    assert finding.title == "Clusters of activations"
    assert finding.tables[0].rows["rows"].sum() == N


def test_the_calibration_error_of_a_group_is_that_of_its_rows(data):
    groups = tuple("ab"[i % 3 == 0] for i in range(N))
    told = judged(data, np.zeros(N, bool))
    table = by_group(data._replace(groups=groups), told).tables[0].rows.set_index("group")
    for name in "ab":
        own = np.array(groups) == name
        p, y = told.probability[own], data.y[own]
        place = np.minimum((p * 10).astype(int), 9)
        expected = sum(abs((p - y)[place == each].sum()) for each in range(10)) / own.sum()
        assert table.loc[name, "calibration_error"] == pytest.approx(expected, abs=1e-6)
