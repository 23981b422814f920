"""The tables of a run: from units to `results`, from `results` to `quiver.csv` and the summary."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from etils import epath
from pyarrow import parquet

from probejax import sites, spreadsheet, storage
from probejax.analysis import facts
from probejax.analysis.grid import GROUP
from probejax.analysis.group import Group
from probejax.analysis.ties import TIE_RULES
from probejax.rules import PREPENDED
from probejax.tasks import ALL_REGIMES

# The columns of the results table, one row per fit.
COLUMNS = (
    "task",
    "regime",
    "level",
    "group",
    "num_train",
    "num_test",
    "method",
    "seed",
    "protocol",
    "model",
    "site",
    "layer",
    "bos",
    "sae_id",
    "k",
    "val_auc",
    "test_auc",
    "test_acc",
    "test_f1",
    "test_tpr",
    "test_ece",
    "hyperparameter",
    "gap",
    "code",
    *facts.FACTS,
)
_OF_UNIT = ("task", "method", "protocol", "model", "site", "sae_id", "k")
_MADE = ("group", "layer", "bos", *facts.FACTS)
_OF_FIT = tuple(name for name in COLUMNS if name not in (*_OF_UNIT, *_MADE))
_OPTIONAL = ("test_tpr", "test_ece")  # units from before these were measured lack them
_TEXT = (
    *("task", "regime", "group", "method", "protocol", "model", "site", "bos", "sae_id"),
    *facts.TEXT,
)
_COUNTS = ("num_train", "num_test", "layer", "k", "code")


def results_table(
    units: Iterable[Mapping[str, Any]], families: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Returns the results table of a run's units, one row per fit, in an order of its own.

    Args:
        units: payloads `{"unit": {task, method, protocol, model, site, sae_id, k, ...}, "fits":
            {regime: [...], level: [...], ...}}`, all lists of `fits` equally long. A missing
            number is null; `test_tpr` and `test_ece` may be absent, and so may `sae`, what is known
            of the SAE.
        families: the family of each task that is not the study's, as far as it is known.

    Returns:
        `COLUMNS`, sorted, so that the table does not depend on the order of the units. `sae_id` is
        empty for baselines, `group` where no group is held out.

    Raises:
        ValueError: a unit lacks a field or its lists differ in length.
    """
    of_unit: dict[str, list] = {name: [] for name in (*_OF_UNIT, "bos")}
    of_fit: dict[str, list] = {name: [] for name in _OF_FIT}
    groups: list[str] = []
    lengths: list[int] = []
    saes: dict[str, Mapping[str, Any]] = {}
    for payload in units:
        unit, fits = payload.get("unit", {}), payload.get("fits", {})
        _check(unit, fits)
        lengths.append(len(fits["regime"]))
        if payload.get("sae"):
            saes[str(unit["sae_id"])] = payload["sae"]
        for name in _OF_UNIT:
            of_unit[name].append(unit[name])
        of_unit["bos"].append(_bos(unit))
        for name in _OF_FIT:
            of_fit[name].extend(fits.get(name) or [None] * lengths[-1])
        groups += _groups(payload)
    columns = {name: np.repeat(np.array(each, object), lengths) for name, each in of_unit.items()}
    table = as_results(pd.DataFrame(columns | of_fit | {"group": groups}), saes, families)
    regimes = {name: place for place, name in enumerate(_in_order(table["regime"]))}
    order = ["regime", "level", "task", "seed", "protocol", "model", "site", "sae_id", "k"]
    return table.sort_values(
        [*order, "method"],
        kind="stable",
        ignore_index=True,
        key=lambda column: column.map(regimes) if column.name == "regime" else _codes(column),
    )


def _groups(payload: Mapping[str, Any]) -> list[str]:
    """Returns the name of the group that each fit holds out; empty for those that hold out none."""
    fits, names = payload["fits"], dict(enumerate(payload.get("groups") or []))
    return [
        names.get(level, "") if regime == "group_shift" else ""
        for regime, level in zip(fits["regime"], fits["level"], strict=True)
    ]


