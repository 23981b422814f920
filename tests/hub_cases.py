"""What the real client of the Hub does with us: models, SAEs, slips, damage, and no network."""

import contextlib
import dataclasses
import io
import json
import os
import time
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save

from probejax import artifacts, models, saes, sweep
from probejax.saes import releases
from tests import tiny_models
from tests.hub_server import TOKEN, Hub, cut, hang_up, other_bytes, status
from tests.test_saes_formats import GOLDEN

TOKENIZER = tiny_models.language_model().tokenizer.to_str().encode()


def gemma2() -> dict[str, bytes]:
    """Two shards and an index, in bfloat16."""
    config = tiny_models.GEMMA2
    fields = tiny_models.hf_config(config) | {
        "model_type": "gemma2",
        "attn_logit_softcapping": config.attn_softcap,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_local.base},
    }
    arrays = tiny_models.arrays(config).arrays
    names = sorted(arrays)
    shards = {"model-00001-of-00002.safetensors": names[::2]}
    shards |= {"model-00002-of-00002.safetensors": names[1::2]}
    index = {"weight_map": {name: shard for shard, own in shards.items() for name in own}}
    files = {
        shard: save({name: arrays[name].astype(ml_dtypes.bfloat16) for name in own})
        for shard, own in shards.items()
    }
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    return files | {"config.json": json.dumps(fields).encode(), "tokenizer.json": TOKENIZER}


def gemma3() -> dict[str, bytes]:
    """One file, and settings of the tokenizer."""
    return {
        "model.safetensors": save(tiny_models.arrays(tiny_models.GEMMA3).arrays),
        "config.json": json.dumps(tiny_models.hf_config(tiny_models.GEMMA3)).encode(),
        "tokenizer.json": TOKENIZER,
        "tokenizer_config.json": b"{}",
        "README.md": b"of the model",
        "pytorch_model.bin": b"never fetched",
    }


def multimodal() -> dict[str, bytes]:
    """The text model nested in one that sees."""
    files = gemma3()
    nested = {"model_type": "gemma3", "text_config": json.loads(files["config.json"])}
    arrays = tiny_models.arrays(tiny_models.GEMMA3).arrays
    named = {f"language_model.{name}": array for name, array in arrays.items()}
    named["vision_tower.x"] = named["multi_modal_projector.x"] = np.ones(3, np.float32)
    return files | {"config.json": json.dumps(nested).encode(), "model.safetensors": save(named)}


LAYOUTS = {
    "google/gemma-2-2b": gemma2,
    "google/gemma-3-270m": gemma3,
    "google/gemma-3-4b-pt": multimodal,
}


def said_of(call, *args, kind=artifacts.ArtifactError, **options) -> str:
    """Returns what an error says, which must be one line."""
    try:
        call(*args, **options)
    except kind as error:
        assert "\n" not in str(error), error
        return str(error)
    raise AssertionError("nothing was wrong")


def with_stderr(call, *args, **options):
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        found = call(*args, **options)
    return found, stream.getvalue()


@contextlib.contextmanager
def no_network(hub: Hub):
    hub.stop()
    try:
        yield
    finally:
        hub.start(hub.port)


def residuals(transformer) -> np.ndarray:
    ids = jnp.arange(12)[None] + 3
    return np.asarray(models.residuals(transformer, ids, jnp.ones_like(ids), (2,))[2])


def model_case(hub: Hub, cache: str, name: str) -> None:
    hub.add(name, LAYOUTS[name]())
    found, said = with_stderr(models.find, name, cache_dir=cache)
    fetched = hub.fetched()
    assert not [file for file in fetched if "0" in file or file.endswith(".safetensors")], fetched
    assert {"config.json", "tokenizer.json"} <= set(fetched) and "README.md" not in fetched
    wanted = tiny_models.GEMMA2 if name == "google/gemma-2-2b" else tiny_models.GEMMA3
    assert dataclasses.replace(found.config, name=wanted.name) == wanted
    assert found.tokenizer().encode("w1 w2").ids == [4, 5]
    assert not said and found.name == name.rpartition("/")[2]
    loaded, said = with_stderr(found.transformer, None, jnp.float32)
    assert said.count("https://ai.google.dev/gemma/terms") == 1
    assert all(file.endswith(".safetensors") for file in hub.fetched())
    folder = Path(cache) / "copy"
    for file, data in LAYOUTS[name]().items():
        folder.mkdir(exist_ok=True)
        (folder / file).write_bytes(data)
    local = models.find(str(folder)).transformer(None, jnp.float32)
    np.testing.assert_array_equal(residuals(loaded), residuals(local))
    with no_network(hub):
        again, said = with_stderr(models.find, name, cache_dir=cache)
        assert again.fingerprint == found.fingerprint and again.path == found.path
        assert again.tokenizer().to_str() == found.tokenizer().to_str() and not said
        np.testing.assert_array_equal(
            residuals(again.transformer(None, jnp.float32)), residuals(local)
        )


