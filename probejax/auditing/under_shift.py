"""What to keep under a shift: the AUC on shifted prompts against the number of latents kept."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from probejax.auditing.dataset import Dataset
from probejax.auditing.finding import Claim, Finding, Table
from probejax.auditing.orders import LEAST_MOVED, RANDOM, Order
from probejax.auditing.pruned import Pruned, half, prune
from probejax.auditing.shift_figure import LOGREG, against_kept
from probejax.auditing.shifted import Shifted
from probejax.metrics import host_aucs
from probejax.saes.describe import page

K = 16  # latents that are ranked


def under_shift(
    data: Dataset, other: Shifted, keep: tuple[int, ...] | None = None, *, seed: int = 0
) -> Finding:
    """Keeps ever more latents in several orders, and tests each probe on the shifted set.

    Args:
      data: the dataset, which has an SAE.
      other: its shifted set.
      keep: latents that the user would keep, the best first.
      seed: of the rows, the random orders, the permutation and the bootstrap.

    Raises:
      ValueError: there are too few rows of a class.
    """
    found = prune(data, other, K, keep, seed=seed)
    whole = dict.fromkeys(("kept", "latent"), "Int64")
    curves = pd.DataFrame(_curves(found)).astype(whole)
    notes = [f"Trained on {found.labels.shape[1]:,} different prompts of the dataset, tested on "
             f"{len(found.tested):,} of {len(other.y):,} shifted ones."]  # fmt: skip
    if found.unconverged:
        notes.append(f"{found.unconverged} fits did not reach their certificate.")
    return Finding(
        "under_shift",
        "What to keep under a shift",
        f"Of the {len(found.candidates)} latents whose class means differ most on the prompts that "
        "are trained on, an L1 probe reads the first one, two and so on, in several orders. "
        "Largest weight: by the weight in the probe on all of them, times the latent's standard "
        "deviation. Moves least: by how badly the latent alone tells original from shifted prompts "
        "(distance of that AUC from one half, least first), for which no label is read and no "
        f"person asked. Random order: the mean of {RANDOM}. As given: as the user ranked them. "
        "Intervals are over draws of the shifted prompts. Chance is the same where the labels that "
        "are trained on are permuted.",
        tuple(_claims(found)),
        (
            Table("kept_under_shift", "AUC on the shifted prompts, by what is kept", curves,
                  "A difference is paired: of the same draws."),
            Table("shifted_latents", "The latents, and how far they move", _latents(data, found),
                  "Put the lines into another order and hand the file back with --keep."),
        ),
        tuple(notes),
        (("kept_under_shift", against_kept(curves)),),
    )  # fmt: skip


def _claims(found: Pruned) -> Iterator[Claim]:
    own, chance = found.aucs.aucs[:2].tolist()
    yield Claim("AUC of logreg on all dimensions, on shifted prompts", own, chance)
    both = tuple(zip(*found.orders, strict=True))
    yield _claim(
        found, f"AUC of all {len(found.candidates)} latents", both[0], len(found.candidates)
    )
    # What moves least comes last: it is what the page says first.
    for orders in sorted(both, key=lambda each: each[0].name == LEAST_MOVED):
        kept = half(orders[0])
        yield _claim(found, f"AUC of {kept} latents, {orders[0].name}", orders, kept)


def _claim(found: Pruned, text: str, orders: tuple[Order, Order], kept: int) -> Claim:
    own, chance = (
        float(found.aucs.aucs @ found.mean(which, order, kept))
        for which, order in enumerate(orders)
    )
    return Claim(f"{text}, on shifted prompts", own, chance)


def _curves(found: Pruned) -> Iterator[dict[str, Any]]:
    """Yields a row for every order and number of latents, and one for logreg."""
    logreg = np.eye(1, len(found.aucs.aucs))[0]
    yield {"order": LOGREG, "kept": pd.NA} | _interval("auc", found, logreg)
    *_, random = found.orders[0]
    for order in found.orders[0]:
        for kept in range(1, order.lists.shape[1] + 1):
            own, row = found.mean(0, order, kept), {"order": order.name, "kept": kept}
            if order is not random:
                row["latent"] = int(found.latents[order.lists[0, kept - 1]])
            row |= _interval("auc", found, own)
            if order is not random and kept <= random.lists.shape[1]:
                row |= _interval("above_random", found, own - found.mean(0, random, kept))
            yield row | _interval("above_logreg", found, own - logreg)


def _interval(name: str, found: Pruned, weights: Float[np.ndarray, " a"]) -> dict[str, float]:
    value, low, high = found.aucs.interval(weights)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _latents(data: Dataset, found: Pruned) -> pd.DataFrame:
    """Returns a line for each candidate, in the order of the rule: what moves least first."""
    n = found.labels.shape[1]
    first = next(each for each in found.orders[0] if each.name == LEAST_MOVED).lists[0]
    original, other = found.values[:n, first], found.values[n:, first]
    rank = lambda score: np.argsort(np.argsort(-score, kind="stable"), kind="stable") + 1
    table = pd.DataFrame(
        {
            "latent": found.latents[first],
            "moved": found.moved[first],
            "rate_original": (original > 0).mean(axis=0),
            "rate_shifted": (other > 0).mean(axis=0),
            "rank_by_weight": rank(found.weights[first]),
            "auc_original": host_aucs(original, found.labels[0][:, None])[:, 0],
            "auc_shifted": host_aucs(other, found.tested[:, None])[:, 0],
        }
    )
    if data.page:
        table["link"] = [page(data.page, int(latent)) for latent in table["latent"]]
    return table
