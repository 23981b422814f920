"""Equal prompts are one unit: no shuffle tears them apart, and their copies are one witness."""

import numpy as np
import pytest

from probejax.auditing import shortcuts, single_latents, units
from probejax.auditing.dataset import dataset
from probejax.auditing.duplicates import duplicates
from probejax.auditing.latents import latents
from probejax.auditing.out_of_fold import judge
from probejax.auditing.report import examine
from probejax.auditing.shifted import Shifted, split
from tests.audit_cases import D, Rectified


def copied(prompts, copies, seed):
    """Distinct prompts of random words, some times each; labels mean nothing."""
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(rng.choice(words, size=8)) for _ in range(prompts)]
    y = rng.permutation(np.arange(prompts) % 2)
    x = rng.normal(size=(prompts, D)).astype(np.float32)
    return dataset(np.repeat(x, copies, axis=0), np.repeat(y, copies),
                   texts=np.repeat(texts, copies).tolist(), sae=Rectified())  # fmt: skip


def test_of_distinct_prompts_labels_are_plainly_permuted():
    y = np.arange(50) % 3
    rng = np.random.RandomState(4)
    expected = [rng.permutation(y) for _ in range(3)]
    np.testing.assert_array_equal(units.shuffled(y, np.arange(50), 3, 4), expected)


def test_a_shuffle_keeps_the_copies_of_a_prompt_together():
    same = np.array([0, 1, 2, 1, 3, 4, 0, 5, 6, 6, 6, 7])  # two of two rows, one of three
    values = np.array(list("abcdefahiijk"), dtype=object)
    seen = set()
    for each in units.shuffled(values, same, 40):
        assert sorted(each) == sorted(values)
        pairs = {tuple(each[same == unit]) for unit in (0, 1)}
        assert pairs == {("a", "a"), ("b", "d")}  # in their order, whichever has which
        assert tuple(each[same == 6]) == ("i", "i", "j")  # no other has three rows
        seen.add(tuple(each))
    assert len(seen) > 30
    np.testing.assert_array_equal(units.stuck(values, same), same == 6)
    assert units.multiplicity(same).tolist() == [2, 2, 1, 2, 1, 1, 2, 1, 3, 3, 3, 1]


X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)[[0, 1, 2, 0, 3, 4, 5, 5]]
TEXTS = ["a", "b", "c", "d", "d", "b", "e", "f"]


def test_prompts_are_equal_by_text_or_by_activations_or_by_a_third():
    assert units.of(X, TEXTS).tolist() == [0, 1, 2, 0, 0, 1, 3, 3]  # 0 and 4 by way of 3
    assert units.of(X, None).tolist() == [0, 1, 2, 0, 3, 4, 5, 5]
    x = np.zeros((3, 2), np.float32)
    x[1] = -0.0
    assert units.of(x, None).tolist() == [0, 0, 0]


def test_no_fold_parts_equal_activations_and_they_are_listed():
    rng = np.random.default_rng(0)
    m = 100
    x = np.repeat(rng.normal(size=(m, 200)), 2, axis=0).astype(np.float32)
    y = np.repeat(rng.permutation(np.arange(m) % 2), 2)
    texts = [f"{'A long beginning' if i % 2 else 'Else'} of {i // 2 * 7919}" for i in range(2 * m)]
    data = dataset(x, y, texts=texts)
    assert judge(data, "logreg", repeats=1).auc < 0.65  # 0.98 by copies that were seen
    assert len(set(data.same)) == m
    copies, *_ = duplicates(data).claims
    assert copies.value == m
    other = Shifted(x[:60] + 0.0, y[:60], tuple(f"new {i}" for i in range(60)))
    with pytest.raises(ValueError, match="2 of either class to test on and has 0"):
        split(data, other, 0)  # what is trained on is not tested on, whatever its text


@pytest.mark.parametrize("copies", [1, 5])
def test_labels_of_noise_are_no_surer_where_prompts_are_copied(copies):
    """Chance keeps up with what copies alone make of noise, whichever the finding."""
    best, contradicted, claimed = [], [], 0
    for seed in range(4):
        data = copied(600 // copies, copies, seed)
        best.append(latents(data, seed=seed)[0].claims[0])
        contradicted.append(single_latents.single_latents(data, seed=seed).claims[-1])
        claimed += bool(shortcuts.shortcuts(data, seed=seed).tables[0].rows["beyond_chance"].any())
    own, chance = np.mean([claim[1:3] for claim in best], axis=0)
    assert own < chance + 0.02
    own, chance = np.mean([claim[1:3] for claim in contradicted], axis=0)
    assert own < 1.5 * chance
    assert claimed <= 2


def test_labels_that_no_shuffle_can_change_are_told():
    data = copied(100, 1, 0)
    doubled = np.r_[np.arange(100), np.flatnonzero(data.y)]  # all of a class stand there twice
    data = dataset(data.x[doubled], data.y[doubled])
    np.testing.assert_array_equal(data.permuted(), data.y)
    fact = examine(data).facts["labels permuted"]
    assert fact.startswith("150 rows keep their label in every permutation, since no prompt")
    assert "labels permuted" not in examine(copied(100, 1, 0)._replace(sae=None, texts=None)).facts
