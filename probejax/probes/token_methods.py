"""The methods on the residuals of all tokens of a prompt, by name."""

import functools
from collections.abc import Callable

from probejax.probes import aggregators, attention, attention_newton, concat_pca, pooled_logreg
from probejax.probes.attention import Design
from probejax.probes.scores import Fit

_RATES = (1e-4, 1e-3, 1e-5)  # where the study names none; the first wins a tie


def _trained(*design, **options) -> Callable[..., Fit]:
    return functools.partial(attention.fit, design=Design(*design, rates=_RATES, **options))


# Each is `fit(tokens, rows, protocol) -> Fit`.
TOKEN_METHODS: dict[str, Callable[..., Fit]] = {
    "attention": attention.fit,
    "attention_no_bos": functools.partial(
        attention.fit, design=attention.attention()._replace(bos=False)
    ),
    "attention_h4": functools.partial(attention.fit, design=attention.attention(4)),
    "attention_newton": attention_newton.fit,
    "concat_pca": concat_pca.fit,
    "mean_pool": functools.partial(pooled_logreg.fit, pooling="mean"),
    "max_pool": functools.partial(pooled_logreg.fit, pooling="max"),
    "multimax": _trained(aggregators.multimax, 4),
    "max_of_rolling_means": _trained(
        aggregators.max_of_rolling_means, settings=(2.0, 4.0, 8.0, 16.0, 32.0)
    ),
    "ema": _trained(aggregators.ema, settings=(0.5, 0.2, 0.1, 0.05)),
    "softmax": _trained(aggregators.softmax, settings=(1.0, 0.2, 5.0)),
}
