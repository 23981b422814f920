import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probejax import probes
from probejax.probes import aggregators, attention, token_scores
from probejax.probes import token_training as training
from probejax.probes.token_training import Fits
from probejax.solvers import codes, engine
from tests import probe_cases, token_cases
from tests.reference import study_attention

N, STEPS = 200, 400
Y = np.random.default_rng(3).permutation(np.arange(N) % 2)
COUNTS = np.r_[1, 1, 1, np.arange(1, 61), 200, np.random.default_rng(4).integers(1, 30, N - 64)]
TOKENS = token_cases.tokens(COUNTS, Y)


def fits(count=1, heads=1, rate=1e-2, seed=0, stop=-1, n=N) -> Fits:
    """Fits with a split and initial vectors of their own; 80 % of the first n prompts train."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(n) for _ in range(count)])
    train = np.broadcast_to(np.arange(n) < int(0.8 * n), rows.shape)
    return Fits(
        rows=rows,
        train=train,
        val=~train,
        y=Y[rows],
        w=rng.normal(0, 1e-3, (count, 2 * heads, token_cases.D)),
        b=np.zeros(count),
        setting=np.zeros(count),
        rate=np.full(count, rate),
        stop=np.full(count, stop),
    )


def theirs(wanted: Fits, lane: int, steps: int, length=200, tokens=TOKENS):
    """The twin's fit of one lane, on prompts padded to `length`."""
    of = lambda mask: (
        study_attention.padded(
            tokens.x.astype(np.float32),
            tokens.starts[wanted.rows[lane][mask[lane]]],
            tokens.counts[wanted.rows[lane][mask[lane]]],
            length,
        ),
        wanted.y[lane][mask[lane]],
    )
    heads = wanted.w.shape[1] // 2
    queries, values = wanted.w[lane, :heads], wanted.w[lane, heads:]
    return study_attention.fit(
        *of(wanted.train), *of(wanted.val), queries, values, rate=wanted.rate[lane], steps=steps
    )


@pytest.mark.parametrize(
    "heads, dtype",
    [
        (1, np.float32),
        pytest.param(3, np.float32, marks=pytest.mark.thorough),
        pytest.param(1, jnp.bfloat16, marks=pytest.mark.thorough),
    ],
)
def test_losses_and_results_are_the_twins(heads, dtype):
    """Prompts of 1 to 60 and 200 tokens; the twin pads all to 200 in one lane, 230 in the other."""
    tokens = token_cases.tokens(COUNTS, Y, strength=3.0, dtype=dtype)
    wanted = fits(2, heads)._replace(rate=np.array([1e-2, 1e-4]))
    ours = training.train(tokens, wanted, aggregators.attention, steps=STEPS)
    fresh = token_cases.tokens(COUNTS, Y, seed=9, strength=3.0, dtype=dtype)
    logits = token_scores.logits(
        fresh, np.arange(N), ours.w, ours.b, np.zeros(2), aggregators.attention
    )
    for lane, length in enumerate((200, 230)):
        probe, aucs, losses = theirs(wanted, lane, STEPS, length, tokens)
        np.testing.assert_allclose(ours.loss[lane], losses, rtol=0, atol=1e-5)
        assert np.mean(np.abs(ours.val_auc[lane] - aucs) < 1e-6) > 0.99  # pairs may swap
        assert ours.step[lane] == aucs.argmax()
        x = study_attention.padded(fresh.x.astype(np.float32), fresh.starts, fresh.counts, length)
        expected = probe(x).detach().numpy()
        np.testing.assert_allclose(
            roc_auc_score(Y, logits[lane]), roc_auc_score(Y, expected), atol=1e-3
        )
        np.testing.assert_allclose(logits[lane], expected, atol=2e-3)
    assert 0.7 < ours.val_auc[0].max() < 1  # it neither fails nor leaves early
    assert ours.loss[0, 49] < ours.loss[0, 0] - 0.05 and ours.step[0] > 50


def test_a_lane_does_not_depend_on_its_neighbours():
    """Alone, among seven, in tiles of another size, and stored in another order among NaN."""
    wanted = fits(3, stop=60)
    together = training.train(TOKENS, wanted, aggregators.attention, steps=STEPS)
    one = engine.take(wanted, np.array([1]))
    for tokens, size in (
        (TOKENS, None),
        (TOKENS, 2048),
        (token_cases.shuffled(TOKENS), None),
    ):
        alone = training.train(tokens, one, aggregators.attention, steps=STEPS, size=size)
        np.testing.assert_allclose(alone.loss[0, :61], together.loss[1, :61], atol=2e-6)
        np.testing.assert_allclose(alone.w[0], together.w[1], atol=2e-5)
        assert alone.step[0] == together.step[1] == 60


