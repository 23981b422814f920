"""The order among arrows whose validation AUCs tie: stated, total, and part of every result."""

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
ORDERED_BY = ("sae_width", "k", "sae_id", "rank_in_ties", "method")


def tie_orders(arrows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rank of each arrow under `documented` and under `baseline_first`.

    Args:
        arrows: one row per arrow, with the columns `method`, `sae_id`, `k`, `sae_width` and
            `rank_in_ties`.
    """
    order = ["sae_width", "-k", "sae_id", "rank_in_ties", "method"]
    keys = arrows.assign(
        **{"-k": -arrows["k"].astype(float).fillna(0.0)},
        sae_id=arrows["sae_id"].fillna(""),
        place=np.arange(len(arrows)),
    )
    keys["is_sae"] = keys["sae_id"] != ""
    keys = keys.sort_values(order, na_position="last")  # a width that is not known comes last

    def ranks(sae_first: bool) -> np.ndarray:
        sides = keys.sort_values("is_sae", ascending=not sae_first, kind="stable")
        return np.argsort(sides["place"].to_numpy())

    return ranks(True), ranks(False)
