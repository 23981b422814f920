"""Where a run's vectors come from: a model that reads the prompts of tasks, or files of them."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from probejax import models, probes, tasks
from probejax.activations import Activations, given, reading
from probejax.saes import SaeFile
from probejax.sweep.config import Config
from probejax.tasks import Drawing, LeftOut, Task, classes


@dataclasses.dataclass(frozen=True)
class Texts:
    """Tasks, whose prompts a language model reads."""

    config: Config
    cache_dir: str | Path | None

    def names(self) -> tuple[str, ...]:
        """Returns the tasks that the configuration names."""
        return tasks.match(self.config.tasks or (), self.config.own)

    def fingerprint(self, task: str) -> str:
        """Returns a hash of a task's own files; empty for the study's."""
        return tasks.fingerprint(task, data=self.config.own)

    def where(self, task: str) -> str:
        """Returns the files of a task in words."""
        return tasks.where(task, data=self.config.own)

    def drawing(self, task: str) -> Drawing:
        """Draws a task's conditions.

        Raises:
          ValueError, OSError: its file is damaged, or cannot be read.
        """
        config, shifted = self.config, None
        if "covariate_shift" in config.regimes and task in tasks.shifted_names(config.own):
            shifted = tasks.load_shifted(task, data=config.own, cache_dir=self.cache_dir)
        how = (config.regimes, config.seeds, config.protocol)
        return tasks.draw(self.whole(task), shifted, *how, seen=self._seen)

    @functools.cached_property
    def checkpoint(self) -> models.Checkpoint:
        """The language model, of which nothing slow is loaded."""
        return models.find(self.config.model, cache_dir=self.cache_dir)

    def _seen(self, prompts: Sequence[str]) -> list[bytes]:
        """Returns the tokens of each prompt on which its vector depends."""
        config, checkpoint = self.config, self.checkpoint
        found = reading.read(
            prompts,
            self._tokenizer,
            checkpoint.config,
            bos=checkpoint.bos_token(config.bos),
            template=checkpoint.template(config.chat_template),
            position=config.position,
            max_length=config.max_length,
        )
        return found.seen(config.position)

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return self.checkpoint.tokenizer()

    def whole(self, task: str) -> Task:
        """Returns all of a task.

        Raises:
          ValueError, OSError: its file is damaged, or cannot be read.
        """
        return tasks.load(task, data=self.config.own, cache_dir=self.cache_dir)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Activations from files; each row stands in results as a hash of its numbers.

    Attributes:
      config: the run.
      given: the vectors and their labels.
    """

    config: Config
    given: given.Given

    def __reduce__(self):
        """Another process opens the files itself."""
        return open_source, (self.config,)

    def names(self) -> tuple[str, ...]:
        """Returns the tasks that the labels make: one, or each class against the rest.

        A file that is called as a task of the study is not that task.
        """
        return tuple(self._tasks)

    def fingerprint(self, task: str) -> str:
        """Returns a hash of the vectors, the labels and what is positive.

        Files that were written since they were opened are read anew.
        """
        files, content = (self.config.activations or "", self.config.labels), self.given.fingerprint
        if given.state(*files) != self.given.state:
            content = given.read(*files).fingerprint
        text = f"{content} {task} {self.config.positive}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def where(self, task: str) -> str:
        """Returns the files of a task in words; all tasks share them."""
        return " or ".join(filter(None, (self.config.activations, self.config.labels)))

    def drawing(self, task: str) -> Drawing:
        """Draws a task's conditions."""
        config = self.config
        return tasks.draw(self.whole(task), None, config.regimes, config.seeds, config.protocol)

    def whole(self, task: str) -> Task:
        """Returns all of a task; its prompts are hashes of the vectors, equal for equal ones."""
        labels, names = self._tasks[task]
        return Task(task, self._rows, labels, False, str(self.config.activations), names)

    @property
    def checkpoint(self) -> models.Checkpoint:
        """Stands where a language model does: its name and its fingerprint; nobody opens it."""
        return models.Checkpoint(
            "activations", Path(self.config.activations or ""), self.given.fingerprint
        )

    @property
    def d_model(self) -> int:
        """Width of the vectors."""
        return self.given.x.shape[1]

    def check(self, sae: SaeFile) -> None:
        """Raises ValueError for an SAE of another width; of what it was trained on nobody knows."""
        if sae.d_model not in (None, self.d_model):
            raise ValueError(
                f"{sae.sae_id} reads vectors of width {sae.d_model}, but those of --activations="
                f"{self.config.activations} have {self.d_model}; give an SAE of that."
            )

    def activations(self, task: Task) -> Activations:
        """Returns the vectors of a part of a task."""
        which = [self._numbers[prompt] for prompt in task.prompts]
        x = np.asarray(self.given.x[which]).astype(np.float32)
        return Activations(x, np.arange(len(x)), np.ones(len(x), int))

    @functools.cached_property
    def _rows(self) -> tuple[str, ...]:
        return tasks.digests(self.given.x)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {row: number for number, row in enumerate(self._rows)}

    @functools.cached_property
    def _tasks(self) -> dict[str, tuple[np.ndarray, tuple[str, str]]]:
        found = classes.classes(self.given.labels)
        made = classes.tasks(found, self.config.positive)
        name, one = self.given.name, len(found.names) == 2
        if name in tasks.names():  # whose draws and balance are the study's
            name = f"{name} (vectors)"
        return {
            name if one or place is None else f"{name}={found.names[place]}": classes.binary(
                found, place
            )
            for place in made
        }


