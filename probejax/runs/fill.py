"""The activations of many tasks, fetched into the cache ahead of any run, and what that takes."""

import dataclasses
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from probejax import activations, artifacts, devices, models, sites, storage, sweep, tasks
from probejax.positions import ALL, LAST, parse
from probejax.runs.limits import check_limits
from probejax.sites import Site
from probejax.tasks import Own

_ALL_TOKENS = 256  # the study's limit where it keeps all tokens of a prompt
_LAST_TOKEN = 1024


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Filling:
    """A harvest that is planned; its text is a table of what it takes.

    Attributes:
      model: as for `probejax.models.find`.
      sites: where it is read.
      prompts: name of each list of prompts -> the prompts.
      recipe: how they are read.
      plans: of each list: tokens, bytes, whether it is in the cache.
      width: of the vectors at the first site.
      seconds: what it takes on a machine, roughly.
      target: that machine.
      cache_dir: the cache.
    """

    model: str
    sites: tuple[Site, ...]
    prompts: Mapping[str, tuple[str, ...]]
    recipe: activations.Recipe
    plans: list[activations.Plan]
    width: int
    seconds: float
    target: str
    cache_dir: Path

    def __repr__(self) -> str:
        table = activations.table(self.plans, self.seconds, self.target)
        if self.recipe.fingerprint:
            return table
        how = f"Without weights: {self.model} by its published sizes, tokens as gemma-3-270m cuts"
        return f"{how} them.\n{table}"


def plan_filling(
    model: str = "gemma-3-270m",
    names: Sequence[str] = ("demo",),
    at: Sequence[Site | str | int] | None = None,
    *,
    data: Own | None = None,
    positions: str = LAST,
    dtype: str = "float32",
    max_length: int | None = None,
    bos: str = "auto",
    chat_template: bool = False,
    weights: bool = True,
    drawn: int | None = None,
    target: str = "cpu",
    cache_dir: str | Path | None = None,
) -> Filling:
    """Counts what the activations of tasks take, exactly, before any is made.

    Args:
      model: see `probejax.models.find`.
      names: tasks, see `probejax.tasks.match`; their shifted test sets are taken along.
      at: where the model is read, see `sites.expand`; None is the study's site for the model.
      data: one's own tasks.
      positions: `last` token of a prompt, `all`, or another of `probejax.positions`.
      dtype: of the model.
      max_length: tokens kept of a prompt; None is 1024 for the last, 256 for all tokens.
      bos: whether BOS is put before each prompt: `always`, `never`, or `auto` for the model's own
        convention.
      chat_template: whether each prompt is read as the user's turn of a chat.
      target: the machine whose time is told, see `rules.TARGETS`; `cpu` is this one.
      drawn: tokens of a sample as `train_sae` draws it; None takes all prompts.
      weights: False takes the published sizes of a Gemma model, and gemma-3-270m's tokenizer.
      cache_dir: the cache.

    Raises:
      ValueError, ArtifactError: a task, the model or a site does not exist.
    """
    if max_length is not None and max_length < 2:
        raise ValueError(f"--max_length={max_length} leaves no token beside BOS; give at least 2.")
    positions = positions if positions == ALL else parse(positions)
    lists = _prompts(names, data, cache_dir)  # before the model: a mistake costs no download
    if not weights and model in models.PRESETS and model != "gemma-3-270m":
        config, fingerprint = models.PRESETS[model], ""
        reader = models.find("gemma-3-270m", cache_dir=cache_dir)
    else:
        reader = models.find(model, cache_dir=cache_dir)
        config, fingerprint = reader.config, reader.fingerprint
    token, template = reader.bos_token(bos), reader.template(chat_template)
    chosen = find_sites(config, at)
    if drawn is not None:
        length = _ALL_TOKENS if max_length is None else max_length
        lists = _sample(names, drawn, length, data, cache_dir)
    usual = _ALL_TOKENS if positions == ALL else _LAST_TOKEN
    length = usual if max_length is None else max_length
    done = (models.bos.done(token), models.chat.digest(template))
    recipe = activations.Recipe(config.name, fingerprint, dtype, length, positions, *done)
    how = {"bos": token, "template": template, "cache_dir": cache_dir}
    plans = activations.plan(lists, chosen, recipe, reader.tokenizer(), config, **how)
    todo = sum(each.tokens for each in plans if not each.cached)
    flops = todo * activations.flops_per_token(config, chosen)
    seconds = sweep.machine(target, dtype).model_seconds(flops, dtype)
    root, width = Path(artifacts.cache_dir(cache_dir)), config.width(chosen[0])
    return Filling(model, chosen, lists, recipe, plans, width, seconds, target, root)


