"""Which layer: the section that stands first where a model is read at several sites."""

from collections.abc import Sequence

import pandas as pd

from probejax.analysis.by_layer import answer, reference
from probejax.analysis.figures import Shown
from probejax.analysis.findings import Findings
from probejax.analysis.group import Group
from probejax.analysis.labels import title
from probejax.analysis.page.elements import block, esc
from probejax.analysis.page.regime import gallery
from probejax.analysis.page.tables import Cell, change, count, figure, limits, table


def layers_block(found: Findings, pictures: Sequence[Shown], head: Group) -> str:
    """Returns the section on sites, nothing where every model has one.

    Args:
        found: what the results say.
        pictures: the figures that belong here.
        head: what the page begins with.
    """
    if found.layers.empty:
        return ""
    regime = title(found.layers["regime"].iloc[0]).lower()
    text = (
        f"<p>Mean test AUC of every method at every site, {esc(regime)}, over the tasks that all "
        "its sites have. The ring is the site of best mean validation AUC, which is what a "
        "practitioner would take; shades are 95 % of the difference to it, paired over tasks and "
        "for all sites at once: where a shade reaches the height of the ring, the two cannot be "
        "told apart.</p>"
    )
    shown = "".join(gallery([each for each in pictures if each.wide == wide]) for wide in (1, 0))
    said = None if head.compared_regimes else (head.protocol, head.model)  # by `site_screen`
    parts = [
        _model(rows, tell=key != said)
        for key, rows in found.layers.groupby(["protocol", "model"], sort=False)
    ]
    return block("layers", "Which layer", text, shown, *parts, _rest(found))


def site_screen(found: Findings, head: Group) -> str:
    """Returns the first screen of a run that compares sites alone."""
    same = (found.layers["protocol"] == head.protocol) & (found.layers["model"] == head.model)
    if not same.any():
        return ""
    first, numbers = answer(found.layers[same])
    return f'<p class="answer">{esc(first)}</p><p class="numbers">{esc(numbers)}</p>'


def _rest(found: Findings) -> str:
    """Says of which sites the rest of the page is."""
    groups = [found.groups[i] for i in found.shown]
    names = ", ".join(group.name for group in groups)
    if groups[0].compared_regimes:
        why = "where SAE probes and baselines can be compared"
    else:
        why = "the site that validation AUC chooses"
    return (
        f'<p class="note">What follows is about {esc(names)}: {why}. The numbers of all sites are '
        "in <code>layers.csv</code> and <code>results.csv</code>.</p>"
    )


def _model(rows: pd.DataFrame, tell: bool) -> str:
    model, protocol, first = rows["model"].iloc[0], rows["protocol"].iloc[0], reference(rows)
    own, others = rows[rows["method"] == first], rows[rows["method"] != first]
    sentence = f"<p>{esc(' '.join(answer(rows)))}</p>" if tell else ""
    body = f"<h3>{esc(f'{model}, {protocol} protocol')}</h3>{sentence}{_table(own)}"
    if others.empty:
        return body
    more = _table(others, "Find a method or site")
    summary = f"Other methods ({others['method'].nunique()})"
    return f"{body}<details><summary>{summary}</summary>{more}</details>"


def _table(rows: pd.DataFrame, search: str = "") -> str:
    headings = ["site", "method", "validation AUC", "test AUC", "minus the chosen site", "95 %"]
    headings += ["95 %, all sites", "by family", "tasks", "no partner"]
    return table(headings, [_row(row) for row in rows.to_dict("records")], search=search)


def _row(row: dict) -> Sequence[Cell | str]:
    method = f"{row['method']} {row['sae_id']}".strip()
    ends = (row["band_low"], row["band_high"])
    delta = Cell("chosen", 0.0, "num") if row["chosen"] else change(row["delta"], 4, *ends)
    return [
        row["site"],
        Cell(row["method"], method),
        figure(row["val_auc"]),
        figure(row["test_auc"]),
        delta,
        limits(row["ci_low"], row["ci_high"]),
        limits(*ends),
        limits(row["family_low"], row["family_high"]),
        count(row["tasks"]),
        count(row["unpaired"]),
    ]
