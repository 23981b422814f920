"""How well a probe does in each group of rows, the worst first."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from sklearn.cluster import KMeans

from probejax.auditing import units
from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.neighbours import unit_rows
from probejax.auditing.out_of_fold import Judged

_CLUSTERS = 12
_PER_CLUSTER = 20  # rows at least, in the mean
_MOST = 20_000  # rows that clusters are made of
SHUFFLES = 199  # of which prompt is in which group
_BINS = 10  # of probabilities, for calibration
FEWEST = 20  # rows of a group that is called the worst
_CHANCE = (
    f" Groups of fewer than {FEWEST} rows do not count as worst. Of many groups one is the worst, "
    "and by chance far below the others: so it stands beside the median of the worst where prompts "
    f"change their groups at random, {SHUFFLES} times, each group keeping its number of either "
    "label; p is how often that worst is no better."
)


def by_group(data: Dataset, judged: Judged, *, seed: int = 0) -> Finding:
    """Judges each group by out-of-fold probabilities.

    Args:
      data: the dataset; without groups its rows are put into clusters of activations.
      judged: what a probe says of every row.
      seed: of the clusters and the shuffles.
    """
    named = data.groups is not None
    groups = np.array(data.groups, dtype=object) if named else clusters(data, seed)
    table = _table(data, groups, judged.probability)
    notes = []
    alone = table["group"][table["rows"] < 2].tolist()
    if alone:
        notes.append(f"{len(alone)} groups have one row, such as {alone[0]!r}; of one row nothing "
                     "can be told.")  # fmt: skip
    if one := int((table["auc"].isna() & (table["rows"] > 1)).sum()):
        notes.append(f"{one} groups have rows of one class alone; they have no AUC.")
    return Finding(
        "groups",
        "Groups" if named else "Clusters of activations",
        ("The groups of the data" if named else
         f"K-means puts the standardised activations into {table['group'].nunique()} clusters; "
         "each shows a prompt near its middle")
        + (". " if named else ". Vectors of a cluster are alike, so a probe has less to go by "
           "there than among vectors at random: a low AUC by itself says little. ")
        + f"Each is judged by {judged.method}, by probes that have not seen its prompts: AUC and "
        "calibration error (ten bins). A group far below the others is one on which the labels, or "
        "the text, are of another kind."
        + (_CHANCE if named else ""),
        (
            Claim("AUC over all groups", judged.auc, judged.permuted_auc),
            *((_worst(data, groups, judged.probability, seed),) if named else ()),
        ),
        (Table("groups", "Groups, the worst first", table),),
        tuple(notes),
    )  # fmt: skip


def clusters(data: Dataset, seed: int = 0) -> Shaped[np.ndarray, " n"]:
    """Returns to which cluster of standardised activations each row belongs.

    Args:
      data: the dataset; of many rows the centres are those of some.
      seed: of the centres.
    """
    z = unit_rows(data.x)
    count = int(np.clip(len(z) // _PER_CLUSTER, 2, _CLUSTERS))
    some = np.random.RandomState(seed).permutation(len(z))[:_MOST]
    found = KMeans(count, random_state=seed).fit(z[some]).predict(z)
    return np.array([f"cluster {number}" for number in found], dtype=object)


def _worst(
    data: Dataset, groups: Shaped[np.ndarray, " n"], probability: Float[np.ndarray, " n"], seed: int
) -> Claim:
    """Returns the AUC of the worst group, beside that of groups drawn at random."""
    own = units.equal(groups.tolist()).astype(np.int32)
    large = np.bincount(own) >= FEWEST  # shuffled groups are as large
    found, *by_chance = (
        np.fmin.reduce(_aucs(probability, data.y, each)[large], initial=np.inf)
        for each in (own, *units.shuffled(own, data.same, SHUFFLES, seed, data.y))
    )
    if not np.isfinite(found):
        return Claim("AUC of the worst group", np.nan, np.nan, 3, "groups shuffled")
    p = (1 + np.sum(np.array(by_chance) <= found)) / (1 + SHUFFLES)
    chance = f"groups shuffled, p = {p:.3f}"
    return Claim("AUC of the worst group", float(found), float(np.median(by_chance)), 3, chance)


def _aucs(
    probability: Float[np.ndarray, " n"], y: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " g"]:
    """Returns the AUC within each group, numbered from 0 on; NaN where there is one class."""
    ranks = pd.Series(probability).groupby(groups).rank().to_numpy()
    ones, zeros = np.bincount(groups, y), np.bincount(groups, 1 - y)
    won = np.bincount(groups, ranks * y) - ones * (ones + 1) / 2
    return np.where(ones * zeros > 0, won / np.maximum(ones * zeros, 1), np.nan)


def _table(
    data: Dataset, groups: Shaped[np.ndarray, " n"], probability: Float[np.ndarray, " n"]
) -> pd.DataFrame:
    """Returns a line for each group; every row is looked at once, however many groups there are."""
    number, names = units.equal(groups.tolist()), list(dict.fromkeys(groups.tolist()))
    size = np.bincount(number)
    of_each = np.split(np.argsort(number, kind="stable"), np.cumsum(size)[:-1])
    middles = [_middle(data.x[own], own) for own in of_each]
    right = (probability > 0.5) == data.y
    table = pd.DataFrame(
        {
            "group": pd.Series(names, dtype=object),
            "rows": size,
            f"share_{data.classes[1]}": np.bincount(number, data.y) / size,
            "auc": _aucs(probability, data.y, number),
            "accuracy": np.bincount(number, right) / size,
            "calibration_error": _calibration_errors(probability, data.y, number),
            "example": [data.text(row) for row in middles],
        }
    )
    return table.sort_values("auc", kind="stable").reset_index(drop=True)


def _calibration_errors(
    probability: Float[np.ndarray, " n"], y: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " g"]:
    """Returns `metrics.calibration_error` within each group, numbered from 0 on."""
    place = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    count = groups.max() + 1
    excess = np.bincount(groups * _BINS + place, probability - y, count * _BINS)
    return np.abs(excess.reshape(count, _BINS)).sum(axis=1) / np.bincount(groups)


def _middle(x: Float[np.ndarray, "m d"], rows: Int[np.ndarray, " m"]) -> int:
    away = x - x.mean(axis=0)
    return int(rows[np.argmin(np.square(away / (x.std(axis=0) + 1e-6)).sum(axis=1))])
