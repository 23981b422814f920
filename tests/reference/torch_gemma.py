"""gemma-3-270m in transformers' PyTorch classes, and the two usual ways to harvest it."""

from pathlib import Path

import numpy as np
import torch
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


@torch.no_grad()
def harvest_in_batches(model, prompts: list[np.ndarray], layer: int, size: int = 32) -> np.ndarray:
    """Returns last-token residuals: sorted by length, in batches, all hidden states kept."""
    order = np.argsort([len(p) for p in prompts], kind="stable")
    found = np.zeros((len(prompts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        width = max(len(prompts[r]) for r in rows)
        ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
        for i, r in enumerate(rows):
            ids[i, : len(prompts[r])], mask[i, : len(prompts[r])] = prompts[r], 1
        states = model.model(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        last = torch.from_numpy(mask.sum(axis=1) - 1)
        found[rows] = states[layer + 1][torch.arange(len(rows)), last].numpy()
    return found


@torch.no_grad()
def harvest_one_by_one(model, prompts: list[np.ndarray], layer: int) -> np.ndarray:
    """Returns the same in the study's way: one prompt at a time, all layers and the logits."""
    found = []
    for prompt in prompts:
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        found.append(model(ids, output_hidden_states=True).hidden_states[layer + 1][0, -1].numpy())
    return np.stack(found)
