"""What a person sees while a sweep runs: a bar per regime, and the verdict so far.

In a terminal or a notebook every regime has its bar of fits, with rate, time left and what SAEs add
so far; the line below says what would be concluded now. In a log a line is written for every
finished task.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pandas as pd
from tqdm import tqdm

from probejax import sweep
from probejax.analysis import quiver, results_table
from probejax.analysis.verdict import NEUTRAL, STATED, TOO_FEW, verdict

_SHARE = 0.05  # of the time, at most, goes into the verdict so far
_BAR = "{desc:<15} {bar:10} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def watch(
    finished: Iterable[sweep.Unit],
    units: Sequence[sweep.Unit],
    payloads: Mapping[str, Mapping[str, Any]],
    read: Callable[[str], Mapping[str, Any]],
) -> None:
    """Shows what is finished as it comes.

    Args:
      finished: units, each when it is written.
      units: all of this process's, those of earlier runs too.
      payloads: of those of earlier runs, by name.
      read: returns the payload of a finished unit.
    """
    if (bar := _bar()) is not None:
        _bars(bar, finished, units, dict(payloads), read)
    else:
        _lines(finished, units, dict(payloads), read)


def _bar() -> type[tqdm] | None:
    """Returns what a bar is here: in a terminal, in a notebook with widgets, None in a log."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        if importlib.util.find_spec("ipywidgets") is None:
            return None
        from tqdm.notebook import tqdm as widget

        return widget
    return tqdm if sys.stderr.isatty() else None


def log(finished: Iterable[sweep.Unit]) -> None:
    """Prints one JSON line per finished unit, for machines."""
    began = time.time()
    for unit in finished:
        fields = {name: getattr(unit, name) for name in ("task", "site", "source", "method")}
        say(json.dumps({**fields, "seconds": round(time.time() - began, 1)}))


def say(line: str) -> None:
    """Writes a line to the standard output, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _bars(kind: type[tqdm], finished, units, payloads, read) -> None:
    regimes = units[0].regimes if units else ()
    with ExitStack() as stack:
        bars = {
            regime: stack.enter_context(kind(desc=regime, unit="fit", bar_format=_BAR))
            for regime in regimes
        }
        line = stack.enter_context(kind(bar_format="{desc}"))
        before = fits(payloads.values())
        for regime, bar in bars.items():
            bar.initial = bar.n = before.get(regime, 0)
        for table in _verdicts(finished, units, payloads, read):
            so_far = fits(payloads.values())
            for regime, bar in bars.items():
                bar.total = round(so_far.get(regime, 0) * len(units) / len(payloads))
                bar.n = so_far.get(regime, 0)
                if table is not None and (added := _added(table, regime)) is not None:
                    bar.set_postfix_str(f"SAEs {added:+.4f}", refresh=False)
                bar.refresh()
            if table is not None:
                line.set_description_str(rolling(table))


def _lines(finished, units, payloads, read) -> None:
    began, before = time.time(), len(payloads)
    said = len(_whole(units, payloads))
    every = len({unit.task for unit in units})
    for table in _verdicts(finished, units, payloads, read):
        done = len(_whole(units, payloads))
        if done == said:
            continue
        said, took = done, time.time() - began
        left = took / (len(payloads) - before) * (len(units) - len(payloads))
        clock = f"{tqdm.format_interval(took)}<{tqdm.format_interval(left)}"
        now = f": {rolling(table)}" if table is not None else ""
        sys.stderr.write(f"{done} of {every} tasks [{clock}]{now}\n")


def _verdicts(finished, units, payloads, read) -> Iterator[pd.DataFrame | None]:
    """Yields the quiver over whole tasks after a unit, None where it is not due."""
    due, counted = 0.0, 0
    for unit in finished:
        payloads[unit.name] = read(unit.name)
        whole = _whole(units, payloads)
        table = None
        if len(whole) > counted and time.time() >= due:
            began, counted = time.time(), len(whole)
            chosen = [each for each in units if each.task in whole]
            results = results_table(payloads[each.name] for each in chosen)
            table = quiver(results, tie_rule=(STATED, NEUTRAL))
            due = time.time() + (time.time() - began) * (1 / _SHARE - 1)
        yield table


def _whole(units: Sequence[sweep.Unit], payloads: Mapping[str, Any]) -> set[str]:
    """Returns the tasks all of whose units are finished: only these can be compared fairly."""
    missing = {unit.task for unit in units if unit.name not in payloads}
    return {unit.task for unit in units} - missing


def fits(payloads: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Returns how many fits of each regime the units hold."""
    count: dict[str, int] = {}
    for payload in payloads:
        for regime in payload["fits"]["regime"]:
            count[regime] = count.get(regime, 0) + 1
    return count


def _added(table: pd.DataFrame, regime: str) -> float | None:
    rows = table[(table["regime"] == regime) & table["level"].isna() & (table["cells"] > 0)]
    rows = rows[rows["tie_rule"] == STATED]
    return float(rows["delta"].iloc[0]) if len(rows) == 1 else None  # else each site has its own


def rolling(table: pd.DataFrame) -> str:
    """Returns what would be concluded now, in a line; of several sites, at each that compares."""
    parts = {str(site): part for site, part in table.groupby("site", sort=False)}
    if len(parts) == 1:
        return _rolling(table)
    said = [f"{site}: {_rolling(part)}" for site, part in parts.items() if part["cells"].any()]
    return "; ".join(said) or "nothing to compare yet"


def _rolling(table: pd.DataFrame) -> str:
    calls = verdict(table).calls
    if not calls:
        return "nothing to compare yet"
    if (most := int(table["tasks"].max())) < TOO_FEW:
        return f"too early for a verdict ({most} of at least {TOO_FEW} tasks)"
    sides = {
        side: ", ".join(regime for regime, call in calls.items() if call == side)
        for side in ("better", "worse")
    }
    parts = [f"{side} in {regimes}" for side, regimes in sides.items() if regimes]
    return "with SAEs " + "; ".join(parts) if parts else "no certain difference by SAEs"
