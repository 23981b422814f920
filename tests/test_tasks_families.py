"""Families of tasks: what shares prompts, of the study's tasks and of one's own."""

import pytest

from probejax import tasks
from probejax.tasks import STUDY_FAMILIES, find_families


def _numbers(first, last):
    return [f"prompt {i}" for i in range(first, last)]


@pytest.mark.parametrize(
    ("second", "together"),
    [
        ((8, 18), True),  # 2 of 10
        ((9, 19), False),  # 1 of 10
        ((9, 10), True),  # all of the smaller one
        ((8, 1000), True),  # 2 of the smaller one's 10
        ((10, 20), False),
        ((5, 5), False),  # none at all
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_a_fifth_of_the_smaller_ones_prompts_makes_a_family(second, together, swap):
    prompts = {"a": _numbers(0, 10) * 2, "b": _numbers(*second)}
    prompts = dict(reversed(prompts.items())) if swap else prompts
    first = next(iter(prompts))
    found = find_families(prompts)
    assert found == ({"a": first, "b": first} if together else {"a": "a", "b": "b"})


def test_what_shares_with_a_third_is_of_one_family():
    prompts = {"a": _numbers(0, 10), "c": _numbers(14, 24), "b": _numbers(7, 17), "d": ["x"]}
    assert find_families(prompts) == {"a": "a", "b": "a", "c": "a", "d": "d"}
    assert find_families({}) == {}


@pytest.mark.thorough
def test_the_study_s_families_are_those_of_its_prompts():
    prompts = {name: tasks.load(name).prompts for name in tasks.names()}
    assert find_families(prompts) == STUDY_FAMILIES
    assert len(set(STUDY_FAMILIES.values())) == 71
