import itertools
import math
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from probejax import tasks
from probejax.tasks import conditions, flip_labels, plans, split_rows

# How many of the 113 tasks have how many rows; all are balanced, so counts follow from this alone.
TASKS_OF_SIZE = {
    5000: 23, 4830: 1, 4000: 6, 3332: 9, 3200: 20, 3120: 1, 3118: 1, 3000: 1, 2696: 1, 2568: 1,
    2500: 6, 2388: 1, 2224: 1, 2000: 12, 1960: 1, 1858: 1, 1772: 3, 1656: 1, 1494: 2, 1428: 3,
    1388: 1, 1368: 3, 1250: 3, 1062: 3, 1052: 3, 1000: 3, 786: 1, 728: 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def texas():
    return tasks.load("119_us_state_TX").labels


def at(found, level):
    return next(condition for condition in found if condition.level == level)


def sums(condition):
    return int(condition.train.sum()), int(condition.test.sum())


def alternating(n):
    return np.arange(n) % 2


def test_standard_rows_of_texas(texas):
    (condition,) = conditions(texas, ["standard"])
    assert condition.train[:6].tolist() == [389, 862, 2, 904, 696, 399]
    assert condition.test[:6].tolist() == [942, 364, 995, 267, 217, 495]
    assert sums(condition) == (449_657, 49_664)
    assert (condition.regime, condition.level, condition.seed) == ("standard", None, 42)
    np.testing.assert_array_equal(condition.y_train, texas[condition.train])
    np.testing.assert_array_equal(condition.y_test, texas[condition.test])


@pytest.mark.parametrize(
    "name, expected",
    [
        ("5_hist_fig_ismale", (2_512_771, 9_984_122)),
        ("41_truthqa_tf", (268_088, 40_117)),
        ("66_living-room", (1_583_552, 3_274_449)),
        ("87_glue_cola", (2_511_098, 9_985_821)),
        ("95_toxic_is", (226_917, 37_188)),
        ("149_twt_emotion_happiness", (1_273_650, 1_848_602)),
        ("163_agnews_2", (2_000_694, 5_995_287)),
    ],
)
def test_standard_rows_of_other_tasks(name, expected):
    (condition,) = conditions(tasks.load(name).labels, ["standard"])
    assert sums(condition) == expected


def test_scarcity_rows_of_texas(texas):
    found = conditions(texas, ["scarcity"])
    assert at(found, 2).train.tolist() == [637, 707]
    assert int(at(found, 2).test.sum()) == 497_204
    assert sums(at(found, 103)) == (53_787, 445_667)
    assert int(at(found, 103).y_train.sum()) == 52


def test_imbalance_rows_of_texas(texas):
    found = conditions(texas, ["imbalance"])
    assert {(len(c.train), len(c.test)) for c in found} == {(426, 100)}
    rare, common = at(found, 0.05), at(found, 0.95)
    assert (int(rare.y_train.sum()), int(rare.y_test.sum())) == (22, 5)
    assert (int(common.y_train.sum()), int(common.y_test.sum())) == (405, 95)
    assert sums(rare) == (213_550, 52_393)
    assert sums(common) == (212_859, 50_624)


def test_multi_token_rows_of_texas(texas):
    train, test = split_rows(texas, 900, 100)
    assert (int(train.sum()), int(test.sum())) == (449_657, 49_843)


def test_flips_of_1024_labels():
    clean = np.zeros(1024, np.int64)
    assert int(np.flatnonzero(flip_labels(clean, 0.05)).sum()) == 25_903
    assert int(flip_labels(clean, 0.05).sum()) == 51
    assert int(np.flatnonzero(flip_labels(clean, 0.5)).sum()) == 255_295
    order: list[int] = []  # flips are nested, so adding one at a time shows the order of the draws
    for count in range(1, 9):
        order += set(np.flatnonzero(flip_labels(clean, count / 1024)).tolist()) - set(order)
    assert order == [525, 357, 444, 31, 618, 587, 447, 734]
    assert not clean.any()


def test_the_number_of_conditions_over_all_tasks_is_the_studys():
    counts = dict.fromkeys(tasks.REGIMES, 0)
    sizes = dict.fromkeys(tasks.SCARCITY_SIZES, 0)
    test_rows = {}
    for n, times in TASKS_OF_SIZE.items():
        for condition in conditions(alternating(n), tasks.REGIMES):
            counts[condition.regime] += times
            if condition.regime == "scarcity":
                sizes[int(condition.level)] += times
            if condition.regime == "standard":
                test_rows[n] = len(condition.test)
    assert counts == {
        "standard": 113,
        "scarcity": 2247,
        "imbalance": 2147,
        "label_noise": 1243,
        "covariate_shift": 0,
    }
    assert (sizes[531], sizes[737], sizes[1024]) == (113, 111, 102)
    assert min(test_rows.values()) == 99
    total = sum(times * test_rows[n] for n, times in TASKS_OF_SIZE.items())
    assert total / 113 == pytest.approx(1944.91, abs=0.005)


def test_levels():
    steps = np.round(2 ** np.linspace(1, 10, 20))
    assert tasks.SCARCITY_SIZES == tuple(np.unique(steps).astype(int))
    assert tasks.IMBALANCE_FRACTIONS == tuple(round(x, 2) for x in np.linspace(0.05, 0.95, 19))
    assert tasks.NOISE_FRACTIONS == tuple(round(x, 2) for x in np.linspace(0, 0.5, 11))
    assert 0.55 in tasks.IMBALANCE_FRACTIONS  # 0.5499999999999999 would lose a positive test row


def test_55_percent_positives_follow_the_rounded_fraction():
    condition = at(conditions(alternating(1062), ["imbalance"]), 0.55)
    assert len(condition.test) == 100
    assert int(condition.y_test.sum()) == 56  # ceil(0.55 * 100): the product is 55.00000000000001


def test_training_sets_are_nested_in_size_and_in_fraction(texas):
    for regime, label in (("scarcity", None), ("imbalance", 1)):
        found = conditions(texas, [regime])
        chosen = [set(c.train[(c.y_train == label) | (label is None)].tolist()) for c in found]
        assert all(small < large for small, large in itertools.pairwise(chosen)), regime


def test_flips_are_nested_and_leave_the_test_rows_clean(texas):
    found = conditions(texas, ["label_noise"])
    (clean,) = conditions(texas, ["standard"])
    flipped = []
    for condition in found:
        np.testing.assert_array_equal(condition.train, clean.train)
        np.testing.assert_array_equal(condition.test, clean.test)
        np.testing.assert_array_equal(condition.y_test, clean.y_test)
        flipped.append(set(np.flatnonzero(condition.y_train != clean.y_train).tolist()))
        assert len(flipped[-1]) == int(900 * condition.level)
    assert all(small < large for small, large in itertools.pairwise(flipped))


def test_covariate_shift_trains_on_the_head_and_tests_on_the_shifted_rows():
    labels = tasks.load("66_living-room").labels
    shifted = tasks.load_shifted("66_living-room").labels
    (condition,) = conditions(labels, ["covariate_shift"], shifted_labels=shifted)
    assert len(set(condition.train.tolist())) == 1024 and condition.train.max() < 1500
    assert int(condition.y_train.sum()) == 512
    assert condition.test.tolist() == list(range(3118, 3418))
    np.testing.assert_array_equal(condition.y_test, shifted)
    expected, _ = split_rows(labels[:1500], 1024, 0)
    np.testing.assert_array_equal(condition.train, expected)
    assert conditions(labels, ["covariate_shift"]) == []


def test_another_seed_changes_the_rows_and_the_flips(texas):
    found = conditions(texas, ["label_noise"], seeds=(42, 7))
    assert [c.seed for c in found] == [42] * 11 + [7] * 11
    assert [c.level for c in found[:11]] == [c.level for c in found[11:]]
    assert set(found[0].train.tolist()) != set(found[11].train.tolist())
    expected, _ = split_rows(texas, 900, 99, seed=7)
    np.testing.assert_array_equal(found[11].train, expected)
    changed = found[21].y_train != texas[found[21].train]
    draws = np.random.RandomState(7).permutation(900)[:450]
    assert set(np.flatnonzero(changed).tolist()) == set(draws.tolist())


def test_split_rows_is_disjoint_with_rounded_up_positives(texas):
    train, test = split_rows(texas, 75, 33, 0.3)
    assert not set(train.tolist()) & set(test.tolist())
    assert (int(texas[train].sum()), int(texas[test].sum())) == (math.ceil(22.5), math.ceil(9.9))


def test_splitting_leaves_numpys_global_generator_alone(texas):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    conditions(texas, ["standard", "label_noise"])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda y: conditions(y, ["scarce"]), r"no regime 'scarce'; the regimes are standard, sca"),
        (
            lambda y: conditions(alternating(101), ["standard"]),
            r"standard: the task needs 51 prompts of each label where it has 51 of label 0 and "
            r"50 of label 1: add 1 more of label 1$",
        ),
        (
            lambda y: conditions(alternating(190), ["imbalance"]),
            r"imbalance: the task needs 97 .* has 95 of label 0 and 95 of label 1: add 2 more of "
            r"label 0 and 2 more of label 1$",
        ),
        (
            lambda y: conditions(np.repeat([0, 1], (900, 30)), ["scarcity"]),
            r"scarcity: the task needs 51 .* has 900 of label 0 and 30 of label 1: add 21 more of",
        ),
        (
            lambda y: conditions(np.repeat([0, 1], 1000), ["covariate_shift"], (42,), y[:2]),
            r"covariate_shift: the task needs both labels in its shifted test set, which has 2 of",
        ),
        (
            lambda y: conditions(np.repeat([0, 1], 1000), ["covariate_shift"], (42,), y),
            r"needs 512 .* where its first 1,500 have 1,000 of label 0 and 500 of label 1: add 12",
        ),
        (
            lambda y: conditions(alternating(70_000), ["standard"]),
            r"has a test set of 68,975 prompts where 65,535 can be scored: remove some",
        ),
        (
            lambda y: conditions(y, ["standard"], (42, -1)),
            r"the seed -1 is out of range; expected 0",
        ),
        (
            lambda y: conditions(2 * y - 1, ["standard"]),
            r"the labels are -1, 1, and only 0 and 1 will do",
        ),
        (lambda y: split_rows(y + 1, 10, 10), r"the labels are 1, 2, and only 0 and 1 will do"),
        (lambda y: flip_labels(y / 2, 0.1), r"the labels are 0\.0, 0\.5, and only 0 and 1 will do"),
        (
            lambda y: split_rows(y, 900, 101),
            r"needs 51 positive rows where 50 are left; draw fewer rows, or add positive ones",
        ),
        (lambda y: split_rows(y, 10, 10, 1.5), r"positive fraction 1\.5; expected n_train >= 1"),
        (lambda y: split_rows(y, 0, 10), r"cannot split 1000 rows into 0 training and 10 test"),
        (lambda y: flip_labels(y, 1.5), r"cannot flip a fraction 1\.5 of the labels; expected 0"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_numbers(texas, call, message):
    with pytest.raises(ValueError, match=message):
        call(texas)


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.float32])
def test_labels_of_any_type_draw_the_same(texas, kind):
    expected = conditions(texas, tasks.REGIMES)
    found = conditions(texas.astype(kind), tasks.REGIMES)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.train, other.train)
        np.testing.assert_array_equal(one.y_train, other.y_train)


