"""A small network on standardised features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax import sizes
from probejax.probes import scale
from probejax.probes.families.probe import Probe
from probejax.probes.scale import Scale
from probejax.solvers import tables
from probejax.solvers.engine import each

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
        x = np.asarray(source, np.float32)
        lanes, m = rows.shape
        rows = np.pad(rows, ((0, 0), (0, -m % sizes.BLOCK))).reshape(-1, sizes.BLOCK)
        lane = np.repeat(np.arange(lanes), len(rows) // lanes)

        def some(which):
            own = jax.tree.map(
                lambda leaf: np.asarray(leaf)[lane[which]], (self.scale, self.layers)
            )
            return _logits(tables.rows(x, rows[which]), *own)

        width = sizes.width(sizes.BLOCK * x.shape[1])
        return each(some, np.arange(len(rows)), width).reshape(lanes, -1)[:, :m]


def logits(layers: Layers, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Returns the logits of one network on standardised rows."""
    for w, b in layers[:-1]:
        x = jax.nn.relu(jnp.matmul(x, w.T, precision="highest") + b[None, :])
    w, b = layers[-1]
    return (jnp.matmul(x, w.T, precision="highest") + b[None, :])[:, 0]


@jax.jit
def _logits(x, scaler, layers):
    return jax.vmap(lambda x, scaler, layers: logits(layers, scale.apply(scaler, x)))(
        x, scaler, layers
    )