def the_fingerprint_follows_config_weights_and_tokenizer_only(hub: Hub, cache: str) -> None:
    files = gemma3()
    find = lambda: models.find("me/gemma", cache_dir=cache).fingerprint
    hub.add("me/gemma", files)
    first = find()
    hub.add("me/gemma", files | {"README.md": b"another commit"})
    assert find() == first
    models.find("me/gemma", cache_dir=cache).transformer(None, jnp.float32)
    assert find() == first
    hub.add("me/gemma", files | {"config.json": files["config.json"] + b" "})
    assert find() != first
    hub.add("me/gemma", files | {"model.safetensors": multimodal()["model.safetensors"]})
    assert find() != first
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
        hub.add("me/gemma", files | {name: files.get(name, b"{}") + b" "})
        assert find() != first, name


def a_chat_template_comes_from_wherever_it_is(hub: Hub, cache: str) -> None:
    files, inside = gemma3(), {"tokenizer_config.json": b'{"chat_template": "old"}'}
    for name, more, template in (
        ("me/none", {}, None),
        ("me/inside", inside, "old"),
        ("me/beside", {"chat_template.jinja": b"new"}, "new"),
        ("me/both", inside | {"chat_template.jinja": b"new"}, "new"),
    ):
        hub.add(name, files | more)
        assert models.find(name, cache_dir=cache).chat_template == template, name


def weights_that_never_came_are_missed(hub: Hub, cache: str) -> None:
    """Without a network the small files are there, and the sentence says what is not."""
    hub.add("me/gemma", gemma3())
    models.find("me/gemma", cache_dir=cache)
    with no_network(hub):
        said = said_of(models.find, "me/gemma", cache_dir=cache)
    assert said.startswith("cannot fetch model.safetensors of me/gemma"), said
    assert "check the network and run again, or give a local folder instead" in said


def golden(name: str) -> dict[str, bytes]:
    root = GOLDEN / name
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "expected.npz"
    }


# The golden files that stand for each family, by the end of its example.
GOLDENS = {
    "average_l0_408": golden("gemma_scope/layer_20/width_40/average_l0_11"),
    "layer_9_width_16k_l0_medium": golden("gemma_scope_2"),
    "Llama3_1-8B-Base-L15R-8x": golden("llama_scope"),
    "800M-Slimpajama-0-OpenR1-Math-220k/L15R": golden("llama_scope_r1"),
    "2pow14_date-0107/resid_post_layer_12/trainer_2": golden("saebench_topk"),
    "__0108/resid_post_layer_12/trainer_0": golden("saebench_matryoshka"),
    "old_relu_google_gemma-2-2b_standard/resid_post_layer_12/trainer_0": golden(
        "saebench_standard"
    ),
    "saes-qwen2.5-7b-instruct/resid_post_layer_15/trainer_1": golden("saebench_batchtopk"),
    "layers.10": golden("sparsify_topk/layers.10"),
    "layer12.sae.pt": {"": golden("qwen_scope")["SAE-Res-Qwen3-1.7B-Base-W32K-L0_5/layer3.sae.pt"]},
    "SAE-l19.pth": {"": golden("goodfire")["Llama-3.1-8B-Instruct-SAE-l19.pth"]},
    "blocks.8.hook_resid_pre": golden("sae_lens_standard"),
}


def put(hub: Hub, spec: str, files: dict[str, bytes]) -> releases.Release:
    release = releases.find(spec)
    assert release, spec
    inside = {f"{release.folder}/{name}".rstrip("/"): data for name, data in files.items()}
    hub.add(release.repository, {**inside, f"{release.folder}/examples.bin": b"x" * 99})
    return release


