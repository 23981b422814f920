"""What is known of the method, the SAE and the task of each fit, as columns of the results."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from probejax import tasks
from probejax.probes import methods

OF_METHOD = ("family", "pooling", "binarised", "control", "reads_tokens", "rank_in_ties")
OF_SAE = ("sae_width", "sae_l0", "sae_architecture", "sae_released", "sae_random")
FACTS = (*OF_METHOD, *OF_SAE, "task_family")
CONTROL = ("control", "sae_random")  # what makes a row a control
TEXT = ("family", "pooling", "control", "sae_architecture", "sae_released", "task_family")
FLAGS = ("binarised", "reads_tokens", "sae_random")


def with_facts(
    results: pd.DataFrame,
    saes: Mapping[str, Mapping[str, Any]] | None = None,
    families: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Returns a results table with the columns `FACTS`; one that has them all keeps them.

    Args:
        results: with the columns `method`, `sae_id` and `task`.
        saes: per id what its units say of an SAE: `width`, `l0`, `architecture`, `released` (an ISO
            date) and `random`, any of them absent or None. What is absent is read from the id.
        families: the family of each task that is not the study's; one that is not known is a
            family of its own.
    """
    if saes is None and families is None and set(FACTS) <= set(results.columns):
        return results
    of_method = {name: methods.parse_any(name) for name in results["method"].unique()}
    sae_ids = [sae_id for sae_id in results["sae_id"].dropna().unique() if sae_id]
    of_sae = {"": dict.fromkeys(OF_SAE)}
    of_sae |= {sae_id: _sae(sae_id, (saes or {}).get(sae_id, {})) for sae_id in sae_ids}
    names = results["task"].unique()
    known = tasks.STUDY_FAMILIES | dict(families or {})
    family = {name: known.get(name, name) for name in names}
    columns = {
        name: _spread(results["method"], {k: getattr(v, name) for k, v in of_method.items()}, name)
        for name in OF_METHOD
    }
    columns |= {
        name: _spread(results["sae_id"].fillna(""), {k: v[name] for k, v in of_sae.items()}, name)
        for name in OF_SAE
    }
    return results.assign(**columns, task_family=_spread(results["task"], family, "task_family"))


def _spread(keys: pd.Series, values: Mapping[str, Any], name: str) -> pd.Series:
    """Returns the value of every key, one row each; each key is looked up once."""
    codes, known = pd.factorize(keys)
    kind = "str" if name in TEXT else bool if name in FLAGS else float
    kind = "int64" if name == "rank_in_ties" else kind
    empty = {"str": "", bool: False}.get(kind, np.nan)
    found = [empty if (value := values[key]) is None else value for key in known]
    return pd.Series(pd.Series(found, dtype=kind).array.take(codes), index=keys.index)


def _sae(sae_id: str, known: Mapping[str, Any]) -> dict[str, Any]:
    said = {f"sae_{name}": value for name, value in known.items() if value is not None}
    return {name: said.get(name, value) for name, value in _named(sae_id).items()}


def _named(sae_id: str) -> dict[str, Any]:
    """Returns what the id of an SAE says, for units from before their files said it themselves."""
    width, l0 = None, re.search(r"l0[_-]?(\d+(?:\.\d+)?)", sae_id)
    if match := re.search(r"width[_-](\d+)pow(\d+)", sae_id):
        width = float(int(match[1]) ** int(match[2]))
    elif match := re.search(r"(?:width|w)[_-]?(\d+(?:\.\d+)?)([km]?)(?![a-z0-9])", sae_id):
        width = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2]]
    return dict.fromkeys(OF_SAE) | {
        "sae_width": width,
        "sae_l0": float(l0[1]) if l0 else None,
        "sae_random": sae_id.startswith("random/"),
    }


def is_control(results: pd.DataFrame) -> np.ndarray:
    """Returns for each row whether it is a probe that should not work, or not work as well.

    These are `control` methods (labels shuffled, latents drawn at random) and SAEs with random
    weights.
    """
    return ((results["control"] != "") | results["sae_random"]).to_numpy(bool)


def plain_sae_probe(results: pd.DataFrame) -> np.ndarray:
    """Returns for each row whether it is `sae_k<k>`: of the last token's latents, no control."""
    rest = (results["pooling"] == "") & ~results["binarised"] & ~is_control(results)
    return ((results["family"] == "sae") & rest).to_numpy(bool)
