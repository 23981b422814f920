"""Do SAE probes help, on one dataset in hand? The study's question, asked of arrays."""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int, Shaped
from scipy import stats

from probejax import inputs
from probejax.activations.ragged import Activations
from probejax.analysis.intervals import Interval
from probejax.analysis.quiver import choices
from probejax.analysis.verdict import NEUTRAL, STATED
from probejax.probes import baselines
from probejax.probes import sae as on_latents
from probejax.probes.methods import DEFAULT, Method, parse
from probejax.probes.rows import batches
from probejax.probes.scores import Protocol
from probejax.saes import stream
from probejax.saes.named import reading
from probejax.tasks import Condition, digests, distinct_rows
from probejax.tasks.regimes import ALL_REGIMES, Pool

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What choosing among more probes was worth, over draws of training and test rows.

    Attributes:
      difference: mean test AUC of the probe that validation AUC chooses among all probes, less that
        of the one it chooses among those without the SAE.
      low: lower end of the 95 % interval of that difference.
      high: upper end.
      averaged: the same three, where methods that share the best validation AUC are averaged and no
        rule chooses among them.
      draws: one row per draw: what either chose, and its test AUC.
      fits: one row per fit: method, draw, validation and test AUC, certificate.
    """

    difference: float
    low: float
    high: float
    averaged: Interval
    draws: pd.DataFrame
    fits: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The answer in a sentence: certain only where the rule for ties does not decide it."""
        stated = Interval(self.difference, self.low, self.high)
        if stated == self.averaged == Interval(0, 0, 0):
            return (
                f"SAE probes make no difference in any of {len(self.draws)} draws: the test AUC "
                "of what is chosen is the same with them"
            )
        if min(self.low, self.averaged.low) > 0:
            answer = "SAE probes help"
        elif max(self.high, self.averaged.high) < 0:
            answer = "SAE probes hurt"
        else:
            answer = "SAE probes make no certain difference"
        answer += f": test AUC {_shown(stated)} over {len(self.draws)} draws"
        return (
            answer
            if stated == self.averaged
            else (f"{answer}; with ties in validation averaged {_shown(self.averaged)}")
        )

    def __repr__(self) -> str:
        means = self.fits.groupby("method", sort=False)[["val_auc", "test_auc"]].mean()
        return f"{self.verdict}\n\n{means.to_string(float_format='{:.4f}'.format)}"


def compare(
    x: Float[Array | np.ndarray, "n d"] | Any,
    y: Shaped[Array | np.ndarray, " n"] | Any,
    sae: Any,
    *,
    methods: Sequence[str] = DEFAULT,
    draws: int = 20,
    seed: int = 0,
    protocol: Protocol = "strict",
) -> Comparison:
    """Asks whether a practitioner who may also choose SAE probes does better, on one dataset.

    For each draw the rows are split into training and test rows, every method is fitted, and the
    probe with the best validation AUC is chosen: among those without the SAE, and among all. Of
    several that share it the rule of a run chooses (`documented`, SAEs first); the answer is
    certain only where it is the same with these averaged.

    >>> import numpy as np
    >>> import probejax as px
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(200, 16)), np.arange(200) % 2
    >>> x[:, 3] += y
    >>> class Rectified:
    ...     def encode(self, x):
    ...         return np.maximum(np.concatenate([x, -x], axis=1), 0)
    >>> found = px.compare(x, y, Rectified(), methods=("logreg", "sae_k4"), draws=3)
    >>> found.low <= found.difference <= found.high
    True

    The interval is the corrected resampled t interval: draws of one dataset share rows, so their
    variance is raised by the ratio of test to training rows (Nadeau and Bengio 2003). It is about
    other draws of this dataset, not about other tasks: for these run a sweep.

    Args:
      x: [n, d] one row of activations per prompt, as for `fit`.
      y: [n] labels of two values.
      sae: an SAE, or anything with `encode(x)`.
      methods: methods on one row per prompt; at least one with the SAE (`sae_k<k>`) and one
        without.
      draws: of training and test rows, at least 2.
      seed: of the first draw; the others follow.
      protocol: as for `fit`; `strict` also draws from rows that differ: of equal ones the first,
        of equal ones with both labels none. So no probe is tested on what it was trained on.

    Returns:
      The comparison, whose repr is the verdict and a table of methods.

    Raises:
      ValueError: the arrays, the labels, a method or the SAE will not do; the message says why.
    """
    tokens = x if isinstance(x, Activations) else None
    features = inputs.matrix(x) if tokens is None else tokens.last()
    sae = reading(sae, features.shape[1])
    labels, names = inputs.two_classes(y)
    if labels.shape != (len(features),):
        raise ValueError(
            f"there are {len(features):,} rows of activations and labels of shape {labels.shape}; "
            "expected one label per row"
        )
    seeds = _seeds(seed, draws)
    methods = (methods,) if isinstance(methods, str) else methods
    rules = _rules(methods, stream.width(sae, jnp.asarray(features[:1])))
    of = (str(names[0]), str(names[1]))
    conditions = _conditions(features, labels, of, seeds, protocol)
    found = []
    for lanes, rows in batches(conditions):
        most = max(rule.k for rule in rules.values())
        chosen = on_latents.select(jnp.asarray(features), rows, sae, most, "normalised", protocol)
        for name, rule in rules.items():
            if rule.k:
                how = {"binarised": rule.binarised, "protocol": protocol}
                fit = on_latents.fit(chosen, rows, rule.k, **how)
            else:
                fit = baselines.BASELINES[rule.family](jnp.asarray(features), rows, protocol)
            of = {"method": name, "sae_id": "sae" if rule.k else "", "k": rule.k or None}
            scores = pd.DataFrame({name: leaf for name, leaf in fit.scores._asdict().items()})
            found.append(scores.assign(seed=[conditions[lane].seed for lane in lanes], **of))
    fits = pd.concat(found, ignore_index=True)
    facts = {"task": "arrays", "regime": "standard", "level": np.nan, "site": "given"}
    of_run = fits.assign(**facts, protocol=protocol, model="arrays")
    chosen, averaged = (choices(of_run, tie_rule=rule) for rule in (STATED, NEUTRAL))
    ratio = len(conditions[0].test) / len(conditions[0].train)
    stated, neutral = (
        _interval((each["with_sae"] - each["baseline"]).to_numpy(), ratio)
        for each in (chosen, averaged)
    )
    return Comparison(*stated, neutral, chosen, fits)