def check_filling(
    filling: Filling, *, disk_gb: float | None = None, model_parallel: int = 1
) -> None:
    """Raises ValueError where `fill_cache`, given the same, would."""
    check_limits(disk_gb=disk_gb, model_parallel=model_parallel)
    allowed = None if disk_gb is None else int(disk_gb * 1e9)
    there = next(each for each in (filling.cache_dir, *filling.cache_dir.parents) if each.exists())
    activations.check_disk(filling.plans, allowed, shutil.disk_usage(there).free)
    if filling.target == "cpu":
        devices.mesh(model_parallel)


def fill_cache(filling: Filling, *, disk_gb: float | None = None, model_parallel: int = 1) -> Path:
    """Makes the activations that are not there; killed at any moment, the same call goes on.

    Args:
      filling: what `plan_filling` has planned.
      disk_gb: what they may take; None is no limit.
      model_parallel: devices of this machine that hold the language model together.

    Returns:
      The folder of the cache that they are in.

    Raises:
      ValueError: the disk cannot hold them, or may not; it was planned without weights; or the
        model cannot be cut over so many devices.
    """
    check_filling(filling, disk_gb=disk_gb, model_parallel=model_parallel)
    recipe, root = filling.recipe, filling.cache_dir
    if not recipe.fingerprint:
        raise ValueError(f"{filling.model} was planned without its weights; plan it with them.")
    root.mkdir(parents=True, exist_ok=True)
    devices.compilation_cache(root)
    storage.remove_leftovers(root / "activations")
    how = {"dtype": recipe.dtype, "cache_dir": root, "mesh": devices.mesh(model_parallel)}
    load = functools.cache(lambda: models.load(filling.model, filling.sites, **how))
    for number, (name, prompts) in enumerate(filling.prompts.items(), start=1):
        label = f"{name} ({number} of {len(filling.prompts)})"
        activations.harvest(prompts, filling.sites, recipe, load, cache_dir=root, label=label)
    return root / "activations"


def find_sites(
    config: models.ModelConfig, at: Sequence[Site | str | int] | None
) -> tuple[Site, ...]:
    """Returns distinct sites of a model, or the study's.

    Raises:
      ValueError: the model has no such site, or none is named and the study has none.
    """
    if at is None and config.name not in sweep.DEFAULT_LAYERS:
        raise ValueError(f"Give --site: {config.name} has no default.")
    named = [sweep.DEFAULT_LAYERS[config.name]] if at is None else at
    found = sites.expand(named, config.n_layers)
    config.check(found)
    return found


def _prompts(names: Sequence[str], data: Own | None, cache_dir) -> dict[str, tuple[str, ...]]:
    """Returns the lists of prompts: every task's, and its shifted test set's where it has one."""
    where, shifted, found = {"data": data, "cache_dir": cache_dir}, tasks.shifted_names(data), {}
    for name in tasks.match(names, data=data):
        found[name] = tasks.load(name, **where).prompts
        if name in shifted:
            found[f"{name}, shifted"] = tasks.load_shifted(name, **where).prompts
    return found


def _sample(
    names: Sequence[str], tokens: int, max_length: int, data: Own | None, cache_dir
) -> dict[str, tuple[str, ...]]:
    """Returns the prompts of every task that `sample_tokens` draws for so many tokens."""
    chosen = tasks.match(names, data=data)
    loaded = (tasks.load(name, data=data, cache_dir=cache_dir) for name in chosen)
    each = tokens // len(chosen)
    return {task.name: tuple(activations.draw_prompts(task, each, max_length)) for task in loaded}
