"""One decoder for all families, as a Flax NNX module that returns its residual stream.

Axis letters of the einsums: B batch, T query position, S key position, N query heads, K key/value
heads, G query heads per key/value head, H head width, D d_model, F d_mlp, V vocabulary.

Parameters keep the names and the axis order of Gemma's checkpoints; `layouts.py` reads those of
the others so. Norms, softmax and rotary angles are float32 whatever the working dtype, and cast
where transformers' modeling files cast.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from probejax.models.config import LOCAL, ModelConfig
from probejax.models.rope import rotate
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


class Norm(_Module):
    """The norm of a family, in float32: root mean square, or mean and variance."""

    def __init__(self, config: ModelConfig, width: int, dtype: DTypeLike):
        self.weight = nnx.Param(jnp.zeros(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype)) if config.norm == "layer" else None
        self.kind, self.eps = config.norm, config.norm_eps

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Returns `x` over its root mean square or standard deviation, times the gain."""
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        wide = lambda row: row.reshape((1,) * (y.ndim - 1) + row.shape)
        if self.kind == "rms":  # rounded before the gain
            return y.astype(x.dtype) * wide(self.weight[...])
        gain = self.weight[...].astype(jnp.float32)
        y = y * wide(1.0 + gain if self.kind == "rms_plus_one" else gain)
        if self.bias is not None:
            y = y + wide(self.bias[...].astype(jnp.float32))
        return y.astype(x.dtype)


def softcap(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """Bounds `x` smoothly to (-cap, cap); `None` leaves it alone (Gemma 2, section 2)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Linear(_Module):
    """A matrix, whose axes may be several, and perhaps a bias."""

    def __init__(
        self,
        equation: str,
        outputs: tuple[int, ...],
        inputs: tuple[int, ...],
        bias: bool,
        dtype: DTypeLike,
    ):
        self.weight = nnx.Param(jnp.zeros(outputs + inputs, dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if bias else None
        self.equation = equation

    def __call__(self, x: Float[Array, "B T *inputs"]) -> Float[Array, "B T *outputs"]:
        """Returns the product, plus the bias."""
        y = _einsum(self.equation, x, self.weight[...])
        return y if self.bias is None else y + self.bias[...][None, None]


class Embedding(_Module):
    """A table with a row for each id."""

    def __init__(self, n_rows: int, width: int, dtype: DTypeLike):
        self.weight = nnx.Param(jnp.zeros((n_rows, width), dtype))

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Returns the rows; an id that has none gives NaN, which no caller keeps."""
        return self.weight[...].at[ids].get(mode="fill", fill_value=jnp.nan)


class Attention(_Module):
    """Grouped-query attention; a sliding block sees only the last `sliding_window` keys."""

    def __init__(self, config: ModelConfig, layer: int, dtype: DTypeLike):
        c = config
        into = lambda n: Linear("BTD,NHD->BTNH", (n, c.d_head), (c.d_model,), c.qkv_bias, dtype)
        self.q_proj = into(c.n_heads)
        self.k_proj = into(c.n_kv_heads)
        self.v_proj = into(c.n_kv_heads)
        self.o_proj = Linear(
            "BTNH,DNH->BTD", (c.d_model,), (c.n_heads, c.d_head), c.out_bias, dtype
        )
        self.q_norm = Norm(c, c.d_head, dtype) if c.qk_norm else None
        self.k_norm = Norm(c, c.d_head, dtype) if c.qk_norm else None
        self.window = c.sliding_window if c.layer_types[layer] == LOCAL else None
        self.rope = c.rope(c.layer_types[layer])
        self.query_scale = c.query_pre_attn_scalar**-0.5
        self.softcap = c.attn_softcap

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T S"],
    ) -> Float[Array, "B T D"]:
        """Returns what the attention writes; `visible`: which keys share the query's prompt."""
        return self.o_proj(self.heads(x, positions, visible))

    def heads(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T S"],
    ) -> Float[Array, "B T N H"]:
        """Returns the mixed values of each head."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            q, k = (rotate(each, positions, self.rope) for each in (q, k))
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


_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class MLP(_Module):
    """Two matrices with an activation between them, or three where one gates."""

    def __init__(self, config: ModelConfig, dtype: DTypeLike):
        c = config
        into = lambda: Linear("BTD,FD->BTF", (c.d_mlp,), (c.d_model,), c.mlp_bias, dtype)
        self.gate_proj = into() if c.gated else None
        self.up_proj = into()
        self.down_proj = Linear("BTF,DF->BTD", (c.d_model,), (c.d_mlp,), c.mlp_bias, dtype)
        self.activation = c.activation

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns `down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))`."""
        activation = _ACTIVATIONS[self.activation]
        if self.gate_proj is None:
            return self.down_proj(activation(self.up_proj(x)))
        return self.down_proj(activation(self.gate_proj(x)) * self.up_proj(x))


class Outputs(NamedTuple):
    """What a block computes, by the kinds of `probejax.sites`; NH is the heads side by side."""

    attn_z: Float[Array, "B T NH"]
    attn_out: Float[Array, "B T D"]
    mlp_out: Float[Array, "B T D"]
    resid_post: Float[Array, "B T D"]


class Block(_Module):
    """One layer: attention and MLP, one after the other or side by side."""

    def __init__(self, config: ModelConfig, layer: int, dtype: DTypeLike):
        norm = lambda: Norm(config, config.d_model, dtype)
        self.input_layernorm = norm()
        self.self_attn = Attention(config, layer, dtype)
        self.post_attention_layernorm = norm() if config.post_norms else None
        self.pre_feedforward_layernorm = norm()
        self.mlp = MLP(config, dtype)
        self.post_feedforward_layernorm = norm() if config.post_norms else None
        self.parallel = config.parallel

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T S"],
    ) -> Outputs:
        """Returns what can be read of this block, for a residual stream that enters it."""
        z = self.self_attn.heads(self.input_layernorm(x), positions, visible)
        attn_out = self.self_attn.o_proj(z)
        if self.post_attention_layernorm is not None:
            attn_out = self.post_attention_layernorm(attn_out)
        middle = x + attn_out
        mlp_out = self.mlp(self.pre_feedforward_layernorm(x if self.parallel else middle))
        if self.post_feedforward_layernorm is not None:
            mlp_out = self.post_feedforward_layernorm(mlp_out)
        return Outputs(jnp.reshape(z, (*z.shape[:2], -1)), attn_out, mlp_out, middle + mlp_out)


class Transformer(_Module):
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
        scores = _einsum("BTD,VD->BTV", x, transformer.embed_tokens.weight[...])
    else:
        scores = transformer.lm_head(x)
    return softcap(scores.astype(jnp.float32), transformer.final_softcap)
