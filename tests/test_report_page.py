"""The report as text: what it says, of what, and of what is missing."""

import contextlib
import html
import json
import os
import re

import numpy as np
import pandas as pd
import pytest

from probejax import analysis, tasks
from probejax.analysis.examples import Example, examples
from probejax.analysis.labels import signed, tasks_in_order, title
from probejax.analysis.page.page import Story
from probejax.analysis.report import report, report_published
from probejax.analysis.run import Latent, read_run
from probejax.analysis.tables import results_table
from probejax.analysis.ties import TIE_RULES
from probejax.analysis.verdict import verdict
from probejax.foreign import DamagedFile
from probejax.tasks.registry import NAMES
from tests.published_cases import PUBLISHED, golden
from tests.report_cases import ARROWS, CONFIG, NARROW, TASKS, unit, without_figures, write_run


@pytest.fixture(autouse=True)
def page_alone(request):
    with contextlib.nullcontext() if "figures" in request.node.name else without_figures():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run and its report."""
    out = write_run(tmp_path_factory.mktemp("report") / "run")
    with without_figures():
        text = report(out, cache_dir=out / "no_cache")
    return out, text, (out / "report.html").read_text()


def _plain(page):
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def test_the_report_is_one_file_that_asks_for_nothing(run):
    _, text, page = run
    assert "Tables, figures and report.html are in" in text and "Complete: 66 units" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//(?!www\.neuronpedia)""", page)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", page)
    assert page.count("<script") == 1 and page.count("<style") == 1
    assert len(page) < 2_000_000


def test_tables_figures_and_other_layouts_lie_beside_it(tmp_path):
    out = write_run(tmp_path / "run", tasks=TASKS[:2], arrows=ARROWS[:3])
    report(out, cache_dir=tmp_path / "no_cache")
    assert {path.name for path in out.iterdir()} >= {
        "report.html", "results.csv", "results.parquet", "quiver.csv", "figures", "study",
        "saebench",
    }  # fmt: skip
    assert (out / "figures" / "scarcity.svg").exists() and (
        out / "figures" / "regimes.png"
    ).exists()


def test_the_verdict_is_the_table_s(run):
    out, _, page = run
    quiver = pd.read_csv(out / "quiver.csv")
    overall = quiver[quiver["level"].isna() & (quiver["tie_rule"] == "documented")]
    first = _plain(page[page.index("<header") : page.index("</header>")])
    for _, row in overall.iterrows():
        assert signed(row["delta"]) in first and f"{row['baseline']:.4f}" in first
    found = verdict(quiver)
    assert found.answer in first and found.numbers in first
    assert "With 6 tasks the limits are rough" in first


def test_every_part_is_there(run):
    page = run[2]
    for anchor in (
        "standard", "scarcity", "imbalance", "label_noise", "covariate_shift", "tasks", "controls",
        "fits", "method", "provenance",
    ):  # fmt: skip
        assert page.count(f'<section id="{anchor}"') == 1, anchor
        assert f'href="#{anchor}"' in page or anchor == "method"
    plain = _plain(page)
    for text in (
        "Task by task", "Every method", "Level by level", "TPR at 1 % FPR",
        "calibration error", "out of steps", "claim minus control", "sae_k16_shuffled", "a5fd3b62",
        "cpu (66 units)", "float32",
    ):  # fmt: skip
        assert text in plain, text
    assert "Known faults" not in plain  # those are the study's


def test_a_task_has_its_latents_with_links(run):
    page = run[2]
    start = page.index(f'id="task-{TASKS[0]}"')
    part = page[start : page.index('<details class="task"', start)]
    assert 'href="https://www.neuronpedia.org/gemma-2-2b/12-gemmascope-res-16k/1234"' in part
    assert "2.250" in part and "latent of sae_k16" in part and "+1.750" in part
    assert "\N{MINUS SIGN}0.750" in part


