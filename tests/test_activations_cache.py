import dataclasses
import hashlib
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from probejax import activations, models, sites
from probejax.activations import Recipe
from probejax.models import tokens
from tests import tiny_models

forward = activations.forward
MODEL = tiny_models.language_model()
PROMPTS = tiny_models.prompts(60, 30)
SITE = sites.parse(1)
EVERY = [sites.Site(kind, layer) for kind in sites.KINDS[1:] for layer in range(3)]
RECIPE = Recipe("tiny", "0123", positions="last")
BATCH = 256  # tokens: two rows of 128


@pytest.fixture
def counted(monkeypatch):
    """Counts the batches that pass the model; `stop` makes it fail before batch number `stop`."""
    original = forward.run

    class Counter:
        ran = 0
        stop = None

    def harvest(transformer, todo, sites, *how):
        for batch in todo:
            if Counter.ran == Counter.stop:
                raise KeyboardInterrupt
            Counter.ran += 1
            yield from original(transformer, [batch], sites, *how)

    monkeypatch.setattr(forward, "run", harvest)
    return Counter


def never():
    raise AssertionError("the model was loaded although all is in the cache")


def get(cache_dir, prompts=PROMPTS, layers=(1,), recipe=RECIPE, model=lambda: MODEL):
    where = {layer: sites.parse(layer) for layer in layers}
    found = activations.harvest(
        prompts, list(where.values()), recipe, model, cache_dir=cache_dir, batch_tokens=BATCH
    )
    return {layer: found[site] for layer, site in where.items()}


def n_batches(prompts=PROMPTS, max_length=1024):
    return len(forward.batches(tokens.encode(MODEL.tokenizer, prompts, max_length), BATCH))


def test_rows_are_in_the_order_of_the_prompts(tmp_path):
    found = get(tmp_path, layers=("embed", 1))
    for layer in ("embed", 1):
        last = found[layer].last()
        assert last.shape == (len(PROMPTS), 32) and last.dtype == np.float32
        for i in (0, 7, 59):
            alone = get(tmp_path / str(i), [PROMPTS[i]], (layer,))[layer].last()
            np.testing.assert_allclose(last[i], alone[0], rtol=0, atol=2e-5)
    # The embedding of the last real token, not of padding or of BOS.
    ids = tokens.encode(MODEL.tokenizer, PROMPTS, 1024)
    table = np.asarray(MODEL.transformer.embed_tokens.weight[...]) * np.float32(32**0.5)
    np.testing.assert_allclose(found["embed"].last(), table[[x[-1] for x in ids]], rtol=1e-6)


def test_the_second_call_reads_the_cache(tmp_path, counted):
    first = get(tmp_path)[1]
    assert counted.ran == n_batches() > 3
    second = get(tmp_path, model=never)[1]
    assert np.array_equal(first.last(), second.last()) and counted.ran == n_batches()
    assert not list((tmp_path / "activations").glob("*.parts"))


def test_a_new_layer_runs_alone(tmp_path, counted):
    get(tmp_path, layers=(0,))
    before = counted.ran
    both = get(tmp_path, layers=(0, 2))
    assert counted.ran == 2 * before
    assert np.array_equal(get(tmp_path, layers=(2,), model=never)[2].x, both[2].x)


SILENT = ("bos", "chat")  # not written where they are as usual
OTHER = {
    "model": "other",
    "fingerprint": "4567",
    "dtype": "bfloat16",
    "max_length": 1023,
    "positions": "all",
    "bos": "none",
    "chat": "89ab",
}


def test_every_setting_is_part_of_the_key():
    assert OTHER.keys() == {field.name for field in dataclasses.fields(Recipe)}
    keys = [activations.key(RECIPE, SITE, PROMPTS)]
    for field, value in OTHER.items():
        keys.append(activations.key(dataclasses.replace(RECIPE, **{field: value}), SITE, PROMPTS))
    keys.append(activations.key(RECIPE, sites.parse(2), PROMPTS))
    keys.append(activations.key(RECIPE, SITE, PROMPTS[:-1]))
    keys.append(activations.key(RECIPE, SITE, PROMPTS[::-1]))
    keys.append(activations.key(RECIPE, SITE, [*PROMPTS[:-1], PROMPTS[-1] + "."]))
    keys.append(activations.key(RECIPE, SITE, ["ab", "c"]))
    keys.append(activations.key(RECIPE, SITE, ["a", "bc"]))
    assert len(set(keys)) == len(keys)
    assert activations.key(dataclasses.replace(RECIPE), SITE, list(PROMPTS)) == keys[0]