@pytest.mark.thorough
def test_devices_share_the_fits():
    wanted = fits(6, stop=60)
    one = training.train(TOKENS, wanted, aggregators.attention, steps=STEPS)
    with jax.default_device(None):
        every = training.train(TOKENS, wanted, aggregators.attention, steps=STEPS)
    np.testing.assert_array_equal(every.step, one.step)
    np.testing.assert_allclose(every.w, one.w, atol=2e-5)
    np.testing.assert_allclose(every.loss, one.loss, atol=2e-6)


def test_a_fit_that_cannot_do_better_leaves_and_others_go_on():
    easy, hard = token_cases.tokens(COUNTS, Y, strength=40.0), fits(2, rate=1e-2)
    few = hard.val & (np.cumsum(hard.val, axis=1) <= 8)  # eight validation rows of lane 0
    wanted = hard._replace(val=np.stack([few[0], hard.val[1]]), rate=np.array([1e-2, 1e-9]))
    ours = training.train(easy, wanted, aggregators.attention, steps=STEPS)
    assert np.nanmax(ours.val_auc[0]) == 1
    left = int(ours.step[0])
    assert ours.val_auc[0, left] == 1 and np.isnan(ours.val_auc[0, left + 1 :]).all()
    assert np.isfinite(ours.val_auc[1]).all() and np.nanmax(ours.val_auc[1]) < 1
    longer = training.train(
        easy, wanted._replace(stop=np.array([left, -1])), aggregators.attention, steps=STEPS
    )
    np.testing.assert_allclose(longer.w[0], ours.w[0], atol=1e-6)


def test_steps_that_nobody_needs_are_not_run(monkeypatch):
    rounds = []
    original = training._advance

    def counted(*args):
        found = original(*args)
        rounds.append((int(found.step[0]), len(found.w)))
        return found

    monkeypatch.setattr(training, "_advance", counted)
    easy = token_cases.tokens(COUNTS, Y, strength=40.0)
    wanted = fits(3)._replace(stop=np.array([10, 20, 170]))
    training.train(easy, wanted, aggregators.attention, steps=STEPS)
    assert rounds == [(50, 4), (100, 1), (150, 1), (171, 1)]


