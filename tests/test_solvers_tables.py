"""A device with a memory of its own is sent a table once, and what is computed there is the same.

The device of these tests is the CPU, which is told that it is such a one.
"""

import collections
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probejax as px
from probejax import devices
from probejax.saes import random_sae
from probejax.solvers import arithmetic, engine, tables
from tests import probe_cases


@pytest.fixture
def apart(monkeypatch):
    monkeypatch.setattr(devices, "apart", lambda: True)


@pytest.fixture
def sent(monkeypatch):
    """Counts the tables that are sent, by their number of rows."""
    counts = collections.Counter()
    known = tables._copies

    class Counting(dict):
        def __setitem__(self, key, copy):
            counts[len(copy)] += 1
            super().__setitem__(key, copy)

    monkeypatch.setattr(tables, "_copies", Counting(known))
    return counts


def test_rows_and_squares_are_those_of_numpy(apart, sent):
    rng = np.random.default_rng(0)
    table, half = (rng.normal(size=size).astype(np.float32) for size in ((37, 5), (37, 37)))
    products = half + half.T
    for _ in range(2):
        numbers = rng.integers(0, 37, (3, 11))
        found = tables.rows(table, numbers)
        assert isinstance(found, jax.Array)
        np.testing.assert_array_equal(found, table[numbers])
        square = products[numbers[:, :, None], numbers[:, None, :]]
        np.testing.assert_array_equal(tables.squares(products, numbers), square)
    assert sent == {512: 2}


def test_a_copy_goes_with_its_table(apart, sent):
    table = np.ones((4, 2), np.float32)
    tables.rows(table, np.zeros((1, 1), int))
    with jax.enable_x64(True):
        assert tables.rows(table.astype(float), np.zeros((1, 1), int)).dtype == np.float64
    assert len(tables._copies) == 1
    del table
    gc.collect()
    assert not tables._copies


def test_a_cpu_reads_the_host_s_and_who_asks_for_shapes_sends_nothing(monkeypatch, sent):
    table, numbers = np.ones((4, 2), np.float32), np.zeros((1, 3), int)
    assert isinstance(tables.rows(table, numbers), np.ndarray)
    monkeypatch.setattr(devices, "apart", lambda: True)
    with tables.only_shapes():
        assert tables.rows(table, numbers).shape == (1, 3, 2)
    assert not sent


def test_states_stay_on_the_device_until_all_lanes_ended(apart):
    """More lanes than a batch holds, in a number that is no size."""
    ends, kinds = np.arange(21) % 5 + 1, []

    def advance(slots, count, *_):
        kinds.append(type(count))
        count = jnp.minimum(count + 2, ends[slots])
        return count, count < ends[slots]

    found = engine.drive(advance, np.zeros(21, np.int32), np.arange(21), (4, 8))
    assert isinstance(found, np.ndarray) and found.tolist() == ends.tolist()
    found[0] = 7  # it is the caller's
    assert not any(kind is np.ndarray for kind in kinds)
    kept = engine.settled((np.arange(21), np.ones((21, 2))))
    assert [len(leaf) for leaf in kept] == [64, 64]
    assert engine.settled(kept) is kept


METHODS = ("logreg", "ridge", "lda", "pca", "knn", "mlp", "mean_difference", "sae_k4")


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_probes_are_the_same_to_the_bit_and_features_are_sent_once(name, monkeypatch, sent):
    rng = np.random.default_rng(0)
    y = probe_cases.labels()
    x = rng.normal(size=(len(y), 24)).astype(np.float32) + 0.4 * y[:, None].astype(np.float32)
    rows = np.stack([rng.permutation(len(y))[:100] for _ in range(3)])
    sae = random_sae.make(x, 96, 12.0)

    def fitted(method):
        return px.fit_lanes(x, rows, y[rows], method, sae=sae if "sae" in method else None)

    def fits():
        with arithmetic.using(name):
            return [fitted(method) for method in METHODS]

    leaves = lambda fit: jax.tree.leaves((fit.probe, fit.scores))
    here = fits()
    monkeypatch.setattr(devices, "apart", lambda: True)
    there = fits()
    for method, one, two in zip(METHODS, here, there, strict=True):
        for ours, theirs in zip(*map(leaves, (one, two)), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=method)
    assert sum(sent.values()) <= len(METHODS)
