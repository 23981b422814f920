"""Which rows are controls: probes that should not work, or not work as well, beside real ones."""

import re

import numpy as np
import pandas as pd

# What the end of a method's name, or the beginning of an SAE's, says about the control.
CONTROLS = {
    "_shuffled": "training labels shuffled: no signal is left",
    "_random_latents": "as many latents, drawn at random",
    "random/": "an SAE with random weights",
}
_METHOD_SUFFIXES = ("_shuffled", "_random_latents")
_SAE_PREFIX = "random/"


def is_control(results: pd.DataFrame) -> np.ndarray:
    """Returns for each row whether it is a control, by the names of its method and SAE."""
    method = results["method"].astype("category")
    control = np.array([name.endswith(_METHOD_SUFFIXES) for name in method.cat.categories], bool)
    sae_id = results["sae_id"].fillna("").astype("category")
    random = np.array([name.startswith(_SAE_PREFIX) for name in sae_id.cat.categories], bool)
    return _look_up(control, method) | _look_up(random, sae_id)


def _look_up(flags: np.ndarray, column: pd.Series) -> np.ndarray:
    return np.append(flags, False)[column.cat.codes.to_numpy()]  # code -1, a missing name: no


def claim_of(method: str) -> str:
    """Returns the method that a control stands beside: `sae_k16` for `sae_k16_shuffled`."""
    return re.sub("|".join(f"{suffix}$" for suffix in _METHOD_SUFFIXES), "", method)
