"""SmolLM2-135M in transformers' PyTorch class, with what transformers reads from its GGUF file."""

from pathlib import Path

import transformers
from transformers import initialization
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

# As published by its makers; the file says the same, but for what it leaves out.
FIELDS = dict(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, vocab_size=49152, rms_norm_eps=1e-5, rope_theta=100_000.0,
    max_position_embeddings=8192, tie_word_embeddings=True,
)  # fmt: skip


def load(path: Path) -> transformers.LlamaForCausalLM:
    """Returns the model in float32."""
    config = transformers.LlamaConfig(**FIELDS, attn_implementation="eager")
    with initialization.no_init_weights():
        model = transformers.LlamaForCausalLM(config)
    loaded = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)
    for name in ("num_hidden_layers", "hidden_size", "num_key_value_heads", "rope_theta"):
        assert loaded["config"][name] == FIELDS[name]
    missing, unexpected = model.load_state_dict(loaded["tensors"], strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return model.float().eval()