def test_hostile_names_and_prompts_stay_text(tmp_path):
    config = CONFIG | {"tasks": ["evil"], "data": str(tmp_path / "tasks")}
    (tmp_path / "tasks").mkdir()
    rows = "\n".join(f'"<script>alert({i})</script> ""quoted""",{i % 2}' for i in range(8))
    (tmp_path / "tasks" / "evil.csv").write_text(f"prompt,target\n{rows}\n")
    out = write_run(tmp_path / "run", tasks=TASKS[:1], config=config)
    for path in (out / "units").iterdir():
        path.write_text(path.read_text().replace(TASKS[0], "evil").replace(NARROW, "<b>&\\\"'"))
    report(out, cache_dir=tmp_path / "no_cache")
    page = (out / "report.html").read_text()
    assert "alert(0)" in page and "<script>alert" not in page and "<b>&" not in page


def test_quiver_cell_and_tie_are_explained_before_the_figure(run):
    first = run[2][run[2].index("<header") : run[2].index('class="forest"')]
    assert re.findall("<dfn>(.*?)</dfn>", first) == ["quiver", "cell", "tie"]


def test_tasks_stand_in_the_study_s_order_everywhere(run):
    page = run[2]
    assert re.findall('id="task-(.*?)"', page) == [t for t in NAMES if t in TASKS]
    others = ["b", "118_us_state_FL_2", *reversed(TASKS), "a"]
    in_order = [*(t for t in NAMES if t in TASKS), "118_us_state_FL_2", "a", "b"]
    assert tasks_in_order(others) == in_order


@pytest.mark.parametrize("names", [("0", "1"), ("<b>female</b>", "male")])
def test_classes_have_the_names_that_the_task_gives_them(tmp_path, names):
    (tmp_path / "tasks").mkdir()
    rows = f"prompt,target\na,{names[0]}\nb,{names[1]}\n"
    (tmp_path / "tasks" / "mine.csv").write_text(rows)
    found = examples(["mine"], tasks.Own(str(tmp_path / "tasks")), tmp_path / "no_cache")
    shown = names
    assert found == {"mine": [Example(0, "a", shown[0]), Example(1, "b", shown[1])]}
    story = Story(
        examples={TASKS[0]: found["mine"]},
        latents={
            ("paper", "gemma-3-270m", "resid_post.9"): {
                TASKS[0]: {"sae_k16": [Latent(3, 0.0, 1.0, None)]}
            }
        },
    )
    table = results_table([unit(TASKS[0], *arrow) for arrow in ARROWS[:3]])
    report(tmp_path, table, story=story)
    page = (tmp_path / "report.html").read_text()
    for name in map(html.escape, shown):
        assert f'<i class="label">{name}</i>' in page and f"mean, class {name}" in page


def test_no_table_stands_on_the_page_twice(run):
    found = re.findall("<table.*?</table>", run[2])
    found = [table for table in found if "latent of" not in table]  # alike in these units
    assert len(found) > 15 and len(found) == len(set(found))


def test_an_unfinished_run_says_so(tmp_path):
    out = write_run(tmp_path / "run", tasks=TASKS[:3])
    for path in sorted((out / "units").iterdir())[::2]:
        path.unlink()
    text = report(out, cache_dir=tmp_path / "no_cache")
    page = _plain((out / "report.html").read_text())
    assert "Unfinished: 16 of 66 units (24 %); everything here is about those alone" in page
    assert "Unfinished: 16 of 66 units" in text
    assert "cells left out, where no baseline or no SAE probe" in page or "AUC of some" in page


def test_only_baselines_so_far(tmp_path):
    out = write_run(tmp_path / "run", tasks=TASKS[:2], arrows=ARROWS[:2])
    report(out, cache_dir=tmp_path / "no_cache")
    page = _plain((out / "report.html").read_text())
    results = pd.read_csv(out / "results.csv")
    plain = (
        results[results["regime"] == "standard"].groupby("method")[["val_auc", "test_auc"]].mean()
    )
    best = plain["val_auc"].idxmax()
    said = f"Under standard conditions {best} validates best of 2 methods: test AUC "
    assert f"{said}{plain.loc[best, 'test_auc']:.4f}." in page and "Unfinished: 4 of" in page
    assert "Means over 2 tasks. No SAE probe stands beside these methods" in page
    means = results.groupby(["regime", "method"])["test_auc"].mean()
    for regime in ("standard", "scarcity", "covariate_shift"):
        best = means[regime].idxmax()
        assert f"{title(regime).lower()} {means[regime, best]:.4f} ({best})" in page
    for auc in means:  # the table of every regime
        assert f"{auc:.4f}" in page
    linked = set(re.findall('href="#([^"]+)"', (out / "report.html").read_text()))
    assert all(f'id="{anchor}"' in (out / "report.html").read_text() for anchor in linked)


