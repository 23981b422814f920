"""What is known to be wrong in the study's published analysis, beside the corrected value."""

import pathlib

import numpy as np
import pandas as pd

from probejax.analysis import published
from probejax.analysis.head_to_head import pairs
from probejax.analysis.quiver import choices

COLUMNS = ("fault", "figure", "quantity", "level", "published", "corrected", "explanation")
_FOLLOWED = 128  # the k of the study's head-to-head comparisons
_DEFAULT_SITE = "resid_post.8"  # the notebook reads it for Llama if not told otherwise


def faults(
    folder: str | pathlib.Path, model: str = "gemma-2-9b", ranking: str = "old"
) -> pd.DataFrame:
    """Returns the known faults that this model's files show, recomputed from them.

    Args:
        folder: the study's files, see `published.read`.
        model: as there.
        ranking: as there.

    Returns:
        `COLUMNS`, one row per fault and level; `published` is what the study's rule gives,
        `corrected` what it should be. Faults that need files which are not there have no row.

    Raises:
        FileNotFoundError, ValueError: as for `published.read`.
    """
    results = published.read(folder, model, ranking)
    rows = [
        *_positional(results),
        *_layer(folder, model, ranking, results),
        *_in_distribution(folder, model, results),
        *_bands(results),
        *_pooled(results),
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _narrowest(results: pd.DataFrame, regime: str) -> pd.DataFrame:
    """Returns a regime's rows of its narrowest SAE at the largest k of the study's quiver."""
    rows = results[(results["regime"] == regime) & (results["k"] == _FOLLOWED)]
    if rows.empty:
        return rows
    chosen = rows.sort_values(["sae_width", "sae_id"])["sae_id"].iloc[0]
    return rows[rows["sae_id"] == chosen]


def _positional(results: pd.DataFrame) -> list[tuple]:
    sae = _narrowest(results, "label_noise")
    base = results[(results["regime"] == "label_noise") & (results["method"] == "logreg")]
    if sae.empty or base.empty:
        return []
    both = pd.concat([base, sae])
    aligned = pairs(both, "logreg", sae["sae_id"].iloc[0], _FOLLOWED, sae["method"].iloc[0])
    rows = []
    for level in sorted(base["level"].unique()):
        left = base[base["level"] == level]["test_auc"].to_numpy()
        right = sae[sae["level"] == level]["test_auc"].to_numpy()
        n = min(len(left), len(right))
        delta = aligned[aligned["level"] == level]["delta"].dropna()
        rows.append(
            (
                "rows compared by position",
                "17c",
                f"tasks of {len(delta)} on which the SAE probe beats logreg",
                level,
                float((right[:n] > left[:n]).sum()),
                float((delta > 0).sum()),
                "the two files list the tasks in different orders",
            )
        )
    return rows


def _layer(
    folder: str | pathlib.Path, model: str, ranking: str, results: pd.DataFrame
) -> list[tuple]:
    if results["site"].iloc[0] == _DEFAULT_SITE:
        return []
    everything = published.read(folder, model, ranking, every_layer=True)
    standard = everything[everything["regime"] == "standard"]
    other = standard[(standard["site"] == _DEFAULT_SITE) & (standard["sae_id"] == "")]
    here = standard[standard["site"] == results["site"].iloc[0]]
    saes = here[here["sae_id"] != ""]
    if other.empty or saes.empty:
        return []
    mixed = pd.concat([other.assign(site=here["site"].iloc[0]), saes], ignore_index=True)
    deltas = [choices(rows, tie_rule="baseline_first")["delta"].mean() for rows in (mixed, here)]
    why = f"baselines of {_DEFAULT_SITE} beside SAE probes of {here['site'].iloc[0]}"
    return [("baselines of another layer", "18b", "mean change of AUC", np.nan, *deltas, why)]


def _in_distribution(folder: str | pathlib.Path, model: str, results: pd.DataFrame) -> list[tuple]:
    path = pathlib.Path(folder) / f"sae_probes_{model}" / "OOD_setting" / "all_metrics.csv"
    shifted = results[results["regime"] == "covariate_shift"]
    base, sae = shifted[shifted["sae_id"] == ""], shifted[shifted["sae_id"] != ""]
    if not path.exists() or base.empty or sae.empty:
        return []
    table = published.read_csv(path)
    table = table[table["k"] == _FOLLOWED].merge(
        base[["task", "test_auc"]], left_on="dataset", right_on="task", suffixes=("", "_logreg")
    )
    published_delta = (table["test_auc"] - table["test_auc_logreg"]).mean()
    corrected = sae["test_auc"].mean() - base["test_auc"].mean()
    what = f"SAE probes (k={_FOLLOWED}) minus logreg, mean over {base['task'].nunique()} tasks"
    why = "the test rows of OOD_setting are those of the standard split, not the shifted ones"
    row = ("in-distribution file named OOD", "none; later work used the file", what, np.nan)
    return [(*row, published_delta, corrected, why)]


def _bands(results: pd.DataFrame) -> list[tuple]:
    rows = []
    for regime in ("scarcity", "imbalance"):
        part = results[results["regime"] == regime]
        if part.empty or (part["sae_id"] == "").all():
            continue
        cells = choices(part).dropna(subset=["delta"])
        if cells["task"].nunique() < 2:
            continue
        levels = cells.groupby("level")
        count = np.sqrt(levels["delta"].count())
        apart = np.sqrt(levels["baseline"].var() + levels["with_sae"].var()) / count
        paired = levels["delta"].std() / count
        mean = levels["delta"].mean()
        why = "both quivers are measured on the same tasks, so their errors are not independent"
        common = ("bands of independent means", "6")
        rows += [
            (*common, f"{regime}: half-width of the 95 % band, mean over levels", np.nan,
             1.96 * apart.mean(), 1.96 * paired.mean(), why),
            (*common, f"{regime}: levels of {len(mean)} whose band excludes zero", np.nan,
             float((mean.abs() > 1.96 * apart).sum()), float((mean.abs() > 1.96 * paired).sum()),
             "no correction for looking at many levels in either"),
        ]  # fmt: skip
    return rows


def _pooled(results: pd.DataFrame) -> list[tuple]:
    rows = []
    for regime in ("scarcity", "imbalance"):
        followed = _narrowest(results, regime)
        if followed.empty:
            continue
        same = (results["regime"] == regime) & (results["sae_id"] == followed["sae_id"].iloc[0])
        pooled = results[same]
        if pooled["k"].nunique() < 2:
            continue
        why = "the bar mixes k = 16 and k = 128; the other regimes show k = 128 alone"
        means = pooled["test_auc"].mean(), followed["test_auc"].mean()
        rows.append(
            (
                "two probes in one bar",
                "1",
                f"{regime}: mean AUC of the SAE bar",
                np.nan,
                *means,
                why,
            )
        )
    return rows
