"""Work that fits have in common."""

import numpy as np
import pytest

from probejax.probes import sharing


def test_equal_arrays_form_a_group():
    a = np.array([[1, 2], [1, 2], [1, 2], [3, 4]])
    b = [np.zeros(1), np.zeros(1), np.zeros(2), np.zeros(1)]
    assert sharing.distinct(a) == [[0, 1, 2], [3]]
    assert sharing.distinct(a, b) == [[0, 1], [2], [3]]


@pytest.mark.parametrize("threads", [1, 2])
def test_each_group_is_worked_on_once_in_chunks_of_one_size(threads):
    groups = [[0, 5], [1], [2, 3], [4], [6]]
    asked = []

    def work(some, chunk):
        asked.append((some, chunk))
        return [10 * first for first in some]

    found = list(sharing.in_chunks(work, groups, 2, threads))
    assert found == [([[0, 5], [1]], [0, 10]), ([[2, 3], [4]], [20, 40]), ([[6]], [60])]
    assert sorted(asked) == [([0, 1], 2), ([2, 4], 2), ([6], 2)]
