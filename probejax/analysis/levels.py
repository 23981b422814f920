"""Which levels of a regime mean the same in all tasks, so that they may be compared together."""

import pandas as pd

BY_GROUP = "group_shift"  # whose levels number the groups of each task


def in_common(cells: pd.DataFrame) -> list[float]:
    """Returns the levels of one regime at which its tasks can be taken together, in order.

    Held-out groups are numbered in each task by itself: there are none where a number is another
    group in another task, or where it is not known which.

    Args:
      cells: of one regime, with the columns `regime`, `level`, `task` and perhaps `group`.
    """
    levels = sorted(cells["level"].dropna().unique())
    if cells["task"].nunique() < 2 or not (cells["regime"] == BY_GROUP).any():
        return levels
    if "group" not in cells or (cells["group"] == "").any():
        return []
    return levels if cells.groupby("level")["group"].nunique().eq(1).all() else []


def group_of(cells: pd.DataFrame) -> str:
    """Returns the name of the group that all cells hold out; empty where there is no such one.

    Args:
      cells: of one level of one regime, perhaps with the column `group`.
    """
    names = cells["group"].fillna("").unique() if "group" in cells else []
    return str(names[0]) if len(names) == 1 else ""
