"""Every format and architecture: golden files, and their makers' formulas on fresh ones."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from probejax import saes
from probejax.saes import formats
from probejax.sites import parse
from tests.golden.saes import make
from tests.reference import sae_formats

GOLDEN = Path(make.__file__).parent


def place(name, tmp_path):
    """Where the SAE is inside its golden folder: what `--sae` is given."""
    path, _ = sae_formats.CASES[name][1](tmp_path)
    return GOLDEN / name / path.relative_to(tmp_path)


def spec(name, path):
    variant = sae_formats.CASES[name][0]
    return f"{path}@{variant}" if variant else str(path)


def check(sae, x, latents, decoded):
    """The same support, and values to 1e-5 of the largest."""
    ours = np.asarray(saes.encode(sae, x))
    np.testing.assert_array_equal(ours != 0, latents != 0)
    np.testing.assert_allclose(ours, latents, rtol=1e-5, atol=1e-5 * np.abs(latents).max())
    theirs = np.asarray(saes.reconstruct(sae, x))
    np.testing.assert_allclose(theirs, decoded, rtol=1e-5, atol=1e-5 * np.abs(decoded).max())


@pytest.mark.parametrize("name", sae_formats.CASES)
def test_golden_files_give_the_golden_latents(name, tmp_path):
    with np.load(GOLDEN / name / "expected.npz") as expected:
        x, latents, decoded = (expected[key] for key in ("x", "latents", "decoded"))
    assert 0.02 < (latents != 0).mean() < 0.9  # the comparison has teeth
    check(saes.load(spec(name, place(name, tmp_path))), x, latents, decoded)


@pytest.mark.parametrize("name", sae_formats.CASES)
def test_the_golden_files_are_what_their_script_makes(name, tmp_path):
    make.make(name, tmp_path / name)
    with (
        np.load(tmp_path / name / "expected.npz") as new,
        np.load(GOLDEN / name / "expected.npz") as old,
    ):
        assert set(new.files) == set(old.files) == {"x", "latents", "decoded"}
        for key in new.files:
            np.testing.assert_allclose(new[key], old[key], rtol=1e-5, atol=1e-5)
    names = [
        sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        for root in (tmp_path / name, GOLDEN / name)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("name", sae_formats.CASES)
def test_streaming_from_the_file_is_the_same_as_loading(name, tmp_path):
    found = saes.find(spec(name, place(name, tmp_path)))
    stored, loaded = found.open(), found.load()
    assert isinstance(stored, saes.StoredSAE) and isinstance(loaded, saes.SAE)
    assert (found.d_model, found.d_sae) == (sae_formats.D, sae_formats.M) == loaded.W_enc.shape
    x = jnp.asarray(np.random.default_rng(1).normal(size=(30, sae_formats.D)), jnp.float32)
    columns = np.array([33, 0, 7, 7, 39])
    dense = np.asarray(saes.encode(loaded, x))
    for block in (9, 40, 4096):
        for sae in (stored, loaded):
            some = saes.encode_columns(sae, x, columns, block=block)
            np.testing.assert_allclose(some, dense[:, columns], rtol=1e-6, atol=1e-6)


def test_what_is_known_before_loading(tmp_path):
    known = {}
    for name in sae_formats.CASES:
        (tmp_path / name).mkdir()
        found = saes.find(str(place(name, tmp_path / name)))
        known[name] = (found.format, found.model, found.layer, found.kind, found.l0)
    assert known["gemma_scope"] == ("gemma_scope", None, 20, None, 11)
    assert known["gemma_scope_2"] == ("gemma_scope_2", "gemma-3-270m", 9, "resid_post", 60)
    assert known["llama_scope"] == ("llama_scope", None, 15, "resid_post", 50)
    assert known["llama_scope_r1"] == ("openmoss", None, 11, "resid_post", None)
    assert known["openmoss_topk"] == ("openmoss", None, 12, "resid_post", 5)
    assert known["sae_lens_old"] == ("sae_lens", "gpt2", 7, "resid_post", None)
    assert known["sae_lens_topk"] == ("sae_lens", "gemma-2-2b", 12, "resid_post", 5)
    assert known["saebench_topk"] == ("dictionary_learning", "gemma-2-2b", 12, "resid_post", 5)
    assert known["sparsify_topk"] == ("sparsify", None, 10, "resid_post", 5)
    assert known["qwen_scope"] == ("qwen_scope", "Qwen3-1.7B-Base", 3, "resid_post", 5)
    assert known["goodfire"] == ("goodfire", "Llama-3.1-8B-Instruct", 19, "resid_post", None)
    assert {each[0] for each in known.values()} == set(formats.FORMATS)


@pytest.mark.parametrize(
    "hook, expected",
    [
        ("blocks.8.hook_resid_post", (8, "resid_post")),
        ("blocks.0.hook_resid_pre", (0, "resid_pre")),
        ("blocks.3.attn.hook_z", (3, "attn_z")),
        ("blocks.3.hook_mlp_out", (3, "mlp_out")),
        ("model.language_model.layers.17.output", (17, "resid_post")),
        ("language_model.model.layers.17.output", (17, "resid_post")),
        ("model.language_model.model.layers.3.output", (3, "resid_post")),
        ("language_model.model.layers.5.self_attn.o_proj.input", (5, "attn_z")),
        ("language_model.model.layers.5.post_feedforward_layernorm.output", (5, "mlp_out")),
        ("vision_tower.layers.3.output", (None, "vision_tower.layers.3.output")),
        ("model.layers.5.self_attn.o_proj.input", (5, "attn_z")),
        ("layers.10", (10, "resid_post")),
        ("layer_10", (10, "resid_post")),
        ("layers.10.mlp", (10, "mlp_out")),
        ("layers_10", (10, "resid_post")),
        ("model.layers.12", (12, "resid_post")),
        ("model.layers.12.mlp", (12, "mlp_out")),
        ("model.layers.12.self_attn", (12, "attn_out")),
        ("transformer.h.8", (8, "resid_post")),
        ("h.8.mlp", (8, "mlp_out")),
        ("gpt_neox.layers.3", (3, "resid_post")),
        ("gpt_neox.layers.3.attention", (3, "attn_out")),
        ("gpt_neox.layers.3.mlp.dense_h_to_4h", (None, "gpt_neox.layers.3.mlp.dense_h_to_4h")),
        ("model.layers.5.input_layernorm", (None, "model.layers.5.input_layernorm")),
        ("blocks.8.hook_resid_mid", (None, "blocks.8.hook_resid_mid")),
        ("blocks.3.ln2.hook_normalized", (None, "blocks.3.ln2.hook_normalized")),
        ("hook_embed", (0, "resid_pre")),
        ("resid_post_layer_12", (12, "resid_post")),
        (None, (None, None)),
    ],
)
def test_hooks_are_layers_and_kinds(hook, expected):
    from probejax.saes.formats.format import place as read

    assert read(hook) == expected


def test_what_gpt_2_embeds_has_no_positions_yet():
    """TransformerLens' hook_embed; what enters block 0 has them."""
    from probejax.saes.formats.format import place as read

    assert read("hook_embed", "gpt2-small") == (None, "hook_embed")
    assert read("blocks.0.hook_resid_pre", "gpt2-small") == (0, "resid_pre")
    assert parse("embed").hook == "blocks.0.hook_resid_pre"


