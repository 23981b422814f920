"""The names of the methods, and what each name means."""

import difflib
import re
from typing import NamedTuple

LAST_TOKEN = (
    *("logreg", "pca", "knn", "mlp", "mean_difference", "lda", "ridge", "logreg_l1", "xgboost"),
)
"""Methods on the last token's residual, each the `fit` of a file of its name, see `baselines`."""

ALL_TOKENS = (
    *("attention", "attention_no_bos", "attention_h4", "attention_newton", "concat_pca"),
    *("mean_pool", "max_pool", "multimax", "max_of_rolling_means", "ema", "softmax"),
)
"""Methods on the residuals of all tokens, see `token_methods`."""

DEFAULT = ("logreg", "pca", "knn", "mlp", "mean_difference", "lda", "sae_k16", "sae_k128")
"""What runs unless methods are named: the slow ones, `logreg_l1` and `xgboost`, do not."""

ALL = (*LAST_TOKEN, *(f"sae_k{2**i}" for i in range(10)))
"""What `all` means: every baseline, and the study's ten sizes of SAE probes."""

MULTITOKEN = (
    *("logreg", "sae_k128", "sae_max_k128", "sae_mean_k128"),
    *("attention", "attention_no_bos", "attention_newton", "concat_pca"),
    *("mean_pool", "max_pool", "multimax", "max_of_rolling_means", "ema", "softmax"),
)
"""What `multitoken` means: probes that read all tokens of a prompt, and the two last-token probes
that the study compares them with. They are in no other list."""

CHOSEN = {
    "pca": "components",
    "knn": "k",
    "xgboost": "draw",
    "max_of_rolling_means": "window",
    "ema": "decay",
    "softmax": "temperature",
} | dict.fromkeys(("attention", "attention_no_bos", "attention_h4", "multimax"), "rate")
"""What a method's hyperparameter is called, where it is not C."""

CONTROLS = ("shuffled", "random_latents")
"""`<method>_shuffled` trains on permuted labels; `sae_k<k>_random_latents` on latents drawn from
those that fire, instead of the top ones."""

_NAME = re.compile(
    rf"^(?:(?P<baseline>{'|'.join((*LAST_TOKEN, *ALL_TOKENS))})"
    r"|sae_(?:(?P<pooling>max|mean)_)?k(?P<k>[1-9]\d*)(?P<binarised>_binarised)?)"
    rf"(?:_(?P<control>{'|'.join(CONTROLS)}))?$"
)


class Method(NamedTuple):
    """What the name of a method means; results have these fields as columns.

    Attributes:
      name: the whole name, such as `sae_max_k128_binarised_shuffled`.
      family: `sae` for a probe on latents, else its name in `LAST_TOKEN` or `ALL_TOKENS`.
      k: how many latents; 0 for a baseline.
      pooling: how latents are pooled over tokens, `max` or `mean`; empty for the last token's.
      binarised: whether a latent counts as on or off.
      control: one of `CONTROLS`, or empty.
      reads_tokens: whether it reads all tokens of a prompt, not the last alone.
      rank_in_ties: its place among methods whose validation AUCs tie, the smallest first; of SAE
        probes, at equal SAE and k. Equal ranks stand in the order of their names.
    """

    name: str
    family: str
    k: int = 0
    pooling: str = ""
    binarised: bool = False
    control: str = ""
    reads_tokens: bool = False
    rank_in_ties: int = 5


_POOLINGS = ("", "max", "mean")
# The order in which the study's files list its baselines; others follow, those on all tokens last.
_RANKS = {name: rank for rank, name in enumerate(("logreg", "pca", "knn", "xgboost", "mlp"))}
_RANKS |= {name: 6 + rank for rank, name in enumerate(ALL_TOKENS)}


def parse(name: str) -> Method:
    """Reads the name of a method.

    Raises:
      ValueError: there is no such method.
    """
    found = _NAME.match(name)
    if not found or (found["baseline"] and found["control"] == "random_latents"):
        raise ValueError(_unknown(name))
    family, pooling = found["baseline"] or "sae", found["pooling"] or ""
    return Method(
        name,
        family,
        int(found["k"] or 0),
        pooling,
        bool(found["binarised"]),
        found["control"] or "",
        bool(pooling) or family in ALL_TOKENS,
        _POOLINGS.index(pooling) if family == "sae" else _RANKS.get(family, 5),
    )


def parse_any(name: str) -> Method:
    """Reads a name in results that may come from elsewhere: an unknown method is its own family."""
    try:
        return parse(name)
    except ValueError:
        control = next((each for each in CONTROLS if name.endswith(f"_{each}")), "")
        family = name.removesuffix(f"_{control}") if control else name
        return Method(name, family, control=control)


def controls(name: str) -> list[str]:
    """Returns the names of a method's controls, none for a control."""
    method = parse(name)
    if method.control:
        return []
    return [f"{name}_{control}" for control in (CONTROLS if method.k else CONTROLS[:1])]


def _unknown(name: str) -> str:
    latents = [f"sae_{pooling}k<k>" for pooling in ("", "max_", "mean_")]
    names = [*LAST_TOKEN, *ALL_TOKENS, *latents]
    examples = [each.replace("<k>", k) for each in latents for k in ("16", "128")]
    near = difflib.get_close_matches(name, [*names, *examples], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return (
        f"There is no method {name!r}; the methods are {', '.join(names)}, the sae_ ones also with "
        f"_binarised, all with _shuffled, the sae_ ones with _random_latents.{hint}"
    )
