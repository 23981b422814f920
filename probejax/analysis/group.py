"""One protocol, model and site, ready to be shown."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probejax.analysis.grid import CELL, GROUP, Grid, compared, grid
from probejax.analysis.head_to_head import pairs
from probejax.analysis.labels import TITLES, level_text
from probejax.analysis.levels import group_of
from probejax.analysis.quiver import choices
from probejax.analysis.verdict import STATED


class Group(NamedTuple):
    """The results that may be compared with each other.

    Attributes:
      protocol: of all rows, like `model` and `site`.
      quiver: its rows of the quiver table.
      table: its fits as a grid.
      cells: one row per cell: `CELL`, `task_family`, `baseline`, `with_sae`, `delta`, `tied`,
        `sae_chosen`, and the labels of what was chosen, `baseline_label` and `chosen_label`.
      head_to_head: regimes where nothing could be chosen (no validation AUC) and the only two
        methods, whose AUCs then stand in `cells`.
    """

    protocol: str
    model: str
    site: str
    quiver: pd.DataFrame
    table: Grid
    cells: pd.DataFrame
    head_to_head: dict[str, tuple[str, str]]

    @property
    def name(self) -> str:
        """What the group is called."""
        return f"{self.model}, {self.site}, {self.protocol} protocol"

    def rows(self, results: pd.DataFrame) -> pd.DataFrame:
        """Returns the rows of a results table that belong to the group."""
        same = np.ones(len(results), dtype=bool)
        for column, value in zip(GROUP, (self.protocol, self.model, self.site), strict=True):
            same &= (results[column] == value).to_numpy(bool)
        return results[same]

    @property
    def regimes(self) -> list[str]:
        """The regimes, in the order of the design."""
        found = self.table.cells["regime"].unique()
        known = [regime for regime in TITLES if regime in found]
        return known + sorted(set(found) - set(known))

    @property
    def compared_regimes(self) -> list[str]:
        """Those of the regimes that have a comparison."""
        found = self.cells[self.cells["delta"].notna()]["regime"].unique()
        return [regime for regime in self.regimes if regime in found]

    def row(self, regime: str, tie_rule: str = STATED) -> pd.Series | None:
        """Returns the overall row of a regime, None where there is no comparison of quivers."""
        rows = self.quiver[(self.quiver["regime"] == regime) & self.quiver["level"].isna()]
        rows = rows[(rows["tie_rule"] == tie_rule) & (rows["cells"] > 0)]
        return None if rows.empty else rows.iloc[0]

    def levels(self, regime: str, tie_rule: str = STATED) -> pd.DataFrame:
        """Returns the rows of a regime's levels that have a comparison."""
        rows = self.quiver[(self.quiver["regime"] == regime) & self.quiver["level"].notna()]
        return rows[(rows["tie_rule"] == tie_rule) & (rows["cells"] > 0)]

    def level_names(self, regime: str) -> dict[Any, str]:
        """Returns what a reader calls each level: `64`, `5 %`, or the group that is held out."""
        cells = self.cells[(self.cells["regime"] == regime) & self.cells["level"].notna()]
        return {
            level: group_of(own) or level_text(regime, level)
            for level, own in cells.groupby("level")
        }

    def compared(self, regime: str) -> pd.DataFrame:
        """Returns the compared cells of a regime."""
        return self.cells[(self.cells["regime"] == regime) & self.cells["delta"].notna()]


def groups(
    results: pd.DataFrame,
    quiver: pd.DataFrame,
    chosen: Mapping[tuple[str, str], str] = MappingProxyType({}),
    first: Collection[tuple[str, str, str]] = (),
) -> list[Group]:
    """Returns the groups of a table: those with most comparisons first, `paper` before others.

    Args:
      results: one row per fit.
      quiver: its quiver table.
      chosen: (protocol, model) -> the site that is first where several have as many comparisons.
      first: (protocol, model, site) of those that go before all others.
    """
    found = []
    for key, part in compared(results).groupby(GROUP, sort=False, dropna=False):
        part = part.reset_index(drop=True)
        table = grid(part)
        cells, head_to_head = _cells(part, table)
        protocol, model, site = map(str, key)
        group = Group(protocol, model, site, quiver, table, cells, head_to_head)
        found.append(group._replace(quiver=group.rows(quiver)))
    rank = lambda g: (
        (g.protocol, g.model, g.site) not in first,
        g.protocol != "paper",
        -g.cells["delta"].notna().sum(),
        g.model,
        chosen.get((g.protocol, g.model)) != g.site,
    )
    return sorted(found, key=rank)


def _cells(part: pd.DataFrame, table: Grid) -> tuple[pd.DataFrame, dict[str, tuple[str, str]]]:
    labels = np.append(table.arrows["label"].to_numpy(dtype=object), "")
    arrow = np.append(table.arrow, -1)
    cells = choices(part, tie_rule=STATED)
    # Small tables are sliced thousands of times; plain objects are faster at that than Arrow's.
    cells = cells.astype(dict.fromkeys([*GROUP, "regime", "task"], object)).assign(
        baseline_label=labels[arrow[cells["baseline_row"]]],
        chosen_label=labels[arrow[cells["chosen_row"]]],
    )
    head_to_head, extra = {}, []
    for regime in part["regime"].unique():
        if cells.loc[cells["regime"] == regime, "delta"].notna().any():
            continue
        rows = part[part["regime"] == regime]
        arrows = table.arrows[~table.arrows["is_control"]]
        arrows = arrows[np.isin(arrows.index, table.arrow[rows.index])]
        sae, base = arrows[arrows["is_sae"]], arrows[~arrows["is_sae"]]
        if len(sae) != 1 or len(base) != 1:
            continue
        sae, base = sae.iloc[0], base.iloc[0]
        found = pairs(rows, base["method"], sae["sae_id"], int(sae["k"]), sae["method"])
        extra.append(
            found[[*CELL, "task_family", "baseline", "delta"]].assign(
                with_sae=found["sae"],
                tied=False,
                sae_chosen=True,
                baseline_label=base["label"],
                chosen_label=sae["label"],
            )
        )
        head_to_head[regime] = (base["label"], sae["label"])
        cells = cells[cells["regime"] != regime]
    return pd.concat([cells, *extra], ignore_index=True) if extra else cells, head_to_head