def family_case(hub: Hub, cache: str, family: releases.Family) -> None:
    (files,) = (files for end, files in GOLDENS.items() if family.example.endswith(end))
    spec = family.example.replace("-L0_50/", "-L0_5/")  # ours has 40 latents
    release = put(hub, spec, files)
    found = saes.find(spec, cache_dir=cache)
    wanted = {name.rstrip("?") for name in release.files if name.rstrip("?") in files}
    expected = {f"{release.folder}/{name}".rstrip("/") for name in wanted}
    assert set(hub.fetched()) == expected, expected
    assert found.sae_id == f"{release.repository}/{release.folder}"
    first = np.asarray(found.load().W_enc)
    with no_network(hub):
        again, said = with_stderr(saes.find, spec, cache_dir=cache)
        assert again == found and again.fingerprint() == found.fingerprint() and not said
        np.testing.assert_array_equal(again.load().W_enc, first)
        other, _ = with_stderr(saes.find, f"{family.owner}/{spec}/", cache_dir=cache)
        assert other == found


def a_name_of_sae_lens(hub: Hub, cache: str) -> None:
    release = put(
        hub, "pythia-70m-deduped-res-sm/blocks.3.hook_resid_post", golden("sae_lens_gated")
    )
    assert release.repository == "ctigges/pythia-70m-deduped__res-sm_processed"
    found = saes.find(
        "pythia-70m-deduped-res-sm/blocks.3.hook_resid_post/cfg.json", cache_dir=cache
    )
    assert found.architecture == "gated" and found.sae_id == f"{release.repository}/3-res-sm"


GEMMA = "gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_408"


def repositories_that_do_not_exist(hub: Hub, cache: str) -> None:
    said = said_of(
        models.find, "google/gemma-2-3b", cache_dir=cache, kind=artifacts.NoSuchRepository
    )
    assert said.startswith(
        "--model=google/gemma-2-3b is no file or folder here, and cannot fetch "
    ), said
    assert "did you mean google/gemma-2-9b or" in said and "or it is private" in said, said
    said = said_of(saes.find, f"gogle/{GEMMA}", cache_dir=cache)
    assert said.startswith(f"--sae=gogle/{GEMMA} is no file or folder here, and cannot fetch ")
    assert "did you mean google/gemma-scope-9b-pt-res" in said, said
    said = said_of(saes.find, "some/body/layer_3", cache_dir=cache)
    assert said.endswith("with an account that may read it"), said


def files_that_do_not_exist(hub: Hub, cache: str) -> None:
    put(hub, GEMMA, GOLDENS["average_l0_408"])
    said = said_of(
        saes.find, GEMMA.replace("408", "407"), cache_dir=cache, kind=artifacts.NoSuchFile
    )
    assert "there is no such file at revision main; compare https://huggingface.co/google/" in said
    assert "; did you mean layer_20/width_16k/average_l0_408 or " in said, said


def gated_models(hub: Hub, cache: str) -> None:
    hub.add("google/gemma-2-2b", gemma2(), gated=True)
    for token in (None, "hf_poor"):
        os.environ.pop("HF_TOKEN", None)
        if token:
            os.environ["HF_TOKEN"] = token
        said = said_of(models.find, "google/gemma-2-2b", cache_dir=cache)
        assert "it is gated; accept its licence at https://huggingface.co/google/gemma-2-2b" in said
        assert "did you mean" not in said
    os.environ["HF_TOKEN"] = TOKEN
    hub.to_large.clear()
    models.find("google/gemma-2-2b", cache_dir=cache).transformer(None, jnp.float32)
    os.environ.pop("HF_TOKEN")
    assert hub.to_large and not any("authorization" in headers for headers in hub.to_large)
    with no_network(hub):
        models.find("google/gemma-2-2b", cache_dir=cache).transformer(None, jnp.float32)


def a_renamed_repository(hub: Hub, cache: str) -> None:
    put(hub, GEMMA, GOLDENS["average_l0_408"])
    hub.repositories["google/new"] = hub.repositories.pop("google/gemma-scope-9b-pt-res")
    hub.renamed["google/gemma-scope-9b-pt-res"] = "google/new"
    try:
        assert saes.find(GEMMA, cache_dir=cache).model == "gemma-2-9b"
    finally:
        hub.renamed.clear()


