"""The audit of one dataset: every finding, as tables and as one page."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from etils import epath

from probejax import spreadsheet, storage
from probejax.analysis.drawing import encoded
from probejax.auditing import keep as keep_file
from probejax.auditing import units
from probejax.auditing.by_group import by_group
from probejax.auditing.corpus import Corpus
from probejax.auditing.dataset import Dataset, dataset
from probejax.auditing.duplicates import duplicates
from probejax.auditing.finding import Finding
from probejax.auditing.latents import latents
from probejax.auditing.out_of_fold import judge
from probejax.auditing.page import page
from probejax.auditing.shifted import Shifted, shifted_set, split
from probejax.auditing.shortcuts import shortcuts
from probejax.auditing.single_latents import single_latents
from probejax.auditing.suspect_labels import suspect_labels
from probejax.auditing.tokens import tokens
from probejax.auditing.under_shift import under_shift
from probejax.saes import stream

# What a page stands on; an earlier audit's are removed, and nothing else that lies in the folder.
FILES = (
    *("suspect_labels.csv", "cleaned.jsonl", "latent_rules.csv", "latent_suspects.csv"),
    *("shortcuts.csv", "shortcuts_found_by.csv", "latents.csv", "tokens.csv", "tokens_lowest.csv"),
    *("duplicates.csv", "groups.csv", "kept_under_shift.csv", "shifted_latents.csv"),
    *("figures/kept_under_shift.svg", "figures/kept_under_shift.png"),
)
K = 128  # latents of the SAE probe that judges labels


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
    """What was found in a dataset.

    Attributes:
      name: of the dataset.
      findings: one for each kind of fault.
      facts: what was audited, and by what.
    """

    name: str
    findings: tuple[Finding, ...]
    facts: dict[str, str]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by its name, such as `suspect_labels`."""
        return {each.name: each.rows for found in self.findings for each in found.tables}

    def save(self, out: epath.PathLike) -> None:
        """Writes `audit.html`, a file for each table and `figures/`, into a folder.

        `cleaned.jsonl` can be audited or probed in its turn, as `--data`; the others are CSV.
        Files of these names that an earlier audit left there are removed.

        Raises:
          StorageError: it cannot be written.
        """
        out = epath.Path(out)
        written, drawn = set(), {}

        def write(name: str, content: str | bytes) -> None:
            storage.write_atomic(out / name, content)
            written.add(name)

        for table in (each for found in self.findings for each in found.tables):
            encode = _encode_lines if table.ending == "jsonl" else spreadsheet.encode_csv
            write(f"{table.name}.{table.ending}", encode(table.rows))
        for name, picture in (each for found in self.findings for each in found.pictures):
            files = encoded(picture)
            drawn[name] = files["svg"]
            for kind, content in files.items():
                write(f"figures/{name}.{kind}", content)
        write("audit.html", page(self.name, self.findings, self.facts, drawn))
        for old in set(FILES) - written:
            (out / old).unlink(missing_ok=True)

    def __repr__(self) -> str:
        lines = [f"Audit of {self.name}: {', '.join(self.facts.values())}"]
        for found in self.findings:
            lines.append(f"\n{found.title}")
            for claim in found.claims:
                value, chance = (f"{x:.{claim.digits}f}" for x in (claim.value, claim.by_chance))
                beside = f" ({claim.chance}: {chance})" if claim.chance else ""
                lines.append(f"  {claim.text}: {value}{beside}")
            lines += [f"  {note}" for note in found.notes]
        return "\n".join(lines)


