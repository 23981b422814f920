"""Pooled SAE latents the usual way: encode all tokens, then take the maximum per prompt."""

import torch


def max_pool(x, starts, counts, W_enc, b_enc, threshold):
    """Returns [prompts, d_sae]; all latents of all tokens are in memory at once.

    Args:
      x: [tokens, d_model].
      starts: first token of each prompt.
      counts: tokens of each prompt.
      W_enc: [d_model, d_sae].
      b_enc: [d_sae].
      threshold: [d_sae]; a JumpReLU.
    """
    with torch.no_grad():
        pre = x @ W_enc + b_enc
        latents = pre * (pre > threshold)
        spans = zip(starts, counts, strict=True)
        return torch.stack([latents[start : start + count].amax(dim=0) for start, count in spans])