def test_chunks_share_most_of_their_prompts():
    n = 40
    tokens = token_cases.tokens(np.full(3 * n, 5), np.arange(3 * n) % 2)
    rows = np.stack([np.arange(n) + n * (i // 2) for i in range(6)])
    used = np.ones(rows.shape, bool)
    cut = lambda most: [chunk.tolist() for chunk in training.chunks(tokens, rows, used, most)]
    assert cut(10**9) == [[0, 1], [2, 3], [4, 5]]
    assert cut(5 * n - 1) == [[0], [1], [2], [3], [4], [5]]
    half = used & (np.arange(n) < n // 2)
    assert len(training.chunks(tokens, rows[:2], np.stack([half[0], used[1]]), 10**9)) == 1
    many = training.chunks(tokens, np.tile(rows[:1], (70, 1)), np.tile(used[:1], (70, 1)), 10**9)
    assert [len(chunk) for chunk in many] == [64, 6]


def test_chunking_changes_nothing():
    wanted = fits(3, stop=60)
    whole = training.train(TOKENS, wanted, aggregators.attention, steps=STEPS)
    cut = training.train(TOKENS, wanted, aggregators.attention, steps=STEPS, share_bytes=1)
    np.testing.assert_allclose(cut.w, whole.w, atol=1e-5)


DESIGN = attention.attention()._replace(rates=(1e-2,), steps=80)


def case(sizes=(2, 3, 13, 140), fewest=1):
    y = probe_cases.labels()
    rng = np.random.default_rng(5)
    tokens = token_cases.tokens(rng.integers(fewest, 25, len(y)), y, strength=6.0)
    return tokens, probe_cases.conditions(y, sizes)


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_fit(protocol):
    tokens, found = case()
    results = probe_cases.run(
        lambda rows: attention.fit(tokens, rows, protocol, design=DESIGN), found
    )
    auc = [results[i]["test_auc"] for i in range(len(found))]
    assert auc[-1] > 0.85 and auc[-1] > auc[0]
    assert all(results[i]["code"] == codes.CONVERGED for i in results)
    assert all(results[i]["hyperparameter"] == 1e-2 for i in results)
    assert np.isnan(results[0]["gap"])
    # Too few rows to validate: the AUC on the training rows, or no claim at all.
    assert results[0]["val_auc"] == results[1]["val_auc"] == (1 if protocol == "paper" else 0.5)
    assert 0.5 < results[3]["val_auc"] <= 1


def test_paper_keeps_the_best_step_of_the_fifth_that_validates():
    tokens, found = case(sizes=(100,))
    ((_, rows),) = probes.batches(found, (128,))
    fitted = attention.fit(tokens, rows, design=DESIGN)
    halved = attention._halved(probes.Rows(*map(np.asarray, rows)))
    val = halved.val[0, 0]
    assert val.sum() == 20 and not (val & ~rows.train_mask[0]).any()
    probe = fitted.probe
    logits = token_scores.logits(
        tokens, rows.train[0][val], probe.w, probe.b, probe.setting, aggregators.attention
    )
    expected = roc_auc_score(rows.y_train[0][val], logits[0])
    np.testing.assert_allclose(fitted.scores.val_auc[0], expected, atol=1e-6)
    other = attention._halved(rows._replace(seed=np.array([43], np.int32)))
    assert not np.array_equal(other.val, halved.val)


def test_strict_refits_on_all_rows_for_the_best_number_of_steps():
    tokens, found = case(sizes=(40,))
    ((_, rows),) = probes.batches(found, (64,))
    rows = probes.Rows(*map(np.asarray, rows))
    fitted = attention.fit(tokens, rows, "strict", design=DESIGN)
    folds = probes.scores.folds(rows, "strict")
    assert len(folds.lane) == 6
    start = np.random.default_rng([42, 81, 0]).normal(0, 1e-3, (2, token_cases.D))
    one = Fits(
        np.repeat(rows.train, 6, 0),
        folds.train,
        folds.val,
        np.repeat(rows.y_train, 6, 0),
        np.repeat(start[None], 6, 0),
        *(np.full(6, value) for value in (0.0, 0.0, 1e-2)),
        np.full(6, 79),
    )
    mean = training.train(tokens, one, aggregators.attention, steps=80).val_auc.mean(axis=0)
    np.testing.assert_allclose(fitted.scores.val_auc[0], mean.max(), atol=1e-6)
    stop = mean.argmax()
    assert 0 < stop
    full = engine.take(one, np.array([0]))._replace(train=rows.train_mask, stop=np.array([stop]))
    full = full._replace(val=np.zeros_like(full.val))
    final = training.train(tokens, full, aggregators.attention, steps=80)
    np.testing.assert_allclose(fitted.probe.w[0], final.w[0], atol=1e-6)


def test_one_class_is_said():
    tokens, found = case(sizes=(40, 41))
    found = [dataclasses.replace(found[0], y_train=np.ones(40, int)), found[1]]
    results = probe_cases.run(lambda rows: attention.fit(tokens, rows, design=DESIGN), found)
    assert results[0]["code"] == codes.DEGENERATE and results[1]["code"] == codes.CONVERGED


def test_settings_rates_and_starts_are_lanes():
    tokens, found = case(sizes=(140,))
    ((_, rows),) = probes.batches(found, (256,))
    rates = DESIGN._replace(rates=(1e-9, 1e-2), starts=2)
    fitted = attention.fit(tokens, rows, design=rates)
    assert fitted.scores.hyperparameter[0] == 1e-2
    alone = attention.fit(tokens, rows, design=DESIGN)
    assert fitted.scores.val_auc[0] >= alone.scores.val_auc[0]


def test_bos_is_an_option():
    tokens, found = case(sizes=(140,), fewest=2)
    loud = tokens.x.copy()
    loud[tokens.starts] = np.random.default_rng(0).normal(0, 1000, (len(tokens.starts), 12))
    ((_, rows),) = probes.batches(found, (256,))
    without = DESIGN._replace(bos=False)
    few = [attention.fit(tokens._replace(x=x), rows, design=without) for x in (tokens.x, loud)]
    assert np.array_equal(few[0].probe.w, few[1].probe.w)
    assert few[0].scores.test_auc[0] == few[1].scores.test_auc[0] > 0.85
    with_bos = attention.fit(tokens._replace(x=loud), rows, design=DESIGN)
    assert few[1].scores.test_auc[0] > with_bos.scores.test_auc[0] + 0.1


def test_a_prompt_that_a_fit_trains_on_twice_counts_twice():
    """As drawn with replacement, some copies with another label: the mean of a loop over rows."""
    y = np.arange(6) % 2
    tokens = token_cases.tokens(np.array([2, 3, 1, 4, 2, 3]), y)
    rows, labels = np.array([0, 1, 2, 3, 4, 5, 1, 1, 3]), np.array([0, 1, 0, 1, 0, 1, 0, 1, 0])
    w = np.random.default_rng(0).normal(size=(2, token_cases.D))
    starts, counts = np.asarray(tokens.starts), np.asarray(tokens.counts)
    losses = []
    for row, label in zip(rows, labels, strict=True):
        own = np.asarray(tokens.x)[starts[row] : starts[row] + counts[row]] @ w.T
        share = np.exp(own[:, 0] - own[:, 0].max())
        z = share @ own[:, 1] / share.sum() + 0.3
        losses.append(np.logaddexp(0, z) - label * z)
    every, none = np.ones((1, 9), bool), np.zeros((1, 9), bool)
    one = Fits(
        *(rows[None], every, none, labels[None], w[None], np.array([0.3])),
        *(np.zeros(1), np.full(1, 1e-3), np.array([0])),
    )
    found = training.train(tokens, one, aggregators.attention, steps=1)
    np.testing.assert_allclose(found.loss[0, 0], np.mean(losses), rtol=1e-5)
