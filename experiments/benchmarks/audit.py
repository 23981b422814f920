"""The suite `audit` of the benchmark: how well an audit finds what is known to be wrong.

Planted flips on real tasks, beside cleanlab on scikit-learn's probabilities; planted shortcuts, see
`planted_shortcuts`; and, where the study's own files are at hand, the rows of GLUE CoLA whose label
three language models dispute.
Activations are of prompts of 256 tokens at most; those that are not in the cache are harvested.
"""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.benchmarks import planted_shortcuts
from probejax import storage, sweep, tasks
from probejax.analysis import case_studies
from probejax.analysis.intervals import paired_bootstrap
from probejax.auditing.dataset import Dataset, dataset
from probejax.auditing.folds import Fold, folds
from probejax.auditing.out_of_fold import judge, probabilities
from probejax.auditing.suspect_labels import confidence
from probejax.probes.logreg import STRENGTHS

TASKS = (
    *("5_hist_fig_ismale", "26_headline_isfrontpage", "56_wikidatasex_or_gender", "94_ai_gen"),
    *("161_agnews_0", "65_high-school", "36_sciq_tf", "158_code_C", "100_news_fake"),
    *("22_headline_isobama", "42_temp_sense", "58_wikidatapolitical_party", "73_control-group"),
    *("142_cancer_cat_Thyroid_Cancer", "60_wikidata_occupation_isathlete", "76_trial-court"),
    *("7_hist_fig_ispolitician", "23_headline_ischina", "83_third-party", "163_agnews_2"),
)
PARTS = ("cola", "flips", "shortcuts")
_SEARCHED: dict[str, Any] = {"Cs": STRENGTHS, "l1_ratios": (0.0,), "cv": 5, "scoring": "roc_auc",
                             "max_iter": 1000, "use_legacy_attributes": False}  # fmt: skip
METHODS = ("logreg", "sae_k16", "sae_k128", "sae_k1")
RATES = (0.05, 0.1, 0.2)
_ROWS = 2500  # of a task at most, of different prompts
_MODEL, _COLA = "gemma-3-270m", "87_glue_cola"
_JUDGED = np.arange(4000, 5000)
_RESAMPLES = 2000


def suite(
    cache_dir: str | None = None,
    published: str | None = None,
    done: str | None = None,
    tasks: int = 6,
    parts: Sequence[str] = PARTS,
    *,
    names: Sequence[str] = (),
    seeds: int = 1,
) -> Iterator[dict]:
    """Yields the figures.

    Args:
      cache_dir: the cache.
      published: folder of the study's files; without it nothing is said of CoLA.
      done: a file of JSON lines; cells that stand in it are not measured again.
      tasks: how many of `TASKS`; shortcuts are planted in all of them, and in the rest only
        features of the writing are looked at, which need no model.
      parts: some of `PARTS`.
      names: tasks whose labels are flipped, in place of the first of `TASKS`.
      seeds: draws of the flips of each.

    Raises:
      ValueError: there is no such part.
    """
    if wrong := [part for part in parts if part not in PARTS]:
        raise ValueError(
            f"--audit_parts={wrong[0]} does not exist; choose from {', '.join(PARTS)}."
        )
    if published and "cola" in parts:
        yield from cola(published, cache_dir)
    known = [json.loads(line) for line in _lines(done)]
    cells = []
    chosen = (names or TASKS[:tasks]) if "flips" in parts else ()
    for which in itertools.product(range(seeds), chosen, RATES):
        found = [c for c in known if (c.get("seed"), c["task"], c.get("rate")) == which]
        cells += found or [_kept(_cell(*which, cache_dir), done)]
        yield {"name": "cell", **cells[-1]}
    if cells:
        yield from _summary(pd.DataFrame(cells))
    if "shortcuts" in parts:
        yield from _shortcuts(known, tasks, cache_dir, done)


def _shortcuts(known: list[dict], tasks: int, cache_dir, done) -> Iterator[dict]:
    """Plants shortcuts in every task, and reads some of them with a model."""
    reader = planted_shortcuts.Reader(_MODEL, TASKS, cache_dir)
    cells = []
    for number, task in enumerate(TASKS):
        with_model = number < tasks
        found = [c for c in known if (c["task"], c.get("model")) == (task, with_model)]
        if len(found) < 1 + len(planted_shortcuts.PLANTS):
            own = planted_shortcuts.cells(task, reader if with_model else None, cache_dir)
            found = [_kept(cell, done) for cell in own]
        cells += found
        for cell in found:
            yield {"name": "shortcut", **cell}
    yield from planted_shortcuts.summary(pd.DataFrame(cells))


def _lines(path: str | None) -> list[str]:
    return Path(path).read_text().splitlines() if path and Path(path).exists() else []


def _kept(cell: dict, done: str | None) -> dict:
    if done:
        with open(done, "a") as file:
            file.write(storage.encode_json(cell) + "\n")
    return cell


def load(name: str, cache_dir: str | None, max_length: int = 256) -> Dataset:
    """Returns a task with its activations and the shipped SAE."""
    config = sweep.Config(model=_MODEL, tasks=(name,), max_length=max_length)
    job = sweep.Execution(sweep.resolve(config, cache_dir))
    task, (sae,) = job.plan.source.whole(name), job.plan.saes.values()
    given = {"texts": task.prompts, "classes": task.class_names, "name": name}
    (x,) = job.activations(task).values()
    return dataset(x.last(), task.labels, sae=sae.load(), **given)


