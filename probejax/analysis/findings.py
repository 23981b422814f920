"""Every table of the analysis, computed once: figures, page, exports and summary read these."""

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import pandas as pd

from probejax.analysis import architectures, comparisons
from probejax.analysis.by_layer import by_layer, chosen_sites
from probejax.analysis.facts import with_facts
from probejax.analysis.group import Group, groups
from probejax.analysis.left_out import attempt
from probejax.analysis.multi_token import multi_token
from probejax.analysis.quiver import quiver
from probejax.analysis.ties import TIE_RULES
from probejax.analysis.verdict import Verdict, of_baselines, verdict


class Findings(NamedTuple):
    """What the results say.

    Attributes:
      results: one row per fit.
      quiver: one row per regime, level and tie rule, see `quiver`.
      groups: one per protocol, model and site.
      verdicts: one per group.
      methods: per group and regime, a row for each method, see `comparisons.methods`.
      layers: every method at every site, see `by_layer`.
      tokens: probes on all tokens, see `multi_token`.
      studies: of SAE architectures.
      controls: claims beside their controls.
      protocols: `paper` beside `strict`.
      unconverged: fits that did not converge.
    """

    results: pd.DataFrame
    quiver: pd.DataFrame
    groups: list[Group]
    verdicts: list[Verdict]
    methods: dict[tuple[int, str], pd.DataFrame]
    layers: pd.DataFrame
    tokens: pd.DataFrame
    studies: list[architectures.Study]
    controls: pd.DataFrame
    protocols: pd.DataFrame
    unconverged: pd.DataFrame

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that are saved beside `results` and `quiver`, by the names of their files."""
        own = {"layers": self.layers, "multi_token": self.tokens}
        own = {name: table for name, table in own.items() if not table.empty}
        return own | architectures.tables(self.studies)

    @property
    def shown(self) -> list[int]:
        """Places of the groups whose tables are shown: those that compare, else the first."""
        return [i for i, group in enumerate(self.groups) if group.compared_regimes] or [0]

    @property
    def not_shown(self) -> list[str]:
        """Names of the groups that no table shows, not even that of the sites of a model."""
        rows = self.layers[["protocol", "model"]].to_numpy() if len(self.layers) else ()
        by_site = set(map(tuple, rows))
        return [
            group.name
            for i, group in enumerate(self.groups)
            if i not in self.shown and (group.protocol, group.model) not in by_site
        ]


def _verdict(group: Group, results: pd.DataFrame) -> Verdict:
    found = verdict(group.quiver)
    return found if found.calls else of_baselines(group.rows(results)) or found


def find(
    results: pd.DataFrame,
    left_out: list[str] | None = None,
    first: Collection[tuple[str, str, str]] = (),
) -> Findings:
    """Computes the tables of a results table; one that cannot be costs a line in `left_out`.

    Args:
        results: one row per fit.
        left_out: lines.
        first: protocol, model and site of what is told before all else.

    Raises:
        ValueError: as for `quiver`.
    """
    left_out = [] if left_out is None else left_out
    results = with_facts(results)
    table = quiver(results, tie_rule=tuple(TIE_RULES))

    def made(what, make):
        rows = attempt(left_out, what, make)
        return pd.DataFrame() if rows is None else rows

    layers = made("sites beside each other", lambda: by_layer(results))
    found = groups(results, table, chosen_sites(layers), first)

    return Findings(
        results,
        table,
        found,
        [_verdict(group, results) for group in found],
        {
            (i, regime): made(
                f"methods under {regime}, {group.name}",
                partial(comparisons.methods, group.table, regime),
            )
            for i, group in enumerate(found)
            for regime in group.regimes
        },
        layers,
        made("probes on all tokens", lambda: multi_token(found)),
        attempt(left_out, "SAE architectures", lambda: architectures.studies(found)) or [],
        made("controls", lambda: comparisons.controls(found)),
        made("protocols", lambda: comparisons.protocols(found)),
        made("fits that did not converge", lambda: comparisons.unconverged(results)),
    )