def test_a_changed_setting_does_not_reuse_old_activations(tmp_path):
    whole = get(tmp_path)[1].last()
    short = get(tmp_path, recipe=dataclasses.replace(RECIPE, max_length=5))[1].last()
    lengths = np.array([len(x) for x in tokens.encode(MODEL.tokenizer, PROMPTS, 1024)])
    same = np.abs(whole - short).max(axis=1) < 2e-5
    assert same[lengths <= 5].all() and not same[lengths > 5].any()


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_killed_half_way_and_run_again(tmp_path, counted, stop):
    expected = get(tmp_path / "whole", layers=(0, 2))
    counted.ran, counted.stop = 0, stop
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path / "killed", layers=(0, 2))
    assert not list((tmp_path / "killed").rglob("manifest.json"))
    counted.stop = None
    found = get(tmp_path / "killed", layers=(0, 2))
    assert counted.ran == n_batches()  # nothing that had been finished ran again
    for layer in (0, 2):
        assert np.array_equal(found[layer].x, expected[layer].x)
        assert np.array_equal(found[layer].starts, expected[layer].starts)


def test_killed_before_the_manifest(tmp_path, counted, monkeypatch):
    """All batches are done, the joined file is not: nothing runs again."""
    original = activations.stored._write_rows

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(activations.stored, "_write_rows", killed)
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path)
    monkeypatch.setattr(activations.stored, "_write_rows", original)
    assert get(tmp_path)[1].last().shape == (len(PROMPTS), 32)
    assert counted.ran == n_batches()


def test_another_process_finishes_the_same_harvest_first(tmp_path, monkeypatch):
    original = forward.run

    def slow(transformer, todo, sites, *how):
        for i, part in enumerate(original(transformer, todo, sites, *how)):
            yield part
            if i == 2:  # the other one is done, and has cleared the batches away
                monkeypatch.setattr(forward, "run", original)
                get(tmp_path)

    monkeypatch.setattr(forward, "run", slow)
    found = get(tmp_path)[1]
    monkeypatch.setattr(forward, "run", original)
    assert np.array_equal(found.last(), get(tmp_path / "alone")[1].last())
    assert not list((tmp_path / "activations").glob("*.parts"))


def test_equal_prompts_share_rows(tmp_path, counted):
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]]
    found = get(tmp_path, prompts)[1]
    assert found.x.shape == (2, 32) and len(found.starts) == 4
    assert found.starts[0] == found.starts[2] == found.starts[3] != found.starts[1]
    assert np.array_equal(found.last()[0], found.last()[3])


def test_prompts_of_another_list_are_not_run_again(tmp_path, counted):
    first = get(tmp_path, PROMPTS[:40], layers=(0, 1))
    get(tmp_path, PROMPTS[35:45], layers=(1,))
    counted.ran = 0
    found = get(tmp_path, PROMPTS[::-1], layers=(0, 1))
    new = PROMPTS[59:39:-1]  # those that no list has at both layers
    assert counted.ran == n_batches(new)
    expected = get(tmp_path / "alone", PROMPTS[::-1], layers=(0, 1))
    for layer in (0, 1):
        np.testing.assert_allclose(found[layer].last(), expected[layer].last(), rtol=0, atol=2e-5)
        assert np.array_equal(found[layer].last()[:19:-1], first[layer].last())
    counted.ran = 0
    assert get(tmp_path, PROMPTS[5:50])[1].last().shape == (45, 32) and not counted.ran
    # Neither another recipe nor another layer helps; nor do all tokens of the prompts.
    for recipe, layer in (
        (dataclasses.replace(RECIPE, max_length=7), 1),
        (dataclasses.replace(RECIPE, fingerprint="4567"), 1),
        (RECIPE, 2),
        (dataclasses.replace(RECIPE, positions="all"), 1),
    ):
        counted.ran = 0
        get(tmp_path, PROMPTS[3:33], (layer,), recipe)
        assert counted.ran == n_batches(PROMPTS[3:33], recipe.max_length)


def test_what_others_finish_meanwhile_does_not_change_the_batches(tmp_path, counted):
    counted.stop = 2
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path)
    counted.ran, counted.stop = 0, None
    get(tmp_path, PROMPTS[:40])
    counted.ran = 0
    found = get(tmp_path)[1]
    assert counted.ran == n_batches() - 2
    assert np.array_equal(found.last(), get(tmp_path / "alone")[1].last())