def _cell(seed: int, name: str, rate: float, cache_dir: str | None) -> dict:
    """Flips labels of one task and measures how well each method finds them."""
    whole = load(name, cache_dir)
    rng = np.random.RandomState(seed)
    every = list(whole.texts or ())
    rows = rng.permutation(tasks.distinct_rows(every, whole.y, balanced=False))[:_ROWS]
    y, flipped = whole.y[rows].copy(), np.zeros(len(rows), bool)
    flipped[rng.permutation(len(rows))[: int(rate * len(rows))]] = True
    y[flipped] = 1 - y[flipped]
    texts = [every[row] for row in rows]
    data = dataset(whole.x[rows], y, texts=texts, sae=whole.sae, name=name)
    scores, seconds = {}, {}
    for method in METHODS:
        began = time.perf_counter()
        scores[method] = confidence(y, judge(data, method).probability)
        seconds[method] = time.perf_counter() - began
    scores["mean of logreg and sae_k128"] = (scores["logreg"] + scores["sae_k128"]) / 2
    for peer, model in {
        "cleanlab": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "cleanlab, C searched": LogisticRegressionCV(**_SEARCHED),
    }.items():  # fmt: skip
        if "searched" in peer and (seed or rate != RATES[1] or name not in TASKS[:3]):
            continue  # minutes each
        began = time.perf_counter()
        cut = StratifiedKFold(5, shuffle=True, random_state=0)
        found = cross_val_predict(model, data.x, y, cv=cut, method="predict_proba")
        scores[peer] = confidence(y, np.asarray(found)[:, 1])
        seconds[peer] = time.perf_counter() - began
    cell = {"seed": seed, "task": name, "rate": rate, "rows": len(rows)}
    for method, score in scores.items():
        first = np.argsort(score, kind="stable")[: flipped.sum()]
        cell[f"ap {method}"] = float(average_precision_score(flipped, -score))
        cell[f"precision {method}"] = float(flipped[first].mean())
    return cell | {f"seconds {method}": round(took, 2) for method, took in seconds.items()}


def _summary(cells: pd.DataFrame) -> Iterator[dict]:
    """Yields means over tasks, and paired differences from the peer and from logreg."""
    names = [str(name) for name in cells]
    methods = [name.removeprefix("ap ") for name in names if name.startswith("ap ")]
    for rate in (*RATES, None):
        part = cells if rate is None else cells[cells["rate"] == rate]
        for measure in ("ap", "precision"):
            every = part[[f"{measure} {m}" for m in methods]].dropna(axis=1).mean()
            means = {
                str(name).removeprefix(f"{measure} "): round(v, 4) for name, v in every.items()
            }
            yield {"name": f"{measure}, mean", "rate": rate, "cells": len(part), **means}
            for base in ("cleanlab", "logreg"):
                for method in methods:
                    apart = (part[f"{measure} {method}"] - part[f"{measure} {base}"]).dropna()
                    if method == base or not len(apart):
                        continue
                    which = part.loc[apart.index, "task"].to_numpy()
                    limits = paired_bootstrap(apart.to_numpy(), which)
                    yield {
                        "name": f"{measure}, {method} minus {base}",
                        "rate": rate,
                        "tasks": len(set(which)),
                        **{k: round(v, 4) for k, v in limits._asdict().items()},
                    }
    for peer in ("cleanlab", "cleanlab, C searched"):
        both = cells.dropna(subset=[c for c in (f"seconds {peer}",) if c in cells])
        if f"seconds {peer}" in cells and len(both):
            ours, theirs = both["seconds logreg"].median(), both[f"seconds {peer}"].median()
            ratio = {"ours": ours, "theirs": theirs, "unit": "s", "ratio": round(theirs / ours, 2)}
            yield {"name": f"out-of-fold logreg against {peer}, 3 x 5 folds + 5 vs 5", **ratio}


def cola(published: str, cache_dir: str | None = None) -> Iterator[dict]:
    """Yields how well each method finds the labels of CoLA that most of the judges dispute.

    It is trained outside the judged rows, and outside all rows with a prompt that was judged.
    """
    disputed = case_studies.cola_disputed(published)
    data = load(_COLA, cache_dir, max_length=1024)
    train = np.flatnonzero(~np.isin(data.same, data.same[_JUDGED]))
    inner = folds(data.y[train], data.same[train])[0]
    val = np.isin(np.arange(len(train)), inner.test)
    cut = Fold(train, val, _JUDGED)
    scores = {
        method: confidence(data.y[_JUDGED], probabilities(data, method, [cut], data.y[None])[0][0])
        for method in METHODS
    }
    scores["mean of logreg and sae_k128"] = (scores["logreg"] + scores["sae_k128"]) / 2
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(_JUDGED), (_RESAMPLES, len(_JUDGED)))
    ap = lambda score, rows: average_precision_score(disputed[rows], -score[rows])
    drawn = {m: np.array([ap(score, rows) for rows in draws]) for m, score in scores.items()}
    for method, score in scores.items():
        first = np.argsort(score, kind="stable")[:20]
        low, high = np.quantile(drawn[method], [0.025, 0.975])
        apart = drawn[method] - drawn["logreg"]
        yield {
            "name": "CoLA, labels that the judges dispute",
            "method": method,
            "average_precision": round(ap(score, np.arange(len(score))), 4),
            "interval": [round(float(q), 4) for q in (low, high)],
            "minus_logreg": [round(float(q), 4) for q in np.quantile(apart, [0.025, 0.5, 0.975])],
            "of_the_first_20": int(disputed[first].sum()),
            "by_chance": round(float(disputed.mean()), 4),
            "trained_on": len(train),
        }
