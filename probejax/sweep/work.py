"""The arithmetic of a unit, told from sizes alone, before anything is computed.

Each figure counts multiplications and additions of the largest products, so it is a floor. `SHARE`
says what part of a core's speed in one large product a method has reached; an accelerator is
expected to need at least the arithmetic, the traffic and the kernels, whichever takes longest.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from probejax import probes
from probejax.sweep.data import Lanes
from probejax.sweep.machines import Machine

_STRENGTHS = 10  # of every path
_STEPS, _FACTORS, _ITERATIONS = 34, 5, 10  # of an L2 path: Newton, of them anew, products in each
_TRIPS = 8  # of the L1 solver at a strength
_COMPONENTS, _PCA_TRIPS = 100, 10  # of all numbers tried, the largest twice over, is the work
_EPOCHS = 50  # of a network
_EIGEN = 4  # times the cube that an eigendecomposition takes
_QUERIES = 512  # rows whose neighbours are sought together
_WIDTH, _L1_WIDTH = 64, 256  # lanes that an accelerator takes together


class Work(NamedTuple):
    """What a unit computes.

    Attributes:
      flops: operations.
      bytes: that pass between a device and its memory.
      kernels: that follow one another.
    """

    flops: float
    bytes: float
    kernels: float


class Size(NamedTuple):
    """Lanes of one padded size.

    Attributes:
      n: training rows, padding included.
      lanes: fits that are returned.
      folds: fits that only validate.
      tested: test rows of all lanes.
      together: tasks whose lanes share batches.
    """

    n: int
    lanes: int
    folds: int
    tested: int
    together: int = 1


def sizes_of(lanes: Lanes, together: int = 1) -> list[Size]:
    """Returns the sizes of a task's lanes, batches of one size taken together.

    Args:
      lanes: of the task.
      together: such tasks that are fitted side by side.
    """
    found: dict[int, Size] = {}
    for which, rows in lanes.batches:
        n = rows.train.shape[1]
        _, lanes_so_far, folds, tested, _ = found.get(n, Size(n, 0, 0, 0))
        found[n] = Size(
            n,
            lanes_so_far + len(which),
            folds + int(rows.fold_mask.sum()),
            tested + int(rows.test_mask.sum()),
            together,
        )
    return [found[n] for n in sorted(found)]


def of_unit(
    method: probes.Method, task: Sequence[Size], rows: int, d: int, d_sae: int
) -> Work | None:
    """Returns what a unit computes; None for a method whose arithmetic is not known.

    Args:
      method: that fits.
      task: of its lanes.
      rows: prompts of the task.
      d: width of its vectors.
      d_sae: latents of the SAE.
    """
    if method.family not in _ONE or method.pooling:
        return None
    each = [_ONE[method.family](size, d, method.k) for size in task]
    scores = sum(2.0 * size.tested * (method.k or d) for size in task)
    encoded = 2.0 * rows * d * d_sae if method.k else 0.0
    flops, traffic, kernels = (sum(column) for column in zip(*each, strict=True))
    return Work(flops + scores + encoded, traffic + 4.0 * rows * d, kernels)


def seconds(work: Work, method: probes.Method, machine: Machine) -> float:
    """Returns how long a device takes for a unit: on a CPU as measured, elsewhere at least."""
    if machine.is_cpu:
        share = SHARE[method.family] * (method.k / (method.k + 64) if method.k else 1)
        return work.flops / (share * machine.float32)
    launched = work.kernels * machine.launch
    return max(work.flops / machine.float32, work.bytes / machine.bandwidth) + launched


def _batches(size: Size, width: int = _WIDTH) -> float:
    """Returns a task's share of the batches of folds and refits where a device takes many lanes."""
    count = lambda lanes: math.ceil(lanes * size.together / width) / size.together
    return count(size.folds) + count(size.lanes)


def _logreg(size: Size, d: int, _k: int) -> Work:
    n, m = size.n, min(size.n, d)
    fits = size.lanes + size.folds
    products = _STEPS * _ITERATIONS * 2.0 * m * m
    path = _FACTORS * m**3 / 3 + products + _STEPS * 4.0 * n * m + _STRENGTHS * 2.0 * n * d
    kernels = _STEPS * (_ITERATIONS * 13 + 56) + _FACTORS * 113
    return Work(fits * path, fits * _STEPS * _ITERATIONS * 4.0 * m * m, _batches(size) * kernels)


