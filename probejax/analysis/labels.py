"""How regimes, levels, arrows and numbers are written for a reader."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from probejax import tasks
from probejax.analysis.ties import tie_orders

TITLES = {name: regime.title for name, regime in tasks.ALL_REGIMES.items()}
AXES = {name: regime.axis for name, regime in tasks.ALL_REGIMES.items() if regime.axis}


Value = Any  # a number of Python, numpy or pandas, or a missing one


def title(regime: str) -> str:
    """Returns a regime's name as a heading."""
    return TITLES.get(regime, regime.replace("_", " ").capitalize())


def counted(number: int | np.integer, name: str) -> str:
    """Returns `1 task`, `2 tasks`."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def level_text(regime: str, level: Value) -> str:
    """Returns a level as a reader writes it: `64`, `5 %`; empty for no level."""
    if pd.isna(level):
        return ""
    known = tasks.ALL_REGIMES.get(regime)
    return format(float(level), known.level if known else "g").replace("%", " %")


def one_name(labels: pd.Series) -> str:
    """Returns the one name, or how many there are: over several seeds choices may differ."""
    names = labels.unique()
    return names[0] if len(names) == 1 else f"{len(names)} methods"


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


def sae_names(rows: pd.DataFrame) -> dict[str, str]:
    """Returns a short name for each SAE (`16k L0 408`), or its id where that would be ambiguous.

    Args:
        rows: with the columns `sae_id`, `sae_width`, `sae_l0`, `sae_architecture`, `sae_random`.
    """
    saes = rows[rows["sae_id"] != ""].drop_duplicates("sae_id").set_index("sae_id")
    found = [_short(row) for _, row in saes.iterrows()]
    architectures = [architecture_name(name) for name in saes["sae_architecture"]]
    longer = [f"{architecture} {name}".strip() for architecture, name in
              zip(architectures, found, strict=True)]  # fmt: skip
    return {
        str(sae_id): next((name for name, all_names in ((found[i], found), (longer[i], longer))
                           if name and all_names.count(name) == 1), str(sae_id))
        for i, sae_id in enumerate(saes.index)
    }  # fmt: skip


def _short(sae: pd.Series) -> str:
    width, l0 = sae["sae_width"], sae["sae_l0"]
    if pd.isna(width):
        return ""
    text = f"{width:g}" if width < 1e3 else f"{width // 1e3:g}k"
    text = text if width < 1e6 else f"{width // 1e5 / 10:g}m"
    kind = "random " if sae["sae_random"] else ""
    return f"{kind}{text}" + ("" if pd.isna(l0) else f" L0 {round(l0, 1):g}")


_ARCHITECTURES = {
    "relu": "ReLU",
    "relu_new": "ReLU (new)",
    "gated": "Gated",
    "topk": "TopK",
    "jumprelu": "JumpReLU",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "p_anneal": "p-anneal",
}


def architecture_name(architecture: str) -> str:
    """Returns how an architecture is written."""
    return _ARCHITECTURES.get(architecture, architecture)


def arrow_labels(arrows: pd.DataFrame) -> list[str]:
    """Returns what each arrow is called: its method, and its SAE where there are several.

    Args:
        arrows: one row per arrow, with the columns `method` and those of `sae_names`.
    """
    names = sae_names(arrows)
    several = len(names) > 1
    return [
        f"{method} ({names[sae_id]})" if sae_id and several else method
        for method, sae_id in zip(arrows["method"], arrows["sae_id"], strict=True)
    ]


def in_order(arrows: pd.DataFrame) -> np.ndarray:
    """Returns the places of the arrows for reading: baselines, then SAEs by width, L0 and k."""
    keys = arrows.assign(
        is_sae=arrows["sae_id"] != "",
        l0=arrows["sae_l0"].fillna(0.0),
        k=arrows["k"].astype(float).fillna(0.0),
        rank=tie_orders(arrows)[1],
        place=np.arange(len(arrows)),
    )
    order = keys.sort_values(["is_sae", "sae_width", "l0", "k", "rank"])
    return order["place"].to_numpy()
