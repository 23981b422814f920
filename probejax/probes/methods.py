"""The names of the methods, and what each name means."""

import difflib
import re
from collections.abc import Callable
from typing import NamedTuple

from probejax.probes import knn, lda, logreg, logreg_l1, mean_difference, mlp, pca, xgboost
from probejax.probes.scores import Fitted

# Methods on the raw features; each is `fit(features, rows, protocol) -> Fitted`.
BASELINES: dict[str, Callable[..., Fitted]] = {
    "logreg": logreg.fit,
    "pca": pca.fit,
    "knn": knn.fit,
    "mlp": mlp.fit,
    "mean_difference": mean_difference.fit,
    "lda": lda.fit,
    "logreg_l1": logreg_l1.fit,
    "xgboost": xgboost.fit,
}
DEFAULT = ("logreg", "pca", "knn", "mlp", "mean_difference", "lda", "sae_k16", "sae_k128")
"""What runs unless methods are named: the slow ones, `logreg_l1` and `xgboost`, do not."""

ALL = (*BASELINES, *(f"sae_k{2**i}" for i in range(10)))
"""What `all` means: every baseline, and the study's ten sizes of SAE probes."""

CONTROLS = ("shuffled", "random_latents")
"""`<method>_shuffled` trains on permuted labels; `sae_k<k>_random_latents` on latents drawn from
those that fire, instead of the top ones."""

_NAME = re.compile(
    rf"^(?:(?P<baseline>{'|'.join(BASELINES)})|sae_k(?P<k>[1-9]\d*)(?P<binarised>_binarised)?)"
    rf"(?:_(?P<control>{'|'.join(CONTROLS)}))?$"
)


class Method(NamedTuple):
    """What the name of a method means.

    Attributes:
      baseline: its name in `BASELINES`; empty for a method on the latents of an SAE.
      k: how many latents; 0 for a baseline.
      binarised: whether a latent counts as on or off.
      control: one of `CONTROLS`, or empty.
    """

    baseline: str
    k: int
    binarised: bool
    control: str


def parse(name: str) -> Method:
    """Reads the name of a method.

    Raises:
      ValueError: there is no such method.
    """
    found = _NAME.match(name)
    if not found or (found["baseline"] and found["control"] == "random_latents"):
        raise ValueError(_unknown(name))
    return Method(
        found["baseline"] or "",
        int(found["k"] or 0),
        bool(found["binarised"]),
        found["control"] or "",
    )


def controls(name: str) -> list[str]:
    """Returns the names of a method's controls, none for a control."""
    method = parse(name)
    if method.control:
        return []
    return [f"{name}_{control}" for control in (CONTROLS if method.k else CONTROLS[:1])]


def _unknown(name: str) -> str:
    names = [*BASELINES, "sae_k<k>", "sae_k<k>_binarised"]
    near = difflib.get_close_matches(name, [*names, "sae_k16", "sae_k128"], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return (
        f"There is no method {name!r}; the methods are {', '.join(names)}, each also with "
        f"_shuffled, the latter with _random_latents.{hint}"
    )
