"""Gradient-boosted trees of the xgboost library, as its JSON."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from probejax.probes.families.probe import Probe, static


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Trees(Probe):
    """The logit of x is the sum of what the trees say; 0 where nothing was fitted.

    Attributes:
      model: [*lanes, bytes], xgboost's JSON, padded with zeros.
      size: [*lanes], bytes of it that count.
      features: width of x; None in files from before it was kept.
    """

    model: UInt8[np.ndarray, "*lanes bytes"]
    size: Int[np.ndarray, "*lanes"]
    features: int | None = static(None)

    @property
    def lanes(self) -> int | None:
        return len(self.size) if self.size.ndim else None

    @property
    def width(self) -> int | None:
        return self.features

    def of_rows(self, source, rows, mask):
        x, found = np.asarray(source, np.float32), np.zeros(rows.shape, np.float32)
        for lane, (model, size) in enumerate(zip(self.model, self.size, strict=True)):
            some = rows[lane][mask[lane]]
            found[lane][mask[lane]] = predict(model[: int(size)].tobytes(), x[some])
        return found


def packed(models: list[bytes], features: int) -> Trees:
    """Returns models of different length as one stack."""
    size = np.array([len(model) for model in models])
    array = np.zeros((len(models), size.max(initial=0)), np.uint8)
    for row, model in zip(array, models, strict=True):
        row[: len(model)] = np.frombuffer(model, np.uint8)
    return Trees(array, size, features)


def predict(model: bytes, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Returns the logits of a model in xgboost's JSON; of no model at all, zeros.

    A row with a feature that is not finite has the logit NaN.
    """
    if not model:
        return np.zeros(len(x), np.float32)
    booster = load().Booster({"nthread": 1, "verbosity": 0})
    booster.load_model(bytearray(model))
    finite = np.asarray(np.isfinite(x).all(axis=1))
    return np.where(finite, margin(booster, np.where(finite[:, None], x, 0)), np.nan)


def margin(booster, x) -> np.ndarray:
    """Returns the logits of a booster."""
    return np.asarray(booster.inplace_predict(x, predict_type="margin"), np.float32)


def load():
    """Imports xgboost.

    Raises:
      RuntimeError: it is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        raise RuntimeError(
            "The method xgboost needs the xgboost library, which is not installed: "
            "pip install 'probejax[xgboost]', or leave the method out."
        ) from error
    return xgboost
