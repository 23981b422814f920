"""The names of the methods that read all tokens of a prompt, and what each name means."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple, cast

from probejax.probes import aggregators, attention, attention_newton, concat_pca, pooled
from probejax.probes.attention import Design
from probejax.probes.sae_pooled import Pooling
from probejax.probes.scores import Fitted

_RATES = (1e-4, 1e-3, 1e-5)  # where the study names none; the first wins a tie


def _trained(*design, **options) -> Callable[..., Fitted]:
    return functools.partial(attention.fit, design=Design(*design, rates=_RATES, **options))


# Each is `fit(tokens, rows, protocol) -> Fitted`.
TOKEN_METHODS: dict[str, Callable[..., Fitted]] = {
    "attention": attention.fit,
    "attention_h4": functools.partial(attention.fit, design=attention.attention(4)),
    "attention_newton": attention_newton.fit,
    "concat_pca": concat_pca.fit,
    "mean_pool": functools.partial(pooled.fit, pooling="mean"),
    "max_pool": functools.partial(pooled.fit, pooling="max"),
    "multimax": _trained(aggregators.multimax, 4),
    "max_of_rolling_means": _trained(
        aggregators.max_of_rolling_means, settings=(2.0, 4.0, 8.0, 16.0, 32.0)
    ),
    "ema": _trained(aggregators.ema, settings=(0.5, 0.2, 0.1, 0.05)),
    "softmax": _trained(aggregators.softmax, settings=(1.0, 0.2, 5.0)),
}

_POOLED = re.compile(r"^sae_(?P<pooling>max|mean)_k(?P<k>[1-9]\d*)(?P<binarised>_binarised)?$")


class PooledMethod(NamedTuple):
    """What `sae_max_k128`, `sae_mean_k16_binarised` and the like mean."""

    pooling: Pooling
    k: int
    binarised: bool


def parse_pooled(name: str) -> PooledMethod | None:
    """Reads the name of a method on pooled latents; None if it is none."""
    found = _POOLED.match(name)
    if not found:
        return None
    pooling = cast(Pooling, found["pooling"])
    return PooledMethod(pooling, int(found["k"]), bool(found["binarised"]))
