"""The front door: one probe, or many at once, on arrays in hand."""

import functools
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from probejax import inputs
from probejax.activations.ragged import Activations
from probejax.probes import baselines, methods, sae_pooled, token_methods
from probejax.probes import sae as on_latents
from probejax.probes.families.probe import joined
from probejax.probes.folds import stratified_folds
from probejax.probes.rows import Rows, batches
from probejax.probes.scores import PROTOCOLS, Fit, Protocol, Scores
from probejax.saes.named import reading
from probejax.saes.stream import Dictionary
from probejax.tasks import Condition, digests

_TOGETHER = 1 << 17  # training rows, padding included, that are fitted together at most


def fit(
    x: Float[Array | np.ndarray, "n d"] | Any,
    y: Shaped[Array | np.ndarray, " n"] | Any,
    method: str = "logreg",
    *,
    sae: Any = None,
    seed: int = 0,
    protocol: str = "strict",
) -> Fit:
    """Fits one probe: search over the hyperparameter, refit on all rows, certificate.

    >>> import numpy as np
    >>> import probejax as px
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(200, 16)), np.arange(200) % 2
    >>> x[:, 3] += y
    >>> found = px.fit(x, y)
    >>> found.probe(x[:2]).shape
    (2,)

    The rows are shuffled first. Up to 127 rows validate in folds (all pairs up to 12 rows, six
    stratified folds beyond), more by a stratified fifth that is held out, of 1,000 rows at most.
    Equal rows count as one there, so that none validates its own copy.

    Args:
      x: [n, d] one row of activations per prompt, as NumPy, JAX or torch array of any float dtype;
        or `Activations`, with all tokens for the methods that read them.
      y: [n] labels: booleans, numbers or strings of two values; the larger in sort order is the
        positive class.
      method: `logreg`, `ridge`, `pca`, `knn`, `mlp`, `mean_difference`, `lda`, `logreg_l1`,
        `xgboost`; `sae_k<k>` with an SAE; or one that reads all tokens, such as `attention`.
      sae: for `sae_k<k>`: an SAE, or anything with `encode(x)`.
      seed: of the shuffle, the folds and what a method draws; from 0 to 2,147,483,647.
      protocol: `strict` learns scalers and rankings inside each fold; `paper`, as the study does,
        on all rows.

    Returns:
      The fit. `fit.probe(x)` gives logits of new rows, `fit.val_auc` the validation AUC, `fit.gap`
      the certificate: a bound on the relative suboptimality, NaN where the method has none.

    Raises:
      ValueError: the arrays, the labels, the method or the SAE will not do; the message says why.
    """
    _check_seed(seed)
    found, classes = inputs.two_classes(y)
    tokens = x if isinstance(x, Activations) else None
    count = len(inputs.matrix(x)) if tokens is None else len(tokens.counts)
    if found.shape != (count,):
        raise ValueError(
            f"there are {count:,} rows of activations and labels of shape {found.shape}; expected "
            "one label per row"
        )
    every = np.random.RandomState(seed).permutation(count)
    many = fit_lanes(
        x, every[None], found[every][None], method, sae=sae, seed=seed, protocol=protocol
    )
    return _named(many[0], method, count, classes)


def fit_lanes(
    x: Float[Array | np.ndarray, "N d"] | Any,
    rows: Int[np.ndarray, "L n"] | Any,
    y: Shaped[np.ndarray, "L n"] | Any,
    method: str = "logreg",
    *,
    mask: Bool[np.ndarray, "L n"] | Any = None,
    sae: Any = None,
    seed: int = 0,
    protocol: str = "strict",
) -> Fit:
    """Fits L probes at once, on L sets of rows of one matrix.

    >>> import numpy as np
    >>> import probejax as px
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 8))
    >>> rows = np.stack([rng.permutation(300)[:64] for _ in range(5)])
    >>> fits = px.fit_lanes(x, rows, (x[:, 0] > 0)[rows])
    >>> fits.probe(x).shape, fits[2].probe(x).shape
    ((5, 300), (300,))

    Args:
      x: [N, d] activations that the problems share, as for `fit`.
      rows: [L, n] row numbers into `x`, one line per problem; their order decides which validate,
        so shuffle them. Or a list of L arrays of different lengths.
      y: the label of each of these, in the same shape: two values over all problems; or one label
        for each row of `x`, [N]. Arrays of NumPy, JAX or torch, or lists.
      method: as for `fit`.
      mask: [L, n], False where a line is shorter and the rest of it is padding.
      sae: as for `fit`.
      seed: of the folds and of what a method draws.
      protocol: as for `fit`.

    Returns:
      The fits, each number with a lane axis [L]; `fits[i]` is one of them, `fits.probe(x)` gives
      logits [L, n].

    Raises:
      ValueError: as for `fit`; or a problem has no row, or one that does not exist.
    """
    _check_seed(seed)
    rules = methods.parse(method)
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; expected {' or '.join(PROTOCOLS)}")
    if rules.control:
        raise ValueError(f"{method} is a control, which belongs to a sweep: px.run(controls=True)")
    if rules.k and sae is None:
        raise ValueError(
            f"{method} reads latents of an SAE; give one, as sae=px.load_sae(...) or anything with "
            "encode(x)"
        )
    if sae is not None and not rules.k:
        raise ValueError(f"{method} reads no SAE; leave sae out, or take method='sae_k16'")
    tokens = x if isinstance(x, Activations) else None
    if rules.reads_tokens and tokens is None:
        raise ValueError(
            f'{method} reads all tokens of a prompt; give Activations with positions="all"'
        )
    features = jnp.asarray(inputs.matrix(x) if tokens is None else tokens.last())
    source = tokens if rules.reads_tokens else features
    sae = None if sae is None else reading(sae, features.shape[1])
    conditions, classes = _problems(rows, y, mask, len(features), seed)
    same = np.unique(digests(np.asarray(features)), return_inverse=True)[1]
    rule = functools.partial(_folds, same)
    found = [
        (lanes, _fit(method, source, some, sae, cast(Protocol, protocol)))
        for lanes, some in batches(conditions, most_rows=_TOGETHER, folds=rule)
    ]
    back = np.argsort(np.concatenate([lanes for lanes, _ in found]))
    together = joined([each.probe for _, each in found])[back]
    leaves = zip(*(each.scores for _, each in found), strict=True)
    scores = Scores(*(np.concatenate(leaf)[back] for leaf in leaves))
    trained = sum(len(condition.train) for condition in conditions)
    return _named(Fit(together, scores), method, trained, classes)


