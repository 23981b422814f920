"""The first screen: the verdict in two sentences, and one figure with the numbers behind it."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from probejax.analysis import intervals
from probejax.analysis.group import Group
from probejax.analysis.labels import Value, counted, interval, number, percent, signed, title
from probejax.analysis.page.elements import esc, legend
from probejax.analysis.verdict import NEUTRAL, Verdict

_WORDS = {
    "better": "better",
    "worse": "worse",
    "unclear": "no certain change",
    "ties": "ties decide",
}

_TERMS = (
    '<p class="note">A <dfn>quiver</dfn> is the set of methods among which a practitioner picks '
    "the one with the best validation AUC. A <dfn>cell</dfn> is one such pick: one task under one "
    "condition with one random draw. A <dfn>tie</dfn> is a cell in which several methods share the "
    "best validation AUC.</p>"
)


def first_screen(group: Group, found: Verdict, methods: Mapping[str, pd.DataFrame]) -> str:
    """Returns the verdict on a group, its caveats and the figure of all regimes.

    Args:
        group: what the verdict is on.
        found: the verdict.
        methods: per regime, a row for each method.
    """
    caveats = "".join(f"<li>{esc(text)}</li>" for text in found.caveats)
    caveats = f'<ul class="caveats">{caveats}</ul>' if caveats else ""
    numbers = found.numbers if found.calls else f"{found.numbers} {_highest(group, methods)}"
    return (
        f'<p class="answer">{esc(found.answer)}</p><p class="numbers">{esc(numbers)}</p>'
        f"{_TERMS if found.calls else ''}{_forest(group, found)}{caveats}"
    )


def _highest(group: Group, methods: Mapping[str, pd.DataFrame]) -> str:
    """Returns the best method of every regime, where no quivers are compared."""
    parts = []
    for regime in group.regimes:
        rows = methods[regime]
        rows = rows if rows.empty else rows[~rows["control"].astype(bool)]
        if rows.empty:
            continue
        best = rows.sort_values("test_auc", ascending=False, kind="stable").iloc[0]
        parts.append(f"{title(regime).lower()} {number(best['test_auc'])} ({best['label']})")
    return f"Highest mean test AUC: {', '.join(parts)}." if parts else ""


def _forest(group: Group, found: Verdict) -> str:
    rows = [row for regime in group.regimes if (row := _row(group, regime, found))]
    if not rows:
        return ""
    # Two methods head to head may differ far more than two quivers; they do not set the scale.
    quivers = [row for row in rows if row["call"] != "apart"] or rows
    ends = [v for row in quivers for v in row["span"] if np.isfinite(v)] + [0.0]
    low, high = min(ends), max(ends)
    room = 0.05 * (high - low) or 0.01
    low, high = low - room, high + room
    at = lambda value: f"{100 * min(max((value - low) / (high - low), 0), 1):.2f}%"
    body = "".join(_line(row, at, bool(low <= row["delta"] <= high)) for row in rows)
    ticks = "".join(
        f'<text x="{at(v)}" y="12" class="xtick">{signed(v, 3) if v else "0"}</text>'
        for v in MaxNLocator(4).tick_values(low, high)
        if low + room <= v <= high - room  # the page would cut one at its edge
    )
    keys = legend(
        [
            ("dot-key accent", "mean change, SAEs win ties"),
            ("ring-key", "mean over ties"),
            ("thick-key", "95 %, paired over tasks"),
            ("thin-key", "95 %, all regimes at once"),
        ]
    )
    return (
        '<div class="forest" role="table" aria-label="Change of test AUC per regime">'
        '<div class="row head" role="row"><b role="columnheader">regime</b>'
        '<b role="columnheader" class="plot">change of mean test AUC with SAE probes</b>'
        '<b role="columnheader">change</b><b role="columnheader">without → with</b>'
        '<b role="columnheader" class="wide">SAE chosen</b>'
        '<b role="columnheader" class="wide">tasks won : lost</b></div>'
        f'{body}<div class="row foot"><span></span><svg class="plot strip" height="18">{ticks}'
        f"</svg></div></div>{keys}"
    )


def _row(group: Group, regime: str, found: Verdict) -> dict | None:
    row = group.row(regime)
    if row is None:
        return _head_to_head(group, regime)
    neutral = group.row(regime, NEUTRAL)
    low, high = row["band_low"], row["band_high"]
    middle = np.nan if neutral is None else neutral["delta"]
    call = found.calls.get(regime, "unclear")
    chosen = percent(row["sae_chosen"] / row["cells"]) if pd.notna(row["sae_chosen"]) else ""
    return {
        "name": title(regime),
        "regime": regime,
        "note": f"{counted(row['tasks'], 'task')}, {counted(row['cells'], 'cell')}",
        "call": call,
        "delta": row["delta"],
        "ci": (row["ci_low"], row["ci_high"]),
        "band": (low, high),
        "neutral": middle,
        "span": (row["delta"], row["ci_low"], row["ci_high"], low, high, middle),
        "base": row["baseline"],
        "sae": row["with_sae"],
        "chosen": chosen,
        "won": f"{row['wins']} : {row['losses']}",
    }


def _head_to_head(group: Group, regime: str) -> dict | None:
    """Returns the row of a regime in which two methods are compared and nothing was chosen."""
    if regime not in group.head_to_head:
        return None
    cells = group.compared(regime)
    delta, tasks = cells["delta"].to_numpy(dtype=float), cells["task"].to_numpy(dtype=str)
    mean, low, high = intervals.paired_bootstrap(delta, tasks)
    won = intervals.win_rate(intervals.task_means(delta, tasks))
    base, sae = group.head_to_head[regime]
    return {
        "name": title(regime),
        "regime": regime,
        "note": f"{base} against {sae} on {counted(len(set(tasks)), 'task')}; nothing was chosen",
        "call": "apart",
        "delta": mean,
        "ci": (low, high),
        "band": (np.nan, np.nan),
        "neutral": np.nan,
        "span": (mean, low, high),
        "base": cells["baseline"].mean(),
        "sae": cells["with_sae"].mean(),
        "chosen": "",
        "won": f"{won.wins} : {won.losses}",
    }


def _line(row: dict, at: Callable[[Value], str], inside: bool) -> str:
    text = (
        f"{row['name']}\nchange {signed(row['delta'])}\n95 %: {interval(*row['ci'])}\n"
        f"all regimes at once: {interval(*row['band'])}\nmean over ties: {signed(row['neutral'])}"
    )
    marks = [f'<line class="zero" x1="{at(0)}" x2="{at(0)}" y1="0" y2="34"/>']
    for (low, high), style in ((row["band"], "thin"), (row["ci"], "thick")):
        if np.isfinite(low):
            marks.append(f'<line class="{style}" x1="{at(low)}" x2="{at(high)}" y1="14" y2="14"/>')
    if inside:
        marks.append(f'<circle class="dot accent" cx="{at(row["delta"])}" cy="14" r="5"/>')
    else:
        side, word = (
            ("end", "off this scale →") if row["delta"] > 0 else ("start", "← off this scale")
        )
        x = at(row["delta"])
        marks = [f'<text x="{x}" y="19" style="text-anchor: {side}">{word}</text>']
    if np.isfinite(row["neutral"]):
        marks.append(f'<circle class="ring" cx="{at(row["neutral"])}" cy="27" r="4"/>')
    marks.append(f'<rect class="hit" width="100%" height="34" data-t="{esc(text)}"/>')
    limits = interval(*row["ci"])
    word = _WORDS.get(row["call"], "")
    word = f'<i class="call {row["call"]}">{word}</i>, ' if word else ""
    return (
        f'<div class="row" role="row"><span role="cell"><a href="#{esc(row["regime"])}">'
        f"{esc(row['name'])}</a><small>{word}{esc(row['note'])}</small></span>"
        f'<svg class="plot strip" role="cell" height="34">{"".join(marks)}</svg>'
        f'<span role="cell" class="num"><strong>{signed(row["delta"])}</strong>'
        f"<small>{limits}</small></span>"
        f'<span role="cell" class="num">{row["base"]:.4f} → {row["sae"]:.4f}</span>'
        f'<span role="cell" class="num wide">{row["chosen"]}</span>'
        f'<span role="cell" class="num wide">{row["won"]}</span></div>'
    )