def audit(
    x: Any,
    y: Any,
    *,
    texts: Iterable[Any] | None = None,
    sae: Any = None,
    groups: Iterable[Any] | None = None,
    shifted: Sequence[Any] | None = None,
    keep: Iterable[Any] | None = None,
    seed: int = 0,
) -> Audit:
    """Looks for what is wrong with a dataset, by probes and by latents.

    >>> import numpy as np
    >>> import probejax as px
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(400, 8)), np.arange(400) % 2
    >>> x[:, 3] += 6 * y
    >>> y[:3] = 1 - y[:3]
    >>> found = px.audit(x, y)
    >>> sorted(found.tables["suspect_labels"]["row"][:3])
    [0, 1, 2]

    Args:
      x: [n, d] one row of activations per prompt, as for `fit`.
      y: [n] labels of two values.
      texts: n prompts; without them nothing is said of how they are written.
      sae: an SAE, or anything with `encode(x)`; without one nothing is said of latents.
      groups: n names of groups; without them rows are grouped by their activations.
      shifted: activations and labels of a shifted set, and if you like its texts, (x, y) or (x, y,
        texts): says which latents to keep there; needs an SAE.
      keep: latents that you would keep there, the best first, beside the rules that rank them.
      seed: of folds and permutations.

    Returns:
      The audit. `tables["suspect_labels"]` and its like are DataFrames; `save(out)` writes the
      page and a file for each; its repr is every claim beside what chance gives.

    Raises:
      ValueError: the arrays do not fit each other, have too few rows of a class, latents are to be
        kept that the SAE does not have, or the extra `audit` is not installed.
    """
    data = dataset(x, y, texts=texts, groups=groups, sae=sae)
    other, ranking = None, None
    if keep is not None:
        if shifted is None:
            raise ValueError("keep ranks latents for a shifted set; give shifted=(x, y), too")
        ranking = keep_file.ranking(keep, "keep")
    if shifted is not None:
        if data.sae is None:
            raise ValueError("which latents to keep on a shifted set needs an SAE; give sae, too")
        if len(shifted) not in (2, 3):
            raise ValueError(f"shifted has {len(shifted)} parts; expected (x, y) or (x, y, texts)")
        other = shifted_set(data, *shifted)
        split(data, other, seed)
        keep_file.check(ranking or (), stream.width(data.sae, data.x[:1]), "keep")
    return examine(data, shifted=other, keep=ranking, seed=seed)


def examine(
    data: Dataset,
    corpus: Corpus | None = None,
    *,
    shifted: Shifted | None = None,
    keep: tuple[int, ...] | None = None,
    seed: int = 0,
    facts: dict[str, str] | None = None,
) -> Audit:
    """Returns every finding of a dataset that has been checked.

    Args:
      data: the dataset.
      corpus: tokens of other texts, of the same model and site.
      shifted: a shifted set, of a dataset that has an SAE.
      keep: latents that the user would keep there, the best first.
      seed: of folds and permutations.
      facts: where it is from.
    """
    methods = ("logreg",) if data.sae is None else ("logreg", f"sae_k{_k(data)}")
    findings = _findings(data, methods, corpus, seed)
    if shifted is not None:
        findings += (under_shift(data, shifted, keep, seed=seed),)
    ones = int(data.y.sum())
    known = {
        "rows": f"{len(data.y):,} rows of {len(set(data.same.tolist())):,} different prompts",
        "labels": ", ".join(
            f"{n:,} are {name!r}"
            for n, name in zip((len(data.y) - ones, ones), data.classes, strict=True)
        ),
        "judged by": " and ".join(methods),
    }
    if stuck := int(units.stuck(data.y, data.same).sum()):
        known["labels permuted"] = (
            f"{stuck:,} rows keep their label in every permutation, since no prompt that stands "
            "there as often has another: what they alone tell counts as chance"
        )
    return Audit(data.name, findings, known | (facts or {}))


def _findings(
    data: Dataset, methods: tuple[str, ...], corpus: Corpus | None, seed: int
) -> tuple[Finding, ...]:
    """Returns what can be looked for in these data, in the order of the page."""
    judged = [judge(data, method, seed=seed) for method in methods]
    found = [suspect_labels(data, judged, seed=seed)]
    own, known = None, None
    later: list[Finding] = []
    if data.sae is not None:
        found.append(single_latents(data, seed=seed))
        finding, own = latents(data, seed=seed)
        later.append(finding)
    if corpus is not None:
        finding, known = tokens(data, corpus, seed=seed)
        later.append(finding)
    if data.texts is not None:
        found.append(shortcuts(data, own, known, seed=seed))
    last = (duplicates(data, seed=seed), by_group(data, judged[0], seed=seed))
    return (*found, *later, *last)


def _encode_lines(table: pd.DataFrame) -> str:
    """Returns a table as JSON Lines: no spreadsheet opens that, and no text needs a guard."""
    return str(table.to_json(orient="records", lines=True, force_ascii=False))


def _k(data: Dataset) -> int:
    assert data.sae is not None, "there is an SAE"
    return min(K, stream.width(data.sae, data.x[:1]))