def test_a_damaged_list_is_no_help_and_no_harm(tmp_path, counted):
    get(tmp_path, PROMPTS[:40])
    (path,) = tmp_path.rglob("rows.npz")
    path.write_bytes(path.read_bytes()[:100])
    counted.ran = 0
    get(tmp_path)
    assert counted.ran == n_batches()


def test_a_damaged_batch_is_named_and_made_anew(tmp_path, counted):
    counted.stop = 2
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path)
    batch = sorted(tmp_path.rglob("resid_post.1.256.*.npz"))[0]
    batch.write_bytes(batch.read_bytes()[:50])
    counted.stop = None
    with pytest.raises(ValueError, match=f"{batch.name} is damaged .*; it is deleted, run again"):
        get(tmp_path)
    assert get(tmp_path)[1].last().shape == (len(PROMPTS), 32)


def test_all_positions(tmp_path):
    found = get(tmp_path, recipe=dataclasses.replace(RECIPE, positions="all"))[1]
    lengths = [len(x) for x in tokens.encode(MODEL.tokenizer, PROMPTS, 1024)]
    assert found.counts.tolist() == lengths and found.x.shape == (sum(lengths), 32)
    np.testing.assert_allclose(found.last(), get(tmp_path)[1].last(), rtol=0, atol=2e-5)
    bos = found.x[found.starts]
    np.testing.assert_allclose(bos, bos[:1].repeat(len(bos), 0), rtol=0, atol=2e-5)


