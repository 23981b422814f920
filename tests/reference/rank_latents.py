"""Encode, then rank: all latents of all rows as one PyTorch matrix, then each condition."""

import torch
from safetensors import safe_open


def load(path) -> dict[str, torch.Tensor]:
    """Reads the encoder of a Gemma Scope 2 file; the decoder stays where it is."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in ("w_enc", "b_enc", "threshold")}


@torch.no_grad()
def encode(sae: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Returns JumpReLU latents."""
    pre = x @ sae["w_enc"] + sae["b_enc"]
    return torch.relu(pre) * (pre > sae["threshold"])


@torch.no_grad()
def top_latents(latents: torch.Tensor, train, mask, labels, k: int) -> torch.Tensor:
    """Returns each condition's k latents whose normalised class means differ most."""
    chosen = []
    for rows, real, y in zip(train, mask, labels, strict=True):
        z, y = latents[rows[real]], y[real]
        z = z / (z.sum(0) / ((z != 0).sum(0) + 1e-6) + 1e-6)
        difference = (z[y == 1].mean(0) - z[y == 0].mean(0)).abs()
        chosen.append(difference.topk(k).indices)
    return torch.stack(chosen)