def _ridge(size: Size, d: int, _k: int) -> Work:
    n, m = size.n, min(size.n, d)
    fits = size.lanes + size.folds
    one = _EIGEN * m**3 + 2.0 * n * d * m + _STRENGTHS * 4.0 * n * m
    return Work(fits * one, fits * 8.0 * n * d, 0)  # the host finds the directions


def _pca(size: Size, d: int, _k: int) -> Work:
    n, m, most = size.n, min(size.n, d), min(_COMPONENTS, size.n, d)
    fits = size.lanes + size.folds
    basis = 2.0 * n * d * m + _EIGEN * m**3 + 2.0 * n * d * most
    path = 2 * _PCA_TRIPS * (2.0 * n * most * most + most**3 / 3)
    # The axes are the host's, so a basis is a few products.
    kernels = fits * 8 + _batches(size) * _STRENGTHS * _PCA_TRIPS * 20
    return Work(fits * (basis + path), fits * 12.0 * n * d, kernels)


def _knn(size: Size, d: int, _k: int) -> Work:
    of_a_lane = -(-size.tested // (max(size.lanes, 1) * _QUERIES))
    blocks = size.folds + size.lanes * of_a_lane
    products = 2.0 * blocks * _QUERIES * size.n * d
    return Work(products, 4.0 * blocks * size.n * d, blocks * 6)


def _lda(size: Size, d: int, _k: int) -> Work:
    n, m = size.n, min(size.n, d)
    fits = size.lanes + size.folds
    return Work(fits * (4.0 * n * m * d + m**3), fits * 12.0 * n * d, fits / 16 * 326)


def _mlp(size: Size, d: int, _k: int) -> Work:
    fits = size.lanes + size.folds
    step = 6.0 * min(size.n, 200) * d * 16
    steps = _EPOCHS * -(-size.n // 200)
    return Work(fits * steps * step, fits * steps * step / 8, -(-fits // 32) * steps * 27)


def _mean_difference(size: Size, d: int, _k: int) -> Work:
    fits = size.lanes + size.folds
    return Work(4.0 * fits * size.n * d, 4.0 * fits * size.n * d, fits / 16 * 20)


def _sae(size: Size, _d: int, k: int) -> Work:
    fits = size.lanes + size.folds
    trips = _STRENGTHS * _TRIPS
    trip = 2.0 * size.n * k * k + k**3 / 3 + 12.0 * size.n * k
    return Work(
        fits * trips * trip, fits * trips * 8.0 * size.n * k, _batches(size, _L1_WIDTH) * trips * 75
    )


_ONE = {
    "logreg": _logreg,
    "ridge": _ridge,
    "pca": _pca,
    "knn": _knn,
    "lda": _lda,
    "mlp": _mlp,
    "mean_difference": _mean_difference,
    "sae": _sae,
}

SHARE = {  # of a core's speed in one large product, measured: BUILD_NOTES.md, "What a run takes"
    "logreg": 0.12,
    "ridge": 0.22,
    "pca": 0.87,
    "knn": 1.0,
    "lda": 0.57,
    "mlp": 0.55,
    "mean_difference": 0.024,
    "sae": 1.13,  # where k is large: products with few latents are slower
}
PROGRAMS = {  # that are compiled for one task, in the order of the default methods
    "logreg": 13,
    "ridge": 5,
    "pca": 10,
    "knn": 4,
    "mlp": 9,
    "mean_difference": 0,
    "lda": 2,
    "sae": 14,
}
_ANOTHER_K = 7  # of SAE probes, after a first


def programs(method: probes.Method, again: bool) -> int | None:
    """Returns how many programs a method compiles; None where that is not known.

    Args:
      method: that fits.
      again: whether a method of its family has been there before: a control has nothing new.
    """
    if not again or method.pooling:
        return None if method.pooling else PROGRAMS.get(method.family)
    return 0 if method.control else _ANOTHER_K
