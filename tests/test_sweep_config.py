"""What the fields of a configuration may be given as, and which types are refused."""

from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from probejax.sites import Site
from probejax.sweep import Config


@pytest.fixture(autouse=True)
def types_are_not_checked_at_calls(monkeypatch):
    """As where the library is used; the suite checks every call before it is made."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"tasks": "demo"}, {"tasks": ("demo",)}),
        ({"sae": "random:64:8"}, {"sae": ("random:64:8",)}),
        ({"sae": Path("folder")}, {"sae": ("folder",)}),
        ({"methods": "logreg"}, {"methods": ("logreg",)}),
        ({"methods": ["logreg", "knn"]}, {"methods": ("logreg", "knn")}),
        ({"regimes": "standard"}, {"regimes": ("standard",)}),
        ({"seeds": 7}, {"seeds": (7,)}),
        ({"seeds": range(3)}, {"seeds": (0, 1, 2)}),
        ({"seeds": [np.int64(7)]}, {"seeds": (7,)}),
        ({"seeds": 2**31 - 1}, {"seeds": (2**31 - 1,)}),
        ({"site": Site("resid_post", 9)}, {"site": ("resid_post.9",)}),
        ({"data": Path("own.csv")}, {"data": "own.csv", "tasks": ("own",)}),
        ({"model": Path("tiny")}, {"model": "tiny"}),
    ],
)
def test_one_value_stands_for_a_tuple_and_a_path_for_its_text(given, held):
    config = Config(**given)
    assert {name: getattr(config, name) for name in held} == held
    assert all(type(each) is int for each in config.seeds)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tasks": 3}, "--tasks=3 is of a wrong type; give text, or several in a tuple."),
        ({"tasks": ("demo", 3)}, "--tasks=('demo', 3) is of a wrong type; give text, or several"),
        ({"tasks": {"demo"}}, "--tasks={'demo'} is of a wrong type; give text, or several"),
        (
            {"data": np.zeros(9)},
            "--data=<ndarray> is of a wrong type; give text (an array belongs in",
        ),
        ({"sae": None}, "--sae=None is of a wrong type; give text"),
        ({"seeds": "42"}, "--seeds='42' is of a wrong type; give a whole number, or several"),
        ({"seeds": 4.5}, "--seeds=4.5 is of a wrong type; give a whole number, or several"),
        ({"seeds": (True,)}, "--seeds=(True,) is of a wrong type; give a whole number"),
        ({"seeds": 2**31}, "--seeds=2147483648 is no seed: a whole number from 0 to 2**31 - 1."),
        ({"seeds": -1}, "--seeds=-1 is no seed"),
        ({"controls": "no"}, "--controls='no' is of a wrong type; give True or False."),
        ({"chat_template": 1}, "--chat_template=1 is of a wrong type; give True or False."),
        ({"max_length": "64"}, "--max_length='64' is of a wrong type; give a whole number."),
        ({"max_length": None}, "--max_length=None is of a wrong type; give a whole number."),
        ({"positive": 1, "data": "x.csv"}, "--positive=1 is of a wrong type; give text."),
        ({"model": None}, "--model=None is of a wrong type; give text."),
        ({"dtype": np.float32}, "is of a wrong type; give text."),
        ({"site": 1.5}, "--site=1.5 is of a wrong type; give a site, or a tuple of them."),
    ],
)
def test_another_type_is_refused_in_a_sentence(given, says):
    with pytest.raises(ValueError) as caught:
        Config(**given)
    assert says in str(caught.value) and "\n" not in str(caught.value)
