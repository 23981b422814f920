"""A configuration resolved: its model, its SAEs and its units, and how one of them is run."""

import functools
import time
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from probejax import activations, devices, models, probes, saes, sites, tasks
from probejax.sites import EMBEDDING, GIVEN, Site
from probejax.sweep import data as task_data
from probejax.sweep import memory
from probejax.sweep.config import Config
from probejax.sweep.data import Lanes, TaskData
from probejax.sweep.source import Vectors, left_out, methods, open_source
from probejax.sweep.units import RECIPE, Result, Unit, columns

_SHOWN = 16  # latents of a probe that a unit describes
_USUAL_SHARE = 0.01  # of latents active in an SAE whose L0 nobody recorded
DEFAULT_LAYERS = {"gemma-3-270m": 9, "gemma-2-9b": 20, "gemma-2-2b": 12}  # resid_post


class Sweep:
    """A configuration resolved: its model, its SAEs and its units.

    Whatever is slow (weights, activations, latents) is loaded when a unit first needs it, and
    kept only while the units of the same task go on.
    """

    def __init__(
        self,
        config: Config,
        cache_dir: str | Path | None = None,
        memory_gb: float | None = None,
    ):
        """Finds everything that the configuration names.

        Tasks that cannot run are left out, each with its reason in `left_out`.

        Args:
          config: the run.
          cache_dir: where downloads and activations live.
          memory_gb: what a unit may take; None is no limit.

        Raises:
          ValueError, FileNotFoundError, ArtifactError: something does not exist or does not fit.
        """
        self.config = config
        self.cache_dir = cache_dir
        self.memory_gb = memory_gb
        self.source = open_source(config, cache_dir)
        self.methods, self.notes = methods(self.source)  # notes for whoever starts the run
        self.reads_tokens = any(probes.parse(method).reads_tokens for method in self.methods)
        self.left_out = left_out(self.source)
        self.tasks = tuple(
            name for name in self.source.names() if not isinstance(self.left_out.get(name), str)
        )
        self.site = EMBEDDING  # which no vectors of one's own have
        if isinstance(self.source, Vectors):
            self.checkpoint, self.width = self.source.checkpoint, self.source.d_model
            self.saes = self._find_saes()
        else:
            self.checkpoint = models.find(config.model, cache_dir=cache_dir)
            model = self.checkpoint.config
            if config.site is not None:
                model.check([sites.parse(config.site)])  # said before an SAE is fetched
            self.saes = self._find_saes()
            self.site = self._find_site()
            model.check([self.site])
            self.width = model.width(self.site)
        self._check_saes()
        self.data = functools.lru_cache(1)(self._read_data)
        self._lanes = functools.lru_cache(2)(self._pack_lanes)
        self._model = functools.lru_cache(1)(self._load_model)
        self._selection = functools.lru_cache(16)(self._select)  # the batches of one task and SAE
        self._loaded_sae = functools.lru_cache(1)(self._load_sae)

    def _find_saes(self) -> dict[str, saes.SaeFile]:
        if not any(probes.parse(method).k for method in self.methods):
            return {}
        find = functools.partial(saes.find, cache_dir=self.cache_dir)
        found = [find(spec) for spec in self.config.sae] or list(saes.shipped(self.checkpoint.name))
        if not found:
            raise ValueError(
                f"No SAE ships with probejax for {self.checkpoint.name}; give --sae, or leave the "
                "sae_k methods out of --methods."
            )
        if self.config.controls:
            found += [find(f"random:{sae.d_sae}:{_l0(sae):g}") for sae in found]
        paths = {sae.sae_id: sae.path for sae in found}
        for sae in found:
            if sae.path != paths[sae.sae_id]:
                raise ValueError(
                    f"{sae.path} and {paths[sae.sae_id]} would both be called {sae.sae_id} in the "
                    "results; rename a folder of one of them."
                )
        return {sae.sae_id: sae for sae in found}

    def _find_site(self) -> Site:
        if self.config.site is not None:
            return sites.parse(self.config.site)
        found = {site for sae in self.saes.values() if (site := sae.default_site)}
        if not found and self.checkpoint.name in DEFAULT_LAYERS:
            found = {sites.parse(DEFAULT_LAYERS[self.checkpoint.name])}
        if len(found) != 1:
            names = ", ".join(sorted(map(str, found))) or "none"
            raise ValueError(f"The site is not clear (the SAEs name {names}); give --site.")
        return found.pop()

    def _check_saes(self) -> None:
        for sae in self.saes.values():
            if isinstance(self.source, Vectors):
                self.source.check(sae)
            elif note := sae.check(self.checkpoint.name, self.site, self.width):
                self.notes.append(note)
            if self.most_latents > sae.d_sae:
                raise ValueError(
                    f"--methods asks for sae_k{self.most_latents}, but {sae.sae_id} has only "
                    f"{sae.d_sae} latents."
                )

    @property
    def recipe(self) -> activations.Recipe:
        """What is harvested: all tokens if a method reads them, as the last one is among them."""
        config, checkpoint = self.config, self.checkpoint
        positions = "all" if self.reads_tokens else "last"
        return activations.Recipe(
            checkpoint.name, checkpoint.fingerprint, config.dtype, config.max_length, positions
        )

    @property
    def site_name(self) -> str:
        """The site as it stands in results."""
        return GIVEN if isinstance(self.source, Vectors) else str(self.site)

    @property
    def most_latents(self) -> int:
        """The largest k of the run; every smaller selection is a prefix of that one."""
        return max(probes.parse(method).k for method in self.methods)

    def units(self) -> list[Unit]:
        """Returns all units, task by task, in the order of the configuration."""
        found = []
        for task in self.tasks:
            for name in self.methods:
                method = probes.parse(name)
                for sae in self.saes.values() if method.k else (None,):
                    if sae and method.control and sae.format == "random":
                        continue  # a control of a control
                    found.append(self._unit(task, name, sae))
        return found

    def _unit(self, task: str, method: str, sae: saes.SaeFile | None) -> Unit:
        config = self.config
        given = self.source if isinstance(self.source, Vectors) else None
        return Unit(
            task=task,
            source=sae.sae_id if sae else "resid",
            method=method,
            protocol=config.protocol,
            model=self.checkpoint.name,
            weights=self.checkpoint.fingerprint,
            dtype=str(given.given.x.dtype) if given else config.dtype,
            max_length=None if given else config.max_length,
            site=self.site_name,
            sae_id=sae.sae_id if sae else "",
            sae_weights=_fingerprint(sae) if sae else "",
            k=probes.parse(method).k or None,
            ranking=config.ranking if sae else "",
            regimes=config.regimes,
            seeds=config.seeds,
            task_files=self.source.fingerprint(task),
            recipe=RECIPE,
        )

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
        fits = [self._fit(unit, batch) for batch in range(len(lanes.batches))]
        seconds = {"prepare": prepared - began, "fit": time.perf_counter() - prepared}
        fitted = [_spread(lanes, *batch) for batch in zip(lanes.batches, fits, strict=True)]
        scores = {name: np.zeros(len(lanes.conditions)) for name in probes.Scores._fields}
        for which, found in fitted:
            for name, values in found.scores._asdict().items():
                scores[name][list(which)] = values
        payload = {"unit": unit._asdict(), "fits": columns(lanes.conditions, scores)}
        if data.groups:
            payload["groups"] = list(data.groups)
        if unit.sae_id:
            payload["latents"] = self._latents(unit, lanes)
            payload["sae"] = self.saes[unit.sae_id].facts()
        about = {"device": devices.own()[0].device_kind, "jax": jax.__version__}
        return Result(payload, {"seconds": seconds, "rows": len(features), **about}, fitted)

    def save(self, unit: Unit, result: Result, path: epath.PathLike) -> None:
        """Writes the final probes of a unit that has just run, see `probes.saved`."""
        method, data = probes.parse(unit.method), self.data(unit.task)
        lanes = self._lanes(unit.task, method.control == "shuffled")
        x = data.tokens if method.reads_tokens else data.features
        probes.saved.write(path, unit._asdict(), lanes.conditions, result.fitted, x)

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
                link = self.saes[unit.sae_id].neuronpedia
                found = saes.describe(values, y, chosen.latents[lane][:shown], link)
                cards[fits[lane]] = [card._asdict() for card in found]
        return [
            cards.get(int(fit)) if _standard(condition) else None
            for condition, fit in zip(lanes.conditions, lanes.fit_of, strict=True)
        ]

    def prepare(self, task: str) -> None:
        """Sees to it that a task's activations are in the cache."""
        for each in self.prompts(task):
            self._activations(each)

    def forget(self) -> None:
        """Lets go of the last task's data, so that its files are closed."""
        for cached in (self.data, self._lanes, self._selection):
            cached.cache_clear()

    def families(self) -> dict[str, str]:
        """Returns the family of each task of one's own; empty where all are the study's."""
        own = [task for task in self.tasks if self.source.fingerprint(task)]
        return tasks.find_families({task: self.prompts(task)[0].prompts for task in own})

    def prompts(self, task: str) -> list[tasks.Task]:
        """Returns the task, and its shifted test set if the run wants it and there is one."""
        return self.source.drawing(task).sets

    def _read_data(self, task: str) -> TaskData:
        drawing = self.source.drawing(task)
        found = [self._activations(each) for each in drawing.sets]
        features = jnp.asarray(np.concatenate([each.last() for each in found]))
        if not self.reads_tokens:
            return TaskData(drawing.conditions, features, drawing.groups)
        parts = [probes.tokens.Tokens(each.x, each.starts, each.counts) for each in found]
        tokens = probes.tokens.join(parts)
        return TaskData(drawing.conditions, features, drawing.groups, tokens)

    def _pack_lanes(self, task: str, shuffled: bool) -> Lanes:
        drawn, features, _, tokens = self.data(task)
        drawn = task_data.shuffle(drawn) if shuffled else drawn
        if self.memory_gb is None:
            return task_data.pack(drawn)
        d_sae = max((sae.d_sae for sae in self.saes.values()), default=0)
        prompts, d_model = features.shape
        sizes = (prompts, d_model, d_sae, self.most_latents)
        token_bytes = 0 if tokens is None else memory.token_bytes(tokens)
        rows = memory.rows_that_fit(self.memory_gb, *sizes, token_bytes=token_bytes)
        return task_data.pack(drawn, rows)

    def check_saes(self) -> list[str]:
        """Measures every SAE on the last tokens of the first task; returns a line for each."""
        x = np.asarray(self.data(self.tasks[0]).features)
        lines = []
        for sae in self.saes.values():
            found = saes.quality(self._sae(sae.sae_id, self.tasks[0]), x)
            advertised = "" if sae.l0 is None else f" ({sae.l0:g} advertised)"
            lines.append(
                f"{sae.sae_id}: mean L0 {found.l0:.1f}{advertised}, variance explained "
                f"{found.explained:.3f} (median dimension {found.explained_median:.3f}), "
                f"{found.dead:.1%} dead, on {found.tokens} last tokens of {self.tasks[0]}"
            )
            if warning := found.warning(sae.l0):
                lines.append(f"warning: {sae.sae_id}: {warning}")
        return lines

    def _activations(self, task: tasks.Task) -> activations.Activations:
        if isinstance(self.source, Vectors):
            return self.source.activations(task)
        found = activations.harvest(
            task.prompts,
            [self.site],
            self.recipe,
            self._model,
            cache_dir=self.cache_dir,
            label=task.name,
        )
        return found[self.site]

    def _load_model(self) -> models.LoadedModel:
        return models.load(
            self.config.model,
            (self.site,),
            dtype=jnp.dtype(self.config.dtype),
            cache_dir=self.cache_dir,
        )

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
        rules = (cast(saes.Ranking, ranking), cast(probes.Protocol, self.config.protocol))
        if not pooling:
            return probes.sae.select(found.features, rows, sae, self.most_latents, *rules)
        assert found.tokens is not None, "a run with a pooled method keeps tokens"
        how = cast(probes.sae_pooled.Pooling, pooling)
        return probes.sae_pooled.select(found.tokens, rows, sae, self.most_latents, how, *rules)

    def _sae(self, sae_id: str, task: str) -> saes.SAE | saes.StoredSAE:
        """Returns an SAE; a random one is calibrated on the task's activations, labels unseen."""
        return self._loaded_sae(sae_id, task if self.saes[sae_id].format == "random" else None)

    def _load_sae(self, sae_id: str, calibrated_on: str | None) -> saes.SAE | saes.StoredSAE:
        x = None if calibrated_on is None else np.asarray(self.data(calibrated_on).features)
        return self.saes[sae_id].load(x)


def _l0(sae: saes.SaeFile) -> float:
    return sae.l0 or max(1.0, _USUAL_SHARE * sae.d_sae)


@functools.cache
def _fingerprint(sae: saes.SaeFile) -> str:
    return sae.fingerprint()


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
