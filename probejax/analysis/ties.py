"""The order among arrows whose validation AUCs tie: stated, total, and part of every result."""

import re

import numpy as np
import pandas as pd

TIE_RULES = {
    "documented": "exact ties: SAEs first, narrow before wide, large k before small; "
    "then logreg, pca, knn, xgboost, mlp, others by name; probes that pool after those that do not",
    "documented_tolerance": "as documented, with validation AUCs within 1e-9 taken as tied",
    "baseline_first": "as documented, but baselines before SAEs",
    "row_order": "exact ties: the first row of the table",
    "neutral": "the mean test AUC of all methods within 1e-9 of the best validation AUC",
}
TOLERANCE = 1e-9
# The order in which the study's files list its baselines; any other method comes after, by name.
BASELINE_ORDER = ("logreg", "pca", "knn", "xgboost", "mlp")
# Baselines that read all tokens come after those, in this order.
TOKEN_ORDER = (
    *("attention", "attention_no_bos", "attention_h4", "attention_newton", "concat_pca"),
    *("mean_pool", "max_pool", "multimax", "max_of_rolling_means", "ema", "softmax"),
)
_POOLINGS = ("", "max", "mean")  # of an SAE probe's latents, at equal width and k


def tie_orders(arrows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rank of each arrow under `documented` and under `baseline_first`.

    Args:
        arrows: one row per arrow, with the columns `method`, `sae_id` and `k`.
    """
    sae_ids = ["" if pd.isna(sae_id) else str(sae_id) for sae_id in arrows["sae_id"]]
    ks = arrows["k"].to_numpy(dtype=float, na_value=np.nan)
    keys = [
        (_sae_key(method, sae_id, float(k)) if sae_id else _baseline_key(method), bool(sae_id))
        for method, sae_id, k in zip(arrows["method"], sae_ids, ks, strict=True)
    ]

    def ranks(sae_place: int) -> np.ndarray:
        places = [(sae_place if is_sae else 0, key) for key, is_sae in keys]
        order = sorted(range(len(keys)), key=places.__getitem__)
        return np.argsort(np.array(order, dtype=int))

    return ranks(-1), ranks(1)


def _sae_key(method: str, sae_id: str, k: float) -> tuple:
    pooled = re.match(r"sae_(max|mean)_", method)
    pooling = _POOLINGS.index(pooled[1] if pooled else "")
    return (sae_width(sae_id), 0.0 if np.isnan(k) else -k, sae_id, pooling, method)


def _baseline_key(method: str) -> tuple:
    if method in BASELINE_ORDER:
        return (0, BASELINE_ORDER.index(method), method)
    if method in TOKEN_ORDER:
        return (2, TOKEN_ORDER.index(method), method)
    return (1, 0, method)


def sae_width(sae_id: str) -> float:
    """Returns the number of latents that an SAE's id names (16k, 2pow14, 131072), else infinity."""
    if match := re.search(r"width[_-](\d+)pow(\d+)", sae_id):
        return float(int(match[1]) ** int(match[2]))
    if match := re.search(r"(?:width|w)[_-]?(\d+(?:\.\d+)?)([km]?)(?![a-z0-9])", sae_id):
        return float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2]]
    return float("inf")
