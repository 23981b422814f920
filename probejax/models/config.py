"""The numbers of a language model, whatever its family."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from probejax.models.rope import Rope
from probejax.sites import Site

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # the names of `config.json`

# What a file may say; the largest known has 126 blocks, a width of 16,384 and 262,208 tokens.
Layers = Annotated[int, Meta(ge=1, le=1024)]
Size = Annotated[int, Meta(ge=1, le=1 << 24)]
Epsilon = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e12)]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything about a checkpoint that changes its numbers.

    Attributes:
      name: label for messages and results; no effect on the numbers.
      family: its row in `families.py`, by which the tensors of its files are named; likewise.
      d_model: width of the residual stream.
      d_head: width of one attention head.
      d_mlp: width of the MLP.
      d_vocab: rows of the embedding.
      n_heads: query heads.
      n_kv_heads: key and value heads, shared by `n_heads // n_kv_heads` query heads each.
      layer_types: per block, `sliding_attention` or `full_attention`.
      norm: `rms` (gain `weight`), `rms_plus_one` (gain `1 + weight`, Gemma) or `layer` (mean taken
        off, gain `weight`, then `bias`).
      norm_eps: added to the mean square, or to the variance, in every norm.
      activation: of the MLP: `silu`, `gelu` (exact), `gelu_tanh` or `relu`.
      query_pre_attn_scalar: queries are divided by its square root.
      sliding_window: keys that a query of a sliding block sees, itself included.
      rope_local: rotary positions in sliding blocks.
      rope_global: the same in full blocks.
      n_positions: rows of a learned embedding of positions, in the place of rotary ones (GPT-2).
      gated: whether the MLP is `down(activation(gate(x)) * up(x))`, else `down(activation(up(x)))`.
      parallel: whether the MLP reads what entered the block, as the attention does (GPT-NeoX).
      post_norms: whether attention and MLP pass a norm before they are added (Gemma).
      qk_norm: whether queries and keys pass a norm, head by head (Gemma 3, Qwen 3).
      qkv_bias: whether queries, keys and values have a bias.
      out_bias: whether the projection after the heads has one.
      mlp_bias: whether the matrices of the MLP have one.
      embed_scale: the embedding is multiplied by it, rounded to the working dtype.
      attn_softcap: bound of the attention scores, `cap * tanh(score / cap)` (Gemma 2).
      final_softcap: the same for the logits.
      tied: whether the output head is the embedding.
    """

    name: str
    family: str
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_heads: int
    n_kv_heads: int
    layer_types: tuple[str, ...]
    norm: Literal["rms", "rms_plus_one", "layer"]
    norm_eps: float
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"]
    query_pre_attn_scalar: float
    sliding_window: int | None = None
    rope_local: Rope | None = None
    rope_global: Rope | None = None
    n_positions: int | None = None
    gated: bool = True
    parallel: bool = False
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    embed_scale: float = 1.0
    attn_softcap: float | None = None
    final_softcap: float | None = None
    tied: bool = True

    def __post_init__(self):
        """Raises ValueError where the numbers contradict each other."""
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.name} has {self.n_heads} query heads, which cannot share its "
                f"{self.n_kv_heads} key and value heads evenly; is its configuration damaged?"
            )
        if unknown := set(self.layer_types) - {LOCAL, GLOBAL}:
            raise ValueError(
                f"{self.name} has blocks of type {', '.join(sorted(unknown))}; probejax knows "
                f"{LOCAL} and {GLOBAL}."
            )
        if LOCAL in self.layer_types and self.sliding_window is None:
            raise ValueError(f"{self.name} has sliding blocks, and no sliding_window for them.")
        for kind in sorted(set(self.layer_types)):
            self._check_positions(kind)

    def _check_positions(self, kind: str) -> None:
        rope = self.rope(kind)
        if (rope is None) == (self.n_positions is None):
            raise ValueError(
                f"{self.name} needs positions that are either learned or rotary in its blocks of "
                f"type {kind}."
            )
        if rope is None:
            return
        turned, pairs = int(self.d_head * rope.fraction), rope.pairs(self.d_head)
        if turned % 2 or not 0 < turned <= self.d_head:
            raise ValueError(
                f"{self.name} has heads of width {self.d_head}, of which {turned} are turned; "
                "rotary angles need an even number."
            )
        if rope.divisors is not None and len(rope.divisors) != pairs:
            raise ValueError(
                f"{self.name} has {len(rope.divisors)} divisors of rotary angles for {pairs} pairs."
            )

    def rope(self, layer_type: str) -> Rope | None:
        """Returns the rotary positions of a type of block; None where positions are learned."""
        return self.rope_global if layer_type == GLOBAL else self.rope_local

    @property
    def n_layers(self) -> int:
        """Blocks of the full model."""
        return len(self.layer_types)

    @property
    def n_block_weights(self) -> int:
        """Entries of the matrices of one block: each costs a token one multiplication."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)
        return attention + (3 if self.gated else 2) * self.d_model * self.d_mlp

    @property
    def n_parameters(self) -> int:
        """Parameters of the full text model; a tied embedding counts once."""
        norm = 2 * self.d_model if self.norm == "layer" else self.d_model
        block = self.n_block_weights
        block += (4 if self.post_norms else 2) * norm + 2 * self.d_head * self.qk_norm
        block += self.qkv_bias * self.d_head * (self.n_heads + 2 * self.n_kv_heads)
        block += self.out_bias * self.d_model
        block += self.mlp_bias * (self.d_model + (2 if self.gated else 1) * self.d_mlp)
        tables = self.d_vocab * (1 if self.tied else 2) + (self.n_positions or 0)
        return tables * self.d_model + self.n_layers * block + norm

    def width(self, site: Site) -> int:
        """Returns how many numbers a token has at a site."""
        return self.n_heads * self.d_head if site.kind == "attn_z" else self.d_model

    def check(self, sites: Sequence[Site]) -> None:
        """Raises ValueError unless this model has every site, and there is one."""
        if not sites:
            raise ValueError("No site was asked for; give at least one, such as resid_post.0.")
        for site in sites:
            if site.blocks > self.n_layers:
                raise ValueError(
                    f"--site={site} was asked for, but {self.name} has layers 0 to "
                    f"{self.n_layers - 1}, each with attn_z, attn_out, mlp_out and resid_post, and "
                    "`embed`, what enters the first of them."
                )

    def check_length(self, n_tokens: int) -> None:
        """Raises ValueError if a prompt of so many tokens has more than the model has positions."""
        if self.n_positions is not None and n_tokens > self.n_positions:
            raise ValueError(
                f"A prompt has {n_tokens:,} tokens, and {self.name} has learned positions for "
                f"{self.n_positions:,}; give --max_length={self.n_positions} or less."
            )


def alternate(n_layers: int, period: int) -> tuple[str, ...]:
    """Returns the layer types of a model in which every `period`-th block attends in full."""
    return tuple(GLOBAL if (i + 1) % period == 0 else LOCAL for i in range(n_layers))
