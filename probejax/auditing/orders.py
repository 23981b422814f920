"""Orders in which latents may be kept, the best first."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probejax.metrics import host_aucs

WEIGHT, LEAST_MOVED = "largest weight first", "least moved first"
GIVEN, AT_RANDOM = "as given", "in random order"
RANDOM = 20  # random orders, whose mean is the control


class Order(NamedTuple):
    """One way to rank latents.

    Attributes:
      name: of it.
      lists: [r, j] the latents, the best first; of the random way several lists, else one.
    """

    name: str
    lists: Int[np.ndarray, "r j"]


def orders(
    candidates: Int[np.ndarray, " k"],
    weight: Float[np.ndarray, " m"],
    moved: Float[np.ndarray, " m"],
    given: Int[np.ndarray, " g"] | None,
    seed: int,
) -> list[Order]:
    """Ranks candidates by weight, by how little they move, as a user gave them and at random.

    Args:
      candidates: columns, those whose class means differ most first; so are those that tie.
      weight: of each column in a probe on all of them, larger is better.
      moved: of each column, see `moves`, smaller is better.
      given: columns that the user ranked, if so.
      seed: of the random orders.
    """
    by = lambda score: candidates[np.argsort(score[candidates], kind="stable")][None]
    rng = np.random.RandomState(seed)
    found = [Order(WEIGHT, by(-weight)), Order(LEAST_MOVED, by(moved))]
    found += [] if given is None else [Order(GIVEN, given[None])]
    drawn = np.stack([rng.permutation(candidates) for _ in range(RANDOM)])
    return [*found, Order(AT_RANDOM, drawn)]


def moves(
    original: Float[np.ndarray, "n m"], other: Float[np.ndarray, "t m"]
) -> Float[np.ndarray, " m"]:
    """Returns how far the firing of each latent moves from some prompts to others, labels unread.

    That is how well its activation alone tells which of the two a prompt is of: the distance of the
    AUC from one half, 0 where it fires alike and 0.5 where it gives them away.
    """
    which = np.repeat([0, 1], [len(original), len(other)])
    return np.abs(host_aucs(np.concatenate([original, other]), which[:, None])[:, 0] - 0.5)
