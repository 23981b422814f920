"""The residual stream of transformers' PyTorch models, and how far another is from it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from probejax.sites import EMBEDDING, Site


def read(model, prompt: np.ndarray, sites: Sequence[Site]) -> dict[Site, np.ndarray]:
    """Returns site -> [tokens, d_model], by hooks: the last hidden state of transformers is normed.

    Args:
      model: a causal model of the shape of Llama's.
      prompt: token ids.
      sites: the embedding, and what leaves some blocks.
    """
    found = {}
    inner = model.model
    modules = {s: inner.embed_tokens if s == EMBEDDING else inner.layers[s.layer] for s in sites}
    keep = lambda site, y: found.__setitem__(site, (y[0] if isinstance(y, tuple) else y).numpy())
    handles = [
        module.register_forward_hook(lambda m, a, y, site=site: keep(site, y))
        for site, module in modules.items()
    ]
    with torch.no_grad():
        inner(torch.tensor(prompt).long()[None])
    for handle in handles:
        handle.remove()
    return {site: x.reshape(len(prompt), -1) for site, x in found.items()}


def errors(found: Mapping, expected: Mapping[Site, np.ndarray]) -> dict[Site, float]:
    """Returns, for each site, the worst distance of a token in shares of its norm.

    Args:
      found: site -> [1, at least as many tokens, d_model].
      expected: of `read`.
    """
    worst = {}
    for site, y in expected.items():
        x = np.asarray(found[site])[0, : len(y)]
        assert x.shape == y.shape
        worst[site] = (np.linalg.norm(x - y, axis=-1) / np.linalg.norm(y, axis=-1)).max()
    return worst
