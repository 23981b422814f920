"""The answer in two sentences, derived from `quiver.csv` by stated rules."""

from typing import Any, NamedTuple

import pandas as pd

from probejax.analysis.grid import CELL
from probejax.analysis.labels import TITLES, counted, number, signed
from probejax.probes import methods

# Rules shown side by side: the stated order, and the one without an order.
STATED, NEUTRAL = "documented", "neutral"
_P = 0.05  # of random signs, at most, for what is called certain
FEW_TASKS = 10
TOO_FEW = 6  # families of tasks for a verdict: of five, differences of one sign have p = 0.06


class Verdict(NamedTuple):
    """Two sentences, and what they rest on.

    Attributes:
      answer: do SAE probes help, and where.
      numbers: by how much.
      calls: per regime `better`, `worse`, `unclear` or `ties` (the rule for ties decides).
      caveats: what a reader must know besides, one sentence each.
    """

    answer: str
    numbers: str
    calls: dict[str, str]
    caveats: tuple[str, ...]


def verdict(quiver: pd.DataFrame) -> Verdict:
    """Returns the verdict on one protocol, model and site.

    A regime counts as better or worse where the band of its overall difference, which holds for
    all regimes at once (95 %), excludes zero under the stated rule for ties, and under the neutral
    rule too. Where only one of the two excludes zero, the rule decides and the regime counts as
    neither. Nor does it where random signs of the tasks' differences give as much with p above
    0.05, corrected for as many regimes: of few tasks a bootstrap's band is too narrow. Nor where
    there are fewer than six families of tasks that share prompts.

    Args:
        quiver: rows of the table of `quiver`, with the rules `documented` and `neutral`.
    """
    overall = quiver[quiver["level"].isna() & (quiver["cells"] > 0)]
    stated, neutral = (
        overall[overall["tie_rule"] == rule].set_index("regime").T.to_dict()
        for rule in (STATED, NEUTRAL)
    )
    calls = {str(regime): _call(row, neutral.get(regime)) for regime, row in stated.items()}
    if not calls:
        return Verdict(
            "There is nothing to compare: no SAE probe beside a baseline.",
            "No cell has both a baseline and an SAE probe with a validation AUC.",
            {},
            (),
        )
    answer = _answer(calls)
    tasks, families = (int(max(row[n] for row in stated.values())) for n in ("tasks", "families"))
    takes = f"a verdict takes at least {TOO_FEW}."
    if tasks < TOO_FEW:
        answer = f"Of {counted(tasks, 'task')} nothing can be told about others: {takes}"
    elif families < TOO_FEW:
        answer = (
            f"The {tasks} tasks share prompts, so that they are {_families(families)}, of which "
            f"nothing can be told about other tasks: {takes}"
        )
    return Verdict(answer, _numbers(stated), calls, _caveats(stated, neutral, calls))


def of_baselines(rows: pd.DataFrame) -> Verdict | None:
    """Returns what can be said of a run without SAE probes: which method validation chooses.

    Args:
        rows: of a results table, of one protocol, model and site; None comes back where some are
            of SAE probes, or none has a validation AUC.
    """
    names = [name for name in rows["method"].unique() if not methods.parse_any(name).control]
    rows = rows[rows["method"].isin(names) & rows["val_auc"].notna()]
    if rows.empty or rows["sae_id"].astype(bool).any():
        return None
    regimes = rows["regime"].tolist()
    regime = "standard" if "standard" in regimes else regimes[0]
    rows = rows[rows["regime"] == regime]
    cell = [rows[name].fillna(-1) if name == "level" else rows[name] for name in CELL]
    whole = rows.groupby(cell)["method"].transform("nunique") == rows["method"].nunique()
    uneven = bool(whole.any() and not whole.all())
    rows = rows[whole] if uneven else rows
    means = rows.groupby("method", sort=False)[["val_auc", "test_auc"]].mean()
    best = str(means["val_auc"].idxmax())
    where = f"{counted(rows['task'].nunique(), 'task')}{' that all of them have' * uneven}"
    return Verdict(
        f"Under {_listed([regime])} {best} validates best of {len(means)} methods: test AUC "
        f"{number(float(means['test_auc'][best]))}.",
        f"Means over {where}. No SAE probe stands beside these "
        "methods, so there is nothing to compare.",
        {},
        (),
    )


def _families(count: int) -> str:
    return "one family" if count == 1 else f"{count} families"


