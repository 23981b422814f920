import numpy as np
import pytest
from sklearn.model_selection import LeavePOut, StratifiedKFold

from probejax import sizes
from probejax.probes import rows
from probejax.probes.folds import paper_folds
from probejax.tasks import REGIMES, SCARCITY_SIZES, Condition, conditions


def shuffled(n, seed=0, positives=None):
    positives = n // 2 if positives is None else positives
    return np.random.default_rng(seed).permutation(np.arange(n) < positives).astype(np.int64)


def validation_masks(splitter, y):
    """scikit-learn's folds, less those whose validation part lacks a class."""
    masks = []
    for _, validation in splitter.split(y, y):
        if len(set(y[validation].tolist())) == 2:
            masks.append(np.isin(np.arange(len(y)), validation))
    return np.array(masks)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_up_to_three_rows_have_no_folds(n):
    assert paper_folds(shuffled(n)).shape == (0, n)


@pytest.mark.parametrize("n, kept", [(4, 4), (5, 6), (7, 12), (10, 25), (12, 36)])
def test_four_to_twelve_rows_leave_every_mixed_pair_out(n, kept):
    y = shuffled(n)
    folds = paper_folds(y)
    assert folds.shape == (kept, n)
    np.testing.assert_array_equal(folds, validation_masks(LeavePOut(2), y))


@pytest.mark.parametrize("n", [13, 14, 20, 53, 103, 127])
@pytest.mark.parametrize("seed", [42, 7])
def test_thirteen_to_127_rows_are_stratified(n, seed):
    y = shuffled(n)
    splitter = StratifiedKFold(6, shuffle=True, random_state=seed)
    expected = validation_masks(splitter, y)
    assert len(expected) == 6
    np.testing.assert_array_equal(paper_folds(y, seed), expected)
    np.testing.assert_array_equal(expected.sum(axis=0), np.ones(n))


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_stratified_folds_that_lack_a_class_are_dropped():
    y = shuffled(40, positives=4)
    expected = validation_masks(StratifiedKFold(6, shuffle=True, random_state=42), y)
    assert len(expected) == 4
    np.testing.assert_array_equal(paper_folds(y), expected)


def test_a_rare_class_warns_nobody():
    assert paper_folds(shuffled(40, positives=1)).shape == (1, 40)
    assert paper_folds(shuffled(40, positives=0)).shape == (0, 40)
    assert paper_folds(shuffled(8, positives=0)).shape == (0, 8)


@pytest.mark.parametrize("n, held_out", [(128, 25), (143, 28), (499, 99), (531, 100), (1024, 100)])
def test_from_128_rows_the_last_ones_validate(n, held_out):
    folds = paper_folds(shuffled(n, positives=1))
    assert folds.shape == (1, n)
    assert np.flatnonzero(folds[0]).tolist() == list(range(n - held_out, n))


@pytest.fixture(scope="module")
def found():
    labels = shuffled(1400, seed=1)
    return conditions(labels, REGIMES, seeds=(42, 3), shifted_labels=shuffled(90, seed=2))


def test_every_condition_is_one_lane_of_its_padded_size(found):
    packed = rows.batches(found)
    assert [batch.train.shape[1] for _, batch in packed] == list(sizes.TRAIN)
    assert sorted(lane for lanes, _ in packed for lane in lanes) == list(range(len(found)))
    held = {batch.train.shape[1]: {len(found[i].train) for i in lanes} for lanes, batch in packed}
    assert held[128] == {n for n in SCARCITY_SIZES if n <= 128}
    assert held[1024] == {143, 198, 275, 382, 531, 636, 737, 1024}


def test_lanes_hold_the_conditions_and_padding_is_masked(found):
    for lanes, batch in rows.batches(found):
        for lane, index in enumerate(lanes):
            condition = found[index]
            n, m = len(condition.train), len(condition.test)
            np.testing.assert_array_equal(batch.train[lane, :n], condition.train)
            np.testing.assert_array_equal(batch.y_train[lane, :n], condition.y_train)
            np.testing.assert_array_equal(batch.test[lane, :m], condition.test)
            np.testing.assert_array_equal(batch.y_test[lane, :m], condition.y_test)
            assert batch.train_mask[lane].sum() == n and batch.train_mask[lane, :n].all()
            assert batch.test_mask[lane].sum() == m and batch.test_mask[lane, :m].all()
            assert batch.seed[lane] == condition.seed
            assert not batch.train[lane, n:].any() and not batch.test[lane, m:].any()
            folds = paper_folds(condition.y_train, condition.seed)
            assert batch.fold_mask[lane].sum() == len(folds)
            np.testing.assert_array_equal(batch.val[lane, : len(folds), :n], folds)
            assert batch.val[lane].sum() == folds.sum()


def test_shapes_are_few(found):
    shapes = {}
    for lanes, batch in rows.batches(found):
        n, f, m = batch.train.shape[1], batch.val.shape[1], batch.test.shape[1]
        shapes[n] = m
        assert f == max(len(paper_folds(found[i].y_train, found[i].seed)) for i in lanes)
        assert batch.fold_mask.shape[1] == f and batch.val.shape[2] == n
    # The longest test set has 1397 rows.
    assert shapes == {128: 2048, 1024: 2048}
    dtypes = [array.dtype for array in rows.batches(found)[0][1]]
    assert dtypes == [
        np.dtype(kind) for kind in ("int32", "?", "int32", "?", "?", "int32", "?", "int32", "int32")
    ]


def test_sizes_can_be_chosen_and_grow_by_an_eighth_beyond_the_largest(found):
    ((lanes, batch),) = rows.batches(found, groups=[2048])
    assert lanes == tuple(range(len(found))) and batch.train.shape == (len(found), 2048)
    beyond = [batch for _, batch in rows.batches(found, groups=[64, 16])][2:]
    for batch in beyond:
        size, most = batch.train.shape[1], batch.train_mask.sum(axis=1).max()
        assert most <= size < most * 9 / 8 + 1 and size % 8 == 0
    assert sum(len(batch.train) for _, batch in rows.batches(found, groups=[64, 16])) == len(found)


def test_a_lane_is_the_same_whatever_its_neighbours(found):
    (lanes, batch), *_ = rows.batches(found)
    alone: list[Condition] = [found[lanes[3]]]
    ((_, single),) = rows.batches(alone)
    for name in ("train", "train_mask", "y_train"):
        np.testing.assert_array_equal(getattr(single, name)[0], getattr(batch, name)[3])
    assert single.fold_mask.sum() == batch.fold_mask[3].sum()


def test_no_conditions_make_no_batches():
    assert rows.batches([]) == []
