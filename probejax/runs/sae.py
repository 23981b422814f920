"""An SAE trained on token activations of tasks' prompts, measured on held-out tokens and saved."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax

from probejax import activations, devices, models, saes, sites, storage, sweep, tasks
from probejax.positions import ALL
from probejax.runs.fill import plan_filling
from probejax.runs.limits import check_limits
from probejax.saes import fit, train
from probejax.saes.formats import gemma_scope, sae_lens
from probejax.saes.quality import Quality
from probejax.sites import Site
from probejax.tasks import Own

_PRODUCTS = 6  # operations per token and weight: a product forward, two backward
_COPIES = 4  # of all weights: themselves, their gradient, Adam's moments


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens that an SAE is trained on.

    Attributes:
      model: see `probejax.models.find`.
      site: where it is read, see `sites.parse`.
      names: tasks, see `probejax.tasks.match`.
      data: one's own tasks.
      count: how many to harvest, over all tasks.
      dtype: of the model.
      max_length: tokens kept of a prompt.
      bos: whether BOS is put before each prompt: `always`, `never`, or `auto` for the model's own
        convention. It is never among the tokens that train.
      chat_template: whether each prompt is read as the user's turn of a chat.
    """

    model: str = "gemma-3-270m"
    site: Site | str | int = "resid_post.9"
    names: Sequence[str] = ("demo",)
    data: Own | None = None
    count: int = 1_000_000
    dtype: str = "float32"
    max_length: int = 1024
    bos: str = "auto"
    chat_template: bool = False


def plan_training(
    options: train.TrainOptions,
    tokens: Tokens = Tokens(),
    *,
    target: str = "cpu",
    cache_dir: str | Path | None = None,
) -> str:
    """Returns what `train_sae` would take: the harvest of what is drawn, and the training.

    Args:
      options: size, number of steps.
      tokens: that train it.
      target: the machine that it is told for, see `rules.TARGETS`; `cpu` is this one.
      cache_dir: where downloads and activations live.

    Raises:
      ValueError, ArtifactError: a task, the model or the site does not exist.
    """
    filling = plan_filling(
        tokens.model,
        tokens.names,
        [tokens.site],
        data=tokens.data,
        positions=ALL,
        dtype=tokens.dtype,
        max_length=tokens.max_length,
        bos=tokens.bos,
        chat_template=tokens.chat_template,
        weights=False,
        drawn=tokens.count,
        target=target,
        cache_dir=cache_dir,
    )
    machine = sweep.machine(target)
    weights = 2.0 * filling.width * options.d_sae
    flops = _PRODUCTS * weights * options.batch * options.steps
    on_one = machine.float32 * (machine.devices if machine.is_cpu else 1)
    time, size = activations.duration(flops / on_one), 4 * _COPIES * weights / 1e9
    floor = "about" if machine.is_cpu else "at the least"
    return (
        f"{filling}\nThese are drawn for about {tokens.count:,} tokens (--tokens).\n"
        f"Training: {options.steps} steps of {options.batch} tokens, {floor} {time} on a device of "
        f"{machine.name}; weights, gradient and moments take {size:.2f} GB."
    )


def train_sae(
    out: str | Path,
    options: train.TrainOptions,
    tokens: Tokens = Tokens(),
    *,
    model_parallel: int = 1,
    cache_dir: str | Path | None = None,
    command: str = "probejax.runs.train_sae",
) -> Quality:
    """Harvests tokens, trains an SAE, measures and saves it; killed, the same call goes on.

    Writes `params.npz` in Gemma Scope's layout (a top-k SAE in SAELens') and `training.json`.

    Args:
      out: folder for the SAE and its checkpoints; `saes.find` reads it.
      options: architecture, size and optimiser.
      tokens: that train it.
      model_parallel: devices of this machine that hold the language model together.
      cache_dir: where downloads and activations live.
      command: what `training.json` says that made the SAE.

    Returns:
      What was measured on held-out tokens.

    Raises:
      ValueError, ArtifactError: a task, the model or the site does not exist, the tokens are
        fewer than a batch or so few that none is held out, or the folder has checkpoints of an SAE
        of other options or other activations.
    """
    check_limits(model_parallel=model_parallel)
    out, site, data = Path(out), sites.parse(tokens.site), tokens.data
    chosen = tasks.match(tokens.names, data=data)
    checkpoint = models.find(tokens.model, cache_dir=cache_dir)
    checkpoint.config.check([site])
    name = checkpoint.name
    done = models.bos.done(checkpoint.bos_token(tokens.bos))
    turns = models.chat.digest(checkpoint.template(tokens.chat_template))
    recipe = activations.Recipe(
        name, checkpoint.fingerprint, tokens.dtype, tokens.max_length, ALL, done, turns
    )
    where = {"dtype": tokens.dtype, "cache_dir": cache_dir, "mesh": devices.mesh(model_parallel)}
    load = functools.cache(lambda: models.load(tokens.model, (site,), **where))
    loaded = [tasks.load(task, data=data, cache_dir=cache_dir) for task in chosen]
    x, held_out = activations.sample_tokens(
        loaded, tokens.count, site, recipe, load, cache_dir=cache_dir
    )
    if not len(held_out):
        raise ValueError(
            f"none of the prompts of {tokens.count:,} tokens is held out, so that nothing could be "
            "measured; give more --tokens or more tasks"
        )
    files = {task: tasks.fingerprint(task, data=data) for task in chosen}
    origin = {"site": str(site), **dataclasses.asdict(recipe), "tasks": files}
    params, scale = fit.fit(x, options, out / "checkpoints", origin=origin)
    if options.architecture == "topk":
        written = sae_lens.to_files(
            train.fold(params, scale, unit=False),
            round(options.target_l0),
            model_name=name,
            hook_name=site.hook,
        )
    else:
        written = {"params.npz": gemma_scope.to_bytes(train.fold(params, scale))}
    for file, content in written.items():
        storage.write_atomic(out / file, content)
    measured = saes.quality(saes.find(str(out)).open(), held_out)
    provenance = {
        "model": name,
        "site": str(site),
        "bos": done,
        "chat": turns,
        "training_tokens": len(x),
        "device": jax.devices()[0].device_kind,
        "command": command,
    }
    storage.write_atomic(
        out / "training.json", fit.report_json(measured._asdict(), options, **provenance)
    )
    return measured
