"""The latents that tell two classes apart, as a table."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from probejax import inputs, metrics
from probejax.saes.describe import describe
from probejax.saes.named import NamedSAE, reading
from probejax.saes.select import encode_columns
from probejax.saes.select import top_latents as select
from probejax.saes.stream import Dictionary


def top_latents(
    sae: NamedSAE | Dictionary, x: Any, y: Any, k: int = 20, *, ranking: str = "normalised"
) -> pd.DataFrame:
    """Returns the k latents whose class means differ most, best first.

    Args:
      sae: of `load_sae`, or anything with `encode(x [n, d_model])` that returns [n, d_sae].
      x: [n, d_model] activations, as NumPy, JAX or torch array, or `Activations` of last tokens.
      y: n labels of two values; the larger in sort order is positive.
      k: latents to show, at most d_sae.
      ranking: `normalised` divides a latent's difference of class means by its mean where it fires,
        `raw` does not.

    Returns:
      A table of k rows: `latent`, its number; `mean_negative` and `mean_positive`, its mean over
      the rows of each class; `rate_negative` and `rate_positive`, the share of them on which it
      fires; `auc`, that of the latent alone, on these very rows; `link`, its page on Neuronpedia,
      None where it has none. `attrs["classes"]` holds the two values of y, the negative first.

    Raises:
      ValueError: x and y of different lengths, activations that are not finite or of a width that
        the SAE does not read, labels of more or fewer than two values, or k past d_sae.

    Example:
      >>> import numpy as np
      >>> import probejax as px
      >>> class Rectified:
      ...     def encode(self, x):
      ...         return np.maximum(np.concatenate([x, -x], axis=1), 0)
      >>> x = np.random.default_rng(0).normal(size=(200, 8))
      >>> px.top_latents(Rectified(), x, x[:, 3] > 0, k=2)[["latent", "auc"]].round(2)
         latent  auc
      0       3  1.0
      1      11  0.0
    """
    features, labels, classes = inputs.labelled(x, y)
    inner = reading(sae, features.shape[1])
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    rows = np.arange(len(features))[None, :]
    x = jnp.asarray(features)
    (chosen,) = select(
        inner, x, rows, np.ones(rows.shape, bool), labels[None, :], k, ranking=ranking
    )
    values = np.asarray(encode_columns(inner, x, chosen))
    page = sae.file.neuronpedia if isinstance(sae, NamedSAE) else None
    cards = describe(values, labels, chosen, page)
    table = pd.DataFrame(
        {
            "latent": [card.index for card in cards],
            **{
                f"{name}_{side}": [getattr(card, name)[number] for card in cards]
                for name in ("mean", "rate")
                for number, side in enumerate(("negative", "positive"))
            },
            "auc": metrics.host_aucs(values, labels[:, None])[:, 0],
            "link": pd.Series([card.link for card in cards], dtype=object),
        }
    )
    table.attrs["classes"] = classes
    return table
