"""The sweep: a configuration, the units it consists of, and how one unit is run."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from probejax import activations, models, probes, saes, storage, tasks
from probejax.models import EMBED
from probejax.tasks import REGIMES

RECIPE = 2  # raise it when the numbers of a unit change, so that old units are not reused
DEFAULT_LAYERS = {"gemma-3-270m": 9, "gemma-2-9b": 20, "gemma-2-2b": 12}


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: everything that decides its results, each field a flag of the same name.

    Attributes:
      model: see `probejax.models.find`.
      layer: zero-based block, or `embed`; None takes the SAE's, then the study's for the model.
      sae: SAEs, see `probejax.saes.find`; empty takes those that ship for the model.
      tasks: names, globs, `demo` or `all`.
      regimes: some of `probejax.tasks.REGIMES`.
      methods: baselines and `sae_k<k>`.
      ranking: how latents are ranked, `normalised` or `raw`.
      protocol: `paper`.
      seeds: one set of draws for each.
      dtype: of the model, `float32` or `bfloat16`.
      max_length: tokens kept of a prompt.
      tasks_dir: folder with the user's own task files.
    """

    model: str = "gemma-3-270m"
    layer: str | None = None
    sae: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("demo",)
    regimes: tuple[str, ...] = REGIMES
    methods: tuple[str, ...] = ("logreg", "sae_k16", "sae_k128")
    ranking: str = "normalised"
    protocol: str = "paper"
    seeds: tuple[int, ...] = (42,)
    dtype: str = "float32"
    max_length: int = 1024
    tasks_dir: str | None = None

    def __post_init__(self):
        """Raises ValueError for a regime, method, ranking or protocol that does not exist."""
        for flag, values, known in (
            ("regimes", self.regimes, REGIMES),
            ("ranking", (self.ranking,), saes.RANKINGS),
            ("protocol", (self.protocol,), probes.PROTOCOLS),
            ("dtype", (self.dtype,), ("float32", "bfloat16")),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"--{flag}={value} does not exist; choose from {', '.join(known)}."
                    )
        for flag in ("tasks", "regimes", "methods", "seeds"):
            if not getattr(self, flag):
                raise ValueError(f"--{flag} is empty; give at least one.")
        for method in self.methods:
            probes.is_sae_method(method)


class Unit(NamedTuple):
    """The smallest piece of work that is saved; its fields decide its numbers and its name."""

    task: str
    source: str
    method: str
    protocol: str
    model: str
    weights: str
    dtype: str
    max_length: int
    layer: str
    sae_id: str
    sae_weights: str
    k: int | None
    ranking: str
    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks_dir: str
    recipe: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return storage.unit_id(self._asdict())


class Result(NamedTuple):
    """A finished unit: what must be reproducible, and what need not be."""

    payload: dict[str, Any]
    timing: dict[str, Any]


class TaskData(NamedTuple):
    """One task at one layer, ready for every method.

    Attributes:
      conditions: what is fitted.
      batches: the conditions as lanes, grouped by padded size.
      features: [N, d_model] float32: the task's prompts, then the shifted ones if there are any.
    """

    conditions: list[tasks.Condition]
    batches: list[tuple[tuple[int, ...], probes.Rows]]
    features: jax.Array


