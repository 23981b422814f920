"""A configuration resolved: its tasks, its model, its sites and SAEs, and the units they make."""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from etils import epath

from probejax import activations, devices, models, probes
from probejax.positions import ALL, LAST
from probejax.rules import PREPENDED
from probejax.saes import SaeFile
from probejax.sites import EMBEDDING, GIVEN, Site
from probejax.stored_unit import check_name
from probejax.sweep.config import Config
from probejax.sweep.places import find_saes, find_sites, with_controls
from probejax.sweep.source import Source, Texts, Vectors, left_out, methods, open_source
from probejax.sweep.units import RECIPE, Unit
from probejax.tasks import LeftOut, Task, find_families


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What a configuration names, found; nothing slow is loaded yet.

    Attributes:
      config: the run.
      cache_dir: where downloads and activations live.
      source: where the vectors come from.
      methods: names of all methods that run, lists and controls written out.
      tasks: names of the tasks that run.
      left_out: tasks and regimes that cannot be had, each with its reason.
      checkpoint: the language model.
      sites: where it is read, in the order in which it computes that; the embedding alone, which
        they never have, of vectors of one's own.
      saes: SAE id -> its file; empty if no method reads latents.
      places: SAE id -> those of the sites at which it is used.
      notes: sentences for whoever starts the run.
    """

    config: Config
    cache_dir: str | Path | None
    source: Source
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    left_out: LeftOut
    checkpoint: models.Checkpoint
    sites: tuple[Site, ...]
    saes: dict[str, SaeFile]
    places: dict[str, tuple[Site, ...]]
    notes: tuple[str, ...] = ()

    @property
    def reads_tokens(self) -> bool:
        """Whether any method reads all tokens of a prompt."""
        return any(probes.parse(method).reads_tokens for method in self.methods)

    @property
    def recipe(self) -> activations.Recipe:
        """What is harvested: all tokens if a method reads them, as the last one is among them."""
        config, checkpoint = self.config, self.checkpoint
        positions = ALL if self.reads_tokens else config.position
        return activations.Recipe(
            checkpoint.name,
            checkpoint.fingerprint,
            config.dtype,
            config.max_length,
            positions,
            self.bos,
            self.chat,
        )

    @property
    def bos(self) -> str:
        """What is done about BOS, see `models.bos.done`."""
        return models.bos.done(self.checkpoint.bos_token(self.config.bos))

    def name_of(self, site: Site) -> str:
        """Returns a site as it stands in results."""
        return GIVEN if isinstance(self.source, Vectors) else str(site)

    @property
    def site_names(self) -> str | list[str]:
        """The sites as they stand in the configuration of a run's folder: one alone is a text."""
        names = [self.name_of(site) for site in self.sites]
        return names if len(names) > 1 else names[0]

    def without_probes(self, out: epath.PathLike, units: Iterable[Unit]) -> set[str]:
        """Returns the names of the units whose probes do not lie in a folder of results."""
        folder = epath.Path(out) / "probes"
        there = {path.name for path in folder.iterdir()} if folder.exists() else set()
        return {unit.name for unit in units if f"{unit.label}.safetensors" not in there}

    def width(self, site: Site) -> int:
        """Returns the width of the vectors at a site."""
        if isinstance(self.source, Vectors):
            return self.source.d_model
        return self.checkpoint.config.width(site)

    def saes_at(self, site: Site) -> list[SaeFile]:
        """Returns the SAEs that are used at a site."""
        return [sae for sae_id, sae in self.saes.items() if site in self.places[sae_id]]

    @property
    def most_latents(self) -> int:
        """The largest k of the run; every smaller selection is a prefix of that one."""
        return max(probes.parse(method).k for method in self.methods)

    def check_parallel(self, count: int) -> None:
        """Raises ValueError unless the language model can be cut over so many devices."""
        if count > 1 and isinstance(self.source, Vectors):
            raise ValueError(
                f"--model_parallel={count} cuts a language model, and --activations needs none."
            )
        if count > 1:
            models.check_mesh(self.checkpoint.config, count)
            devices.mesh(count)

    def units(self) -> list[Unit]:
        """Returns all units, task by task and site by site, in the order of the configuration."""
        found = []
        for task, site in itertools.product(self.tasks, self.sites):
            for name in self.methods:
                method = probes.parse(name)
                for sae in self.saes_at(site) if method.k else (None,):
                    if sae and method.control and sae.format == "random":
                        continue  # a control of a control
                    found.append(self._unit(task, site, name, sae))
        return found

    def again(self, unit: Unit) -> Unit:
        """Returns a unit as its files make it now."""
        site = next(site for site in self.sites if self.name_of(site) == unit.site)
        return self._unit(unit.task, site, unit.method, self.saes.get(unit.sae_id))

    def _unit(self, task: str, site: Site, method: str, sae: SaeFile | None) -> Unit:
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
            site=self.name_of(site),
            sae_id=sae.sae_id if sae else "",
            sae_weights=_fingerprint(sae) if sae else "",
            k=probes.parse(method).k or None,
            ranking=config.ranking if sae else "",
            regimes=config.regimes,
            seeds=config.seeds,
            task_files=self.source.fingerprint(task),
            recipe=RECIPE,
            bos="" if given or self._usual_bos else self.bos,
            chat="" if given else self.chat,
            position="" if config.position == LAST else config.position,
        )

    @property
    def chat(self) -> str:
        """Hash of the template that makes each prompt a turn of a chat; empty without one."""
        return models.chat.digest(self.checkpoint.template(self.config.chat_template))

    @property
    def _usual_bos(self) -> bool:
        return self.checkpoint.bos.usual and self.bos == PREPENDED

    def families(self) -> dict[str, str]:
        """Returns the family of each task of one's own; empty where all are the study's."""
        own = [task for task in self.tasks if self.source.fingerprint(task)]
        return find_families({task: self.prompts(task)[0].prompts for task in own})

    def prompts(self, task: str) -> list[Task]:
        """Returns the task, and its shifted test set if the run wants it and there is one."""
        return self.source.drawing(task).sets


