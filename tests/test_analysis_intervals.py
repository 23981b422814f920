"""Intervals and tests against closed forms and hand-counted values."""

import numpy as np
import pytest
from scipy import stats

from probejax.analysis import intervals


def test_one_value_per_task_gives_the_classic_bootstrap_of_the_mean():
    values = np.random.default_rng(0).normal(0.3, 1.0, 200)
    mean, low, high = intervals.paired_bootstrap(values, np.arange(200))
    half = 1.96 * values.std() / np.sqrt(200)
    assert mean == values.mean()
    assert abs(low - (mean - half)) < 0.02 and abs(high - (mean + half)) < 0.02


def test_values_of_one_task_are_drawn_together():
    rng = np.random.default_rng(1)
    per_task = rng.normal(0.0, 1.0, 50)
    values, tasks = np.repeat(per_task, 20), np.repeat(np.arange(50), 20)
    mean, low, high = intervals.paired_bootstrap(values, tasks)
    alone = intervals.paired_bootstrap(per_task, np.arange(50))
    # Twenty copies of a task are no more information than one.
    np.testing.assert_allclose((mean, low, high), alone, atol=1e-12)
    shuffled = rng.permutation(1000)
    np.testing.assert_allclose(
        intervals.paired_bootstrap(values[shuffled], tasks[shuffled]), (mean, low, high), atol=1e-12
    )


def test_tasks_with_more_cells_weigh_more():
    values, tasks = np.array([1.0] * 9 + [0.0]), np.array(list("aaaaaaaaab"))
    assert intervals.paired_bootstrap(values, tasks) == (0.9, 0.0, 1.0)
    # Half of the draws take each task once: then nine cells stand against one.
    middle = intervals.paired_bootstrap(values, tasks, confidence=0.4)
    assert middle == (0.9, 0.9, 0.9)


def test_the_seed_decides_the_interval():
    values, tasks = np.random.default_rng(2).normal(size=30), np.arange(30)
    first = intervals.paired_bootstrap(values, tasks, seed=3)
    assert first == intervals.paired_bootstrap(values, tasks, seed=3)
    assert first.low != intervals.paired_bootstrap(values, tasks, seed=4).low


def test_a_narrower_confidence_gives_a_narrower_interval():
    values, tasks = np.random.default_rng(2).normal(size=30), np.arange(30)
    wide = intervals.paired_bootstrap(values, tasks)
    narrow = intervals.paired_bootstrap(values, tasks, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_one_task_has_no_interval_and_none_has_no_mean():
    one = intervals.paired_bootstrap(np.array([0.1, 0.3]), np.array(["a", "a"]))
    assert one.mean == pytest.approx(0.2) and np.isnan(one.low) and np.isnan(one.high)
    assert np.isnan(intervals.paired_bootstrap(np.array([]), np.array([]))).all()


def test_task_means():
    means = intervals.task_means(np.array([1.0, 5.0, 3.0]), np.array(["b", "a", "b"]))
    assert means.tolist() == [5.0, 2.0]


@pytest.mark.parametrize(("positive", "negative", "zero"), [(9, 1, 3), (4, 14, 99), (5, 5, 0)])
def test_the_sign_test_is_the_binomial_test(positive, negative, zero):
    values = np.array([0.1] * positive + [-0.2] * negative + [0.0] * zero)
    expected = stats.binomtest(positive, positive + negative).pvalue
    assert intervals.sign_test(values) == pytest.approx(expected, rel=1e-12)


def test_the_sign_test_of_zeros_says_nothing():
    assert intervals.sign_test(np.zeros(4)) == 1.0


def test_the_permutation_test_agrees_with_counting_all_signs():
    values = np.array([0.3, 0.1, 0.25, -0.05, 0.2, 0.15])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = (np.abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    assert exact == 4 / 64
    assert intervals.permutation_test(values, resamples=50_000) == pytest.approx(exact, abs=0.004)


def test_the_permutation_test_is_never_zero_and_ignores_the_sign():
    values = np.full(40, 0.1)
    assert intervals.permutation_test(values, resamples=999) == 1 / 1000
    assert intervals.permutation_test(-values, resamples=999) == 1 / 1000
    assert intervals.permutation_test(np.zeros(5), resamples=999) == 1.0
    assert np.isnan(intervals.permutation_test(np.array([])))


def test_a_win_needs_more_than_the_margin():
    won = intervals.win_rate(np.array([0.0051, 0.005, 0.0, -0.005, -0.2]), margin=0.005)
    assert (won.wins, won.losses, won.ties, won.rate) == (1, 1, 3, 0.2)
    assert (won.low, won.high) == intervals.wilson(1, 5)


@pytest.mark.parametrize(("wins", "trials"), [(0, 10), (3, 113), (113, 113), (57, 113)])
def test_wilson_is_scipy_s(wins, trials):
    expected = stats.binomtest(wins, trials).proportion_ci(method="wilson")
    np.testing.assert_allclose(intervals.wilson(wins, trials), tuple(expected), atol=1e-9)


def test_no_trials_have_no_rate():
    assert np.isnan(intervals.wilson(0, 0)).all()
    assert np.isnan(intervals.win_rate(np.array([])).rate)


def test_an_interval_over_families_draws_families():
    values = np.array([0.1, 0.1, 0.1, -0.1, 0.0, 0.05])
    tasks, families = np.array(list("abcdef")), np.array(list("aaaddf"))
    found = intervals.of_mean(values, tasks, families)
    apart = intervals.paired_bootstrap(values, families)
    assert (found["family_low"], found["family_high"]) == apart[1:]
    assert (found["delta"], found["ci_low"], found["ci_high"]) == intervals.paired_bootstrap(
        values, tasks
    )
    assert found["family_low"] < found["ci_low"]
    alone = intervals.of_mean(values, tasks, np.array(list("fedcba")))
    assert (alone["family_low"], alone["family_high"]) == (alone["ci_low"], alone["ci_high"])
