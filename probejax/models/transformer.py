"""Gemma 2 and Gemma 3 as one Flax NNX transformer that returns its residual stream.

Axis letters of the einsums: B batch, T query position, S key position, N query heads, K key/value
heads, G query heads per key/value head, H head width, D d_model, F d_mlp, V vocabulary.

Parameters keep the names and the axis order of the Hugging Face checkpoints, so that loading is
reading. Norms, softmax and rotary angles are float32 whatever the working dtype, as in
transformers' `modeling_gemma2.py` and `modeling_gemma3.py`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from probejax.models.config import GLOBAL, GemmaConfig
from probejax.sites import EMBEDDING, Site, parse

_einsum = functools.partial(jnp.einsum, precision="highest")  # float32 means float32 on a TPU too


class _Module(nnx.Module):
    """A module that prints as one line."""

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(nnx.state(self))
        dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        return f"{type(self).__name__}({sum(leaf.size for leaf in leaves):,} {dtypes} parameters)"

    def __str__(self) -> str:
        return repr(self)


class RMSNorm(_Module):
    """Root-mean-square norm with the gain `1 + weight`."""

    def __init__(self, width: int, eps: float, dtype: DTypeLike):
        self.weight = nnx.Param(jnp.zeros(width, dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Returns `x` over its root mean square, times the gain."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        gain = 1.0 + self.weight[...].astype(jnp.float32)
        return (y * gain.reshape((1,) * (y.ndim - 1) + gain.shape)).astype(x.dtype)


def rotate(
    x: Float[Array, "B T heads H"], positions: Int[Array, "B T"], base: float, scale: float
) -> Float[Array, "B T heads H"]:
    """Rotates pairs (i, i + H/2) of each head by `position / scale * base^(-2i/H)`.

    Source: RoFormer (arXiv 2104.09864) in the half-split layout of the checkpoints.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half) / scale
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency[None, None, None, :]
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def softcap(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """Bounds `x` smoothly to (-cap, cap); `None` leaves it alone (Gemma 2, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Attention(_Module):
    """Grouped-query attention; a sliding block sees only the last `sliding_window` keys."""

    def __init__(self, config: GemmaConfig, layer: int, dtype: DTypeLike):
        c = config
        self.q_proj = nnx.Param(jnp.zeros((c.n_heads, c.d_head, c.d_model), dtype))
        self.k_proj = nnx.Param(jnp.zeros((c.n_kv_heads, c.d_head, c.d_model), dtype))
        self.v_proj = nnx.Param(jnp.zeros((c.n_kv_heads, c.d_head, c.d_model), dtype))
        self.o_proj = nnx.Param(jnp.zeros((c.d_model, c.n_heads, c.d_head), dtype))
        self.q_norm = RMSNorm(c.d_head, c.norm_eps, dtype) if c.qk_norm else None
        self.k_norm = RMSNorm(c.d_head, c.norm_eps, dtype) if c.qk_norm else None
        is_global = c.layer_types[layer] == GLOBAL
        self.window = None if is_global else c.sliding_window
        self.rope_base = c.rope_base_global if is_global else c.rope_base_local
        self.rope_scale = c.rope_scale_global if is_global else 1.0
        self.query_scale = c.query_pre_attn_scalar**-0.5
        self.softcap = c.attn_softcap

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T S"],
    ) -> Float[Array, "B T D"]:
        """Returns what the attention writes; `visible`: which keys share the query's prompt."""
        return self.project(self.heads(x, positions, visible))

    def heads(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T S"],
    ) -> Float[Array, "B T N H"]:
        """Returns the mixed values of each head."""
        q = _einsum("BTD,NHD->BTNH", x, self.q_proj[...])
        k = _einsum("BSD,KHD->BSKH", x, self.k_proj[...])
        v = _einsum("BSD,KHD->BSKH", x, self.v_proj[...])
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q = rotate(q, positions, self.rope_base, self.rope_scale)
        k = rotate(k, positions, self.rope_base, self.rope_scale)
        if self.window is not None:
            distance = positions[:, :, None] - positions[:, None, :]  # [B, T, S]
            visible = visible & (distance < self.window)

        B, T, N, H = q.shape
        K = k.shape[2]
        q = q.reshape(B, T, K, N // K, H)
        scores = _einsum("BTKGH,BSKH->BKGTS", q, k) * self.query_scale
        scores = softcap(scores, self.softcap).astype(jnp.float32)
        scores = jnp.where(
            visible[:, None, None], scores, -1e30
        )  # finite: no NaN where all is hidden
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        return _einsum("BKGTS,BSKH->BTKGH", weights, v).reshape(B, T, N, H)

    def project(self, z: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """Returns the sum of what the heads write."""
        return _einsum("BTNH,DNH->BTD", z, self.o_proj[...])


class MLP(_Module):
    """Gated MLP with the tanh form of GELU."""

    def __init__(self, config: GemmaConfig, dtype: DTypeLike):
        self.gate_proj = nnx.Param(jnp.zeros((config.d_mlp, config.d_model), dtype))
        self.up_proj = nnx.Param(jnp.zeros((config.d_mlp, config.d_model), dtype))
        self.down_proj = nnx.Param(jnp.zeros((config.d_model, config.d_mlp), dtype))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns `down(gelu(gate(x)) * up(x))`."""
        gate = jax.nn.gelu(_einsum("BTD,FD->BTF", x, self.gate_proj[...]), approximate=True)
        up = _einsum("BTD,FD->BTF", x, self.up_proj[...])
        return _einsum("BTF,DF->BTD", gate * up, self.down_proj[...])


class Outputs(NamedTuple):
    """What a block computes, by the kinds of `probejax.sites`; NH is the heads side by side."""

    attn_z: Float[Array, "B T NH"]
    attn_out: Float[Array, "B T D"]
    mlp_out: Float[Array, "B T D"]
    resid_post: Float[Array, "B T D"]


class Block(_Module):
    """One layer: attention and MLP, each with a norm before and a norm after."""

    def __init__(self, config: GemmaConfig, layer: int, dtype: DTypeLike):
        norm = lambda: RMSNorm(config.d_model, config.norm_eps, dtype)
        self.input_layernorm = norm()
        self.self_attn = Attention(config, layer, dtype)
        self.post_attention_layernorm = norm()
        self.pre_feedforward_layernorm = norm()
        self.mlp = MLP(config, dtype)
        self.post_feedforward_layernorm = norm()

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T S"],
    ) -> Outputs:
        """Returns what can be read of this block, for a residual stream that enters it."""
        z = self.self_attn.heads(self.input_layernorm(x), positions, visible)
        attn_out = self.post_attention_layernorm(self.self_attn.project(z))
        x = x + attn_out
        mlp_out = self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return Outputs(jnp.reshape(z, (*z.shape[:2], -1)), attn_out, mlp_out, x + mlp_out)


class Transformer(_Module):
    """The first `n_layers` blocks of a Gemma model, with the final norm if they are all of them."""

    def __init__(
        self, config: GemmaConfig, n_layers: int | None = None, dtype: DTypeLike = jnp.float32
    ):
        n_layers = config.n_layers if n_layers is None else n_layers
        self.embed_tokens = nnx.Param(jnp.zeros((config.d_vocab, config.d_model), dtype))
        self.layers = nnx.List([Block(config, i, dtype) for i in range(n_layers)])
        complete = n_layers == config.n_layers
        self.norm = RMSNorm(config.d_model, config.norm_eps, dtype) if complete else None
        self.final_softcap = config.final_softcap
        self.tied = True  # False where the checkpoint's output head is not the embedding

    def __repr__(self) -> str:
        table = self.embed_tokens.get_value()
        vocabulary, width = table.shape
        return (
            f"Transformer({len(self.layers)} blocks of width {width}, {vocabulary} tokens, "
            f"{table.dtype})"
        )

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Returns the scaled embedding; the scale is rounded to the working dtype first.

        An id that the table has no row for gives NaN, which no caller keeps.
        """
        table = self.embed_tokens[...]
        rows = table.at[tokens].get(mode="fill", fill_value=jnp.nan)
        return rows * jnp.asarray(math.sqrt(table.shape[1]), table.dtype)


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
    x, found = transformer.embed(tokens), {}
    segments = mask.astype(jnp.int32)
    positions = _positions(segments)
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
      ValueError: the model was loaded without its last blocks, or has another output head.
    """
    if transformer.norm is None:
        raise ValueError("Logits need the whole model; load it with layers=None.")
    if not transformer.tied:
        raise ValueError(
            "The checkpoint's output head differs from its embedding, which no Gemma's does, and "
            "probejax does not read it: there are residuals, but no logits."
        )
    last = Site("resid_post", len(transformer.layers) - 1)
    x = transformer.norm(read_sites(transformer, tokens, mask, (last,))[last])
    scores = _einsum("BTD,VD->BTV", x, transformer.embed_tokens[...]).astype(jnp.float32)
    return softcap(scores, transformer.final_softcap)
