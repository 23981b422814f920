"""How regimes draw from own data: by their own balance, as far as there are rows."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from probejax import tasks
from probejax.probes.folds import paper_folds
from probejax.tasks import ALL_REGIMES, SCARCITY_SIZES
from probejax.tasks.regimes import MAX_TEST, Pool


def labels_of(zeros, ones):
    return np.random.default_rng(0).permutation(np.repeat([0, 1], (zeros, ones)))


def drawn(regime, zeros, ones, seed=42, **more):
    return ALL_REGIMES[regime].draw(Pool(labels_of(zeros, ones), ("no", "yes"), **more), seed)


def sizes(condition):
    return len(condition.train), len(condition.test)


@pytest.mark.parametrize(
    "zeros, ones, train, test",
    [
        (4, 4, 4, 4),  # of fewer than 40 rows half
        (15, 15, 15, 15),
        (20, 20, 20, 20),  # of fewer than 80 rows 20
        (30, 30, 40, 20),
        (156, 144, 225, 75),  # a quarter
        (990, 10, 750, 250),
        (1000, 1000, 1024, 976),  # what training leaves
        (60_000, 140_000, 1024, MAX_TEST),
    ],
)
def test_sizes_and_shares_are_those_of_the_data(zeros, ones, train, test):
    (condition,) = drawn("standard", zeros, ones).conditions
    assert sizes(condition) == (train, test)
    share = ones / (zeros + ones)
    for y in (condition.y_train, condition.y_test):
        assert abs(y.sum() - share * len(y)) <= 1.001 or y.sum() == 2 or (1 - y).sum() == 2
    (other,) = drawn("standard", zeros, ones, seed=7).conditions
    assert set(other.train.tolist()) != set(condition.train.tolist())


COUNTS = st.one_of(st.integers(0, 60), st.integers(0, 3000))


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(COUNTS, COUNTS, st.sampled_from([*ALL_REGIMES]), st.integers(0, 5))
def test_what_is_drawn_can_be_fitted_and_what_is_not_says_why(zeros, ones, regime, groups):
    hypothesis.assume(zeros + ones)
    labels = labels_of(zeros, ones)
    names = tuple(f"g{i * i % (groups + 1)}" for i in range(len(labels)))
    shifted = labels_of(ones // 2, zeros // 2)
    found, left_out = drawn(regime, zeros, ones, shifted=shifted, groups=names)
    assert found or left_out
    every = np.concatenate([labels, shifted])
    for c in found:
        train, test = sizes(c)
        assert 2 <= train <= 1024 and 1 <= test <= MAX_TEST
        assert len(np.unique(np.r_[c.train, c.test])) == train + test
        np.testing.assert_array_equal(c.y_test, every[c.test])
        assert 0 < c.y_test.sum() < test
        if regime != "label_noise":
            np.testing.assert_array_equal(c.y_train, every[c.train])
            least = min(2, train // 2)
            assert least <= c.y_train.sum() <= train - least
            for fold in paper_folds(c.y_train):  # both parts of every fold have both labels
                assert 0 < c.y_train[~fold].sum() < (~fold).sum() or train < 128
            assert len(paper_folds(c.y_train)) or train < 4
    if regime == "standard":
        assert bool(found) == (min(zeros, ones) >= 4)
    for why in left_out:
        assert "'no'" in why or "'yes'" in why


def test_all_regimes_test_on_the_same_rows_and_training_sets_are_nested():
    (standard,) = drawn("standard", 500, 200).conditions
    scarce = drawn("scarcity", 500, 200).conditions
    assert [c.level for c in scarce] == [float(n) for n in SCARCITY_SIZES if n <= 525]
    noisy = drawn("label_noise", 500, 200).conditions
    assert [c.level for c in noisy] == list(tasks.NOISE_FRACTIONS)
    for c in (*scarce, *noisy):
        np.testing.assert_array_equal(c.test, standard.test)
    for small, large in itertools.pairwise([*scarce, standard]):
        assert set(small.train.tolist()) < set(large.train.tolist())
    for c in noisy:
        np.testing.assert_array_equal(c.train, standard.train)
        assert (c.y_train != standard.y_train).sum() == int(525 * c.level)


def test_imbalance_goes_as_far_as_either_class_has_rows():
    found, left_out = drawn("imbalance", 1000, 1000)
    assert [c.level for c in found] == list(tasks.IMBALANCE_FRACTIONS) and not left_out
    assert {sizes(c) for c in found} == {(789, 262)}
    for c in found:
        assert c.y_train.sum() == pytest.approx(c.level * 789, abs=0.51)
        assert c.y_test.sum() == pytest.approx(c.level * 262, abs=0.51)
    found, left_out = drawn("imbalance", 3000, 20)
    assert [c.level for c in found] == list(tasks.IMBALANCE_FRACTIONS[1:10])
    assert left_out == (
        "it has only shares from 10 to 50 % of 'yes' among 40 rows, drawn from 3,000 of 'no' and "
        "20 of 'yes'",
    )
    assert drawn("imbalance", 12, 12).conditions == []


@pytest.mark.parametrize("n", range(38, 90))
def test_every_share_of_few_rows_is_that_share(n):
    found = drawn("imbalance", n, n).conditions
    assert len(found) >= 17
    for c in found:
        for y in (c.y_train, c.y_test):
            assert y.sum() == pytest.approx(c.level * len(y), abs=0.51)
    assert len({(c.y_train.sum(), c.y_test.sum()) for c in found}) == len(found)


def test_covariate_shift_trains_on_the_task_and_tests_on_the_shifted_rows():
    shifted = np.array([0, 1, 1, 0, 1])
    ((condition,), _) = drawn("covariate_shift", 60, 40, shifted=shifted)
    assert sizes(condition) == (100, 5)
    assert sorted(condition.test.tolist()) == [100, 101, 102, 103, 104]
    assert drawn("covariate_shift", 60, 40) == ([], ())
    _, (why,) = drawn("covariate_shift", 60, 40, shifted=np.ones(9, int))
    assert why == "it needs 2 of either class to test on and has 0 of 'no' and 9 of 'yes'"


def test_group_shift_holds_out_each_group_once():
    names = np.array(["en", "fr", "de"])[np.arange(300) % 3]
    labels = labels_of(200, 100)
    labels[names == "fr"] = 1
    pool = Pool(labels, ("no", "yes"), groups=tuple(names.tolist()))
    found, left_out = ALL_REGIMES["group_shift"].draw(pool, 42)
    assert [c.level for c in found] == [0.0, 1.0]  # de, en; fr is 2
    for c, held_out in zip(found, ("de", "en"), strict=True):
        assert set(names[c.test]) == {held_out} and sizes(c) == (200, 100)
        assert set(names[c.train]) == {"de", "en", "fr"} - {held_out}
    assert left_out == (
        "group 'fr': it needs 2 of either class to test on and has 0 of 'no' and 100 of 'yes'",
    )
    assert drawn("group_shift", 30, 30) == ([], ())
    many = tuple(map(str, range(300)))
    _, (why,) = ALL_REGIMES["group_shift"].draw(pool._replace(groups=many), 42)
    assert why == "there are 300 groups, more than 100"


def test_forty_rows_have_every_regime_but_imbalance():
    counts = {regime: len(drawn(regime, 20, 20).conditions) for regime in tasks.REGIMES}
    assert counts == {
        "standard": 1, "scarcity": 8, "imbalance": 0, "label_noise": 11, "covariate_shift": 0,
    }  # fmt: skip


def test_of_two_hundred_thousand_rows_few_are_kept():
    labels = labels_of(150_000, 50_000)
    task = tasks.Task("mine", tuple(map(str, range(200_000))), labels, False)
    drawing = tasks.draw(task, None, tasks.REGIMES, (42,), "strict")
    assert len(drawing.task.prompts) < 15_000 and len(drawing.conditions) == 51
    for c in drawing.conditions:
        texts = [drawing.task.prompts[row] for row in c.test]
        np.testing.assert_array_equal(labels[[int(text) for text in texts]], c.y_test)
