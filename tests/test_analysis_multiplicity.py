"""Bands over many looks hold together; p-values are corrected for their number."""

import numpy as np
import pytest

from probejax.analysis import intervals
from probejax.analysis.multiplicity import holm, simultaneous_bands


def _columns(table):
    """Values [tasks, looks] as one value per cell."""
    tasks, looks = np.indices(table.shape)
    return table.ravel(), tasks.ravel(), looks.ravel()


def test_the_bands_hold_all_means_together_where_single_intervals_do_not():
    rng = np.random.default_rng(0)
    together = alone = 0
    for trial in range(100):
        values, tasks, looks = _columns(rng.normal(size=(60, 12)))  # every true mean is 0
        bands = simultaneous_bands(values, tasks, looks, resamples=400, seed=trial)
        together += bool(np.all((bands.low < 0) & (bands.high > 0)))
        half = 1.96 * values.reshape(60, 12).std(axis=0, ddof=1) / np.sqrt(60)
        alone += bool(np.all(np.abs(values.reshape(60, 12).mean(axis=0)) < half))
    assert 88 <= together <= 99 and 40 <= alone <= 65  # of 100: nominally 95, and 0.95^12 = 54


def test_independent_looks_need_sidak_s_width_and_equal_looks_none():
    rng = np.random.default_rng(1)
    independent = simultaneous_bands(*_columns(rng.normal(size=(400, 10))))
    assert independent.critical == pytest.approx(2.80, abs=0.08)  # z of 1 - 0.95^(1/10) over 2
    equal = simultaneous_bands(*_columns(np.repeat(rng.normal(size=(400, 1)), 10, axis=1)))
    assert equal.critical == pytest.approx(1.96, abs=0.06)


def test_one_look_is_the_plain_interval():
    values = np.random.default_rng(2).normal(0.2, 1, 200)
    bands = simultaneous_bands(values, np.arange(200), np.zeros(200, dtype=int))
    plain = intervals.paired_bootstrap(values, np.arange(200))
    np.testing.assert_allclose([bands.low[0], bands.high[0]], plain[1:], atol=0.01)


def test_the_cells_of_a_task_are_drawn_together():
    per_task = np.random.default_rng(3).normal(size=(40, 3))
    values, tasks, looks = _columns(per_task)
    once = simultaneous_bands(values, tasks, looks)
    copies = simultaneous_bands(np.tile(values, 5), np.tile(tasks, 5), np.tile(looks, 5))
    np.testing.assert_allclose(once.low, copies.low, atol=1e-12)
    assert once.critical == pytest.approx(copies.critical)


def test_looks_with_few_tasks_or_no_spread():
    values = np.array([0.1, 0.3, 0.2, 0.5, 0.5, 0.5])
    tasks = np.array(["a", "b", "a", "a", "b", "c"])
    bands = simultaneous_bands(values, tasks, np.array([0, 0, 1, 2, 2, 2]))
    assert bands.low[0] < 0.2 < bands.high[0]
    assert np.isnan(bands.low[1]) and np.isnan(bands.high[1])  # one task
    np.testing.assert_allclose([bands.low[2], bands.high[2]], 0.5)
    # A draw of the one task that is in no known look says nothing, and spoils nothing.
    alone = np.array([*"abcd"]), np.array([0, 0, 0, 1])
    bands = simultaneous_bands(np.array([0.1, 0.2, 0.3, 0.9]), *alone)
    assert np.isfinite([bands.low[0], bands.high[0], bands.critical]).all()
    none = simultaneous_bands(np.array([]), np.array([], dtype=str), np.array([], dtype=int))
    assert none.low.shape == (0,) and np.isnan(none.critical)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1.0, 1.0])
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.01])), [0.02, np.nan, 0.02])
    assert holm(np.array([])).shape == (0,)


def test_the_smallest_effect_is_found_four_times_in_five():
    rng = np.random.default_rng(4)
    values = rng.normal(size=80)
    values = (values - values.mean()) / values.std(ddof=1)
    effect = intervals.smallest_effect(values, np.arange(80))
    assert effect == pytest.approx((1.959964 + 0.841621) / np.sqrt(80), rel=1e-6)
    found = [abs(rng.normal(effect, 1, 80).mean()) > 1.96 / np.sqrt(80) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.80, abs=0.03)
    # Copies of a task's cells are no more information.
    again = intervals.smallest_effect(np.repeat(values, 7), np.repeat(np.arange(80), 7))
    assert again == pytest.approx(effect)
    assert np.isnan(intervals.smallest_effect(np.array([0.1, 0.2]), np.array(["a", "a"])))