class Sweep:
    """A configuration resolved: its model, its SAEs and its units.

    Whatever is slow (weights, activations, latents) is loaded when a unit first needs it, and
    kept only while the units of the same task go on.
    """

    def __init__(self, config: Config, cache_dir: str | Path | None = None):
        """Finds everything that the configuration names.

        Raises:
          ValueError, FileNotFoundError, ArtifactError: something does not exist or does not fit.
        """
        self.config = config
        self.cache_dir = cache_dir
        self.checkpoint = models.find(config.model, cache_dir=cache_dir)
        self.tasks = tasks.match(config.tasks, tasks_dir=config.tasks_dir)
        self.saes = self._find_saes()
        self.layer = self._find_layer()
        self.checkpoint.config.check_layers((self.layer,))
        self._check_saes()

    def _find_saes(self) -> dict[str, saes.SaeFile]:
        if not any(map(probes.is_sae_method, self.config.methods)):
            return {}
        find = functools.partial(saes.find, cache_dir=self.cache_dir)
        found = [find(spec) for spec in self.config.sae] or list(saes.shipped(self.checkpoint.name))
        paths = {sae.sae_id: sae.path for sae in found}
        for sae in found:
            if sae.path != paths[sae.sae_id]:
                raise ValueError(
                    f"{sae.path} and {paths[sae.sae_id]} would both be called {sae.sae_id} in the "
                    "results; rename a folder of one of them."
                )
        if not found:
            raise ValueError(
                f"No SAE ships with probejax for {self.checkpoint.name}; give --sae, or leave the "
                "sae_k methods out of --methods."
            )
        return {sae.sae_id: sae for sae in found}

    def _find_layer(self) -> int:
        if self.config.layer is not None:
            text = self.config.layer
            if text != "embed" and not text.isdecimal():
                raise ValueError(f"--layer={text} is neither a zero-based number nor `embed`.")
            return EMBED if text == "embed" else int(text)
        layers = {sae.layer for sae in self.saes.values() if sae.layer is not None}
        if not layers and self.checkpoint.name in DEFAULT_LAYERS:
            layers = {DEFAULT_LAYERS[self.checkpoint.name]}
        if len(layers) != 1:
            raise ValueError(
                f"The layer is not clear (the SAEs name {sorted(layers) or 'none'}); give --layer."
            )
        return layers.pop()

    def _check_saes(self) -> None:
        d_model = self.checkpoint.config.d_model
        k = max(map(probes.sae_k, filter(probes.is_sae_method, self.config.methods)), default=0)
        for sae in self.saes.values():
            sae.check(self.checkpoint.name, self.layer, d_model)
            if k > sae.d_sae:
                raise ValueError(
                    f"--methods asks for sae_k{k}, but {sae.sae_id} has only {sae.d_sae} latents."
                )

    @property
    def layer_name(self) -> str:
        """The layer as it stands in results."""
        return "embed" if self.layer == EMBED else str(self.layer)

    def units(self) -> list[Unit]:
        """Returns all units, task by task, in the order of the configuration."""
        found = []
        for task in self.tasks:
            for method in self.config.methods:
                for sae in self.saes.values() if probes.is_sae_method(method) else (None,):
                    found.append(self._unit(task, method, sae))
        return found

    def _unit(self, task: str, method: str, sae: saes.SaeFile | None) -> Unit:
        config = self.config
        return Unit(
            task=task,
            source=sae.sae_id if sae else "resid",
            method=method,
            protocol=config.protocol,
            model=self.checkpoint.name,
            weights=self.checkpoint.fingerprint,
            dtype=config.dtype,
            max_length=config.max_length,
            layer=self.layer_name,
            sae_id=sae.sae_id if sae else "",
            sae_weights=_fingerprint(sae) if sae else "",
            k=probes.sae_k(method) if sae else None,
            ranking=config.ranking if sae else "",
            regimes=config.regimes,
            seeds=config.seeds,
            tasks_dir=config.tasks_dir or "",
            recipe=RECIPE,
        )

    def run(self, unit: Unit) -> Result:
        """Runs one unit.

        Raises:
          ValueError: the task's file or its activations are not usable.
        """
        began = time.perf_counter()
        data = self._data(unit.task)
        prepared = time.perf_counter()
        fits = {name: np.zeros(len(data.conditions)) for name in probes.Scores._fields}
        for i, (lanes, rows) in enumerate(data.batches):
            found = self._fit(unit, data, i, rows)
            for name, values in found.scores._asdict().items():
                fits[name][list(lanes)] = values
        seconds = {"prepare": prepared - began, "fit": time.perf_counter() - prepared}
        payload = {"unit": unit._asdict(), "fits": _columns(data.conditions, fits)}
        device = jax.local_devices()[0].device_kind
        return Result(payload, {"seconds": seconds, "device": device, "jax": jax.__version__})

    def _fit(self, unit: Unit, data: TaskData, batch: int, rows: probes.Rows) -> probes.Fitted:
        protocol = cast(probes.Protocol, unit.protocol)  # Config has looked
        if unit.sae_id:
            selection = self._selection(unit.task, unit.sae_id, batch)
            k, binarised = probes.sae_k(unit.method), probes.is_binarised(unit.method)
            return probes.sae.fit(selection, rows, k, binarised=binarised, protocol=protocol)
        return probes.BASELINES[unit.method](data.features, rows, protocol)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a sweep lives as long as its process
    def _data(self, task: str) -> TaskData:
        config = self.config
        where = {"tasks_dir": config.tasks_dir, "cache_dir": self.cache_dir}
        loaded = tasks.load(task, **where)
        shifted = None
        if "covariate_shift" in config.regimes and task in tasks.shifted_names(config.tasks_dir):
            shifted = tasks.load_shifted(task, **where)
        conditions = tasks.conditions(
            loaded.labels, config.regimes, config.seeds, None if shifted is None else shifted.labels
        )
        features = [self._activations(each) for each in (loaded, shifted) if each is not None]
        return TaskData(
            conditions, probes.batches(conditions), jnp.asarray(np.concatenate(features))
        )

    def _activations(self, task: tasks.Task) -> np.ndarray:
        config = self.config
        recipe = activations.Recipe(
            self.checkpoint.name, self.checkpoint.fingerprint, config.dtype, config.max_length
        )
        found = activations.harvest(
            task.prompts,
            [self.layer],
            recipe,
            self._model,
            cache_dir=self.cache_dir,
            label=task.name,
        )
        return found[self.layer].last()

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _model(self) -> models.LanguageModel:
        return models.load(
            self.config.model,
            (self.layer,),
            dtype=jnp.dtype(self.config.dtype),
            cache_dir=self.cache_dir,
        )

    @functools.lru_cache(maxsize=16)  # noqa: B019 - the batches of one task and SAE
    def _selection(self, task: str, sae_id: str, batch: int) -> probes.sae.Selection:
        """Selects once for the largest k of the run; every smaller k is a prefix."""
        k = max(probes.sae_k(m) for m in self.config.methods if probes.is_sae_method(m))
        data = self._data(task)
        rows = data.batches[batch][1]
        # Config has looked at both.
        ranking = cast(saes.Ranking, self.config.ranking)
        protocol = cast(probes.Protocol, self.config.protocol)
        calibrated = task if self.saes[sae_id].format == "random" else None
        sae = self._sae(sae_id, calibrated)
        return probes.sae.select(data.features, rows, sae, k, ranking, protocol)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _sae(self, sae_id: str, calibrated_on: str | None) -> saes.SAE | saes.StoredSAE:
        """Loads an SAE; a random one is calibrated on a task's activations, labels unseen."""
        x = None if calibrated_on is None else np.asarray(self._data(calibrated_on).features)
        return self.saes[sae_id].load(x)


@functools.cache
def _fingerprint(sae: saes.SaeFile) -> str:
    return sae.fingerprint()


def _columns(
    conditions: Sequence[tasks.Condition], fits: Mapping[str, np.ndarray]
) -> dict[str, list]:
    """Returns the fits of a unit as columns, in the order of its conditions."""
    columns = {
        "regime": [c.regime for c in conditions],
        "level": [c.level for c in conditions],
        "seed": [c.seed for c in conditions],
        "num_train": [len(c.train) for c in conditions],
        "num_test": [len(c.test) for c in conditions],
    }
    for name, values in fits.items():
        columns[name] = [int(v) if name == "code" else float(v) for v in values]
    return columns
