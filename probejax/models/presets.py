"""The published models' numbers, for shape tests and memory plans; a run reads its checkpoint.

Sources: arXiv 2408.00118 table 1, arXiv 2503.19786 table 1, and the checkpoints' config.json.
"""

import math

from probejax.models.config import ModelConfig, alternate
from probejax.models.families import GEMMA2, GEMMA3
from probejax.models.rope import Rope


def _gemma2(name, d_model, d_head, d_mlp, n_heads, n_kv_heads, n_layers, scalar) -> ModelConfig:
    return ModelConfig(
        name, "gemma2", d_model, d_head, d_mlp, 256_000, n_heads, n_kv_heads,
        alternate(n_layers, 2), norm_eps=1e-6, activation="gelu_tanh",
        query_pre_attn_scalar=scalar, sliding_window=4096, rope_local=Rope(1e4),
        rope_global=Rope(1e4), embed_scale=math.sqrt(d_model), attn_softcap=50.0,
        final_softcap=30.0, **GEMMA2.constants,
    )  # fmt: skip


def _gemma3(
    name, d_model, d_head, d_mlp, d_vocab, n_heads, n_kv_heads, n_layers, window, factor, scalar
) -> ModelConfig:
    return ModelConfig(
        name, "gemma3", d_model, d_head, d_mlp, d_vocab, n_heads, n_kv_heads,
        alternate(n_layers, 6), norm_eps=1e-6, activation="gelu_tanh",
        query_pre_attn_scalar=scalar, sliding_window=window, rope_local=Rope(1e4),
        rope_global=Rope(1e6, factor), embed_scale=math.sqrt(d_model), **GEMMA3.constants,
    )  # fmt: skip


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
