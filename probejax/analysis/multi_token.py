"""Do SAE probes win where probes read all tokens? The study's three panels, and every method.

arXiv 2502.16681, figure 11: with the last token on both sides ("fair"), SAE probes win few tasks;
pooled SAE probes against a last-token baseline win on more (an "illusion", as one side alone sees
all tokens); where the baseline may pool too, by attention, most of that is gone ("fair" again).
Attention reads BOS in the study; where a model's BOS drowns all other tokens, a panel of its own
shows attention without it.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probejax.analysis import intervals
from probejax.analysis.grid import GROUP, Grid, compare
from probejax.analysis.group import Group
from probejax.analysis.labels import title
from probejax.analysis.quiver import MARGIN

PANELS = {
    "fair_last": "fair: last token on both sides",
    "illusion": "illusion: the SAE probe alone pools",
    "fair_pooling": "fair: both sides may pool",
    "fair_pooling_no_bos": "fair: both may pool, attention without BOS",
}
METHOD = "method"  # stands for the panel where a row is one method against last-token logreg
_LAST, _ATTENTION = "logreg", "attention"
RULE = (
    f"A side wins a task where its test AUC is ahead by more than {MARGIN:g}; shares are of all "
    "tasks compared, with Wilson's 95 % interval. Differences are SAE minus baseline, paired, with "
    "a 95 % bootstrap interval over tasks. Where a side may pool, the better validation AUC "
    "chooses between its two probes, the last-token one at a tie."
)


def multi_token(groups: Sequence[Group]) -> pd.DataFrame:
    """Returns the panels and the methods of every group that has attention and max-pooled latents.

    Columns: `protocol, model, site, regime, panel, baseline, contender` (labels of both sides;
    `panel` is `method` for one method against last-token logreg), `sae_id, k`, `tasks`, `cells`
    and `unpaired` (cells where a side lacks a probe), mean test AUCs `baseline_auc` and
    `contender_auc`, `delta` (contender minus baseline) with its intervals (see
    `intervals.of_mean`); and tasks on which
    either side is ahead by more than `MARGIN`, of all tasks compared: `wins`, `win_rate`,
    `win_low`, `win_high` of the contender, `losses`, `loss_rate`, `loss_low`, `loss_high`.
    """
    rows = []
    for group in groups:
        if not reads_tokens(group.table):
            continue
        where = dict(zip(GROUP, (group.protocol, group.model, group.site), strict=True))
        for regime in group.table.cells["regime"].unique():
            found = [*panels(group.table, regime), *_methods(group.table, regime)]
            rows += [where | {"regime": regime} | row for row in found]
    return pd.DataFrame(rows)


def reads_tokens(table: Grid) -> bool:
    """Tells whether a grid has the attention probe and SAE probes on max-pooled latents."""
    arrows = table.arrows[~table.arrows["is_control"]]
    pooled = (arrows["pooling"] == "max") & ~arrows["binarised"]
    return bool((arrows["family"] == _ATTENTION).any() and pooled.any())


def panels(table: Grid, regime: str) -> Iterator[dict[str, Any]]:
    """Yields the panels of one regime that the grid has both sides of, per SAE and k."""
    for sae_id, k in _last_and_pooled(table):
        last, pooled = f"sae_k{k}", f"sae_max_k{k}"
        for panel, baselines, contenders in (
            ("fair_last", (_LAST,), (last,)),
            ("illusion", (_LAST,), (pooled,)),
            ("fair_pooling", (_LAST, _ATTENTION), (last, pooled)),
            ("fair_pooling_no_bos", (_LAST, f"{_ATTENTION}_no_bos"), (last, pooled)),
        ):
            left = _side(table, regime, [(name, "") for name in baselines])
            right = _side(table, regime, [(name, sae_id) for name in contenders])
            if left is None or right is None:
                continue
            names = {"baseline": " or ".join(baselines), "contender": " or ".join(contenders)}
            about = {"panel": panel} | names | {"sae_id": sae_id, "k": k}
            yield about | _compared(table, regime, left, right)


def _last_and_pooled(table: Grid) -> list[tuple[str, int]]:
    """Returns every SAE and k with a probe on the last token's latents or on pooled ones."""
    arrows = table.arrows[table.arrows["is_sae"] & ~table.arrows["is_control"]]
    arrows = arrows[(arrows["family"] == "sae") & ~arrows["binarised"]]
    arrows = arrows[arrows["pooling"] != "mean"]
    pairs = zip(arrows["sae_id"], arrows["k"], strict=True)
    return list(dict.fromkeys((sae_id, int(k)) for sae_id, k in pairs))


