"""One decoder for all families, as a Flax NNX module that returns its residual stream.

Parameters keep the names and the axis order of Gemma's checkpoints; `layouts.py` reads those of
the others so.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from probejax.models.blocks import Block, Embedding, Linear, Module, Norm, einsum, softcap
from probejax.models.config import ModelConfig
from probejax.sites import EMBEDDING, Site, parse


class Transformer(Module):
    """The first blocks of a model; with the final norm and the output head if it is whole."""

    def __init__(
        self,
        config: ModelConfig,
        n_layers: int | None = None,
        dtype: DTypeLike = jnp.float32,
        head: bool = True,
    ):
        """Lays out a model of zeros.

        Args:
          config: its numbers.
          n_layers: blocks to hold; None is the whole model, of which alone there are logits.
          dtype: of every parameter.
          head: whether it has an output head, of its own or tied.
        """
        c = config
        self.embed_tokens = Embedding(c.d_vocab, c.d_model, dtype)
        n = c.n_positions
        self.embed_positions = None if n is None else Embedding(n, c.d_model, dtype)
        blocks = range(c.n_layers if n_layers is None else n_layers)
        self.layers = nnx.List([Block(c, i, dtype) for i in blocks])
        self.norm = Norm(c, c.d_model, dtype) if n_layers is None else None
        own = n_layers is None and head and not c.tied
        self.lm_head = (
            Linear("BTD,VD->BTV", (c.d_vocab,), (c.d_model,), False, dtype) if own else None
        )
        self.embed_scale, self.final_softcap, self.has_head = c.embed_scale, c.final_softcap, head

    def __repr__(self) -> str:
        table = self.embed_tokens.weight.get_value()
        vocabulary, width = table.shape
        return (
            f"Transformer({len(self.layers)} blocks of width {width}, {vocabulary} tokens, "
            f"{table.dtype})"
        )

    def embed(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]
    ) -> Float[Array, "B T D"]:
        """Returns what enters the first block; the scale is rounded to the working dtype first."""
        x = self.embed_tokens(tokens)
        if self.embed_scale != 1.0:
            x = x * jnp.asarray(self.embed_scale, x.dtype)
        return x if self.embed_positions is None else x + self.embed_positions(positions)


def read_sites(
    transformer: Transformer,
    tokens: Int[Array, "batch pos"],
    mask: Shaped[Array, "batch pos"],
    sites: tuple[Site, ...],
) -> dict[Site, Float[Array, "batch pos width"]]:
    """Returns the activations at several sites from one pass, which stops after the last of them.

    Args:
      transformer: a model that holds the blocks up to the last site.
      tokens: token ids, one BOS at the start of each prompt.
      mask: True on real tokens, or the number of the prompt (1, 2, ...) where a row holds several
        prompts one after the other; False or 0 is padding, on either side. A token attends to
        earlier tokens of its own prompt only, and positions count from each prompt's start.
      sites: see `probejax.sites`. Static under jit.

    Returns:
      site -> activations in the model's dtype, d_model wide, at attn_z n_heads * d_head; rows of
      padding hold no meaning.

    Raises:
      ValueError: a site that lies past the blocks that were loaded.
    """
    held, blocks = len(transformer.layers), max((site.blocks for site in sites), default=0)
    if not sites or blocks > held:
        raise ValueError(
            f"{', '.join(map(str, sites)) or 'No site'} was asked for, and blocks 0 to {held - 1} "
            "are loaded."
        )
    segments = mask.astype(jnp.int32)
    positions = _positions(segments)
    # Padding may be longer than there are learned positions, and NaN would reach the others.
    x, found = transformer.embed(tokens, jnp.where(segments > 0, positions, 0)), {}
    index = jnp.arange(tokens.shape[1])
    visible = (segments[:, :, None] == segments[:, None, :]) & (
        index[None, :, None] >= index[None, None, :]
    )
    found[EMBEDDING] = x
    for layer in range(blocks):
        outputs = transformer.layers[layer](x, positions, visible)
        found |= {Site(kind, layer): value for kind, value in outputs._asdict().items()}
        x = outputs.resid_post
    return {site: found[site] for site in sites}


def residuals(
    transformer: Transformer,
    tokens: Int[Array, "batch pos"],
    mask: Shaped[Array, "batch pos"],
    layers: tuple[int | str | Site, ...],
) -> dict[int | str | Site, Float[Array, "batch pos width"]]:
    """Returns the residual stream after some blocks: `read_sites` with layers as keys.

    Args:
      transformer: as for `read_sites`, like `tokens` and `mask`.
      tokens: likewise.
      mask: likewise.
      layers: zero-based blocks; whatever else `sites.parse` reads will do as well.

    Returns:
      layer, as it was asked for -> [batch, pos, d_model].

    Raises:
      ValueError: a layer that the model does not hold.
    """
    where = {layer: parse(layer) for layer in layers}
    found = read_sites(transformer, tokens, mask, tuple(where.values()))
    return {layer: found[site] for layer, site in where.items()}


def _positions(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Returns the index of each token within its prompt."""
    index = jnp.broadcast_to(jnp.arange(segments.shape[1])[None, :], segments.shape)
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    start = jax.lax.cummax(jnp.where(segments != before, index, 0), axis=1)
    return index - start


def logits(
    transformer: Transformer,
    tokens: Int[Array, "batch pos"],
    mask: Shaped[Array, "batch pos"],
) -> Float[Array, "batch pos d_vocab"]:
    """Returns next-token logits in float32, for parity checks; probing never needs them.

    Raises:
      ValueError: the model was loaded without its last blocks, or has no output head.
    """
    if transformer.norm is None:
        raise ValueError("Logits need the whole model; load it with layers=None.")
    if not transformer.has_head:
        raise ValueError(
            "The checkpoint has no output head, and its embedding is none: there are residuals, "
            "but no logits."
        )
    last = Site("resid_post", len(transformer.layers) - 1)
    x = transformer.norm(read_sites(transformer, tokens, mask, (last,))[last])
    if transformer.lm_head is None:
        scores = einsum("BTD,VD->BTV", x, transformer.embed_tokens.weight[...])
    else:
        scores = transformer.lm_head(x)
    return softcap(scores.astype(jnp.float32), transformer.final_softcap)