def test_a_task_that_is_not_balanced_is_drawn_from_as_far_as_it_is():
    """206 and 194 rows are 388 of a balanced task; 12 rows of the larger class go unused."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], (206, 194)))
    (standard,) = conditions(labels, ["standard"])
    assert (len(standard.train), len(standard.test)) == (288, 99)
    assert (int(standard.y_train.sum()), int(standard.y_test.sum())) == (144, 50)
    scarce = conditions(labels, ["scarcity"])
    assert [len(c.train) for c in scarce] == [n for n in tasks.SCARCITY_SIZES if n <= 288]
    assert all(len(c.train) + len(c.test) == 387 for c in scarce)


SIZES = st.one_of(st.integers(0, 120), st.integers(90, 1300))


@hypothesis.settings(max_examples=60)
@hypothesis.given(SIZES, SIZES, st.sampled_from(tasks.REGIMES))
def test_what_is_not_lacking_can_be_drawn_and_what_is_says_how_much(zeros, ones, regime):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], (zeros, ones)))
    reason = plans.lacking(regime, labels, alternating(9))
    if reason is None:
        found = conditions(labels, [regime], (42,), alternating(9))
        assert found and all(len(c.train) >= 2 and len(c.test) for c in found)
        for c in found:
            assert len(np.unique(np.r_[c.train, c.test])) == len(c.train) + len(c.test)
        return
    assert f"{zeros:,} of label 0 and {ones:,} of label 1" in reason or zeros + ones > 1500
    with pytest.raises(ValueError, match="the task needs"):
        conditions(labels, [regime], (42,), alternating(9))
    missing = {int(y): int(n) for n, y in re.findall(r"(\d+) more of label (\d)", reason)}
    labels = np.r_[labels, np.repeat([0, 1], (missing.get(0, 0), missing.get(1, 0)))]
    if len(labels) <= 1500:  # the rows behind are not seen by covariate shift
        assert plans.lacking(regime, labels, alternating(9)) is None