def test_two_runs_side_by_side_compare_protocols(tmp_path):
    paper = write_run(tmp_path / "paper", arrows=ARROWS[:3], seeds=(1, 2))
    strict = write_run(
        tmp_path / "strict", arrows=ARROWS[:3], protocol="strict", seeds=(1, 2),
        config=CONFIG | {"protocol": "strict"},
    )  # fmt: skip
    report(paper, also=[strict], cache_dir=tmp_path / "no_cache")
    page = (paper / "report.html").read_text()
    assert '<section id="protocols"' in page and "difference of the quivers" in page
    assert page.count('class="group"') == 2 and "strict protocol" in page
    assert "2 methods" in page or "data-t" in page
    assert set(pd.read_csv(paper / "quiver.csv")["protocol"]) == {"paper", "strict"}
    assert page.index("paper protocol") < page.index("strict protocol")
    menu = re.search("<nav>(.*?)</nav>", page)
    assert menu and re.search('<a href="#group-1">[^<]*strict protocol</a>$', menu[1])
    report(strict, also=[paper], cache_dir=tmp_path / "no_cache")  # --out's run goes first
    page = (strict / "report.html").read_text()
    assert page.index("strict protocol") < page.index("paper protocol")


def test_families_of_ones_own_tasks_are_read_and_unknown_ones_said(tmp_path):
    out = write_run(tmp_path / "run", tasks=TASKS[:3], arrows=ARROWS[:3])
    for path in (out / "units").iterdir():
        path.write_text(re.sub("|".join(TASKS[:3]), lambda m: f"mine_{m[0]}", path.read_text()))
    own = [f"mine_{task}" for task in TASKS[:3]]
    report(out, cache_dir=tmp_path / "no_cache")
    said = "3 tasks: not known which share prompts, so each is a family of its own"
    assert said in (out / "report.html").read_text()
    quiver = pd.read_csv(out / "quiver.csv")
    assert set(quiver["families"]) == {3}
    np.testing.assert_array_equal(quiver["family_low"], quiver["ci_low"])
    (out / "families.json").write_text(
        json.dumps(dict.fromkeys(own[:2], own[0]) | {own[2]: own[2]})
    )
    report(out, cache_dir=tmp_path / "no_cache")
    assert said not in (out / "report.html").read_text()
    quiver = pd.read_csv(out / "quiver.csv")
    assert set(quiver["families"]) == {2} and (quiver["family_low"] != quiver["ci_low"]).any()
    assert set(pd.read_csv(out / "results.csv")["task_family"]) == {own[0], own[2]}


