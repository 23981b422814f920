"""SAEBench's JSON: every field of the right kind, no field it does not know, the numbers right."""

import json

import jsonschema
import numpy as np
import pytest

from probejax.analysis.saebench import NAMED_K, write_saebench
from probejax.analysis.tables import results_table
from tests.report_cases import ARROWS, NARROW, TASKS, WIDE, unit

NUMBER = {"type": ["number", "null"]}
NAMES = ("accuracy", "auc", "f1")
LLM = {f"llm_test_{name}": NUMBER for name in NAMES}
SAE = {"sae_test_accuracy": NUMBER}
SAE |= {f"sae_top_{k}_test_{name}": NUMBER for k in (1, 2, 5, 10, 20, 50, 100) for name in NAMES}
BY_K = {
    "type": ["object", "null"],
    "propertyNames": {"pattern": r"^\d+$"},
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
}


def _object(properties, required=None):
    names = list(properties) if required is None else required
    return {
        "type": "object", "properties": properties, "required": names, "additionalProperties": False
    }  # fmt: skip


TEXT, TRUTH = {"type": "string"}, {"type": "boolean"}
# The structure of SAEBench 0.6.0's sparse_probing_sae_probes results.
SCHEMA = _object(
    {
        "eval_type_id": {"const": "sparse_probing_sae_probes"},
        "eval_config": _object(
            {
                "model_name": TEXT,
                "random_seed": {"type": "integer"},
                "dataset_names": {"type": "array", "items": TEXT},
                "reg_type": {"enum": ["l1", "l2"]},
                "setting": {"enum": ["normal", "scarcity", "imbalance"]},
                "ks": {"type": "array", "items": {"type": "integer"}},
                "binarize": TRUTH,
                "results_path": TEXT,
                "model_cache_path": {"type": ["string", "null"]},
                "include_llm_baseline": TRUTH,
                "baseline_method": TEXT,
            }
        ),
        "eval_id": {"type": "string", "pattern": r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        "datetime_epoch_millis": {"type": "integer", "minimum": 0, "maximum": 9999999999999},
        "eval_result_metrics": _object({"llm": _object(LLM), "sae": _object(SAE)}),
        "eval_result_details": {
            "type": "array",
            "items": _object({"dataset_name": TEXT, **LLM, **SAE, "sae_metrics_by_k": BY_K}),
        },
        "sae_metrics_by_k": BY_K,
        "eval_result_unstructured": {},
        "sae_bench_commit_hash": TEXT,
        "sae_lens_id": TEXT,
        "sae_lens_release_id": TEXT,
        "sae_lens_version": TEXT,
        "sae_cfg_dict": {"type": "object"},
    }
)


def _results(tasks=TASKS[:3], **options):
    return results_table([unit(task, *arrow, **options) for task in tasks for arrow in ARROWS])


def test_files_follow_the_schema_and_there_is_one_for_each_sae(tmp_path):
    written = write_saebench(tmp_path, _results(), millis=1_700_000_000_000)
    assert len(written) == 2  # the random SAE is a control
    for path in written:
        jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert {json.loads(path.read_text())["sae_lens_id"] for path in written} == {NARROW, WIDE}
    assert all(path.name.endswith("_eval_results.json") for path in written)


def test_the_schema_refuses_what_saebench_does_not_know(tmp_path):
    payload = json.loads(write_saebench(tmp_path, _results())[0].read_text())
    for change in ({"extra": 1}, {"datetime_epoch_millis": -1}, {"eval_id": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(payload | change, SCHEMA)


def test_numbers_are_means_over_tasks_and_seeds(tmp_path):
    results = _results(seeds=(1, 2))
    results.loc[results["method"] == "sae_k128", "method"] = "sae_k5"
    results.loc[results["method"] == "sae_k5", "k"] = 5
    write_saebench(tmp_path, results)
    path = next(p for p in (tmp_path / "saebench").iterdir() if "4k" in p.name)
    payload = json.loads(path.read_text())
    jsonschema.validate(payload, SCHEMA)
    rows = results[(results["regime"] == "standard") & (results["sae_id"] == NARROW)]
    mean = lambda method: rows[rows["method"] == method]["test_auc"].mean()
    sae = payload["eval_result_metrics"]["sae"]
    assert sae["sae_top_5_test_auc"] == pytest.approx(mean("sae_k5"))
    assert sae["sae_top_1_test_auc"] is None and sae["sae_test_accuracy"] is None
    by_k = payload["sae_metrics_by_k"]
    assert list(by_k) == ["16", "5"] and set(by_k["16"]) == {"test_accuracy", "test_auc", "test_f1"}
    assert by_k["16"]["test_auc"] == pytest.approx(mean("sae_k16"))
    assert payload["eval_config"]["ks"] == [5, 16] and 16 not in NAMED_K
    base = results[(results["regime"] == "standard") & (results["method"] == "logreg")]
    llm = payload["eval_result_metrics"]["llm"]["llm_test_auc"]
    assert llm == pytest.approx(base["test_auc"].mean())
    detail = payload["eval_result_details"][0]
    here = rows[(rows["task"] == detail["dataset_name"]) & (rows["method"] == "sae_k16")]
    assert detail["sae_metrics_by_k"]["16"]["test_auc"] == pytest.approx(here["test_auc"].mean())
    assert payload["sae_cfg_dict"]["hook_name"] == "blocks.9.hook_resid_post"


def test_the_same_results_have_the_same_id_whenever_they_are_written(tmp_path):
    read = lambda name, **options: json.loads(
        write_saebench(tmp_path / name, _results(), **options)[0].read_text()
    )
    first, again = read("a", millis=1), read("b", millis=2)
    assert first["eval_id"] == again["eval_id"]
    other = write_saebench(tmp_path / "c", _results(TASKS[:2]))[0]
    assert json.loads(other.read_text())["eval_id"] != first["eval_id"]


def test_without_a_baseline_or_a_metric_there_is_null(tmp_path):
    results = _results()
    results = results[results["method"] != "logreg"].assign(test_f1=np.nan)
    payload = json.loads(write_saebench(tmp_path, results)[0].read_text())
    jsonschema.validate(payload, SCHEMA)
    assert payload["eval_result_metrics"]["llm"]["llm_test_auc"] is None
    assert payload["eval_config"]["include_llm_baseline"] is False
    assert "test_f1" not in payload["sae_metrics_by_k"]["16"]


def test_without_standard_conditions_nothing_is_written(tmp_path):
    assert write_saebench(tmp_path, _results().query("regime != 'standard'")) == []
    assert not (tmp_path / "saebench").exists()