@pytest.mark.parametrize(
    "model, follows",
    [
        ("google/gemma-2-2b", True),
        ("gemma-3-270m", True),
        ("EleutherAI/sae-gemma-2-9b-32x/layers.10.mlp/sae.safetensors", True),
        ("google/gemma-2b", False),  # the first Gemma
        ("google/gemma-7b-it", False),
        ("EleutherAI/sae-llama-3-8b-32x/layers.10.mlp/sae.safetensors", False),
        ("meta-llama/Llama-3.1-8B", False),
        (None, False),
    ],
)
def test_the_output_of_a_part_is_added_unless_a_norm_follows(model, follows):
    from probejax.saes.formats.format import place as read

    for hook, kind in (("layers.10.mlp", "mlp_out"), ("model.layers.10.self_attn", "attn_out")):
        assert read(hook, model) == ((None, hook) if follows else (10, kind))
    assert read("layers.10", model) == (10, "resid_post")


def test_gemma_scope_2_of_a_model_that_sees_pictures(tmp_path):
    hook = "language_model.model.layers.9.output"
    change = {"hf_hook_point_in": hook, "hf_hook_point_out": hook, "model_name": "gemma-v3-4b-it"}
    path = edited("gemma_scope_2", tmp_path, "config.json", lambda found: found.update(change))
    found = saes.find(path)
    assert (found.model, found.layer, found.kind) == ("gemma-3-4b-it", 9, "resid_post")
    assert found.check("gemma-3-4b-it", found.site, 12) is None


def edited(name, tmp_path, file, change):
    """A copy of a golden SAE with changed settings."""
    shutil.copytree(GOLDEN / name, tmp_path / "copy")
    path = tmp_path / "copy" / file
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))
    return str(path.parent)