Source = Texts | Vectors


def open_source(config: Config, cache_dir: str | Path | None = None) -> Source:
    """Opens what the configuration names.

    Raises:
      ValueError, OSError: the files of activations are not usable.
    """
    if config.activations is None:
        return Texts(config, cache_dir)
    found = Vectors(config, given.read(config.activations, config.labels))
    try:
        found.names()
    except ValueError as error:
        raise ValueError(f"--activations={config.activations} {error}.") from None
    return found


def methods(found: Source) -> tuple[tuple[str, ...], list[str]]:
    """Returns the methods that run, and a line on those that cannot.

    Raises:
      ValueError: none can, or some read tokens where there are but vectors.
    """
    names = found.config.all_methods()
    if isinstance(found, Texts):
        return names, []
    if tokens := [name for name in names if probes.parse(name).reads_tokens]:
        raise ValueError(
            f"--activations has one vector for each row, and {', '.join(tokens)} read all tokens "
            "of a text; leave them out of --methods."
        )
    on_latents = [name for name in names if probes.parse(name).k]
    if found.config.sae or not on_latents:
        return names, []
    rest = tuple(name for name in names if name not in on_latents)
    line = (
        f"{', '.join(on_latents)} read{'s' * (len(on_latents) == 1)} latents of an SAE: give one "
        f"with --sae that reads vectors of width {found.d_model}."
    )
    if not rest:
        raise ValueError(line)
    return rest, [f"Left out: {line}"]


def left_out(found: Source) -> LeftOut:
    """Returns what of a run's tasks cannot run, each with the reason, in a sentence.

    A task is left out if none of its regimes can be had. The study's tasks have all but what needs
    groups or, in most of them, a shifted test set; nothing of them is fetched for this.

    Raises:
      ValueError: none of the run's tasks can run.
    """
    names = found.names()
    missing: LeftOut = {}
    for task in names:
        if not found.fingerprint(task):
            if not _study_has_any(found.config, task):
                missing[task] = _without_conditions(found.config, task)
            continue
        try:
            drawn = found.drawing(task)
        except (ValueError, OSError) as error:  # its file is damaged, or cannot be read
            missing[task] = str(error)
            continue
        if not drawn.conditions:
            why = " ".join(tasks.sentences({task: drawn.left_out}))
            missing[task] = why or _without_conditions(found.config, task)
        elif drawn.left_out:
            missing[task] = drawn.left_out
    if names and all(isinstance(missing.get(task), str) for task in names):
        why = " ".join(tasks.sentences(missing))
        raise ValueError(why if len(names) == 1 else f"None of the tasks can run: {why}")
    return missing


def _study_has_any(config: Config, task: str) -> bool:
    """Tells whether a task of the study has any of the run's regimes."""
    shifted = task in tasks.shifted_names(config.own)
    return any(
        regime in tasks.REGIMES and (shifted or regime != "covariate_shift")
        for regime in config.regimes
    )


def _without_conditions(config: Config, task: str) -> str:
    """Says why a task has no condition, where each regime needs what it has not."""
    needs = {"covariate_shift": "shifted test set", "group_shift": "groups"}
    lacks = " and ".join(f"no {needs[regime]}" for regime in config.regimes if regime in needs)
    regimes = ",".join(config.regimes)
    return f"{task} has {lacks}, so there is nothing in --regimes={regimes}; add another regime."
