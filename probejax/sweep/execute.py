"""How a unit of a plan is run: one task's data, the fits of its lanes, their numbers."""

import functools
import time
from collections.abc import Iterator, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from probejax import activations, devices, models, probes, saes, storage, tasks
from probejax.activations import ragged
from probejax.solvers import arithmetic
from probejax.sweep import data as task_data
from probejax.sweep import memory, standard_scores
from probejax.sweep.data import Lanes, TaskData
from probejax.sweep.plan import Plan
from probejax.sweep.source import Vectors
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
        self.data = functools.lru_cache(1)(self._read_data)
        self._lanes = functools.lru_cache(2)(self._pack_lanes)
        self._model = functools.lru_cache(1)(self._load_model)
        self._selection = functools.lru_cache(16)(self._select)  # the batches of one task and SAE
        self._loaded_sae = functools.lru_cache(1)(self._load_sae)

    def run(self, unit: Unit) -> Result:
        """Runs one unit.

        Raises:
          ValueError: the task's file or its activations are not usable.
        """
        began = time.perf_counter()
        data = self.data(unit.task)
        features = data.features
        prepared = time.perf_counter()
        lanes = self._lanes(unit.task, probes.parse(unit.method).control == "shuffled")
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
            `probes/<task>__<source>__<method>.safetensors`.
        """
        for unit in group:
            result = self.run(unit)
            if save_probes:
                self.save(unit, result, epath.Path(out) / "probes" / f"{unit.label}.safetensors")
            storage.Store(out).put(unit.name, result.payload, result.timing, result.scores)
            devices.limit_programs()
            if unit is group[-1]:
                self.forget()  # before anybody deletes its files
            yield unit

    def save(self, unit: Unit, result: Result, path: epath.PathLike) -> None:
        """Writes the final probes of a unit that has just run, see `probes.saved`."""
        method, data = probes.parse(unit.method), self.data(unit.task)
        lanes = self._lanes(unit.task, method.control == "shuffled")
        x = data.tokens if method.reads_tokens else data.features
        probes.saved.write(path, unit.facts, lanes.conditions, result.fitted, x)

    def _fit(self, unit: Unit, batch: int) -> probes.Fit:
        method = probes.parse(unit.method)
        protocol = cast(probes.Protocol, unit.protocol)  # Config has looked
        shuffled = method.control == "shuffled"
        rows = self._lanes(unit.task, shuffled).batches[batch][1]
        if method.family in probes.TOKEN_METHODS:
            tokens = self.data(unit.task).tokens
            return probes.TOKEN_METHODS[method.family](tokens, rows, protocol)
        if not unit.sae_id:
            return probes.BASELINES[method.family](self.data(unit.task).features, rows, protocol)
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
        return self._selection(unit.task, unit.sae_id, shuffled, batch, ranking, method.pooling)

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
        """Sees to it that a task's activations are in the cache."""
        for each in self.plan.prompts(task):
            self.activations(each)

    def forget(self) -> None:
        """Lets go of the last task's data, so that its files are closed."""
        for cached in (self.data, self._lanes, self._selection):
            cached.cache_clear()

    def _read_data(self, task: str) -> TaskData:
        drawing = self.plan.source.drawing(task)
        found = [self.activations(each) for each in drawing.sets]
        features = np.concatenate([each.last() for each in found])
        tokens = ragged.join(found) if self.plan.reads_tokens else None
        about = (drawing.task, drawing.rows, drawing.groups)
        return TaskData(drawing.conditions, features, *about, tokens)

    def _pack_lanes(self, task: str, shuffled: bool) -> Lanes:
        data = self.data(task)
        drawn, features, tokens = data.conditions, data.features, data.tokens
        drawn = task_data.shuffle(drawn) if shuffled else drawn
        if self.memory_gb is None:
            return task_data.pack(drawn)
        d_sae = max((sae.d_sae for sae in self.plan.saes.values()), default=0)
        prompts, d_model = features.shape
        sizes = (prompts, d_model, d_sae, self.plan.most_latents)
        token_bytes = 0 if tokens is None else memory.token_bytes(tokens)
        rows = memory.rows_that_fit(self.memory_gb, *sizes, token_bytes=token_bytes)
        return task_data.pack(drawn, rows)

    def check_saes(self) -> list[str]:
        """Measures every SAE on the last tokens of the first task; returns a line for each."""
        x = np.asarray(self.data(self.plan.tasks[0]).features)
        lines = []
        for sae in self.plan.saes.values():
            found = saes.quality(self._sae(sae.sae_id, self.plan.tasks[0]), x)
            advertised = "" if sae.l0 is None else f" ({sae.l0:g} advertised)"
            lines.append(
                f"{sae.sae_id}: mean L0 {found.l0:.1f}{advertised}, variance explained "
                f"{found.explained:.3f} (median dimension {found.explained_median:.3f}), "
                f"{found.dead:.1%} dead, on {found.tokens} last tokens of {self.plan.tasks[0]}"
            )
            if warning := found.warning(sae.l0):
                lines.append(f"warning: {sae.sae_id}: {warning}")
        return lines

    def activations(self, task: tasks.Task) -> activations.Activations:
        """Returns the activations of a task's prompts, harvested if they are not in the cache."""
        plan = self.plan
        if isinstance(plan.source, Vectors):
            return plan.source.activations(task)
        where = {"cache_dir": plan.cache_dir, "label": task.name}
        found = activations.harvest(task.prompts, [plan.site], plan.recipe, self._model, **where)
        return found[plan.site]

    def _load_model(self) -> models.LoadedModel:
        plan = self.plan
        dtype = jnp.dtype(plan.config.dtype)
        where = {"cache_dir": plan.cache_dir, "mesh": devices.mesh(self.model_parallel)}
        return models.load(plan.config.model, (plan.site,), dtype=dtype, **where)

    def _select(
        self,
        task: str,
        sae_id: str,
        shuffled: bool,
        batch: int,
        ranking: str,
        pooling: str = "",
    ) -> probes.sae.Selection:
        found, sae = self.data(task), self._sae(sae_id, task)
        rows = self._lanes(task, shuffled).batches[batch][1]
        plan = self.plan
        rules = (cast(saes.Ranking, ranking), cast(probes.Protocol, plan.config.protocol))
        if not pooling:
            return probes.sae.select(found.features, rows, sae, plan.most_latents, *rules)
        assert found.tokens is not None, "a run with a pooled method keeps tokens"
        how = cast(probes.sae_pooled.Pooling, pooling)
        return probes.sae_pooled.select(found.tokens, rows, sae, plan.most_latents, how, *rules)

    def _sae(self, sae_id: str, task: str) -> saes.SAE | saes.StoredSAE:
        """Returns an SAE; a random one is calibrated on the task's activations, labels unseen."""
        return self._loaded_sae(sae_id, task if self.plan.saes[sae_id].format == "random" else None)

    def _load_sae(self, sae_id: str, calibrated_on: str | None) -> saes.SAE | saes.StoredSAE:
        x = None if calibrated_on is None else np.asarray(self.data(calibrated_on).features)
        return self.plan.saes[sae_id].load(x)


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
