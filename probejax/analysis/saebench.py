"""Writes SAE probes under standard conditions as SAEBench's JSON, one file per SAE.

The fields are those of its evaluation `sparse_probing_sae_probes` (SAEBench 0.6.0).
"""

import json
import uuid
from typing import Any

import pandas as pd
from etils import epath

from probejax import foreign, storage
from probejax.analysis.facts import plain_sae_probe, with_facts
from probejax.analysis.grid import GROUP
from probejax.sites import known

EVALUATION = "sparse_probing_sae_probes"
# The k that have fields of their own; any k is in `sae_metrics_by_k`.
NAMED_K = (1, 2, 5, 10, 20, 50, 100)
_METRICS = {"accuracy": "test_acc", "auc": "test_auc", "f1": "test_f1"}
_BASELINE = "logreg"


def write_saebench(
    out: epath.PathLike, results: pd.DataFrame, *, millis: int = 0
) -> list[epath.Path]:
    """Writes `saebench/<protocol>_<model>_<SAE>_eval_results.json` for every SAE of the table.

    An SAE that stands at several sites of a model has a file for each, `..._<SAE>_<site>_...`.

    Args:
        out: the run's folder.
        results: the results table.
        millis: when the results were made, in milliseconds since 1970.

    Returns:
        The files written.

    Raises:
        StorageError: the folder is unwritable.
    """
    rows = with_facts(results)[(results["regime"] == "standard").to_numpy(bool)]
    probes = rows[(rows["sae_id"] != "") & plain_sae_probe(rows)]
    base = rows[(rows["method"] == _BASELINE) & (rows["sae_id"] == "")]
    places = probes.groupby(["model", "sae_id"])["site"].nunique()
    written = []
    for key, part in probes.groupby([*GROUP, "sae_id"], sort=False):
        protocol, model, site, sae_id = map(str, key)
        same = (base["protocol"] == protocol) & (base["model"] == model) & (base["site"] == site)
        payload = evaluation(part, base[same], millis)
        where = f"_{site}" if places[model, sae_id] > 1 else ""
        name = foreign.file_name(f"{protocol}_{model}_{sae_id}{where}")
        path = epath.Path(out) / "saebench" / f"{name}_eval_results.json"
        text = json.dumps(payload, indent=2, sort_keys=True, allow_nan=False)
        storage.write_atomic(path, text + "\n")
        written.append(path)
    return written


def evaluation(probes: pd.DataFrame, baseline: pd.DataFrame, millis: int = 0) -> dict[str, Any]:
    """Returns the evaluation of one SAE: means over tasks, and each task on its own.

    Args:
        probes: rows of one SAE, model, site and protocol; seeds of a task are averaged.
        baseline: rows of logreg there.
        millis: see `write_saebench`.
    """
    first = probes.iloc[0]
    columns = list(_METRICS.values())
    by_task = probes.groupby(["task", "k"], sort=True)[columns].mean().reset_index()
    llm = baseline.groupby("task")[columns].mean()
    shared = llm[llm.index.isin(by_task["task"])]
    known = shared.T.to_dict()
    tasks: dict[str, dict[int, Any]] = {}
    for row in by_task.to_dict("records"):
        tasks.setdefault(str(row["task"]), {})[int(row["k"])] = row
    details = [
        {"dataset_name": task, **_llm(known.get(task)), **_named(by_k), **_by_k(by_k)}
        for task, by_k in tasks.items()
    ]
    total = by_task.groupby("k")[columns].mean().reset_index()
    means = {int(row["k"]): row for row in total.to_dict("records")}
    metrics = {
        "llm": _llm(None if shared.empty else shared.mean()),
        "sae": _named(means),
    }
    payload = {
        "eval_type_id": EVALUATION,
        "eval_config": {
            "model_name": str(first["model"]),
            "random_seed": int(probes["seed"].min()),
            "dataset_names": sorted(probes["task"].unique().tolist()),
            "reg_type": "l1",
            "setting": "normal",
            "ks": sorted(means),
            "binarize": False,
            "results_path": "",
            "model_cache_path": None,
            "include_llm_baseline": not shared.empty,
            "baseline_method": _BASELINE,
        },
        "datetime_epoch_millis": millis,
        "eval_result_metrics": metrics,
        "eval_result_details": details,
        "eval_result_unstructured": None,
        "sae_bench_commit_hash": "not run by SAEBench",
        "sae_lens_id": str(first["sae_id"]),
        "sae_lens_release_id": "probejax",
        "sae_lens_version": "not used",
        "sae_cfg_dict": {
            "model_name": str(first["model"]),
            "hook_name": _hook(str(first["site"])),
            "protocol": str(first["protocol"]),
        },
        **_by_k(means),
    }
    content = storage.encode_json(payload | {"datetime_epoch_millis": 0})
    return payload | {"eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, content))}


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _llm(row: Any) -> dict[str, float | None]:
    return {
        f"llm_test_{name}": None if row is None else _number(row[column])
        for name, column in _METRICS.items()
    }


def _named(by_k: dict[int, Any]) -> dict[str, float | None]:
    """Returns the fields that exist for some k; `sae_test_accuracy` would be of all latents."""
    found: dict[str, float | None] = {"sae_test_accuracy": None}
    for k in NAMED_K:
        for name, column in _METRICS.items():
            value = _number(by_k[k][column]) if k in by_k else None
            found[f"sae_top_{k}_test_{name}"] = value
    return found


def _by_k(by_k: dict[int, Any]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        "sae_metrics_by_k": {
            str(k): {
                f"test_{name}": float(row[column])
                for name, column in _METRICS.items()
                if pd.notna(row[column])
            }
            for k, row in sorted(by_k.items())
        }
    }


def _hook(text: str) -> str:
    site = known(text)
    return site.hook if site else text
