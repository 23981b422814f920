"""Families of tasks: tasks that share prompts, whose results are not independent of each other."""

from collections.abc import Iterable, Mapping

from probejax.tasks.registry import NAMES

SHARE = 0.2  # of the smaller task's prompts in common makes two tasks one family

# The numbers of the study's tasks that are not alone: what `find_families` finds in their
# prompts, here so that a report needs none.
_STUDY = (
    *((48, 49), (56, 57, 59, 60, 61, 62, 63, 64), (114, 115, 116), (117, 118, 119, 120, 121, 122)),
    *((123, 124, 125), (126, 127, 128), (130, 131, 132), (133, 134, 135), (136, 137, 138)),
    *((139, 140, 141), (142, 143, 144), (145, 146, 147), (148, 149, 150), (151, 152, 153)),
    *((154, 155, 156), (158, 159, 160, 161, 162, 163)),
)
_NUMBERED = {int(name.partition("_")[0]): name for name in NAMES}
STUDY = {name: name for name in NAMES} | {
    _NUMBERED[number]: _NUMBERED[numbers[0]] for numbers in _STUDY for number in numbers
}
"""The family of each of the study's tasks."""


def find_families(prompts: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Returns the family of each task, named after its first task.

    Two tasks are of one family where at least `SHARE` of the smaller one's different prompts stand
    in the other too; what is of one family with a third is of one family.

    Args:
        prompts: those of each task, by its name.
    """
    sets = {name: frozenset(map(hash, texts)) for name, texts in prompts.items()}
    found = {name: name for name in sets}
    names = list(sets)
    for i, name in enumerate(names):
        for other in names[:i]:
            shared, least = len(sets[name] & sets[other]), min(len(sets[name]), len(sets[other]))
            if found[name] != found[other] and shared >= max(SHARE * least, 1):
                first, last = found[other], found[name]
                first, last = sorted((first, last), key=names.index)
                found |= {each: first for each, of in found.items() if of == last}
    return found