def _seeds(seed: Any, draws: Any) -> range:
    """Returns the seeds of the draws, once these are whole numbers that make an interval."""
    for name, value, least in (("draws", draws, 2), ("seed", seed, 0)):
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(
                f"{name}={value!r:.50} will not do; give a whole number, at least {least}"
            )
    return range(int(seed), int(seed) + int(draws))


def _conditions(
    x: Any,
    y: Int[np.ndarray, " n"],
    names: tuple[str, str],
    seeds: Iterable[int],
    protocol: Protocol,
) -> list[Condition]:
    """Draws training and test rows for each seed; under `strict` from rows that differ."""
    rows, which = np.arange(len(y)), ""
    if protocol == "strict":
        rows, which = distinct_rows(digests(x), y, balanced=False), "different rows of the "
    found = []
    for seed in seeds:
        drawn = ALL_REGIMES["standard"].draw(Pool(y[rows], names), seed)
        if drawn.left_out:
            raise ValueError(f"the {which}data cannot be split: {'; '.join(drawn.left_out)}")
        found += drawn.conditions
    return [dataclasses.replace(c, train=rows[c.train], test=rows[c.test]) for c in found]


def _rules(names: Sequence[str], d_sae: int) -> dict[str, Method]:
    """Returns what the names of methods mean, once they can be compared here."""
    rules = {name: parse(name) for name in dict.fromkeys(names)}
    for name, rule in rules.items():
        if rule.reads_tokens or rule.control:
            raise ValueError(f"{name} cannot be compared on one row per prompt; leave it out")
        if rule.k > d_sae:
            raise ValueError(f"{name} asks for more latents than the SAE's {d_sae}; give smaller k")
    if all(rule.k for rule in rules.values()) or not any(rule.k for rule in rules.values()):
        raise ValueError(
            f"methods={list(rules)} compares nothing; name at least one method with the SAE "
            "(sae_k16) and one without (logreg)"
        )
    return rules


def _shown(found: Interval) -> str:
    if math.isinf(found.high):
        return f"{found.mean:+.4f}, the same in each, which gives no interval,"
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _interval(apart: Float[np.ndarray, " draws"], ratio: float) -> Interval:
    """Returns a mean difference with its corrected resampled t interval.

    Where all draws differ by the same, and not by nothing, they say nothing of how far they might.
    """
    count, mean = len(apart), float(apart.mean())
    if mean and np.ptp(apart) <= 1e-12:
        return Interval(mean, -math.inf, math.inf)
    error = np.sqrt((1 / count + ratio) * apart.var(ddof=1))
    half = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, count - 1) * error)
    return Interval(mean, mean - half, mean + half)