def trouble_that_passes(hub: Hub, cache: str) -> None:
    hub.add("me/gemma", gemma3())
    hub.faults = {
        "HEAD config.json": [status(429, Retry_After="1"), status(503)],
        "GET config.json": [status(429, Retry_After="1")],
        "GET model.safetensors": [cut, cut],
    }
    found = models.find("me/gemma", cache_dir=cache)
    found.transformer(None, jnp.float32)
    assert not any(hub.faults.values()), hub.faults


def trouble_that_stays(hub: Hub, cache: str) -> None:
    hub.add("me/gemma", gemma3())
    for code in (429, 500, 503):
        hub.faults = {"HEAD config.json": [status(code)] * 99}
        said = said_of(models.find, "me/gemma", cache_dir=cache)
        assert said.endswith(f"the Hub answered with HTTP {code}; run again later"), said
    hub.faults = {"HEAD model.safetensors": [status(500)] * 99}
    said = said_of(models.find, "me/gemma", cache_dir=cache)
    assert said.startswith("cannot fetch model.safetensors of me/gemma") and "HTTP 500" in said
    hub.faults = {}
    found = models.find("me/gemma", cache_dir=cache)
    hub.faults = {"GET model.safetensors": [status(500)] * 99}
    said = said_of(found.transformer, None, jnp.float32)
    assert said.endswith("the Hub answered with HTTP 500; run again later"), said
    hub.faults = {}
    found.transformer(None, jnp.float32)
    for trouble in (status(503), hang_up):  # is none of a warm cache
        hub.faults = {"HEAD config.json": [trouble] * 99}
        assert models.find("me/gemma", cache_dir=cache).fingerprint == found.fingerprint
    hub.faults = {}
    hub.add("me/other", gemma3())
    disabled = status(403, X_Error_Message="Access to this resource is disabled.")
    hub.faults = {"HEAD config.json": [disabled]}
    assert "has disabled it" in said_of(models.find, "me/other", cache_dir=cache)
    hub.faults = {"HEAD config.json": [hang_up] * 99}
    said = said_of(models.find, "me/other", cache_dir=cache)
    assert "the download failed (RemoteProtocolError" in said, said
    hub.faults = {}


def no_network_and_nothing_in_the_cache(hub: Hub, cache: str) -> None:
    with no_network(hub):
        for call, spec in ((models.find, "google/gemma-2-2b"), (saes.find, GEMMA)):
            said = said_of(call, spec, cache_dir=cache)
            assert "and the download failed (" in said and "check the network" in said, said


