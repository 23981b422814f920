"""Suspect labels: folds without leaks, probabilities as scikit-learn's, planted flips found."""

import sys

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from probejax.auditing import folds, suspect_labels
from probejax.auditing.dataset import dataset
from probejax.auditing.neighbours import share_alike
from probejax.auditing.out_of_fold import Judged, judge
from probejax.metrics import host_aucs
from probejax.probes.logreg import STRENGTHS
from tests.audit_cases import D, N, Rectified, planted, texts

METHODS = ("logreg", "sae_k16")


@pytest.fixture(scope="module")
def case():
    return planted()


@pytest.fixture(scope="module")
def found(case):
    judged = [judge(case.data, method, repeats=2) for method in METHODS]
    return suspect_labels.suspect_labels(case.data, judged)


def test_folds_judge_each_row_once_and_keep_equal_prompts_together():
    rng = np.random.default_rng(0)
    same = rng.integers(0, 60, N)
    y = rng.integers(0, 2, N)
    cuts = folds.folds(y, same, repeats=2)
    for repeat in (cuts[:5], cuts[5:]):
        judged = np.concatenate([cut.test for cut in repeat])
        np.testing.assert_array_equal(np.sort(judged), np.arange(N))
    for cut in cuts:
        fitted, val = cut.train[~cut.val], cut.train[cut.val]
        parts = [set(same[rows].tolist()) for rows in (fitted, val, cut.test)]
        assert all(parts) and sum(map(len, parts)) == len(set.union(*parts))
    first = [set(cut.test.tolist()) for cut in cuts]
    assert all(one not in first[5:] for one in first[:5])  # a repeat is another cut


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_folds_are_as_large_and_have_the_same_share_of_a_class(copies):
    y = np.repeat(np.random.default_rng(0).random(400) < 0.1, copies).astype(int)
    same = np.repeat(np.arange(400), copies)
    parts = [test for _, test in folds.split(y, same, 5, 0)]
    for counted in ([len(rows) for rows in parts], [y[rows].sum() for rows in parts]):
        assert max(counted) - min(counted) <= copies
    mixed = np.random.default_rng(1).geometric(0.05, 1000)  # of 50 rows down to one
    y = np.random.default_rng(2).integers(0, 2, 1000)
    shares = [y[rows].mean() for _, rows in folds.split(y, mixed, 5, 0)]
    assert max(shares) - min(shares) < 0.02


def test_a_fold_of_many_rows_trains_on_some(monkeypatch):
    monkeypatch.setattr(folds, "MOST_TRAIN", 50)
    cuts = folds.folds(np.arange(N) % 2, np.arange(N))
    assert all(len(cut.train) == 50 for cut in cuts)
    assert sum(len(cut.test) for cut in cuts) == N


def test_probabilities_are_those_of_scikit_learn(case):
    data = case.data
    judged = judge(data, "logreg", repeats=1)
    expected = np.zeros(N)
    for cut in folds.folds(data.y, data.same):
        part = lambda rows, C: LogisticRegression(C=C, tol=1e-10, max_iter=5000).fit(
            data.x[rows].astype(float), data.y[rows]
        )
        fitted, val = cut.train[~cut.val], cut.train[cut.val]
        scores = [
            roc_auc_score(data.y[val], part(fitted, C).decision_function(data.x[val]))
            for C in STRENGTHS
        ]
        best = part(cut.train, STRENGTHS[int(np.argmax(scores))])
        expected[cut.test] = expit(best.decision_function(data.x[cut.test]))
    np.testing.assert_allclose(judged.probability, expected, atol=2e-3)
    assert judged.auc == pytest.approx(roc_auc_score(data.y, expected), abs=2e-3)
    assert judged.unconverged == 0