@pytest.mark.parametrize(
    "name, file, change, message",
    [
        ("sparsify_topk", "layers.10/cfg.json", {"k": 41}, r"keeps k=41 latents .* but holds 40"),
        ("sparsify_topk", "layers.10/cfg.json", {"k": 0}, r"keeps k=0 latents"),
        ("sparsify_groupmax", "layers.10/cfg.json", {"k": 7}, r"40 latents, which k=7 groups"),
        ("sparsify_topk", "layers.10/cfg.json", {"transcode": True}, "is a transcoder: it reads"),
        ("sparsify_topk", "layers.10/cfg.json", {"signed": True}, "signed=true"),
        ("sparsify_topk", "layers.10/cfg.json", {"activation": "x"}, "activation=x; expected topk"),
        ("sae_lens_topk", "cfg.json", {"architecture": "temporal"}, "=temporal; expected standard"),
        ("sae_lens_topk", "cfg.json", {"architecture": "skip_transcoder"}, "is a transcoder"),
        ("sae_lens_topk", "cfg.json", {"normalize_activations": "covariance_whitening"}, "says n"),
        ("sae_lens_expected_average", "cfg.json", {"norm_scaling_factor": None}, "by what factor"),
        ("gemma_scope_2", "config.json", {"type": "transcoder"}, "is a transcoder"),
        ("gemma_scope_2", "config.json", {"architecture": "topk"}, "expected jump_relu"),
        ("llama_scope", "hyperparams.json", {"hook_point_out": "x"}, "is a transcoder"),
        ("llama_scope", "hyperparams.json", {"act_fn": "gelu"}, "act_fn=gelu"),
        ("openmoss_relu", "config.json", {"act_fn": "batchtopk"}, "act_fn=batchtopk; expected"),
        ("openmoss_relu", "config.json", {"hook_point_in": "x", "hook_point_out": "x"}, "norm.x;"),
        ("saebench_topk", "config.json", {"trainer": {"dict_class": "X"}}, "dict_class=X; exp"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_honoured_are_refused(name, file, change, message, tmp_path):
    path = edited(name, tmp_path, file, lambda settings: settings.update(change))
    with pytest.raises(ValueError, match=message):
        saes.load(path)


def test_an_unknown_variant_names_those_that_exist():
    with pytest.raises(
        ValueError, match=r"llama_scope, which cannot be read as @new; there is @re"
    ):
        saes.find(f"{GOLDEN / 'llama_scope'}@new")


def test_a_folded_top_k_is_refused():
    with pytest.raises(ValueError, match="is a topk, whose decoder stays as it is"):
        saes.load(f"{GOLDEN / 'sae_lens_topk'}@fold_decoder_norm")


def test_a_variant_has_a_name_and_a_fingerprint_of_its_own():
    plain = saes.find(str(GOLDEN / "llama_scope"))
    other = saes.find(f"{GOLDEN / 'llama_scope'}@saelens")
    assert plain.sae_id == "golden/saes/llama_scope" and other.sae_id == f"{plain.sae_id}@saelens"
    assert plain.fingerprint() != other.fingerprint()


def test_settings_change_the_fingerprint(tmp_path):
    path = edited("sae_lens_topk", tmp_path, "cfg.json", lambda settings: settings.update(k=6))
    before, after = saes.find(str(GOLDEN / "sae_lens_topk")), saes.find(path)
    assert before.fingerprint() != after.fingerprint()
    assert (saes.load(path).keep.k, before.load().keep.k) == (6, 5)


def test_an_encoder_without_a_decoder_encodes_but_does_not_decode(tmp_path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(GOLDEN / "sparsify_topk", tmp_path / "copy")
    path = tmp_path / "copy" / "layers.10" / "sae.safetensors"
    tensors = load_file(path)
    del tensors["W_dec"]
    save_file(tensors, path)
    with np.load(GOLDEN / "sparsify_topk" / "expected.npz") as expected:
        x, latents = expected["x"], expected["latents"]
    sae = saes.load(str(path.parent))
    np.testing.assert_allclose(saes.encode(sae, x), latents, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="holds no decoder, so it can encode but not decode"):
        saes.decode(sae, latents)
    found = saes.quality(sae, x)
    assert found.l0 == (latents != 0).sum(axis=1).mean() and np.isnan(found.explained)


def test_an_undertrained_threshold_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "saebench_batchtopk", tmp_path / "copy")
    state = torch.load(tmp_path / "copy" / "ae.pt")
    torch.save(state | {"threshold": torch.tensor(-1.0)}, tmp_path / "copy" / "ae.pt")
    with pytest.raises(ValueError, match="has the threshold -1, so its training never set it"):
        saes.load(str(tmp_path / "copy"))


def test_a_safetensors_file_that_is_cut_short_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "gemma_scope_2", tmp_path / "copy")
    path = tmp_path / "copy" / "params.safetensors"
    content = path.read_bytes()
    for size in (0, 7, 200, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"params\.safetensors is damaged \("):
            saes.load(str(path.parent))


def test_missing_tensors_are_named(tmp_path):
    shutil.copytree(GOLDEN / "saebench_topk", tmp_path / "copy")
    state = torch.load(tmp_path / "copy" / "ae.pt")
    del state["encoder.bias"]
    torch.save(state, tmp_path / "copy" / "ae.pt")
    with pytest.raises(ValueError, match=r"has no encoder\.bias; expected encoder\.weight, decode"):
        saes.load(str(tmp_path / "copy"))
