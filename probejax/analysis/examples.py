"""A few prompts of each task, where they can be had without a download."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from probejax import artifacts, tasks
from probejax.artifacts.archives import STUDY_TASKS
from probejax.artifacts.cache import Location

_BEGINNING, _END = 110, 90  # characters kept of a long prompt; probes read its last token
_MARKED = 60  # characters of a prompt whose last token is marked


class Example(NamedTuple):
    """A prompt, shortened in the middle, its label and what the task calls the label's class."""

    label: int
    prompt: str
    name: str


def examples(
    names: Sequence[str],
    data: tasks.Own | Location | None = None,
    cache_dir: Location | None = None,
    each: int = 2,
) -> dict[str, list[Example]]:
    """Returns the first `each` different prompts of both classes, for the tasks at hand.

    Nothing is downloaded: without the study's tasks in the cache only one's own have
    examples. A task that cannot be read has none.
    """
    found = {}
    for name in names:
        task = at_hand(name, data, cache_dir)
        if task is None:
            continue
        chosen: dict[str, int] = {}
        for prompt, label in zip(task.prompts, task.labels.tolist(), strict=True):
            if list(chosen.values()).count(label) < each:
                chosen.setdefault(prompt, label)
            if len(chosen) == 2 * each:
                break
        classes = [shorten(name) for name in task.class_names]
        found[name] = sorted(
            Example(label, shorten(prompt), classes[label]) for prompt, label in chosen.items()
        )
    return found


def at_hand(
    name: str, data: tasks.Own | Location | None = None, cache_dir: Location | None = None
) -> tasks.Task | None:
    """Returns a task, None where it would have to be downloaded or cannot be read."""
    cached = artifacts.cache_dir(cache_dir) / "artifacts" / STUDY_TASKS.sha256
    try:
        known = tasks.names() if cached.is_dir() else ()
        own = tasks.names(data) if data else ()
        if name not in known and not (name in own and name not in tasks.names()):
            return None
        return tasks.load(name, data=data, cache_dir=cache_dir)
    except (ValueError, OSError, artifacts.ArtifactError):
        return None


def shorten(prompt: str) -> str:
    """Returns a prompt on one line, without the middle if it is long."""
    text = " ".join(prompt.split())
    if len(text) <= _BEGINNING + _END + 5:
        return text
    return f"{text[:_BEGINNING]} […] {text[-_END:]}"


def last_token(text: str) -> tuple[str, str]:
    """Returns the end of a prompt in two parts: what is before its last word or mark, and that."""
    end = text[-_MARKED:]
    match = re.search(r"(\w+|\s|.)\Z", end, re.DOTALL)
    start = "…" if len(text) > _MARKED else ""
    return (f"{start}{end[: match.start()]}", match[0]) if match else (end, "")
