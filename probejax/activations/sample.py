"""Token activations of a sample of prompts from many tasks, to train an SAE on."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from probejax.activations.cache import Recipe, harvest
from probejax.activations.ragged import Activations
from probejax.models.checkpoint import LoadedModel
from probejax.sites import Site
from probejax.tasks.catalog import Task


def sample_tokens(
    tasks: Sequence[Task],
    tokens: int,
    site: Site,
    recipe: Recipe,
    model: Callable[[], LoadedModel],
    *,
    held_out: float = 0.05,
    seed: int = 0,
    cache_dir=None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and held-out token activations, [n, d_model] float32 each, without BOS.

    Every task gives the same number of tokens as long as it has them. Prompts are drawn without
    replacement; a prompt that is held out in one task is held out in all.

    Args:
      tasks: where the prompts come from.
      tokens: tokens to aim at, over all tasks.
      site: where the model is read.
      recipe: how to harvest; its positions must be `all`.
      model: gives the loaded model.
      held_out: share of the prompts that is held out.
      seed: of the draw.
      cache_dir: the cache.
    """
    train, test = [], []
    for task in tqdm(tasks, desc="tasks", unit="task"):
        prompts = draw_prompts(task, tokens // len(tasks), recipe.max_length, seed)
        found = harvest(prompts, [site], recipe, model, cache_dir=cache_dir, label=task.name)[site]
        keep_out = np.array([_held_out(prompt, held_out) for prompt in prompts])
        for rows, where in ((train, ~keep_out), (test, keep_out)):
            rows.append(_without_bos(found, where))
    return np.concatenate(train), np.concatenate(test)


def draw_prompts(task: Task, tokens: int, max_length: int, seed: int = 0) -> list[str]:
    """Draws distinct prompts until they hold about `tokens` tokens (four characters each)."""
    distinct = sorted(set(task.prompts))
    order = np.random.default_rng(seed).permutation(len(distinct))
    sizes = np.minimum([len(distinct[i]) / 4 + 2 for i in order], max_length)
    return [distinct[i] for i in order[: int(np.searchsorted(np.cumsum(sizes), tokens)) + 1]]


def _held_out(prompt: str, share: float) -> bool:
    """Decides by the prompt's own hash, so that equal prompts of two tasks go the same way."""
    return zlib.crc32(prompt.encode("utf-8", "surrogatepass")) < share * 2**32


def _without_bos(found: Activations, where: np.ndarray) -> np.ndarray:
    first = found.starts[where] + int(found.bos)
    spans = zip(first, found.starts[where] + found.counts[where], strict=True)
    rows = np.concatenate([np.arange(a, b) for a, b in spans] or [np.zeros(0, np.int64)])
    return np.asarray(found.x[rows], np.float32)