def _folds(same: Int[np.ndarray, " N"], condition: Condition) -> Bool[np.ndarray, "F n"]:
    """Returns the folds of a problem, of which equal rows are on one side.

    Args:
      same: a number for each row of `x`, the same for equal ones.
      condition: the problem.
    """
    _, first, unit = np.unique(same[condition.train], return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they come
    masks = stratified_folds(condition.y_train[first[order]], condition.seed)
    return masks[:, np.argsort(order)[unit]]


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**31:
        raise ValueError(f"the seed is {seed}; expected a whole number from 0 to {2**31 - 1:,}")


def _named(found: Fit, method: str, rows: int, classes: tuple[Any, Any]) -> Fit:
    return Fit(found.probe, found.scores, method, rows, classes)


def _problems(rows, y, mask, count: int, seed: int) -> tuple[list[Condition], tuple[Any, Any]]:
    """Returns the problems, each with its own rows alone, and the two values of their labels."""
    lines = [np.asarray(line) for line in rows]
    if not lines:
        raise ValueError("there is no problem: rows is empty")
    for lane, line in enumerate(lines):
        if line.ndim != 1 or line.dtype.kind not in "iu":
            raise ValueError(
                f"rows of problem {lane} are {line.dtype}{list(line.shape)}; expected [n] numbers "
                "of rows of x, a list of them for each problem (which of these count, mask= says)"
            )
    sizes = [len(line) for line in lines]
    y = y.detach().to("cpu").numpy() if hasattr(y, "detach") else y
    found = list(np.asarray(y)) if hasattr(y, "__array__") else list(y)
    whole = _as_given(y)
    if found and all(np.ndim(label) == 0 for label in found):  # a label for each row of x
        inputs.within(np.concatenate(lines), np.ones(sum(sizes), bool), count)
        if len(found) != count:
            raise ValueError(
                f"y holds {len(found):,} labels and x {count:,} rows; expected a label for each "
                "row of x, or one for each row number in rows"
            )
        found = [whole[line] for line in lines]
    found = [_as_given(line) for line in found]
    if [each.shape for each in found] != [(size,) for size in sizes]:
        raise ValueError("y has another shape than rows; expected one label for each row number")
    masks = [np.ones(size, bool) for size in sizes] if mask is None else [*map(np.asarray, mask)]
    if [np.shape(each) for each in masks] != [(size,) for size in sizes]:
        raise ValueError("the mask has another shape than rows; expected True or False for each")
    kept = [inputs.binary(each, what="values of mask").astype(bool) for each in masks]
    labels, classes = inputs.two_classes(
        np.concatenate([each[keep] for each, keep in zip(found, kept, strict=True)])
    )
    ends = np.cumsum([keep.sum() for keep in kept])[:-1]
    none = np.zeros(0, int)
    problems = []
    for lane, (line, keep, own_y) in enumerate(
        zip(lines, kept, np.split(labels, ends), strict=True)
    ):
        if not keep.any():
            raise ValueError(f"problem {lane} has no row")
        train = inputs.within(line[keep], keep[keep], count)
        problems.append(Condition("own", None, seed, train, own_y, none, none))
    return problems, classes


def _as_given(labels: Any) -> np.ndarray:
    """Returns labels as an array; those of a list as they are, of whatever types."""
    return np.asarray(labels, dtype=None if hasattr(labels, "dtype") else object)


def _fit(method: str, x: Any, rows: Rows, sae: Dictionary | None, protocol: Protocol) -> Fit:
    """Fits a method by its name."""
    rules = methods.parse(method)
    if rules.k and rules.pooling:
        how = (cast(Any, sae), rules.k, cast(Any, rules.pooling), "normalised", protocol)
        chosen = sae_pooled.select(x, rows, *how)
    elif rules.k:
        chosen = on_latents.select(x, rows, cast(Any, sae), rules.k, "normalised", protocol)
    elif rules.reads_tokens:
        return token_methods.TOKEN_METHODS[rules.family](x, rows, protocol)
    else:
        return baselines.BASELINES[rules.family](x, rows, protocol)
    return on_latents.fit(chosen, rows, rules.k, binarised=rules.binarised, protocol=protocol)
