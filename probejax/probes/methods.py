"""The names of the methods, and which function each name means."""

import difflib
import re
from collections.abc import Callable

from probejax.probes import knn, lda, logreg, logreg_l1, mean_difference, mlp, xgboost
from probejax.probes.scores import Fitted

# Methods on the raw features; each is `fit(features, rows, protocol) -> Fitted`.
BASELINES: dict[str, Callable[..., Fitted]] = {
    "logreg": logreg.fit,
    "knn": knn.fit,
    "mean_difference": mean_difference.fit,
    "lda": lda.fit,
    "logreg_l1": logreg_l1.fit,
    "mlp": mlp.fit,
    "xgboost": xgboost.fit,
}
_SAE = re.compile(r"^sae_k([1-9]\d*)(_binarised)?$")


def is_sae_method(method: str) -> bool:
    """Tells a method on SAE latents from one on raw features.

    Raises:
      ValueError: there is no such method.
    """
    if method in BASELINES:
        return False
    sae_k(method)
    return True


def sae_k(method: str) -> int:
    """Returns k of `sae_k<k>` or `sae_k<k>_binarised`.

    Raises:
      ValueError: it is neither.
    """
    found = _SAE.match(method)
    if not found:
        raise ValueError(unknown_method(method))
    return int(found[1])


def is_binarised(method: str) -> bool:
    """Tells `sae_k<k>_binarised` from `sae_k<k>`."""
    return method.endswith("_binarised")


def unknown_method(method: str) -> str:
    """Returns the sentence for a method that does not exist."""
    names = [*BASELINES, "sae_k<k>", "sae_k<k>_binarised"]
    near = difflib.get_close_matches(method, [*names, "sae_k16", "sae_k128"], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"There is no method {method!r}; the methods are {', '.join(names)}.{hint}"
