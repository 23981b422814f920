"""Rows that a single latent puts on the other side, by rules chosen without these rows."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import beta

from probejax.auditing import units
from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.folds import split
from probejax.auditing.permuted import ranked
from probejax.metrics import host_auc
from probejax.saes.describe import page

_CANDIDATES = 32  # latents of which the rules are made
_RULES = 5  # of each half
_FEWEST = 10  # prompts above a threshold
_THRESHOLDS = 40
_DOUBT = 0.05  # a rule is as good as the 5 % lower limit of its share
_SURE = 0.05  # by which that limit must exceed the share of the class
_RULE = (
    *("latent", "says", "above", "chosen_on_half", "rows_above", "share", "share_of_all", "auc"),
    "holds",
)
_SUSPECT = ("row", "text", "label", "latent", "activation", "says", "share")


class Rule(NamedTuple):
    """A latent that says a class where it is above a threshold.

    Attributes:
      column: which latent.
      says: the class, 0 or 1.
      threshold: above which.
      limit: lower limit of the share of that class above it, less its share in all rows; on the
        rows that it was chosen on.
    """

    column: int
    says: int
    threshold: float
    limit: float


def single_latents(data: Dataset, *, seed: int = 0) -> Finding:
    """Finds rows above the threshold of a latent that says the other class.

    The rules are chosen on one half of the prompts and applied to the other, both ways.

    Args:
      data: the dataset, which has an SAE.
      seed: of the halves and the permutations.
    """
    halves = [test for _, test in split(data.y, data.same, 2, seed)]
    share_of_unit = 1 / units.multiplicity(data.same)
    rules, suspects, best, chance = [], [], [], []
    for number, (chosen_on, other) in enumerate((halves, halves[::-1])):
        known = ranked(data, chosen_on, _CANDIDATES, seed)
        for lane, labels in enumerate(known.labels):
            columns, y = known.columns[lane], labels[other]
            z = known.values[:, columns]
            found = choose(z[chosen_on], labels[chosen_on], share_of_unit[chosen_on])
            told = [_told(rule, z[other], y, share_of_unit[other]) for rule in found]
            (chance if lane else best).append(_judged(found, told, z[other], y))
            if lane == 0:
                latents = known.latents[0]
                for rule, (above, share, holds) in zip(found, told, strict=True):
                    says, number_of = data.classes[rule.says], latents[rule.column]
                    about = {"latent": number_of, "says": says, "above": rule.threshold}
                    about |= {"chosen_on_half": number + 1, "rows_above": int(above.sum())}
                    about |= {"share": share, "share_of_all": (y == rule.says).mean()}
                    alone = host_auc(z[other][:, rule.column], y)
                    rules.append(about | {"auc": alone, "holds": holds})
                    against = other[above & (y != rule.says) & holds]
                    suspects += [
                        {
                            "row": row,
                            "text": data.text(row),
                            "label": data.labels[row],
                            "latent": number_of,
                            "activation": z[row, rule.column],
                            "says": says,
                            "share": share,
                        }
                        for row in against.tolist()
                    ]
    return _finding(data, rules, suspects, np.array(best), np.array(chance))


def choose(
    z: Float[np.ndarray, "n m"], y: Int[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> list[Rule]:
    """Chooses the rules that are surest, each of a latent of its own.

    Args:
      z: latents of the rows that it is chosen on.
      y: labels, 0 or 1.
      weight: which part of a prompt each row is: a prompt that stands there 20 times is one witness
        of what lies above a threshold, and not 20.
    """
    most = max(_FEWEST + 1, len(y) // 2)
    wanted = np.unique(np.geomspace(_FEWEST, most, _THRESHOLDS).astype(int))
    share = [np.average(y == says, weights=weight) for says in (0, 1)]
    found = []
    for column, values in enumerate(z.T):
        order = np.argsort(-values, kind="stable")
        values = values[order]
        # A threshold lies between two rows that differ, and above zero.
        ends = 1 + np.flatnonzero((values[:-1] > values[1:]) & (values[:-1] > 0))
        place = np.searchsorted(ends, wanted)
        above = ends[place[place < len(ends)]]
        counts, ones = (np.cumsum(each[order])[above - 1] for each in (weight, weight * y))
        enough = counts > _FEWEST - 1e-9
        above, counts, ones = above[enough], counts[enough], ones[enough]
        for says in (0, 1) if len(above) else ():
            right = ones if says else counts - ones
            limit = _lower_limit(right, counts) - share[says]
            at = int(np.argmax(limit))
            threshold = float(values[above[at] - 1] + values[above[at]]) / 2
            found.append(Rule(column, says, threshold, float(limit[at])))
    found = [rule for rule in found if rule.limit > _SURE]
    return sorted(found, key=lambda rule: -rule.limit)[:_RULES]


def _lower_limit(right, count):
    """Returns the lower limit of a share (Clopper and Pearson 1934); of none right it is 0."""
    return np.nan_to_num(beta.ppf(_DOUBT, right, count - right + 1))  # no quantile there


def _told(rule: Rule, z, y, weight) -> tuple[np.ndarray, float, bool]:
    """Returns which rows are above a rule's threshold, and the share of its class there.

    And whether it holds: whether the lower limit of that share is above that of all rows.
    """
    above = z[:, rule.column] > rule.threshold
    if not above.any():
        return above, np.nan, False
    right = y == rule.says
    limit = _lower_limit(weight[above & right].sum(), weight[above].sum())
    holds = bool(limit > np.average(right, weights=weight))
    return above, float((y[above] == rule.says).mean()), holds


def _judged(found: list[Rule], told, z, y) -> tuple[float, float, float]:
    """Returns the surest rule's gain, the rows that rules contradict, and the former's AUC."""
    if not found:
        return 0.0, 0.0, 0.5
    first, (_, share, _) = found[0], told[0]
    against = np.zeros(len(y), bool)
    for rule, (above, _, holds) in zip(found, told, strict=True):
        against |= above & (y != rule.says) & holds
    alone = host_auc(z[:, first.column], y)
    gain = 0.0 if np.isnan(share) else share - (y == first.says).mean()
    return gain, float(against.sum()), max(alone, 1 - alone)


def _finding(data, rules, suspects, best, chance) -> Finding:
    own, by_chance = best.mean(axis=0), chance.mean(axis=0)
    table = pd.DataFrame(rules, columns=list(_RULE))
    if data.page:
        table["link"] = [page(data.page, int(latent)) for latent in table["latent"]]
    rows = pd.DataFrame(suspects, columns=list(_SUSPECT))
    rows = rows.sort_values(["share", "activation"], ascending=False, kind="stable")
    rows = rows.drop_duplicates("row").reset_index(drop=True)
    return Finding(
        "single_latents",
        "Suspect by a single latent",
        "A rule says: above this activation of this latent a row is of that class. Threshold and "
        "latent are chosen on half of the prompts, where the lower limit of the class's share "
        "above the threshold is highest, and tested on the other half; then the halves change "
        "places. A rule holds if there, too, the lower limit of its share is above the share in "
        "all rows; of those that do, rows of the other class above the threshold are suspect. "
        "Chance is the mean over 20 permutations of the labels, with rules chosen anew for each.",
        (
            Claim("AUC of the surest rule's latent on the other half", own[2], by_chance[2]),
            Claim("share of its class above the surest rule's threshold, more than in all rows",
                  own[0], by_chance[0]),
            Claim("rows that rules of single latents contradict", len(rows), 2 * by_chance[1], 0),
        ),
        (
            Table("latent_rules", "Rules, as tested on the other half", table),
            Table("latent_suspects", "Rows that a rule contradicts", rows),
        ),
    )  # fmt: skip
