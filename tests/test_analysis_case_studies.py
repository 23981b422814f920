"""The published case studies, to the last published digit."""

import pandas as pd
import pytest

from probejax.analysis import case_studies
from tests.published_cases import PUBLISHED, golden, write


@golden
def test_glue_cola_on_original_clean_and_disputed_labels():
    table = case_studies.cola_probes(PUBLISHED)
    found = table.pivot(index="test", columns="method", values=["test_auc", "test_acc"]).round(6)
    expected = {  # logreg, SAE k=128, one latent: AUC and accuracy
        "original labels": (0.874595, 0.833183, 0.758969, 0.815, 0.769, 0.723),
        "labels of the judges": (0.869458, 0.867776, 0.827051, 0.797, 0.797, 0.781),
        "rows where they differ": (0.488034, 0.601756, 0.655561, 0.459091, 0.563636, 0.631818),
    }
    columns = [
        (m, p) for m in ("test_auc", "test_acc") for p in ("logreg", "sae_k128", "one latent")
    ]
    assert {test: tuple(found.loc[test, columns]) for test in found.index} == expected


@golden
def test_the_judges_dispute_a_fifth_of_the_labels():
    shares = case_studies.cola_disagreement(PUBLISHED)
    disputed = case_studies.cola_disputed(PUBLISHED)
    assert (len(disputed), disputed.sum()) == (1000, 220)
    assert shares.tolist() == [0.243, 0.228, 0.222, 0.22] and shares.index[-1] == "ensemble"


@golden
@pytest.mark.parametrize(
    ("task", "one", "eight"),
    [
        ("66_living-room", 0.640222, 0.616667),
        ("90_glue_qnli", 0.5, 0.447778),
        ("7_hist_fig_ispolitician", 0.559606, 0.637598),
    ],
)
def test_pruned_latents_under_covariate_shift(task, one, eight):
    table = case_studies.pruning(PUBLISHED)
    auc = table[table["task"] == task].set_index("kept")["ood_auc_llm"]
    assert auc.index.tolist() == list(range(1, 9))
    assert (round(auc[1], 6), round(auc[8], 6)) == (one, eight)


@golden
def test_the_best_latent_of_each_task():
    table = case_studies.best_latents(PUBLISHED)
    assert len(table) == 113 and table["test_auc"].mean() == pytest.approx(0.773780, abs=5e-7)
    assert table["latent"].value_counts()[106376] == 6
    row = table.set_index("task").loc["121_us_timezone_New_York"]
    assert round(row["test_auc"], 4) == 0.4796 and isinstance(row["explanation"], str)


def test_a_model_without_case_studies(tmp_path):
    assert case_studies.pruning(tmp_path).empty and case_studies.best_latents(tmp_path).empty
    with pytest.raises(FileNotFoundError, match="87_glue_cola_investigate_probes"):
        case_studies.cola_probes(tmp_path)
    write(tmp_path, "investigate/87_glue_cola_investigate_probes.csv", "run_num,run_type\n7,sae_1")
    with pytest.raises(ValueError, match=r"expected run_num in \[0, 1, 2\]"):
        case_studies.cola_probes(tmp_path)


def test_a_missing_answer_of_a_judge_disputes_the_label(tmp_path):
    table = pd.DataFrame(
        {"prompt": ["a", "b"], "original_target": [0, 1], "judge": [0, None], "ensemble": [0, 1]}
    )
    (tmp_path / "investigate").mkdir()
    table.to_csv(tmp_path / "investigate" / "87_glue_cola_investigate.csv")
    assert case_studies.cola_disagreement(tmp_path).to_dict() == {"judge": 0.5, "ensemble": 0.0}
    assert case_studies.cola_disputed(tmp_path).tolist() == [False, False]
