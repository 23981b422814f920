"""What a probe is given, checked before anything is fitted, so that no certificate is of nonsense.

Only what is used need be sound: padding, and rows that no lane names, may hold anything.
"""

import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from probejax import inputs
from probejax.activations.ragged import Activations
from probejax.probes.rows import Rows
from probejax.probes.scores import PROTOCOLS

_TOGETHER = 1 << 14  # tokens read at a time


def rows_of(rows: Rows, count: int, protocol: str, what: str = "features") -> Rows:
    """Returns lanes on the host, their padding zero.

    Args:
        rows: the lanes.
        count: how many rows they may name.
        protocol: whose rules.
        what: has these rows, for the message.

    Raises:
        ValueError: a label is neither 0 nor 1, a row does not exist, a fold validates on what is no
            training row, a lane has no training row, or there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; expected {' or '.join(PROTOCOLS)}")
    train_mask, y_train = inputs.lanes(rows.train_mask, rows.y_train)
    test_mask, y_test = inputs.lanes(rows.test_mask, rows.y_test)
    fold_mask = inputs.binary(rows.fold_mask, what="values of fold_mask").astype(bool)
    val = inputs.binary(rows.val, what="values of val").astype(bool)
    lanes, n = train_mask.shape
    shapes = (val.shape, fold_mask.shape, np.shape(rows.seed), test_mask.shape[:1])
    if shapes != ((lanes, *fold_mask.shape[1:], n), fold_mask.shape, (lanes,), (lanes,)):
        raise ValueError(
            f"{lanes} lanes of {n} rows have val {shapes[0]}, fold_mask {shapes[1]}, seed "
            f"{shapes[2]} and test rows of {shapes[3][0]} lanes; expected one of each per lane"
        )
    if not train_mask.any(axis=1).all():
        raise ValueError(f"lane {np.argmin(train_mask.any(axis=1))} has no training row")
    outside = val & fold_mask[:, :, None] & ~train_mask[:, None, :]
    if outside.any():
        lane, fold, row = np.argwhere(outside)[0].tolist()
        raise ValueError(
            f"fold {fold} of lane {lane} validates on place {row}, which is no training row"
        )
    return Rows(
        train=inputs.within(rows.train, train_mask, count, what),
        train_mask=train_mask,
        y_train=y_train,
        val=val,
        fold_mask=fold_mask,
        test=inputs.within(rows.test, test_mask, count, what),
        test_mask=test_mask,
        y_test=y_test,
        seed=np.asarray(rows.seed),
    )


def features_of(
    features: Shaped[Array | np.ndarray, "..."], rows: Rows, protocol: str, what: str = "features"
) -> Rows:
    """Returns lanes as `rows_of` does, once the rows that they use are finite.

    Args:
        features: one row per prompt.
        rows: the lanes.
        protocol: whose rules.
        what: they are, for the message.

    Raises:
        ValueError: as for `rows_of`; the features are no matrix of numbers, or a row that a lane
            uses holds NaN or infinity.
    """
    x = np.asarray(features)
    if x.ndim != 2:
        raise ValueError(f"the {what} are {x.shape}; expected one row per prompt, [rows, width]")
    rows = rows_of(rows, len(x), protocol, what)
    bad = used(rows)
    bad = bad[~finite(x[bad])]
    if len(bad):
        raise ValueError(
            f"row {bad[0]} of the {what} holds NaN or infinity, as do {len(bad) - 1} others that "
            "are trained or tested on; leave them out or compute them again"
        )
    return rows


def tokens_of(tokens: Activations, rows: Rows, protocol: str) -> Rows:
    """Returns lanes as `rows_of` does, once the tokens of the prompts that they use are finite.

    Raises:
        ValueError: as for `rows_of`; the prompts are not rows of `tokens.x`, or a token that is
            used holds NaN or infinity.
    """
    starts, counts = np.asarray(tokens.starts), np.asarray(tokens.counts)
    length = tokens.x.shape[0]
    if starts.shape != counts.shape or starts.ndim != 1 or len(tokens.x.shape) != 2:
        raise ValueError(
            f"the tokens are {tokens.x.shape} with starts {starts.shape} and counts {counts.shape}"
            "; expected [rows, width] and one start and count per prompt"
        )
    wrong = (counts < 1) | (starts < 0) | (starts + counts > length)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"prompt {at} has {counts[at]} tokens from row {starts[at]} on, where there are "
            f"{length} rows and a prompt has at least one"
        )
    rows = rows_of(rows, len(counts), protocol, "tokens")
    prompts = used(rows)
    cuts = np.flatnonzero(np.diff(np.cumsum(counts[prompts]) // _TOGETHER)) + 1
    for part in np.split(prompts, cuts):
        at = np.cumsum(counts[part]) - counts[part]
        which = np.repeat(starts[part] - at, counts[part]) + np.arange(counts[part].sum())
        fine = finite(np.asarray(tokens.x[which]))
        if not fine.all():
            prompt = np.repeat(part, counts[part])[~fine][0]
            raise ValueError(
                f"a token of prompt {prompt} holds NaN or infinity; leave the prompt out or "
                "harvest it again"
            )
    return rows


def used(rows: Rows) -> Int[np.ndarray, " u"]:
    """Returns the rows that a lane trains or tests on, rising."""
    return np.union1d(rows.train[rows.train_mask], rows.test[rows.test_mask])


def finite(x: Shaped[np.ndarray, "n d"]) -> Bool[np.ndarray, " n"]:
    """Tells which rows are finite: those whose sum is, and among the others those that overflow."""
    with np.errstate(all="ignore"):
        fine = np.isfinite(x.sum(axis=1, dtype=np.float32))
    rest = np.flatnonzero(~fine)
    fine[rest] = np.isfinite(x[rest]).all(axis=1)
    return fine
