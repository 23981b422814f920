"""The parts of a decoder block: norms, matrices, attention, MLP.

Axis letters of the einsums: B batch, T query position, S key position, N query heads, K key/value
heads, G query heads per key/value head, H head width, D d_model, F d_mlp.

Norms, softmax and rotary angles are float32 whatever the working dtype, and are cast where
transformers' modeling files cast.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from probejax.models.config import LOCAL, ModelConfig
from probejax.models.rope import rotate

einsum = functools.partial(jnp.einsum, precision="highest")  # float32 means float32 on a TPU too


class Module(nnx.Module):
    """A module that prints as one line."""

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(nnx.state(self))
        dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        return f"{type(self).__name__}({sum(leaf.size for leaf in leaves):,} {dtypes} parameters)"

    def __str__(self) -> str:
        return repr(self)


class Norm(Module):
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


class Linear(Module):
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
        y = einsum(self.equation, x, self.weight[...])
        return y if self.bias is None else y + self.bias[...][None, None]


class Embedding(Module):
    """A table with a row for each id."""

    def __init__(self, n_rows: int, width: int, dtype: DTypeLike):
        self.weight = nnx.Param(jnp.zeros((n_rows, width), dtype))

    def __call__(self, ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Returns the rows; an id that has none gives NaN, which no caller keeps."""
        return self.weight[...].at[ids].get(mode="fill", fill_value=jnp.nan)


class Attention(Module):
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
        # Heads before tokens, by hand: left to XLA, a CPU takes up to three times as long. In the
        # second product the sum over keys would then depend on what stands beside a prompt.
        q = jnp.transpose(q.reshape(B, T, K, N // K, H), (0, 2, 3, 1, 4))
        k = jnp.swapaxes(k, 1, 2)
        scores = einsum("BKGTH,BKSH->BKGTS", q, k) * self.query_scale
        scores = softcap(scores, self.softcap).astype(jnp.float32)
        scores = jnp.where(
            visible[:, None, None], scores, -1e30
        )  # finite: no NaN where all is hidden
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        return einsum("BKGTS,BSKH->BTKGH", weights, v).reshape(B, T, N, H)


_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class MLP(Module):
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


class Block(Module):
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