def test_bfloat16_keeps_its_bits(tmp_path):
    halved = dataclasses.replace(
        MODEL, transformer=tiny_models.transformer(MODEL.config, dtype=jnp.bfloat16)
    )
    recipe = dataclasses.replace(RECIPE, dtype="bfloat16")
    found = get(tmp_path, recipe=recipe, model=lambda: halved)[1]
    assert found.x.dtype == jnp.bfloat16 and found.last().dtype == np.float32
    (folder,) = (tmp_path / "activations").iterdir()
    assert np.load(folder / "x.npy").dtype == np.uint16
    batch = forward.batches(tokens.encode(MODEL.tokenizer, PROMPTS, 1024), BATCH)[0]
    (part,) = forward.run(halved.transformer, [batch], (SITE,))
    rows = found.x[found.starts[batch.prompts]]
    assert np.array_equal(rows.view(np.uint16), part.rows[SITE].view(np.uint16))


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def manifest(**changes):
    def change(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def x_npy(change):
    def edit(folder):
        x = np.load(folder / "x.npy")
        np.save(folder / "x.npy", change(x))

    return edit


def nan(x):
    x[7, 3] = np.nan
    return x


def pipe(name):
    def replace(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return replace


def fewer(folder):
    """A `rows.npz` of four prompts, and a manifest that has been told so."""
    arrays = dict(np.load(folder / "rows.npz"))
    np.savez(folder / "rows.npz", **{name: array[:4] for name, array in arrays.items()})


def elsewhere(folder):
    """Rows past the end, with the right hash in the manifest."""
    arrays = dict(np.load(folder / "rows.npz"))
    np.savez(folder / "rows.npz", **arrays | {"starts": arrays["starts"] + 1})
    content = (folder / "rows.npz").read_bytes()
    manifest(rows=hashlib.sha256(content).hexdigest())(folder)


DAMAGE = {
    **{
        f"{name} cut to {size} bytes": cut(name, size)
        for name in ("x.npy", "rows.npz", "manifest.json")
        for size in (0, 50, -20)
    },
    "a NaN": x_npy(nan),
    "infinity": x_npy(lambda x: x * np.inf),
    "fewer rows": x_npy(lambda x: x[:3]),
    "other width": x_npy(lambda x: x[:, :5].copy()),
    "float64": x_npy(lambda x: x.astype(np.float64)),
    "float16": x_npy(lambda x: x.astype(np.float16)),
    "objects": lambda folder: np.save(folder / "x.npy", np.array([{}]), allow_pickle=True),
    "fewer prompts": fewer,
    "rows past the end": elsewhere,
    "another dtype": manifest(dtype="bfloat16"),
    "an unknown dtype": manifest(dtype="float64"),
    "another site": manifest(site="resid_post.0"),
    "another kind": manifest(site="mlp_out.1"),
    "another layer of before": manifest(site=None, layer=0),
    "another model": manifest(fingerprint="4567"),
    "another shape": manifest(shape=[3, 32]),
    "a shape of one": manifest(shape=[60]),
    "another number of prompts": manifest(prompts=4),
    "an earlier format": manifest(format=1),
    "no object": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "deep": lambda folder: (folder / "manifest.json").write_text("[" * 10**5),
    "no x": lambda folder: (folder / "x.npy").unlink(),
    "no rows": lambda folder: (folder / "rows.npz").unlink(),
    "a pipe for x": pipe("x.npy"),
    "a pipe for rows": pipe("rows.npz"),
    "a pipe for a manifest": pipe("manifest.json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_activations_are_made_anew_and_said(tmp_path, name, capfd):
    expected = get(tmp_path)[1].last()
    (folder,) = (tmp_path / "activations").iterdir()
    DAMAGE[name](folder)
    # They help no other list of prompts, and harm none.
    others = get(tmp_path, PROMPTS[:40])[1].last()
    np.testing.assert_allclose(others, expected[:40], rtol=0, atol=2e-5)
    capfd.readouterr()
    assert np.array_equal(get(tmp_path)[1].last(), get(tmp_path, model=never)[1].last())
    np.testing.assert_allclose(get(tmp_path, model=never)[1].last(), expected, rtol=0, atol=2e-5)
    said = [line for line in capfd.readouterr().err.splitlines() if "made anew" in line]
    assert len(said) == 1 and said[0].startswith(str(folder)), said


def test_numbers_are_looked_at_once(tmp_path, monkeypatch):
    get(tmp_path)
    looked = []
    monkeypatch.setattr(np, "isfinite", lambda x: looked.append(1) or np.ones(1, bool))
    get(tmp_path, model=never)
    assert not looked
    (path,) = tmp_path.rglob("x.npy")
    os.utime(path, (0, 0))
    get(tmp_path, model=never)
    assert looked


def test_nan_is_refused_and_not_stored(tmp_path):
    arrays = tiny_models.arrays(MODEL.config)
    arrays.arrays["model.layers.1.mlp.down_proj.weight"][0, 0] = np.nan
    broken = dataclasses.replace(MODEL, transformer=models.weights.load(MODEL.config, arrays))
    with pytest.raises(
        ValueError, match=r"these prompts at resid_post\.1 hold NaN or infinity with --dt"
    ):
        get(tmp_path, model=lambda: broken)
    kept = [path.name for path in tmp_path.rglob("*.*") if path.is_file()]
    assert kept == ["resid_post.1.known.npz"]


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "activations").write_text("a file where the folder should be")
    for positions in ("last", "all"):
        recipe = dataclasses.replace(RECIPE, positions=positions)
        with pytest.raises(OSError, match=r"activations.*a writable --cache_dir"):
            get(tmp_path, recipe=recipe)


def test_the_manifest_says_what_it_is(tmp_path):
    get(tmp_path)
    (path,) = (tmp_path / "activations").glob("*/manifest.json")
    content = path.with_name("rows.npz").read_bytes()
    assert json.loads(path.read_text()) == {
        "format": 2,
        "rows": hashlib.sha256(content).hexdigest(),
        "site": "resid_post.1",
        "prompts": 60,
        "shape": [60, 32],
        **{k: v for k, v in dataclasses.asdict(RECIPE).items() if k not in SILENT},
    }


def test_residuals_harvested_before_there_were_sites_still_count(tmp_path):
    """Their key and manifest name a layer, -1 the embedding; lists of other sites name a site."""
    for site, layer in (("resid_post.1", 1), ("embed", -1)):
        kept = get(tmp_path / site, layers=(site,))[site].last()
        (folder,) = (tmp_path / site / "activations").iterdir()
        fields = {"format": 2, "layer": layer, **dataclasses.asdict(RECIPE)}
        assert fields.pop("chat") == "" and fields["bos"] == "prepended"
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        for prompt in PROMPTS:
            digest.update(len(prompt).to_bytes(8, "little") + prompt.encode())
        assert folder.name == digest.hexdigest()[:24]
        manifest(site=None, layer=layer)(folder)
        found = get(tmp_path / site, layers=(site,), model=never)[site]
        assert np.array_equal(found.last(), kept)
    keys = {activations.key(RECIPE, site, PROMPTS) for site in EVERY}
    assert len(keys) == len(EVERY)
