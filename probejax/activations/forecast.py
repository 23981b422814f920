"""What a harvest will take, before it runs: tokens, bytes on the disk, time."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from probejax.activations.cache import Recipe, is_cached
from probejax.activations.reading import read
from probejax.activations.shared import DIGEST_BYTES
from probejax.models import tokens as texts
from probejax.models.config import ModelConfig
from probejax.positions import ALL
from probejax.sites import Site

_GB = 10**9


@dataclasses.dataclass(frozen=True)
class Plan:
    """The harvest of one list of prompts.

    Attributes:
      name: of the task.
      prompts: how many.
      distinct: different ones; equal prompts run once and share rows.
      tokens: tokens, BOS included, of the distinct prompts that pass the model.
      bytes: on the disk when finished, all sites together.
      cached: whether all of it is there already.
    """

    name: str
    prompts: int
    distinct: int
    tokens: int
    bytes: int
    cached: bool

    @property
    def peak(self) -> int:
        """Bytes on the disk at most, which is while the finished batches are joined."""
        return self.bytes if self.cached else 2 * self.bytes


def plan(
    lists: Mapping[str, Sequence[str]],
    sites: Sequence[Site],
    recipe: Recipe,
    tokenizer: tokenizers.Tokenizer,
    config: ModelConfig,
    *,
    bos: str | None = texts.BOS,
    template: str | None = None,
    cache_dir: str | Path | None = None,
) -> list[Plan]:
    """Counts what a harvest of lists of prompts takes; exact but for the headers of files.

    Where only the last token is kept, a prompt passes the model for the first list that has it. A
    list that is given twice is harvested and kept once: only the first counts.

    Args:
      lists: name -> prompts, in the order of their harvest.
      sites: where the model is read.
      recipe: as for `harvest`.
      tokenizer: of the model.
      config: its numbers.
      bos: text of the token before each prompt; None if there is none.
      template: that makes each prompt a turn of a chat, see `models.chat.turns`.
      cache_dir: where to look for what is there already.
    """
    every = recipe.positions == ALL
    cached = {
        name: all(is_cached(recipe, site, prompts, cache_dir=cache_dir) for site in sites)
        for name, prompts in lists.items()
    }
    known = {prompt for name in lists if cached[name] for prompt in lists[name]}
    how = {"bos": bos, "template": template, "position": recipe.positions}
    how["max_length"] = recipe.max_length
    vectors = sum(map(config.width, sites)) * np.dtype(recipe.dtype).itemsize
    found: list[Plan] = []
    first: set[tuple[str, ...]] = set()
    for name, prompts in lists.items():
        if tuple(prompts) in first:
            found.append(Plan(name, len(prompts), len(set(prompts)), 0, 0, cached[name]))
            continue
        first.add(tuple(prompts))
        distinct = list(dict.fromkeys(prompts))
        new = distinct if every else [prompt for prompt in distinct if prompt not in known]
        known.update(prompts)
        tokens = sum(map(len, read(new, tokenizer, config, **how).ids))
        rows = tokens if every else len(distinct)
        # And where each prompt's rows are, and its hash.
        size = rows * vectors + len(sites) * (2 * 8 + DIGEST_BYTES) * len(prompts)
        found.append(Plan(name, len(prompts), len(distinct), tokens, size, cached[name]))
    return found


def peak_kept(plans: Sequence[Plan]) -> int:
    """Returns the bytes on the disk at most when every task stays in the cache."""
    todo = [each.bytes for each in plans if not each.cached]
    return sum(each.bytes for each in plans) + max(todo, default=0)


def peak_one_by_one(plans: Sequence[Plan]) -> int:
    """Returns the bytes on the disk at most when each task is deleted before the next begins."""
    return max((each.peak for each in plans), default=0)


def flops_per_token(config: ModelConfig, sites: Sequence[Site]) -> float:
    """Returns the arithmetic of one token up to the last site, without attention's own products.

    Two operations per parameter of a block; attention between tokens adds a few per cent at the
    lengths of prompts.
    """
    return 2.0 * max(site.blocks for site in sites) * config.n_block_weights


def measured_flops(dtype: Any, size: int = 1024) -> float:
    """Returns the operations per second of a matrix product on the default device, measured.

    The fastest of ten: others that use the machine make a product slower, nothing makes it faster.
    """
    a = jnp.ones((size, 2 * size), dtype)
    multiply = jax.jit(lambda a: a @ a.T)
    jax.block_until_ready(multiply(a))
    times = []
    for _ in range(10):
        began = time.perf_counter()
        jax.block_until_ready(multiply(a))
        times.append(time.perf_counter() - began)
    return 4 * size**3 / min(times)


def table(plans: Sequence[Plan], seconds: float | None = None, target: str = "cpu") -> str:
    """Returns the plan as text: a line per task, then what the disk must hold.

    Args:
      plans: of all tasks.
      seconds: expected time of what is not cached.
      target: the machine that it is told for; `cpu` is this one.
    """
    width = max([len(each.name) for each in plans] + [4])
    lines = [f"{'task':{width}}  prompts  distinct      tokens        GB"]
    lines += [
        f"{each.name:{width}} {each.prompts:8d} {each.distinct:9d} {each.tokens:11d} "
        f"{each.bytes / _GB:9.3f}{'  in the cache' if each.cached else ''}"
        for each in plans
    ]
    todo = sum(each.tokens for each in plans if not each.cached)
    kept, on_the_way = sum(each.bytes for each in plans) / _GB, peak_kept(plans) / _GB
    one = peak_one_by_one(plans) / _GB
    where = "about {} here" if target == "cpu" else f"at the least {{}} on {target}"
    about = "" if seconds is None else f", {where.format(duration(seconds))}"
    lines += [
        f"{len(plans)} list{'s' * (len(plans) != 1)} of prompts; {todo:,} tokens to run{about}.",
        f"On the disk: {kept:.2f} GB, at most {on_the_way:.2f} GB on the way, if all tasks are "
        f"kept; at most {one:.2f} GB at any one time if each is deleted before the next.",
    ]
    return "\n".join(lines)


def check_disk(plans: Sequence[Plan], allowed: int | None, free: int, keep: bool = True) -> None:
    """Refuses a harvest that the disk cannot hold.

    Args:
      plans: of all tasks.
      allowed: bytes that these activations may take; None is no limit.
      free: bytes free on the disk of the cache.
      keep: whether the tasks stay, or each goes before the next one comes.

    Raises:
      ValueError: it does not fit.
    """
    peak = peak_kept(plans) if keep else peak_one_by_one(plans)
    there = sum(each.bytes for each in plans if each.cached)
    advice = (
        "harvest fewer tasks or halve them with --dtype=bfloat16"
        + (f"; one task at a time takes {peak_one_by_one(plans) / _GB:.2f} GB" if keep else "")
        + "."
    )
    if allowed is not None and peak > allowed:
        raise ValueError(
            f"These activations need {peak / _GB:.2f} GB, more than --disk_gb={allowed / _GB:g}: "
            + advice
        )
    if peak - there > free:
        raise ValueError(
            f"These activations need {(peak - there) / _GB:.2f} GB more, but only "
            f"{free / _GB:.2f} GB are free where the cache is: {advice}"
        )


def duration(seconds: float) -> str:
    """Returns a time as people say it: seconds, minutes or hours."""
    if 0 < seconds < 0.5:
        return "under 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
