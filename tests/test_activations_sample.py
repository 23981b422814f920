import numpy as np

from probejax import activations
from probejax.activations import Recipe
from probejax.activations.sample import _held_out
from probejax.models import tokens
from probejax.sites import parse
from probejax.tasks.catalog import Task
from tests import tiny_models

MODEL = tiny_models.language_model()
RECIPE = Recipe("tiny", "0123", positions="all")


def task(name, prompts):
    labels = np.arange(len(prompts)) % 2
    return Task(name, tuple(prompts), labels.astype(np.int64), False)


PROMPTS = [p for p in tiny_models.prompts(90, 12) if p]
TASKS = [task("a", PROMPTS[:60]), task("b", [*PROMPTS[40:], *PROMPTS[40:45]])]


def embeddings(prompts):
    """The rows that a prompt's tokens have at the embedding, without BOS."""
    table = np.asarray(MODEL.transformer.embed_tokens.weight[...]) * np.float32(32**0.5)
    ids = tokens.encode(MODEL.tokenizer, prompts, 1024)
    return np.concatenate([table[x[1:]] for x in ids])


def sample(tmp_path, n=10**6, layer="embed", **options):
    return activations.sample_tokens(
        TASKS, n, parse(layer), RECIPE, lambda: MODEL, cache_dir=tmp_path, held_out=0.2, **options
    )


def ordered(rows):
    return rows[np.lexsort(rows.T)]


def test_all_tokens_but_bos_split_by_prompt(tmp_path):
    train, test = sample(tmp_path)
    every = [prompt for each in TASKS for prompt in dict.fromkeys(each.prompts)]
    for rows, where in ((train, False), (test, True)):
        expected = embeddings([p for p in every if _held_out(p, 0.2) == where])
        assert rows.dtype == np.float32
        np.testing.assert_allclose(ordered(rows), ordered(expected), rtol=1e-6)
    bos = embeddings_of_bos()
    assert np.abs(np.concatenate([train, test]) - bos).max(axis=1).min() > 0.1


def embeddings_of_bos():
    return np.asarray(MODEL.transformer.embed_tokens.weight[...])[2] * np.float32(32**0.5)


def test_a_prompt_of_two_tasks_is_held_out_in_both_or_in_neither(tmp_path):
    """The last row of a prompt of several words, after a few blocks, is that prompt's alone."""
    train, test = sample(tmp_path, layer=2)
    prompts = [p for p in PROMPTS if len(p.split()) >= 3]
    found = activations.harvest(prompts, [parse(2)], RECIPE, lambda: MODEL, cache_dir=tmp_path)[
        parse(2)
    ]
    inside = lambda rows: [np.abs(rows - row).max(axis=1).min() < 1e-3 for row in found.last()]
    assert inside(test) == [_held_out(p, 0.2) for p in prompts]
    assert inside(train) == [not _held_out(p, 0.2) for p in prompts]
    assert 5 < sum(inside(test)) < len(prompts) / 2


def test_held_out_share():
    prompts = [f"prompt {i}" for i in range(5000)]
    shares = [np.mean([_held_out(p, share) for p in prompts]) for share in (0.0, 0.05, 0.5, 1.0)]
    np.testing.assert_allclose(shares, [0.0, 0.05, 0.5, 1.0], atol=0.02)


def test_the_tasks_give_equal_numbers_of_tokens(tmp_path):
    train, test = sample(tmp_path, n=200)
    # About 100 tokens of each; the estimate takes four characters for a token.
    assert 100 < len(train) + len(test) < 500
    again = sample(tmp_path, n=200)
    assert np.array_equal(train, again[0]) and np.array_equal(test, again[1])
    other = sample(tmp_path, n=200, seed=1)
    assert not np.array_equal(train, other[0])