def _sign(row: dict[Any, Any], band: str = "band") -> int:
    if row[f"{band}_low"] > 0:
        return 1
    return -1 if row[f"{band}_high"] < 0 else 0


def _call(row: dict[Any, Any], neutral: dict[Any, Any] | None) -> str:
    stated = _sign(row)
    other = _sign(neutral) if neutral else stated
    if stated != other:
        return "ties"
    if not row["p_holm"] <= _P or row["families"] < TOO_FEW:  # NaN is not certain either
        return "unclear"
    return {1: "better", -1: "worse", 0: "unclear"}[stated]


def _answer(calls: dict[str, str]) -> str:
    better, worse = ([r for r, call in calls.items() if call == which] for which in _CERTAIN)
    rest = [regime for regime in calls if regime not in (*better, *worse)]
    if better and worse:
        text = f"It depends: adding SAE probes raises test AUC under {_listed(better)} and lowers "
        text += f"it under {_listed(worse)}"
    elif better:
        text = f"Yes: adding SAE probes to the quiver raises test AUC under {_listed(better)}"
    elif worse:
        text = f"No: adding SAE probes to the quiver lowers test AUC under {_listed(worse)}"
    elif len(calls) == 1:
        return (
            "Not that this run can tell: adding SAE probes to the quiver makes no certain "
            f"difference to test AUC under {_listed(list(calls))}."
        )
    else:
        return (
            "Not that this run can tell: adding SAE probes to the quiver makes no certain "
            f"difference to test AUC in any of {len(calls)} regimes."
        )
    if rest:
        text += f", and makes no certain difference under {_listed(rest)}"
    return text + "."


_CERTAIN = ("better", "worse")


def _listed(regimes: list[str]) -> str:
    names = [TITLES.get(regime, regime.replace("_", " ")).lower() for regime in regimes]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + f" and {names[-1]}"


def _numbers(stated: dict[Any, Any]) -> str:
    parts = [f"{_listed([name])} {signed(row['delta'])}" for name, row in stated.items()]
    tasks = [int(row["tasks"]) for row in stated.values()]
    most, fewest = max(tasks), min(tasks)
    tasks = f"{most} {'task' if most == 1 else 'tasks'}"
    tasks = tasks if fewest == most else f"up to {tasks}"
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
    return f"Mean change in test AUC over {tasks}: {text}."


def _caveats(
    stated: dict[Any, Any], neutral: dict[Any, Any], calls: dict[str, str]
) -> tuple[str, ...]:
    found = []
    ties = [regime for regime, call in calls.items() if call == "ties"]
    for regime in ties:
        row, other = stated[regime], neutral[regime]
        found.append(
            f"Under {_listed([regime])} the rule for ties decides: several methods share the best "
            f"validation AUC in {int(row['tied'])} of {int(row['cells'])} cells, and the change is "
            f"{signed(row['delta'])} under the stated rule but {signed(other['delta'])} "
            f"({signed(other['band_low'])} to {signed(other['band_high'])}) under the neutral one."
        )
    for regime, row in stated.items():
        if row["families"] < TOO_FEW <= row["tasks"]:
            found.append(
                f"Under {_listed([regime])} the {int(row['tasks'])} tasks are "
                f"{_families(int(row['families']))} by the prompts they share: too few to call any "
                "difference certain."
            )
        elif _sign(row) != _sign(row, "family_band"):
            found.append(
                f"Under {_listed([regime])} the {int(row['tasks'])} tasks are "
                f"{int(row['families'])} families that share prompts. Drawn by family the band is "
                f"{signed(row['family_band_low'])} to {signed(row['family_band_high'])}, drawn by "
                f"task {signed(row['band_low'])} to {signed(row['band_high'])}: only "
                f"{'the second' if _sign(row) else 'the first'} excludes zero."
            )
    few = {regime: int(row["tasks"]) for regime, row in stated.items() if row["tasks"] < FEW_TASKS}
    if few:
        where = "" if len(few) == len(stated) else f" under {_listed(list(few))}"
        counts = sorted(set(few.values()))
        tasks = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        found.append(
            f"With {tasks} task{'' if counts == [1] else 's'}{where} the limits are rough: a "
            "bootstrap over so few tasks is too narrow."
        )
    for regime, row in stated.items():
        if calls[regime] == "unclear" and _sign(row) and row["p_holm"] > _P:
            found.append(
                f"Under {_listed([regime])} the band excludes zero, but random signs of the tasks' "
                f"differences give as much with p = {row['p_holm']:.2f}, so it is not called "
                "certain."
            )
    return tuple(found)
