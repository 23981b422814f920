"""The study's published case studies: GLUE CoLA's labels, pruned latents, one latent per task."""

import pathlib

import numpy as np
import pandas as pd
from jaxtyping import Bool

from probejax.analysis import published

_TESTS = {0: "original labels", 1: "labels of the judges", 2: "rows where they differ"}
_PROBES = {"baseline": "logreg", "sae_128": "sae_k128", "sae_1": "one latent"}
_COLA = "87_glue_cola_investigate"


def cola_probes(folder: str | pathlib.Path) -> pd.DataFrame:
    """Returns how probes trained on GLUE CoLA do on the judged rows: `test, method, test_auc, ...`.

    The "one latent" is the one ranked third, which the study picked by hand.

    Raises:
        FileNotFoundError: the folder has no such file.
        ValueError: the file holds other tests or probes than the study's.
    """
    path = pathlib.Path(folder) / "investigate" / f"{_COLA}_probes.csv"
    table = published.read_csv(path)
    test, method = table["run_num"].map(_TESTS), table["run_type"].map(_PROBES)
    if test.isna().any() or method.isna().any():
        raise ValueError(
            f"{path}: expected run_num in {sorted(_TESTS)} and run_type in {sorted(_PROBES)}."
        )
    return table.assign(test=test, method=method)[["test", "method", "test_auc", "test_acc"]]


def cola_disagreement(folder: str | pathlib.Path) -> pd.Series:
    """Returns per judge, and for their majority (`ensemble`), the share of labels it disputes.

    A missing answer counts as one.

    Raises:
        FileNotFoundError: the folder has no such file.
    """
    path = pathlib.Path(folder) / "investigate" / f"{_COLA}.csv"
    table = published.read_csv(path, index_col=0)
    judges = table.columns.drop(["prompt", "original_target"])
    return table[judges].ne(table["original_target"], axis=0).mean()


def cola_disputed(folder: str | pathlib.Path) -> Bool[np.ndarray, " n"]:
    """Tells which of the judged rows (4,000 to 4,999 of the task) have a label most judges dispute.

    Raises:
        FileNotFoundError: the folder has no such file.
    """
    path = pathlib.Path(folder) / "investigate" / f"{_COLA}.csv"
    table = published.read_csv(path, index_col=0)
    return table["ensemble"].ne(table["original_target"]).to_numpy()


def pruning(folder: str | pathlib.Path, model: str = "gemma-2-9b") -> pd.DataFrame:
    """Returns AUCs under covariate shift with the least relevant of 8 latents left out.

    Columns: `task, kept` (number of latents), `ood_auc_llm, ood_auc_human` (ranked by a language
    model or by a person) and the same with `val_auc`. Empty where the model has no such files.
    """
    root = pathlib.Path(folder) / f"sae_probes_{model}" / "OOD" / "OOD_latents"
    tables = []
    for path in sorted(root.glob("*/*_pruned.csv")):
        table = published.read_csv(path).rename(columns={"k": "kept"})
        table.insert(0, "task", path.parent.name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def best_latents(folder: str | pathlib.Path, model: str = "gemma-2-9b") -> pd.DataFrame:
    """Returns the one latent that the study chose per task: `task, latent, test_auc, explanation`.

    Empty where the model has no such file.
    """
    root = pathlib.Path(folder) / f"sae_probes_{model}" / "normal_setting"
    paths = sorted(root.glob("top_1_latent_results_*_with_explanations.csv"))
    if not paths:
        return pd.DataFrame()
    table = published.read_csv(paths[0])
    return table.rename(columns={"dataset": "task", "best_feature": "latent"})
