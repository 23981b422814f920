"""The numbers of a Gemma 2 or Gemma 3 text model, and those of the published ones."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from probejax.sites import Site

LOCAL, GLOBAL = "sliding_attention", "full_attention"  # the names of `config.json`

# What a file may say; the largest Gemma has 62 blocks, a width of 5,376 and 262,208 tokens.
Layers = Annotated[int, Meta(ge=1, le=1024)]
Size = Annotated[int, Meta(ge=1, le=1 << 24)]
Epsilon = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e12)]


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
    """Everything about a checkpoint that changes its numbers.

    Attributes:
      name: label for messages and results; no effect on the numbers.
      d_model: width of the residual stream.
      d_head: width of one attention head.
      d_mlp: width of the gated MLP.
      d_vocab: rows of the embedding.
      n_heads: query heads.
      n_kv_heads: key and value heads, shared by `n_heads // n_kv_heads` query heads each.
      layer_types: per block, `sliding_attention` or `full_attention`.
      sliding_window: keys that a query of a sliding block sees, itself included.
      rope_base_local: base of the rotary angles in sliding blocks.
      rope_base_global: the same in full blocks.
      rope_scale_global: positions of full blocks are divided by this (linear scaling).
      query_pre_attn_scalar: queries are divided by its square root.
      qk_norm: whether queries and keys pass an RMSNorm (Gemma 3).
      attn_softcap: bound of the attention scores, `cap * tanh(score / cap)` (Gemma 2).
      final_softcap: the same for the logits.
      norm_eps: added to the mean square in every RMSNorm.
    """

    name: str
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_heads: int
    n_kv_heads: int
    layer_types: tuple[str, ...]
    sliding_window: int
    rope_base_local: float
    rope_base_global: float
    rope_scale_global: float
    query_pre_attn_scalar: float
    qk_norm: bool
    attn_softcap: float | None
    final_softcap: float | None
    norm_eps: float = 1e-6

    def __post_init__(self):
        """Raises ValueError where the numbers contradict each other."""
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.name} has {self.n_heads} query heads, which cannot share its "
                f"{self.n_kv_heads} key and value heads evenly; is its configuration damaged?"
            )
        if self.d_head % 2:
            raise ValueError(
                f"{self.name} has heads of width {self.d_head}; rotary angles need an even one."
            )
        if unknown := set(self.layer_types) - {LOCAL, GLOBAL}:
            raise ValueError(
                f"{self.name} has blocks of type {', '.join(sorted(unknown))}; probejax knows "
                f"{LOCAL} and {GLOBAL}."
            )

    @property
    def n_layers(self) -> int:
        """Blocks of the full model."""
        return len(self.layer_types)

    @property
    def n_parameters(self) -> int:
        """Parameters of the full text model; the embedding counts once, it is tied."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)
        norms = 4 * self.d_model + 2 * self.d_head * self.qk_norm
        block = attention + 3 * self.d_model * self.d_mlp + norms
        return self.d_vocab * self.d_model + self.n_layers * block + self.d_model

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


def alternate(n_layers: int, period: int) -> tuple[str, ...]:
    """Returns the layer types of a model in which every `period`-th block attends in full."""
    return tuple(GLOBAL if (i + 1) % period == 0 else LOCAL for i in range(n_layers))


def _gemma2(name, d_model, d_head, d_mlp, n_heads, n_kv_heads, n_layers, scalar) -> GemmaConfig:
    return GemmaConfig(
        name, d_model, d_head, d_mlp, 256_000, n_heads, n_kv_heads, alternate(n_layers, 2),
        sliding_window=4096, rope_base_local=1e4, rope_base_global=1e4, rope_scale_global=1.0,
        query_pre_attn_scalar=scalar, qk_norm=False, attn_softcap=50.0, final_softcap=30.0,
    )  # fmt: skip


def _gemma3(
    name, d_model, d_head, d_mlp, d_vocab, n_heads, n_kv_heads, n_layers, window, scale, scalar
) -> GemmaConfig:
    return GemmaConfig(
        name, d_model, d_head, d_mlp, d_vocab, n_heads, n_kv_heads, alternate(n_layers, 6),
        sliding_window=window, rope_base_local=1e4, rope_base_global=1e6, rope_scale_global=scale,
        query_pre_attn_scalar=scalar, qk_norm=True, attn_softcap=None, final_softcap=None,
    )  # fmt: skip


# The published models, for shape tests and memory plans; a run reads its checkpoint instead.
# Sources: arXiv 2408.00118 table 1, arXiv 2503.19786 table 1, and the checkpoints' config.json.
PRESETS = {
    config.name: config
    for config in (
        _gemma2("gemma-2-2b", 2304, 256, 9216, 8, 4, 26, 256.0),
        _gemma2("gemma-2-9b", 3584, 256, 14336, 16, 8, 42, 256.0),
        _gemma2("gemma-2-27b", 4608, 128, 36864, 32, 16, 46, 144.0),
        _gemma3("gemma-3-270m", 640, 256, 2048, 262_144, 4, 1, 18, 512, 1.0, 256.0),
        _gemma3("gemma-3-1b", 1152, 256, 6912, 262_144, 4, 1, 26, 512, 1.0, 256.0),
        _gemma3("gemma-3-4b", 2560, 256, 10240, 262_208, 8, 4, 34, 1024, 8.0, 256.0),
        _gemma3("gemma-3-12b", 3840, 256, 15360, 262_208, 16, 8, 48, 1024, 8.0, 256.0),
        _gemma3("gemma-3-27b", 5376, 128, 21504, 262_208, 32, 16, 62, 1024, 8.0, 168.0),
    )
}
