"""The two usual ways to harvest a model of transformers' PyTorch classes."""

import numpy as np
import torch


@torch.no_grad()
def in_batches(model, prompts: list[np.ndarray], layer: int, size: int = 32) -> np.ndarray:
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
def one_by_one(model, prompts: list[np.ndarray], layer: int) -> np.ndarray:
    """Returns the same in the study's way: one prompt at a time, all layers and the logits."""
    found = []
    for prompt in prompts:
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        found.append(model(ids, output_hidden_states=True).hidden_states[layer + 1][0, -1].numpy())
    return np.stack(found)
