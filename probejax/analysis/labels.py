"""How regimes, levels, arrows and numbers are written for a reader."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probejax import tasks
from probejax.analysis.ties import sae_width, tie_orders

TITLES = {name: regime.title for name, regime in tasks.ALL_REGIMES.items()}
AXES = {name: regime.axis for name, regime in tasks.ALL_REGIMES.items() if regime.axis}


Value = Any  # a number of Python, numpy or pandas, or a missing one


def title(regime: str) -> str:
    """Returns a regime's name as a heading."""
    return TITLES.get(regime, regime.replace("_", " ").capitalize())


def level_text(regime: str, level: Value) -> str:
    """Returns a level as a reader writes it: `64`, `5 %`; empty for no level."""
    if pd.isna(level):
        return ""
    known = tasks.ALL_REGIMES.get(regime)
    return format(float(level), known.level if known else "g").replace("%", " %")


def tasks_in_order(names: Iterable[str]) -> list[str]:
    """Returns tasks in the study's order, any other after them by name."""
    places = {name: place for place, name in enumerate(tasks.names())}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def number(value: Value, digits: int = 4) -> str:
    """Returns a number with a real minus sign; a dash where there is none."""
    if pd.isna(value):
        return "\N{EN DASH}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: Value, digits: int = 4) -> str:
    """Returns a difference with its sign; without one where nothing is left of it."""
    if pd.isna(value):
        return "\N{EN DASH}"
    if round(float(value), digits) == 0:
        return f"{0:.{digits}f}"
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(share: Value) -> str:
    """Returns a share as whole percent."""
    return "\N{EN DASH}" if pd.isna(share) else f"{100 * share:.0f} %"


def p_text(value: Value) -> str:
    """Returns a p-value, those below what the tests resolve as a bound."""
    if pd.isna(value):
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: Value, high: Value, digits: int = 4) -> str:
    """Returns `low to high`, signed; empty where there is no interval."""
    return "" if pd.isna(low) else f"{signed(low, digits)} to {signed(high, digits)}"


def sae_l0(sae_id: str) -> float:
    """Returns the mean number of active latents that an SAE's id names, else NaN."""
    match = re.search(r"l0[_-]?(\d+(?:\.\d+)?)", sae_id)
    return float(match[1]) if match else float("nan")


def sae_names(sae_ids: Sequence[str]) -> dict[str, str]:
    """Returns a short name for each SAE (`16k L0 408`), or its id where that would be ambiguous."""
    short = {sae_id: _short(sae_id) for sae_id in sae_ids}
    names = list(short.values())
    return {sae_id: name if names.count(name) == 1 else sae_id for sae_id, name in short.items()}


def _short(sae_id: str) -> str:
    kind = "random " if sae_id.startswith("random/") else ""
    match = re.search(r"width[_-]([0-9a-z]+)", sae_id)
    if not match:
        return sae_id
    l0 = sae_l0(sae_id)
    return f"{kind}{match[1]}" + ("" if np.isnan(l0) else f" L0 {l0:g}")


def arrow_labels(arrows: pd.DataFrame) -> list[str]:
    """Returns what each arrow is called: its method, and its SAE where there are several.

    Args:
        arrows: one row per arrow, with the columns `method` and `sae_id`.
    """
    names = sae_names([sae_id for sae_id in arrows["sae_id"].unique() if sae_id])
    several = len(names) > 1
    return [
        f"{method} ({names[sae_id]})" if sae_id and several else method
        for method, sae_id in zip(arrows["method"], arrows["sae_id"], strict=True)
    ]


def in_order(arrows: pd.DataFrame) -> np.ndarray:
    """Returns the places of the arrows for reading: baselines, then SAEs by width, L0 and k."""
    rank = tie_orders(arrows)[1]
    keys = [
        (bool(sae_id), sae_width(sae_id), np.nan_to_num(sae_l0(sae_id)), 0 if pd.isna(k) else k, r)
        for sae_id, k, r in zip(arrows["sae_id"], arrows["k"], rank, strict=True)
    ]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=int)