def resolve(config: Config, cache_dir: str | Path | None = None) -> Plan:
    """Finds everything that a configuration names.

    Tasks that cannot run are left out, each with its reason in `left_out`.

    Args:
      config: the run.
      cache_dir: where downloads and activations live.

    Raises:
      ValueError, FileNotFoundError, ArtifactError: something does not exist or does not fit.
    """
    source = open_source(config, cache_dir)
    names, notes = methods(source)
    if isinstance(source, Texts) and config.protocol == "strict":
        _check_model(config, source.checkpoint)  # it tells which prompts are one
    missing = left_out(source)
    tasks = tuple(name for name in source.names() if not isinstance(missing.get(name), str))
    chosen = (EMBEDDING,)  # which no vectors of one's own have
    checkpoint = source.checkpoint
    if isinstance(source, Texts):
        _check_model(config, checkpoint)  # before an SAE is fetched
    found = find_saes(config, cache_dir, names, checkpoint.name)
    if isinstance(source, Texts):
        chosen = find_sites(config, checkpoint.config, checkpoint.name, found)
    placed = with_controls(config, found, chosen, cache_dir)
    plan = Plan(
        config=config,
        cache_dir=cache_dir,
        source=source,
        methods=names,
        tasks=tasks,
        left_out=missing,
        checkpoint=checkpoint,
        sites=chosen,
        saes={sae_id: sae for sae_id, (sae, _) in placed.items()},
        places={sae_id: places for sae_id, (_, places) in placed.items()},
    )
    named = {"task": plan.tasks, "SAE": plan.saes, "model": (checkpoint.name,)}
    for what, name in ((what, name) for what, names in named.items() for name in names):
        check_name(what, name)
    if config.sae and not found:
        notes = [
            *notes,
            f"No method reads latents: neither --sae={config.sae[0]} nor its site is used.",
        ]
    return dataclasses.replace(plan, notes=(*notes, *dict.fromkeys(_check_saes(plan))))


def _check_model(config: Config, checkpoint: models.Checkpoint) -> None:
    """Raises ValueError where a configuration asks for what the model does not have."""
    checkpoint.bos_token(config.bos)
    checkpoint.template(config.chat_template)
    if config.site is not None:
        find_sites(config, checkpoint.config, checkpoint.name)


def _check_saes(plan: Plan) -> Iterator[str]:
    """Yields what is worth knowing of the SAEs; raises ValueError for one that does not fit."""
    for sae_id, sae in plan.saes.items():
        first, *others = plan.sites
        for site in plan.places[sae_id] or (first,):
            if isinstance(plan.source, Vectors):
                plan.source.check(sae)
                continue
            if note := sae.check(plan.checkpoint.name, site, plan.width(site), others):
                yield note
            if note := sae.note_on_bos(plan.bos == PREPENDED):
                yield note
        if plan.most_latents > sae.d_sae:
            raise ValueError(
                f"--methods asks for sae_k{plan.most_latents}, but {sae.sae_id} has only "
                f"{sae.d_sae} latents."
            )


@functools.cache
def _fingerprint(sae: SaeFile) -> str:
    return sae.fingerprint()