DAMAGES = {
    "flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


def damaged_files_are_fetched_again(hub: Hub, cache: str) -> None:
    hub.add("me/gemma", gemma3())
    found = models.find("me/gemma", cache_dir=cache)
    whole = residuals(found.transformer(None, jnp.float32))
    put(hub, GEMMA, GOLDENS["average_l0_408"])
    saes.find(GEMMA, cache_dir=cache)
    paths = [found.path / name for name in ("config.json", "tokenizer.json", "model.safetensors")]
    paths += Path(cache).rglob("snapshots/**/params.npz")
    assert len(paths) == 4
    for path in paths:
        right = path.read_bytes()
        for damage in DAMAGES.values():
            blob = path.resolve()
            blob.unlink()
            blob.write_bytes(damage(right))
            if damage is DAMAGES["flipped"]:
                with no_network(hub):
                    said = said_of(use, found.name, cache)
                assert f"{path} is damaged ({path.name}: expected sha" in said, said
                assert said.endswith("run again where the Hugging Face Hub can be reached"), said
            _, said = with_stderr(use, found.name, cache)
            assert said.count("\n") == 1 and said.startswith(f"{path} is damaged ("), said
            assert path.read_bytes() == right
    assert np.array_equal(residuals(use(found.name, cache)), whole)


def use(name: str, cache: str):
    saes.find(GEMMA, cache_dir=cache).load()
    return models.find(f"me/{name}", cache_dir=cache).transformer(None, jnp.float32)


def a_lost_blob_is_fetched_again(hub: Hub, cache: str) -> None:
    put(hub, GEMMA, GOLDENS["average_l0_408"])
    found = saes.find(GEMMA, cache_dir=cache)
    found.path.resolve().unlink()
    assert saes.find(GEMMA, cache_dir=cache).load().d_sae == found.d_sae


def a_lie_of_the_hub_is_said(hub: Hub, cache: str) -> None:
    put(hub, GEMMA, GOLDENS["average_l0_408"])
    folder = GEMMA.partition("/")[2]
    hub.faults = {f"GET {folder}/params.npz": [other_bytes] * 2}
    said = said_of(saes.find, GEMMA, cache_dir=cache)
    assert "delivered a layer_20/" in said and "is not the file it announced" in said, said
    saes.find(GEMMA, cache_dir=cache)


def a_run_that_cannot_be_fetches_no_weights(hub: Hub, cache: str) -> None:
    """And no SAE where the model alone says that the site is wrong."""
    hub.add("me/gemma", gemma3())
    put(hub, GEMMA, GOLDENS["average_l0_408"])
    sae = GEMMA.partition("/")[2] + "/params.npz"
    for site, said, weights in (
        ("3", "--site=resid_post.3 was asked for, but gemma has layers 0 to 2", []),
        ("1", f"google/{GEMMA} reads resid_post.20, the run is at resid_post.1", [sae]),
        (
            None,
            "--site=resid_post.20 was asked for, but gemma has layers 0 to 2",
            [],
        ),  # it is in the cache
    ):
        config = sweep.Config("me/gemma", site, (GEMMA,), ("87_glue_cola",), methods=("sae_k16",))
        assert said in said_of(sweep.resolve, config, cache, kind=ValueError)
        fetched = hub.fetched()
        assert [name for name in fetched if name.endswith((".npz", ".safetensors"))] == weights


def repositories_that_cannot_be_used(hub: Hub, cache: str) -> None:
    index = "model.safetensors.index.json"
    whole = {name: data for name, data in gemma3().items() if name != "model.safetensors"}
    some = json.dumps({"weight_map": {"a": "gone.safetensors"}}).encode()
    for number, (files, words) in enumerate(
        (
            (whole, "holds neither model.safetensors nor model.safetensors.index.json"),
            ({"config.json": b"{}"}, "holds no tokenizer: expected tokenizer.json or"),
            ({"tokenizer.json": b"{}"}, "no such file at revision main"),
            (whole | {index: b"[1]"}, "index.json is damaged (Expected `object`, got `array`)"),
            (
                whole | {index: b'{"x": ' + b"[" * 100_000},
                "index.json is damaged (it is nested too deeply",
            ),
            (whole | {index: b'{"weight_map": {"a": 3}}'}, "Expected `str`, got `int`"),
            (whole | {index: b'{"weight_map": {"a": "../../up"}}'}, "outside its own folder"),
            (whole | {index: some}, "holds no gone.safetensors, which its model.safetensors.index"),
        )
    ):
        hub.add(f"me/model-{number}", files)
        kind = (artifacts.ArtifactError, ValueError)
        said = said_of(models.find, f"me/model-{number}", cache_dir=cache, kind=kind)
        assert words in said, said


CASES = {
    **{f"the model {name}": lambda h, c, n=name: model_case(h, c, n) for name in LAYOUTS},
    **{
        f"the family of {family.example}": lambda h, c, f=family: family_case(h, c, f)
        for family in releases.FAMILIES
    },
    **{
        case.__name__.replace("_", " "): case
        for case in (
            the_fingerprint_follows_config_weights_and_tokenizer_only,
            a_chat_template_comes_from_wherever_it_is,
            weights_that_never_came_are_missed,
            a_name_of_sae_lens,
            repositories_that_do_not_exist,
            files_that_do_not_exist,
            gated_models,
            a_renamed_repository,
            trouble_that_passes,
            trouble_that_stays,
            no_network_and_nothing_in_the_cache,
            damaged_files_are_fetched_again,
            a_lost_blob_is_fetched_again,
            a_lie_of_the_hub_is_said,
            a_run_that_cannot_be_fetches_no_weights,
            repositories_that_cannot_be_used,
        )
    },
}  # fmt: skip


def run(hub: Hub, folder: str) -> dict[str, str | None]:
    """Returns what went wrong in each case."""
    time.sleep = lambda seconds: None  # the client waits between its attempts
    jax.config.update("jax_default_matmul_precision", "highest")
    found: dict[str, str | None] = {}
    for number, (name, case) in enumerate(CASES.items()):
        for left in (hub.repositories, hub.faults, hub.asked, hub.to_large):
            left.clear()
        cache = os.path.join(folder, str(number))
        os.makedirs(cache)
        try:
            case(hub, cache)
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    return found
