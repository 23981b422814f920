"""gemma-3-270m in transformers' PyTorch class, with what transformers reads from its GGUF file."""

from pathlib import Path

import transformers
from transformers import initialization
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

CONFIG = Path(__file__).parents[1] / "golden" / "configs" / "gemma-3-270m.json"


def load(path: Path) -> transformers.Gemma3ForCausalLM:
    """Returns the model with what transformers itself reads from the GGUF file, in float32.

    `from_pretrained(gguf_file=...)` would do the same, but wants the accelerate package and parses
    the file three times.
    """
    config = transformers.Gemma3TextConfig.from_json_file(CONFIG)
    config._attn_implementation = "eager"
    with initialization.no_init_weights():
        model = transformers.Gemma3ForCausalLM(config)
    loaded = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)
    for name in ("num_hidden_layers", "hidden_size", "head_dim", "sliding_window"):
        assert loaded["config"][name] == getattr(config, name)  # the published config is the file's
    missing, unexpected = model.load_state_dict(loaded["tensors"], strict=False)
    assert (missing, unexpected) == ([], ["lm_head.weight"]) or missing == ["lm_head.weight"]
    model.tie_weights()
    return model.float().eval()