def _side(table: Grid, regime: str, arrows: list[tuple[str, str]]) -> np.ndarray | None:
    """Returns the test AUCs of what a side chooses; NaN in a cell that lacks one of its probes."""
    known = list(zip(table.arrows["method"], table.arrows["sae_id"], strict=True))
    if not all(arrow in known for arrow in arrows):
        return None
    columns = [known.index(arrow) for arrow in arrows]
    here = table.in_regime(regime)
    val, test = (table.values[name][here][:, columns] for name in ("val_auc", "test_auc"))
    if len(arrows) == 1:
        return test[:, 0]
    whole = np.isfinite(val).all(axis=1) & np.isfinite(test).all(axis=1)
    first = np.argmax(np.where(np.isfinite(val), val, -np.inf), axis=1)  # of equal ones the first
    return np.where(whole, test[np.arange(len(test)), first], np.nan)


def _compared(table: Grid, regime: str, left: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    tasks, families = table.tasks(table.in_regime(regime))
    found = compare(left, right, tasks, families, margin=MARGIN)
    count = len(np.unique(tasks[np.isfinite(left) & np.isfinite(right)]))
    row = {
        "tasks": count,
        "cells": found["cells"],
        "unpaired": found["unpaired"],
        "baseline_auc": found["left"],
        "contender_auc": found["right"],
        **{name: found[name] for name in intervals.COLUMNS},
    }
    for name, number in (("win", found["wins"]), ("loss", found["losses"])):
        low, high = intervals.wilson(number, count)
        row |= {
            "wins" if name == "win" else "losses": number,
            f"{name}_rate": number / count if count else np.nan,
            f"{name}_low": low,
            f"{name}_high": high,
        }
    return row


def _methods(table: Grid, regime: str) -> Iterator[dict[str, Any]]:
    """Yields every method that is no control against logreg on the last token."""
    left = _side(table, regime, [(_LAST, "")])
    if left is None:
        return
    for row in table.arrows[~table.arrows["is_control"]].to_dict("records"):
        right = _side(table, regime, [(row["method"], row["sae_id"])])
        if right is None or not np.isfinite(right).any():
            continue
        names = {"panel": METHOD, "baseline": _LAST, "contender": row["label"]}
        k = None if pd.isna(row["k"]) else int(row["k"])
        yield names | {"sae_id": row["sae_id"], "k": k} | _compared(table, regime, left, right)


def summary(rows: pd.DataFrame) -> str:
    """Returns the table of `multi_token` as text of at most 100 columns; empty if it is."""
    if rows.empty:
        return ""
    lines = []
    for key, part in rows.groupby([*GROUP, "regime"], sort=False):
        protocol, model, site, regime = map(str, key)
        lines += [
            f"{model}, {site}, {protocol} protocol, {title(regime).lower()}: all tokens",
            "",
        ]
        several = part["sae_id"].nunique() > 2  # the empty one is the baselines'
        for row in part[part["panel"] != METHOD].to_dict("records"):
            where = f" ({row['sae_id']})" if several else ""
            lines += [
                f"{PANELS[row['panel']]}: {row['contender']} against {row['baseline']}{where}",
                f"    SAE wins {_share(row, 'win')}, baseline wins {_share(row, 'loss')}",
                f"    difference {_difference(row)}{_left_out(row)}",
            ]
        lines += ["", _METHODS.format(*_HEADINGS)]
        for row in part[part["panel"] == METHOD].to_dict("records"):
            same = row["contender"] == row["baseline"]
            lines.append(
                _METHODS.format(
                    row["contender"],
                    f"{row['contender_auc']:.4f}",
                    "" if same else _difference(row),
                    "" if same else row["wins"],
                    "" if same else row["losses"],
                    "" if same else row["unpaired"],
                ).rstrip()
            )
        lines += [""]
    return "\n".join([*lines, *textwrap.wrap(RULE, width=98)])


_METHODS = "{:<34} {:>9}  {:<27} {:>4} {:>5} {:>11}"
_HEADINGS = ("method", "test AUC", "minus logreg [95 %]", "won", "lost", "no partner")


def _share(row: Mapping[Any, Any], side: str) -> str:
    number = row["wins" if side == "win" else "losses"]
    low, high = 100 * row[f"{side}_low"], 100 * row[f"{side}_high"]
    return f"{number}/{row['tasks']} ({100 * row[f'{side}_rate']:.1f} %, {low:.0f} to {high:.0f})"


def _difference(row: Mapping[Any, Any]) -> str:
    text = f"{row['delta']:+.4f}"
    if np.isfinite(row["ci_low"]):
        text += f" [{row['ci_low']:+.4f},{row['ci_high']:+.4f}]"
    return text


def _left_out(row: Mapping[Any, Any]) -> str:
    return f"; {row['unpaired']} cells lack a partner" if row["unpaired"] else ""