def test_a_prompt_that_comes_again_is_not_judged_by_its_copy():
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(N // 4, D)), 4, axis=0).astype(np.float32)
    y = np.repeat(np.arange(N // 4) % 2, 4)  # which has nothing to do with x
    data = dataset(x, y, texts=[text for text in texts(N // 4) for _ in range(4)])
    assert 0.3 < judge(data, "logreg", repeats=1).auc < 0.7
    np.testing.assert_array_equal(dataset(x, y).same, data.same)


def test_latents_are_ranked_without_the_rows_that_are_judged():
    noise = np.random.default_rng(2).normal(size=(N, 3000)).astype(np.float32)

    class Wide:  # of 3,000 latents of noise some tell any 200 rows apart
        def encode(self, x):
            return np.maximum(noise[np.rint(np.asarray(x)[:, 0] * N).astype(int)], 0)

    x = np.zeros((N, D), np.float32)
    x[:, 0] = np.arange(N) / N
    data = dataset(x, np.random.RandomState(0).permutation(np.arange(N) % 2), sae=Wide())
    assert judge(data, "sae_k16", repeats=1).auc < 0.62


def test_planted_flips_come_first(case, found):
    table = found.tables[0].rows
    assert sorted(table["row"]) == list(range(N))
    is_flipped = table["row"].isin(case.flipped).to_numpy()
    for method in METHODS:
        precision = average_precision_score(is_flipped, 1 - table[f"p_{method}"])
        assert precision > 0.75, method
    assert is_flipped[:12].sum() >= 9
    assert (table["label"] == case.data.labels[table["row"]]).all()
    own = case.data.y[table["row"]]
    assert table["neighbours_alike"][is_flipped].mean() < table["neighbours_alike"].mean() - 0.2
    assert set(own) == {0, 1}


def test_claims_stand_beside_what_permuted_labels_give(found):
    claims = {claim.text: claim for claim in found.claims}
    for method in METHODS:
        claim = claims[f"AUC of {method} on rows it has not seen"]
        assert claim.value > 0.8 and abs(claim.by_chance - 0.5) < 0.15
    both = claims["labels that logreg and sae_k16 agree are wrong"]
    assert 2 <= both.value <= 14 < both.by_chance


def test_the_cleaned_file_lacks_what_all_call_wrong_and_says_so(case, found):
    cleaned, table = found.tables[1].rows, found.tables[0].rows
    both = table["called_wrong_by"] == " and ".join(METHODS)
    assert len(cleaned) == N - both.sum() < N
    left = set(table["row"][both])
    assert left <= set(case.flipped.tolist())
    assert cleaned["row"].tolist() == [row for row in range(N) if row not in left]
    assert cleaned.columns.tolist() == ["row", "text", "label"]
    assert (
        f"cleaned.jsonl has {len(cleaned)} of {N} rows: without the {both.sum()}" in found.notes[0]
    )


def test_neighbours_leave_out_the_prompt_and_its_equals():
    x = np.eye(D, dtype=np.float32)[np.arange(N) % 4] + np.arange(N)[:, None] * 1e-4
    y = (np.arange(N) % 4 == 0).astype(int)
    y[0] = 0  # among 1s, and beside a copy of itself
    x[4], y[4] = x[0], 0
    names = texts(N)
    names[4] = names[0]
    data = dataset(x, y, texts=names)
    alike = share_alike(data, np.array([0, 8, 1]), count=5)
    np.testing.assert_array_equal(alike, [0.0, alike[1], 1.0])
    assert alike[1] >= 0.6


def test_a_neighbour_with_copies_is_one_prompt():
    x = np.repeat(np.eye(D, dtype=np.float32)[:12] + 0.01, 12, axis=0)
    x[:, 12] = np.repeat(np.arange(12), 12)  # of the last row the nearest are 10, 9, ...
    y = np.repeat(np.arange(12) % 2, 12)
    y[-13:-12] = 1  # one copy of prompt 10, whose others are 0
    data = planted().data._replace(x=x, y=y, same=np.repeat(np.arange(12), 12))
    alike = share_alike(data, np.array([143]), count=11)
    assert alike == pytest.approx((5 + 1 / 12) / 11)


def test_permuted_labels_are_judged_as_the_labels_are(case):
    """As often, too: labels that a mean of several repeats calls wrong are fewer."""
    data = case.data
    found = judge(data, "logreg", repeats=2, seed=3)
    permuted = judge(data._replace(y=data.permuted(3)), "logreg", repeats=2, seed=3)
    np.testing.assert_allclose(found.permuted, permuted.probability, atol=1e-6)
    assert found.permuted_auc == pytest.approx(permuted.auc, abs=1e-6)


def test_latents_that_fire_are_told(case, found):
    rows = found.tables[0].rows
    values = Rectified().encode(case.data.x[rows["row"][:5]])
    for text, own in zip(rows["latents"][:5], values, strict=True):
        shown = [part.split(" (") for part in text.split(", ")]
        assert [own[int(latent)] for latent, _ in shown] == sorted(own, reverse=True)[:3]


def test_aucs_are_those_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 5, (50, 3)), rng.integers(0, 2, (50, 2))
    expected = [[roc_auc_score(y, column) for y in labels.T] for column in values.T]
    np.testing.assert_allclose(host_aucs(values, labels), expected)
    assert np.isnan(host_aucs(values, np.ones((50, 1), int))).all()


def test_without_cleanlab_a_sentence_says_what_to_install(case, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(ValueError, match=r"an audit needs cleanlab: pip install"):
        suspect_labels.confidence(case.data.y, np.full(N, 0.5))


def test_what_a_probe_that_knows_nothing_calls_wrong_is_not_cleaned_away():
    """Cleaned so, noise looks like a signal: out-of-fold AUCs of 0.88 were seen."""
    rng = np.random.default_rng(5)
    data = dataset(rng.normal(size=(300, 32)), rng.integers(0, 2, 300))
    known = judge(data, "logreg", repeats=1)
    finding = suspect_labels.suspect_labels(data, [known])
    (cleaned,) = [table.rows for table in finding.tables if table.name == "cleaned"]
    assert len(cleaned) == 300 and finding.claims[1].value > 50
    assert "cleaned.jsonl has all 300 rows: an AUC of up to 0.57 on rows not" in finding.notes[0]
    # One of two that knows something cleans alone.
    noisy = np.where(rng.random(300) < 0.2, 1 - data.y, data.y)
    better = known._replace(method="other", probability=0.1 + 0.8 * noisy)
    finding = suspect_labels.suspect_labels(data, [known, better])
    (cleaned,) = [table.rows for table in finding.tables if table.name == "cleaned"]
    assert len(cleaned) < 300 and "that other calls wrong. Train on them" in finding.notes[0]


def test_copies_of_few_prompts_are_no_knowledge():
    """200 single prompts and 10 prompts of 30 copies: 12 of 60 noisy datasets had been cleaned."""
    passed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        same = np.concatenate([np.arange(200), np.repeat(np.arange(200, 210), 30)])
        label, guess = rng.integers(0, 2, 210)[same], rng.random(210)[same]
        data = dataset(rng.normal(size=(500, 2)), label)._replace(same=same)
        judged = Judged("logreg", guess, roc_auc_score(label, guess), guess, 0.5, 0)
        finding = suspect_labels.suspect_labels(data, [judged])
        passed += "cleaned.jsonl has all" not in finding.notes[0]
    assert passed <= 4


def test_what_is_cleaned_says_how_it_is_read():
    """Of `apple` and `not apple` the second sorts last, and would be the positive class."""
    rng = np.random.default_rng(0)
    data = dataset(rng.normal(size=(60, 4)), np.arange(60) % 2)
    known = judge(data, "logreg", repeats=1)
    for classes, told in ((("not apple", "apple"), True), (("no", "Yes"), False)):
        notes = suspect_labels.suspect_labels(data._replace(classes=classes), [known]).notes
        assert any(f"--positive='{classes[1]}'" in note for note in notes) == told


def test_the_limit_of_chance_is_that_of_the_rank_statistic():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4 == 0
    data = dataset(rng.normal(size=(200, 3)), y.astype(int))
    by_chance = [roc_auc_score(y, rng.normal(size=200)) for _ in range(4000)]
    assert np.mean(np.array(by_chance) > suspect_labels.chance_limit(data)) == pytest.approx(
        0.025, abs=0.008
    )
