"""How a unit of a plan is run: one task's data, the fits of its lanes, their numbers."""

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from probejax import activations, devices, models, probes, saes, storage, tasks
from probejax.activations import ragged
from probejax.sites import GIVEN
from probejax.solvers import arithmetic
from probejax.sweep import data as task_data
from probejax.sweep import memory, standard_scores
from probejax.sweep.data import Lanes, TaskData
from probejax.sweep.plan import Plan
from probejax.sweep.source import Vectors
from probejax.sweep.unchanged import check_unchanged
from probejax.sweep.units import Result, Unit, columns

_SHOWN = 16  # latents of a probe that a unit describes


class Execution:
    """Runs units of a plan in this process.

    Whatever is slow (weights, activations, latents) is loaded when a unit first needs it, and
    kept only while the units of the same task go on.
    """

    def __init__(self, plan: Plan, memory_gb: float | None = None, model_parallel: int = 1):
        """Loads nothing yet.

        Args:
          plan: the run.
          memory_gb: what a unit may take; None is no limit.
          model_parallel: local devices that hold the language model together.
        """
        self.plan = plan
        self.model_parallel = model_parallel
        self.memory_gb = memory_gb
        self._drawing = functools.lru_cache(1)(plan.source.drawing)
        self._harvest = functools.lru_cache(1)(self._harvest_all)
        self._data = functools.lru_cache(1)(self._read_data)
        self._lanes = functools.lru_cache(2)(self._pack_lanes)
        self._model = _one_by_one(functools.lru_cache(1)(self._load_model))
        self._selection = functools.lru_cache(16)(self._select)  # batches of a task, site and SAE
        self._loaded_sae = _one_by_one(functools.lru_cache(1)(self._load_sae))
        self._random_sae = functools.lru_cache(1)(self._draw_sae)

    def beside(self) -> "Execution":
        """Returns one for another task at the same time, on this one's model and SAEs."""
        other = Execution(self.plan, self.memory_gb, self.model_parallel)
        other._model, other._loaded_sae = self._model, self._loaded_sae
        return other

    def run(self, unit: Unit) -> Result:
        """Runs one unit.

        Raises:
          ValueError: the task's file or its activations are not usable.
        """
        began = time.perf_counter()
        data = self._data(unit.task, unit.site)
        features = data.features
        prepared = time.perf_counter()
        lanes = self._lanes_of(unit)
        with arithmetic.using(self.plan.config.engine), arithmetic.counting() as counted:
            fits = [self._fit(unit, batch) for batch in range(len(lanes.batches))]
        seconds = {"prepare": prepared - began, "fit": time.perf_counter() - prepared}
        fitted = [_spread(lanes, *batch) for batch in zip(lanes.batches, fits, strict=True)]
        scores = {name: np.zeros(len(lanes.conditions)) for name in probes.Scores._fields}
        for which, found in fitted:
            for name, values in found.scores._asdict().items():
                scores[name][list(which)] = values
        payload = {"unit": unit.facts, "fits": columns(lanes.conditions, scores)}
        if data.groups:
            payload["groups"] = list(data.groups)
        if unit.sae_id:
            payload["latents"] = self._latents(unit, lanes)
            payload["sae"] = self.plan.saes[unit.sae_id].facts()
        about = {"device": devices.own()[0].device_kind, "jax": jax.__version__}
        if counted["fits"]:
            about["float32"] = counted
        timing = {"seconds": seconds, "rows": len(features), **about}
        chosen = functools.partial(self._chosen, unit) if unit.sae_id else None
        return Result(payload, timing, fitted, standard_scores.kept(data, lanes, fitted, chosen))

    def write_all(self, group: Sequence[Unit], out: str, save_probes: bool) -> Iterator[Unit]:
        """Runs the units of one task and yields each when it is written.

        Args:
          group: the units.
          out: folder of the results.
          save_probes: whether the final probes are written too, to
            `probes/<task>__<source>__<method>.safetensors`; of a run at several sites with
            `__<site>` behind.

        Raises:
          ValueError: as for `run`; or a unit's files are not what they were when the run began.
        """
        for unit in group:
            check_unchanged(self.plan, unit)
            result = self.run(unit)
            check_unchanged(self.plan, unit)
            if save_probes:
                self.save(unit, result, epath.Path(out) / "probes" / f"{unit.label}.safetensors")
            storage.Store(out).put(unit.name, result.payload, result.timing, result.scores)
            devices.limit_programs()
            if unit is group[-1]:
                self.forget()  # before anybody deletes its files
            yield unit

    def save(self, unit: Unit, result: Result, path: epath.PathLike) -> None:
        """Writes the final probes of a unit that has just run, see `probes.saved`."""
        data, lanes = self._data(unit.task, unit.site), self._lanes_of(unit)
        x = data.tokens if probes.parse(unit.method).reads_tokens else data.features
        names = data.task.class_names
        probes.saved.write(path, unit.facts, lanes.conditions, result.fitted, x, names)

    def _fit(self, unit: Unit, batch: int) -> probes.Fit:
        method = probes.parse(unit.method)
        protocol = cast(probes.Protocol, unit.protocol)  # Config has looked
        rows, data = self._lanes_of(unit).batches[batch][1], self._data(unit.task, unit.site)
        if method.family in probes.TOKEN_METHODS:
            return probes.TOKEN_METHODS[method.family](data.tokens, rows, protocol)
        if not unit.sae_id:
            return probes.BASELINES[method.family](data.features, rows, protocol)
        return probes.sae.fit(
            self._chosen(unit, batch),
            rows,
            method.k,
            binarised=method.binarised,
            protocol=protocol,
        )

    def _chosen(self, unit: Unit, batch: int) -> probes.sae.Selection:
        method = probes.parse(unit.method)
        ranking = "random" if method.control == "random_latents" else unit.ranking
        shuffled = method.control == "shuffled"
        where = (unit.task, unit.site, unit.sae_id)
        return self._selection(*where, shuffled, batch, ranking, method.pooling)

    def _lanes_of(self, unit: Unit) -> Lanes:
        shuffled = probes.parse(unit.method).control == "shuffled"
        return self._lanes(unit.task, unit.site, shuffled)

    def _latents(self, unit: Unit, lanes: Lanes) -> list[list[dict] | None]:
        """Describes the latents of every standard condition; of the others nothing is kept."""
        shown = min(_SHOWN, probes.parse(unit.method).k)
        cards: dict[int, list[dict]] = {}
        for batch, (fits, rows) in enumerate(lanes.batches):
            wanted = {lanes.fit_of[i] for i, c in enumerate(lanes.conditions) if _standard(c)}
            for lane in (lane for lane, fit in enumerate(fits) if fit in wanted):
                chosen = self._chosen(unit, batch)
                mask = np.asarray(rows.train_mask)[lane]
                train, y = (np.asarray(a)[lane][mask] for a in (rows.train, rows.y_train))
                which = chosen.columns[lane][:shown]
                values = np.asarray(chosen.values)[train][:, which]
                link = self.plan.saes[unit.sae_id].neuronpedia
                found = saes.describe(values, y, chosen.latents[lane][:shown], link)
                cards[fits[lane]] = [card._asdict() for card in found]
        return [
            cards.get(int(fit)) if _standard(condition) else None
            for condition, fit in zip(lanes.conditions, lanes.fit_of, strict=True)
        ]

    def prepare(self, task: str) -> None:
        """Sees to it that a task's activations are in the cache, those of all sites."""
        for each in self._drawing(task).sets:
            self.activations(each)

    def data(self, task: str, site: str | None = None) -> TaskData:
        """Returns a task at one of the run's sites, named as in results; None is the first."""
        return self._data(task, site or self.plan.name_of(self.plan.sites[0]))

    def forget(self) -> None:
        """Lets go of the last task's data, so that its files are closed."""
        for cached in (self._drawing, self._harvest, self._data, self._lanes, self._selection):
            cached.cache_clear()

    def _harvest_all(self, task: str) -> list[dict[str, activations.Activations]]:
        """Returns the activations of a task's prompts at every site, which stay on the disk."""
        return [self.activations(each) for each in self._drawing(task).sets]

    def _read_data(self, task: str, site: str) -> TaskData:
        drawing = self._drawing(task)
        found = [each[site] for each in self._harvest(task)]
        features = np.concatenate([each.last() for each in found])
        tokens = ragged.join(found) if self.plan.reads_tokens else None
        about = (drawing.task, drawing.rows, drawing.groups)
        return TaskData(drawing.conditions, features, *about, tokens)

    def _pack_lanes(self, task: str, site: str, shuffled: bool) -> Lanes:
        data = self._data(task, site)
        drawn, features, tokens = data.conditions, data.features, data.tokens
        drawn = task_data.shuffle(drawn) if shuffled else drawn
        if self.memory_gb is None:
            return task_data.pack(drawn)
        d_sae = max((sae.d_sae for sae in self.plan.saes.values()), default=0)
        prompts, d_model = features.shape
        sizes = (prompts, d_model, d_sae, self.plan.most_latents)
        token_bytes = 0 if tokens is None else memory.token_bytes(tokens)
        rows = memory.rows_that_fit(self.memory_gb, *sizes, token_bytes=token_bytes)
        # Training on tokens cuts its fits into chunks of its own, which sum otherwise in other
        # company: a machine with less memory must not cut them before.
        return task_data.pack(drawn, None if self.plan.reads_tokens else rows)

    def check_saes(self) -> list[str]:
        """Measures every SAE on the last tokens of the first task; returns a line for each."""
        task, lines = self.plan.tasks[0], []
        for site in self.plan.sites:
            name = self.plan.name_of(site)
            x = np.asarray(self.data(task, name).features)
            several = f" at {name}" if len(self.plan.sites) > 1 else ""
            for sae in self.plan.saes_at(site):
                found = saes.quality(self._sae(sae.sae_id, task, name), x)
                advertised = "" if sae.l0 is None else f" ({sae.l0:g} advertised)"
                lines.append(
                    f"{sae.sae_id}: mean L0 {found.l0:.1f}{advertised}, variance explained "
                    f"{found.explained:.3f} (median dimension {found.explained_median:.3f}), "
                    f"{found.dead:.1%} dead, on {found.tokens} last tokens of {task}{several}"
                )
                if warning := found.warning(sae.l0):
                    lines.append(f"warning: {sae.sae_id}: {warning}")
        return lines

    def read(
        self, texts: Sequence[str], label: str, recipe: activations.Recipe
    ) -> dict[str, activations.Activations]:
        """Returns the activations of any texts at every site, from the cache or harvested.

        Args:
          texts: what the model reads.
          label: what the progress bar says.
          recipe: how it reads them.
        """
        plan = self.plan
        where = {"cache_dir": plan.cache_dir, "label": label}
        found = activations.harvest(texts, plan.sites, recipe, self._model, **where)
        return {plan.name_of(site): each for site, each in found.items()}

    def activations(self, task: tasks.Task) -> dict[str, activations.Activations]:
        """Returns the activations of a task's prompts at every site, named as in results.

        One pass harvests those that are not in the cache.
        """
        if isinstance(self.plan.source, Vectors):
            return {GIVEN: self.plan.source.activations(task)}
        return self.read(task.prompts, task.name, self.plan.recipe)

    def _load_model(self) -> models.LoadedModel:
        plan = self.plan
        dtype = jnp.dtype(plan.config.dtype)
        where = {"cache_dir": plan.cache_dir, "mesh": devices.mesh(self.model_parallel)}
        return models.load(plan.config.model, plan.sites, dtype=dtype, **where)

    def _select(
        self,
        task: str,
        site: str,
        sae_id: str,
        shuffled: bool,
        batch: int,
        ranking: str,
        pooling: str = "",
    ) -> probes.sae.Selection:
        found, sae = self._data(task, site), self._sae(sae_id, task, site)
        rows = self._lanes(task, site, shuffled).batches[batch][1]
        plan = self.plan
        rules = (cast(saes.Ranking, ranking), cast(probes.Protocol, plan.config.protocol))
        if not pooling:
            return probes.sae.select(found.features, rows, sae, plan.most_latents, *rules)
        assert found.tokens is not None, "a run with a pooled method keeps tokens"
        how = cast(probes.sae_pooled.Pooling, pooling)
        return probes.sae_pooled.select(found.tokens, rows, sae, plan.most_latents, how, *rules)

    def _sae(self, sae_id: str, task: str, site: str) -> saes.SAE | saes.StoredSAE:
        """Returns an SAE; a random one is calibrated on the task's activations, labels unseen."""
        if self.plan.saes[sae_id].format == "random":
            return self._random_sae(sae_id, task, site)
        return self._loaded_sae(sae_id)

    def _load_sae(self, sae_id: str) -> saes.SAE | saes.StoredSAE:
        return self.plan.saes[sae_id].load()

    def _draw_sae(self, sae_id: str, task: str, site: str) -> saes.SAE | saes.StoredSAE:
        return self.plan.saes[sae_id].load(np.asarray(self._data(task, site).features))


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets one thread at a time call a function, so that nothing is loaded twice."""
    lock = threading.Lock()

    @functools.wraps(function)
    def call(*arguments):
        with lock:
            return function(*arguments)

    return call


def _standard(condition: tasks.Condition) -> bool:
    return condition.regime == "standard" and len(set(condition.y_train.tolist())) == 2


def _spread(
    lanes: Lanes, batch: tuple[tuple[int, ...], probes.Rows], fitted: probes.Fit
) -> tuple[tuple[int, ...], probes.Fit]:
    """Returns a batch of fits with a lane for every condition that they stand for."""
    place = {fit: lane for lane, fit in enumerate(batch[0])}
    which = [index for index, fit in enumerate(lanes.fit_of.tolist()) if fit in place]
    take = np.array([place[lanes.fit_of[index]] for index in which], int)
    return tuple(which), fitted[take]