def _bos(unit: Mapping[str, Any]) -> str:
    """Returns what was done about BOS; a unit says so unless it was prepended as is usual."""
    return unit.get("bos") or ("" if unit["site"] == sites.GIVEN else PREPENDED)


def as_results(
    table: pd.DataFrame,
    saes: Mapping[str, Mapping[str, Any]] | None = None,
    families: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Returns the table with the columns of a results table, in order and of the right types.

    A column that is missing is empty, and `layer` is that of the `site`; what is known of methods,
    SAEs and tasks is looked up, see `facts.with_facts`, unless the table has it.
    """
    known = set(facts.FACTS) <= set(table.columns) and saes is None and families is None
    table = table.reindex(columns=pd.Index([x for x in COLUMNS if known or x not in facts.FACTS]))
    places = {text: sites.known(text) for text in table["site"].dropna().unique()}
    table["layer"] = table["site"].map({text: site.layer for text, site in places.items() if site})
    for name in {*_TEXT} & {*table.columns}:
        table[name] = table[name].astype(object).where(table[name].notna(), "")
    types = {name: "float64" for name in COLUMNS} | {name: "str" for name in _TEXT}
    types |= {name: "Int64" for name in _COUNTS} | {name: "bool" for name in facts.FLAGS}
    types |= {"seed": "int64", "rank_in_ties": "int64"}
    table = table.astype({name: kind for name, kind in types.items() if name in table})
    return table if known else facts.with_facts(table, saes or {}, families)[list(COLUMNS)]


def write_tables(out: epath.PathLike, results: pd.DataFrame, quiver: pd.DataFrame) -> None:
    """Writes `results.parquet`, `results.csv` and `quiver.csv` into a folder.

    Raises:
        StorageError: the folder is unwritable; each file is there whole or not at all.
    """
    out = epath.Path(out)
    storage.write_atomic(out / "results.parquet", _parquet(results))
    storage.write_atomic(out / "results.csv", spreadsheet.encode_csv(results, quoted=True))
    storage.write_atomic(out / "quiver.csv", spreadsheet.encode_csv(quiver))


def _parquet(table: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), sink)
    return sink.getvalue().to_pybytes()


def summary(quiver: pd.DataFrame, *, tie_rule: str = "documented") -> str:
    """Returns the overall rows of a quiver table as text of at most 80 columns.

    Per regime: compared cells and tied ones, mean test AUC of the baseline quiver and with SAEs,
    the paired difference with its 95 % interval over tasks, the difference under the order-free
    rule (where the table has it) and how often an SAE was chosen; below, fits that did not
    converge.
    """
    overall = quiver[quiver["level"].isna()]
    lines = []
    for key, part in overall.groupby(GROUP, sort=False):
        protocol, model, site = key
        rows = part[part["tie_rule"] == tie_rule]
        neutral = part[part["tie_rule"] == "neutral"].set_index("regime")["delta"]
        lines += [f"{model}, {site}, {protocol} protocol: mean test AUC of the quivers", ""]
        lines += [_HEADER, "-" * len(_HEADER)]
        lines += [_line(row, neutral.get(row["regime"])) for _, row in rows.iterrows()]
        lines += ["", *_notes(rows), ""]
    legend = (
        "without, with: the quiver of baselines, and with SAE probes added. Intervals: 95 % "
        "(paired, bootstrap over tasks). SAE: share of cells where one was chosen. "
        f"Ties ({tie_rule}): {TIE_RULES[tie_rule]}. neutral: the difference under the rule "
        f"without an order, {TIE_RULES['neutral']}."
    )
    return "\n".join([*lines, *textwrap.wrap(legend, width=_WIDTH)])


def means(results: pd.DataFrame, found: Iterable[Group]) -> str:
    """Returns the mean test AUC of every method as text: of a run that compares no quivers.

    Per protocol, model and site a line for each method, the best under the first regime on top,
    and a column for each regime; below, fits that did not converge.

    Args:
        results: a results table.
        found: its groups.
    """
    lines = []
    for group in found:
        part = group.rows(results)
        table = part.groupby(["method", "sae_id", "regime"], sort=False)["test_auc"].mean()
        table = table.unstack("regime")
        regimes = [regime for regime in _in_order(part["regime"]) if regime in table]
        table = table[regimes].sort_values(regimes[0], ascending=False, kind="stable")
        lines += [f"{group.name}: mean test AUC", ""]
        header = f"{'method':<18}" + "".join(f"{regime:>{len(regime) + 2}}" for regime in regimes)
        lines += [header, "-" * len(header)]
        for (method, sae_id), *aucs in table.itertuples():
            cells = ("-" if pd.isna(auc) else f"{auc:.4f}" for auc in aucs)
            row = "".join(
                f"{c:>{len(regime) + 2}}" for c, regime in zip(cells, regimes, strict=True)
            )
            lines.append(f"{method:<18}{row}{f'  {sae_id}' if sae_id else ''}")
        overall = group.quiver[group.quiver["level"].isna()]
        rows = overall[overall["tie_rule"] == "documented"]
        lines += ["", _convergence(rows), ""]
    return "\n".join(lines[:-1])


_WIDTH = 80
_FORMAT = "{:<15} {:>5} {:>4} {:>7} {:>6} {:<25} {:>7} {:>4}"
_HEADER = _FORMAT.format(
    "regime", "cells", "tied", "without", "with", "difference [95 %]", "neutral", "SAE"
)


def _line(row: pd.Series, neutral: float | None) -> str:
    cells = row["cells"]
    if not cells:
        return f"{row['regime']:<15} {0:>5}  nothing to compare"
    interval = f"{row['delta']:+.4f}"
    if pd.notna(row["ci_low"]):
        interval += f" [{row['ci_low']:+.4f},{row['ci_high']:+.4f}]"
    return _FORMAT.format(
        row["regime"],
        cells,
        row["tied"],
        f"{row['baseline']:.4f}",
        f"{row['with_sae']:.4f}",
        interval,
        "" if neutral is None or pd.isna(neutral) else f"{neutral:+.4f}",
        "" if pd.isna(row["sae_chosen"]) else f"{row['sae_chosen'] / cells:.0%}",
    )


def _notes(rows: pd.DataFrame) -> list[str]:
    notes = []
    for _, row in rows.iterrows():
        if row["unpaired"]:
            notes.append(f"{row['regime']}: {row['unpaired']} cells left out (no partner)")
        if row["incomplete"]:
            notes.append(f"{row['regime']}: {row['incomplete']} cells lack some method")
    return [*notes, _convergence(rows)]


def _convergence(rows: pd.DataFrame) -> str:
    known = rows[rows["not_converged"].notna()]
    if known.empty:
        return "Whether the fits converged is not recorded."
    left = [
        f"{row['not_converged']} in {row['regime']}"
        for _, row in known.iterrows()
        if row["not_converged"]
    ]
    return f"Fits that did not converge: {', '.join(left) or 'none'}."


def _check(unit: Mapping[str, Any], fits: Mapping[str, Any]) -> None:
    missing = [f"unit.{name}" for name in _OF_UNIT if name not in unit]
    missing += [f"fits.{name}" for name in _OF_FIT if name not in (*fits, *_OPTIONAL)]
    if missing:
        raise ValueError(f"The unit {dict(unit)} lacks {', '.join(missing)}.")
    lengths = {name: len(fits[name]) for name in _OF_FIT if name in fits}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The unit {dict(unit)} has lists of different lengths: {lengths}.")


def _in_order(regimes: pd.Series) -> list[str]:
    """Returns the regimes in the order of the design, any other after them."""
    return [*ALL_REGIMES, *sorted(set(regimes.unique()) - {*ALL_REGIMES})]


def _codes(column: pd.Series) -> pd.Series:
    """Returns numbers in the order of the values: sorting text of 10^6 rows is slow."""
    if column.name not in _TEXT:
        return column
    codes, _ = pd.factorize(column, sort=True)
    return pd.Series(codes, index=column.index)