def test_a_folder_without_units_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no finished units; run `python -m"):
        report(tmp_path)


@pytest.mark.parametrize("text", ["[1]", '{"tasks": 3}', "{", "[" * 100_000, None])
def test_a_damaged_configuration_is_named_and_damaged_timings_are_passed_over(tmp_path, text):
    out = write_run(tmp_path / "run", tasks=TASKS[:1], arrows=ARROWS[:1])
    for path in (*(out / "timings").iterdir(), out / "config.json"):
        assert read_run(out).done == 1  # with damaged timings, too
        path.unlink()
        os.mkfifo(path) if text is None else path.write_text(text)
    with pytest.raises(DamagedFile, match=r"config\.json is (damaged|no regular file)"):
        read_run(out)


def test_a_run_tells_what_it_ran_on(tmp_path):
    run = read_run(write_run(tmp_path / "run", tasks=TASKS[:1]))
    assert (run.done, run.expected) == (11, 66)  # 6 tasks x (2 baselines + 3 methods x 3 SAEs)
    assert run.facts["weights, SHA-256"] == ["a5fd3b62"] and run.facts["JAX"] == [
        "0.10.2 (11 units)"
    ]
    assert run.facts["time in units"] == ["5.5 min"]
    (latents,) = run.latents.values()
    assert [card.index for card in latents[TASKS[0]][f"sae_k16 ({NARROW})"]] == [1234, 7]
    assert "config.json" in {p.name for p in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    ("deltas", "answer"),
    [
        ({"standard": (0.01, 0.02), "scarcity": (0.01, 0.02)},
         "Yes: adding SAE probes to the quiver raises test AUC under standard conditions and data "
         "scarcity."),
        ({"standard": (-0.02, -0.01), "scarcity": (-0.01, 0.02)},
         "No: adding SAE probes to the quiver lowers test AUC under standard conditions, and makes "
         "no certain difference under data scarcity."),
        ({"standard": (-0.02, -0.01), "scarcity": (0.01, 0.02)},
         "It depends: adding SAE probes raises test AUC under data scarcity and lowers it under "
         "standard conditions."),
        ({"standard": (-0.02, 0.01), "scarcity": (-0.01, 0.02)},
         "Not that this run can tell: adding SAE probes to the quiver makes no certain difference "
         "to test AUC in any of 2 regimes."),
    ],
)  # fmt: skip
def test_the_rules_of_the_verdict(deltas, answer):
    rows = [
        {
            "regime": regime, "level": float("nan"), "tie_rule": rule, "cells": 50, "tied": 3,
            "tasks": 50, "delta": (low + high) / 2, "band_low": low, "band_high": high,
            "families": 50, "family_band_low": low, "family_band_high": high, "p_holm": 0.001,
        }
        for regime, (low, high) in deltas.items()
        for rule in ("documented", "neutral")
    ]  # fmt: skip
    assert verdict(pd.DataFrame(rows)).answer == answer


@pytest.mark.parametrize(
    "tasks, said",
    [
        ({"standard": 113, "scarcity": 113}, None),
        ({"standard": 6, "scarcity": 6}, "With 6 tasks the limits are rough"),
        ({"standard": 113, "covariate_shift": 8},
         "With 8 tasks under covariate shift the limits are rough"),
        ({"standard": 113, "scarcity": 9, "covariate_shift": 1},
         "With 1 to 9 tasks under data scarcity and covariate shift the limits are rough"),
        ({"standard": 1}, "With 1 task the limits are rough"),
    ],
)  # fmt: skip
def test_a_regime_of_few_tasks_has_its_caution(tasks, said):
    row = {"level": float("nan"), "cells": 50, "tied": 0, "delta": 0.0, "families": 50, "p_holm": 1}
    row |= {f"{band}_{end}": 0.0 for band in ("band", "family_band") for end in ("low", "high")}
    found = verdict(pd.DataFrame([
        row | {"regime": regime, "tie_rule": rule, "tasks": count}
        for regime, count in tasks.items() for rule in ("documented", "neutral")
    ]))  # fmt: skip
    assert [text.split(":")[0] for text in found.caveats] == ([said] if said else [])


def test_a_band_of_few_tasks_alone_makes_nothing_certain():
    """Three of one sign: a bootstrap's band excludes zero, and chance gives that in a quarter."""
    row = {
        "regime": "standard", "level": float("nan"), "tie_rule": "documented", "cells": 3,
        "tied": 0, "tasks": 3, "families": 3, "delta": 0.007, "band_low": 0.004,
        "band_high": 0.010, "family_band_low": 0.004, "family_band_high": 0.010, "p_holm": 0.25,
    }  # fmt: skip
    found = verdict(pd.DataFrame([row, row | {"tie_rule": "neutral"}]))
    assert found.calls == {"standard": "unclear"}
    assert (
        found.answer == "Of 3 tasks nothing can be told about others: a verdict takes at least 6."
    )
    assert "random signs of the tasks' differences give as much with p = 0.25" in found.caveats[-1]
    six = row | {"tasks": 6, "families": 6, "p_holm": 0.06}
    found = verdict(pd.DataFrame([six, six | {"tie_rule": "neutral"}]))
    assert found.calls == {"standard": "unclear"} and found.answer.startswith("Not that this run")
    sure = six | {"p_holm": 0.05}
    assert verdict(pd.DataFrame([sure, sure | {"tie_rule": "neutral"}])).answer.startswith("Yes")


def test_tasks_of_the_same_prompts_are_no_many_tasks():
    """Six classes of one file are six tasks of one family."""
    row = {
        "regime": "standard", "level": float("nan"), "tie_rule": "documented", "cells": 6,
        "tied": 0, "tasks": 6, "families": 1, "delta": 0.05, "band_low": 0.04, "band_high": 0.06,
        "family_band_low": float("nan"), "family_band_high": float("nan"), "p_holm": 0.03,
    }  # fmt: skip
    found = verdict(pd.DataFrame([row, row | {"tie_rule": "neutral"}]))
    assert found.calls == {"standard": "unclear"}
    assert found.answer.startswith("The 6 tasks share prompts, so that they are one family, of")
    assert "the 6 tasks are one family by the prompts" in found.caveats[0]


def test_where_families_change_a_call_the_caveats_say_so():
    row = {
        "regime": "standard", "level": float("nan"), "tie_rule": "documented", "cells": 113,
        "tied": 0, "tasks": 113, "families": 71, "delta": -0.01, "band_low": -0.02,
        "band_high": -0.001, "family_band_low": -0.03, "family_band_high": 0.01, "p_holm": 0.01,
    }  # fmt: skip
    found = verdict(pd.DataFrame([row, row | {"tie_rule": "neutral"}]))
    assert found.calls == {"standard": "worse"}  # the call stays; what it rests on is said
    (caveat,) = found.caveats
    assert "the 113 tasks are 71 families that share prompts" in caveat
    assert "only the second excludes zero" in caveat
    assert not verdict(pd.DataFrame([row | {"family_band_high": -0.0005}])).caveats


def test_where_the_tie_rule_decides_there_is_no_verdict():
    row = {"regime": "scarcity", "level": float("nan"), "cells": 50, "tied": 30, "tasks": 50}
    stated = row | {
        "tie_rule": "documented",
        "delta": -0.01,
        "band_low": -0.02,
        "band_high": -0.005,
    }
    neutral = row | {"tie_rule": "neutral", "delta": -0.001, "band_low": -0.01, "band_high": 0.01}
    for each in (stated, neutral):
        each |= {"families": 50, "family_band_low": each["band_low"]}
        each |= {"family_band_high": each["band_high"]}
    found = verdict(pd.DataFrame([stated, neutral]))
    assert len(found.caveats) == 1
    assert found.calls == {"scarcity": "ties"} and found.answer.startswith("Not that this run")
    assert "best validation AUC in 30 of 50 cells" in found.caveats[0]


@pytest.mark.thorough
@golden
def test_the_published_results_have_the_same_report(tmp_path):
    text = report_published(tmp_path, PUBLISHED, cache_dir=tmp_path / "no_cache")
    page = _plain((tmp_path / "report.html").read_text())
    assert "The study's published results" in text
    assert (
        "No: adding SAE probes to the quiver lowers test AUC under class imbalance and label "
        "noise, and makes no certain difference under standard conditions and data scarcity."
    ) in page
    for text in ("\N{MINUS SIGN}0.0111", "\N{MINUS SIGN}0.0014", "1298 of 2247", "off this scale"):
        assert text in page, text
    assert "rows compared by position" in page and "Wrong labels in GLUE CoLA" in page
    quiver = analysis.quiver(analysis.results_table([]), tie_rule=tuple(TIE_RULES))
    said = "There is nothing to compare: no SAE probe beside a baseline."
    assert verdict(quiver).answer == said


def test_tasks_that_could_not_run_are_named_and_not_waited_for(tmp_path):
    config = CONFIG | {"tasks": list(TASKS[:2])}
    out = write_run(tmp_path / "run", tasks=TASKS[:1], config=config)
    assert read_run(out).status.startswith("Unfinished")
    why = f"task {TASKS[1]!r} will not do: it <b>has</b> 3 prompts"
    (out / "left_out.json").write_text(json.dumps({TASKS[1]: why}))
    assert read_run(out).status.startswith("Complete")
    with without_figures():
        text = report(out)
    assert f"Left out: {why}" in text
    assert html.escape(f"Left out: {why}") in (out / "report.html").read_text()
