"""A small network on standardised features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax.probes import scale
from probejax.probes.families.probe import Probe
from probejax.probes.scale import Scale

Layers = tuple[tuple[Array | np.ndarray, Array | np.ndarray], ...]
"""Per layer the weights [*lanes, out, in] and the intercepts [*lanes, out]."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Network(Probe):
    """The logit of x is what the layers make of it, with a rectifier after all but the last.

    Attributes:
      layers: first to last.
      scale: mean and standard deviation of the features, [*lanes, d] each.
    """

    layers: Layers
    scale: Scale

    @property
    def lanes(self) -> int | None:
        bias = self.layers[-1][1]
        return len(bias) if bias.ndim > 1 else None

    @property
    def width(self) -> int:
        return self.scale.mean.shape[-1]

    def of_rows(self, source, rows, mask):
        return _logits(jnp.asarray(source, jnp.float32), rows, self.scale, self.layers)


def logits(layers: Layers, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Returns the logits of one network on standardised rows."""
    for w, b in layers[:-1]:
        x = jax.nn.relu(jnp.matmul(x, w.T, precision="highest") + b[None, :])
    w, b = layers[-1]
    return (jnp.matmul(x, w.T, precision="highest") + b[None, :])[:, 0]


@jax.jit
def _logits(x, rows, scaler, layers):
    def one(lane):
        rows, scaler, layers = lane
        return logits(layers, scale.apply(scaler, x[rows]))

    return jax.lax.map(one, (rows, scaler, layers))
