import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from probejax import activations, models
from probejax.activations import Plan, Recipe
from probejax.models import tokens
from probejax.sites import parse
from tests import tiny_models

MODEL = tiny_models.language_model()
PROMPTS = [*tiny_models.prompts(60, 30), *tiny_models.prompts(60, 30)[:10]]
SITE = parse(1)
LAST = Recipe("tiny", "0123")
ALL = Recipe("tiny", "0123", max_length=20, positions="all")


def plan(tmp_path, recipe=ALL, sites=(SITE,)):
    lists = {"a task": PROMPTS}
    model = (MODEL.tokenizer, MODEL.config)
    return activations.plan(lists, sites, recipe, *model, cache_dir=tmp_path)[0]


def harvest(tmp_path, recipe=ALL, sites=(SITE,), model=lambda: MODEL):
    return activations.harvest(PROMPTS, sites, recipe, model, cache_dir=tmp_path)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("recipe", [LAST, ALL], ids=["last", "all"])
@pytest.mark.parametrize("where", ["1", "0 2", "0 attn_z.1"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_predicted_bytes_are_those_on_the_disk(tmp_path, recipe, where, dtype):
    recipe, sites = dataclasses.replace(recipe, dtype=dtype), list(map(parse, where.split()))
    model = dataclasses.replace(
        MODEL, transformer=tiny_models.transformer(MODEL.config, dtype=jnp.dtype(dtype))
    )
    expected = plan(tmp_path, recipe, sites)
    found = harvest(tmp_path, recipe, sites, lambda: model)
    lengths = [len(x) for x in tokens.encode(MODEL.tokenizer, PROMPTS[:60], recipe.max_length)]
    assert expected.prompts == 70 and expected.distinct == 60
    assert expected.tokens == sum(lengths)
    assert sum(each.x.nbytes for each in found.values()) <= expected.bytes
    there = size_of(tmp_path / "activations")
    assert expected.bytes < there < expected.bytes + 1500 * len(sites)  # headers, manifest
    assert not expected.cached and expected.peak == 2 * expected.bytes
    after = plan(tmp_path, recipe, sites)
    assert after.cached and after.peak == after.bytes == expected.bytes


def test_a_prompt_is_counted_for_the_first_list_that_has_it(tmp_path):
    lists = {"a": PROMPTS[:25], "b": PROMPTS, "c": PROMPTS[50:60], "d": PROMPTS[5:7]}
    lengths = [len(x) for x in tokens.encode(MODEL.tokenizer, PROMPTS[:60], 1024)]

    def counted(recipe):
        plans = activations.plan(
            lists, (SITE,), recipe, MODEL.tokenizer, MODEL.config, cache_dir=tmp_path
        )
        return [plan.tokens for plan in plans]

    assert counted(LAST) == [sum(lengths[:25]), sum(lengths[25:]), 0, 0]
    cut = [min(each, 20) for each in lengths]
    assert counted(ALL) == [sum(cut[:25]), sum(cut), sum(cut[50:]), sum(cut[5:7])]
    # What a later list has in the cache, an earlier one need not run.
    activations.harvest(lists["c"], (SITE,), LAST, lambda: MODEL, cache_dir=tmp_path)
    assert counted(LAST) == [sum(lengths[:25]), sum(lengths[25:50]), 0, 0]


def test_the_disk_never_holds_more_than_the_peak(tmp_path, monkeypatch):
    """The most is there when the batches have been joined and are not yet deleted."""
    sizes = []
    original = activations.cache.storage.write_atomic

    def watched(*arguments):
        original(*arguments)
        sizes.append(size_of(tmp_path))

    monkeypatch.setattr(activations.cache.storage, "write_atomic", watched)
    activations.harvest(PROMPTS, (SITE,), ALL, lambda: MODEL, cache_dir=tmp_path, batch_tokens=256)
    expected = plan(tmp_path, ALL)
    assert 1.5 * expected.bytes < max(sizes) < 2 * expected.bytes + 500 * len(sizes)


def test_a_discarded_task_is_harvested_again(tmp_path):
    first = harvest(tmp_path)[SITE]
    kept = np.array(first.x)
    other = dataclasses.replace(ALL, max_length=5)
    harvest(tmp_path, other)
    assert activations.is_cached(ALL, SITE, PROMPTS, cache_dir=tmp_path)
    activations.discard(PROMPTS, (SITE,), ALL, cache_dir=tmp_path)
    assert not activations.is_cached(ALL, SITE, PROMPTS, cache_dir=tmp_path)
    assert activations.is_cached(other, SITE, PROMPTS, cache_dir=tmp_path)
    assert len(list((tmp_path / "activations").iterdir())) == 1
    assert np.array_equal(first.x, kept)  # who still reads it, reads on
    again = harvest(tmp_path)[SITE]
    assert np.array_equal(again.x, kept)
    activations.discard(PROMPTS, (SITE,), ALL, cache_dir=tmp_path)
    activations.discard(PROMPTS, (SITE,), ALL, cache_dir=tmp_path)  # nothing there: nothing to do


def test_discard_killed_half_way_leaves_nothing_that_counts(tmp_path, monkeypatch):
    harvest(tmp_path)

    def killed(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(activations.cache.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        activations.discard(PROMPTS, (SITE,), ALL, cache_dir=tmp_path)
    assert not activations.is_cached(ALL, SITE, PROMPTS, cache_dir=tmp_path)


GB = 10**9
PLANS = [Plan("a", 9, 8, 700, 30 * GB, False), Plan("b", 5, 5, 60, 20 * GB, True)]


def test_peaks():
    assert activations.peak_kept(PLANS) == 80 * GB  # both, and the batches of a
    assert activations.peak_one_by_one(PLANS) == 60 * GB
    assert activations.peak_kept(PLANS[1:]) == activations.peak_one_by_one(PLANS[1:]) == 20 * GB


def test_the_printed_plan():
    lines = activations.table(PLANS, seconds=4000.0).splitlines()
    assert lines[1].split() == ["a", "9", "8", "700", "30.000"]
    assert lines[2].split() == ["b", "5", "5", "60", "20.000", "in", "the", "cache"]
    assert lines[3] == "2 lists of prompts; 700 tokens to run, about 67 min here."
    assert lines[4] == (
        "On the disk: 50.00 GB, at most 80.00 GB on the way, if all tasks are kept; at most "
        "60.00 GB at any one time if each is deleted before the next."
    )
    assert "90 s" in activations.table(PLANS, 90.0) and "3.0 h" in activations.table(PLANS, 10800.0)


def test_a_disk_that_is_too_small():
    activations.check_disk(PLANS, 80 * GB, 60 * GB)
    with pytest.raises(ValueError, match=r"need 80.00 GB, more than --disk_gb=79: .*60.00 GB\."):
        activations.check_disk(PLANS, 79 * GB, 10**15)
    with pytest.raises(ValueError, match=r"need 60.00 GB more, but only 59.00 GB are free"):
        activations.check_disk(PLANS, None, 59 * GB)
    activations.check_disk(PLANS, 60 * GB, 60 * GB, keep=False)
    with pytest.raises(ValueError, match=r"need 60.00 GB, more than --disk_gb=59"):
        activations.check_disk(PLANS, 59 * GB, 10**15, keep=False)


def test_arithmetic_of_one_token():
    """Gemma 2 9B: 2 x 198.2 million parameters a block, 21 blocks up to layer 20."""
    config = models.PRESETS["gemma-2-9b"]
    block = 2 * 3584 * 256 * (16 + 8) + 3 * 3584 * 14336
    assert activations.flops_per_token(config, (parse(20),)) == 2 * 21 * block
    whole = activations.flops_per_token(config, (parse(41),)) / 2 + config.d_vocab * config.d_model
    np.testing.assert_allclose(whole, config.n_parameters, rtol=1e-4)
    assert activations.flops_per_token(config, (parse("embed"),)) == 0
    assert activations.measured_flops("float32", 64) > 1e6
