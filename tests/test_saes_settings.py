"""What an SAE's settings and tensors ask for: applied, without effect, or refused by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from probejax import saes
from probejax.saes.formats import settings
from tests.golden.saes import make

GOLDEN = Path(make.__file__).parent
CONFIGS = {
    "sae_lens_old": "cfg.json",
    "sae_lens_standard": "cfg.json",
    "sae_lens_jumprelu": "cfg.json",
    "sae_lens_gated": "cfg.json",
    "sae_lens_topk": "cfg.json",
    "saebench_topk": "config.json",
    "saebench_standard": "config.json",
    "sparsify_topk": "layers.10/cfg.json",
    "openmoss_topk": "config.json",
    "llama_scope_r1": "config.json",
    "llama_scope": "hyperparams.json",
    "gemma_scope_2": "config.json",
}


@pytest.fixture
def edit(tmp_path):
    """Copies a golden SAE and changes fields of its settings; a dot leads into a table."""

    def edit(name, fields):
        shutil.copytree(GOLDEN / name, tmp_path / name)
        path = tmp_path / name / CONFIGS[name]
        found = json.loads(path.read_text())
        for field, value in fields.items():
            *tables, field = field.split(".")
            table = found
            for each in tables:
                table = table.setdefault(each, {})
            table[field] = value
        path.write_text(json.dumps(found))
        return path

    return edit


def latents(path):
    x = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    sae = saes.load(str(path))
    return np.asarray(saes.encode(sae, x)), np.asarray(saes.reconstruct(sae, x))


def refused(path):
    """The sentence with which an SAE is refused, the same when it is looked at and opened."""
    with pytest.raises(ValueError) as caught:
        saes.load(str(path.parent))
    message = str(caught.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message
    return message


REFUSED = [
    *(
        (name, field, value)
        for name in ("sae_lens_old", "sae_lens_standard", "sae_lens_jumprelu", "sae_lens_gated")
        for field, value in (
            *(("activation_fn_str", each) for each in ("tanh-relu", "gelu", "identity", "")),
            ("activation_fn", "tanh-relu"),
            ("normalize_activations", "covariance_whitening"),
            ("normalize_activations", "constant_scalar_rescale"),
            ("normalize_activations", "rms"),
            ("reshape_activations", "flatten"),
            ("hook_head_index", 0),
            ("hook_point_head_index", 3),
            ("activation_fn_kwargs", {"k": 4, "postact_fn": "identity"}),
            *(("architecture", each) for each in ("temporal", "matching_pursuit", "crosscoder")),
            ("use_error_term", True),
            ("activation_normalization_factor", 2.0),
            ("inputTransform", "rotation"),
            ("metadata.encoder_layer_norm", True),
        )
    ),
    ("sae_lens_jumprelu", "activation_fn", "topk"),
    ("sae_lens_gated", "activation_fn_str", "topk"),
    ("sae_lens_topk", "k", 2.5),
    ("sae_lens_topk", "k", None),
    ("saebench_topk", "trainer.dict_class", "IdentityDict"),
    ("saebench_topk", "trainer.dict_class", None),
    ("saebench_topk", "buffer.io", "in"),
    ("saebench_topk", "buffer.io", "in_and_out"),
    ("saebench_topk", "trainer.activation", "gelu"),
    ("saebench_standard", "trainer.normalize_inputs", True),
    ("sparsify_topk", "activation", "relu"),
    ("sparsify_topk", "signed", True),
    ("sparsify_topk", "normalize_io", True),
    ("gemma_scope_2", "architecture", "topk"),
    ("gemma_scope_2", "input_scale", 2.0),
    *(
        (name, field, value)
        for name in ("openmoss_topk", "llama_scope_r1", "llama_scope")
        for field, value in (
            *(("act_fn", each) for each in ("gelu", "batchtopk", "layertopk", "batchlayertopk")),
            *(("norm_activation", each) for each in ("token-wise", "batch-wise", "none")),
            ("use_glu_encoder", True),
            ("use_decoder_bias", False),
            ("rescale_input", 0.5),
        )
    ),
    *(("openmoss_topk", "sae_type", each) for each in ("crosscoder", "clt", "lorsa", "molt")),
    ("openmoss_topk", "apply_decoder_bias_to_pre_encoder", True),
    ("llama_scope", "act_fn", "relu"),
    ("llama_scope", "act_fn", "topk"),
    ("llama_scope", "dataset_average_activation_norm", None),
]


@pytest.mark.parametrize(("name", "field", "value"), REFUSED)
def test_what_is_not_implemented_is_refused_by_name(edit, name, field, value):
    said = refused(edit(name, {field: value}))
    assert f"{field.rpartition('.')[2]}={settings.shown(value)}" in said


def test_the_decoders_bias_of_llama_scope_is_not_dropped_by_the_other_readings(edit):
    path = edit("llama_scope", {"apply_decoder_bias_to_pre_encoder": True})
    saes.load(str(path.parent))
    with pytest.raises(ValueError, match="apply_decoder_bias_to_pre_encoder=true; expected false"):
        saes.load(f"{path.parent}@saelens")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sparsify_topk", {"transcode": True}),
        ("sparsify_topk", {"skip_connection": True}),
        ("gemma_scope_2", {"type": "crosscoder"}),
        ("gemma_scope_2", {"affine_connection": True}),
        ("gemma_scope_2", {"type": None, "hf_hook_point_out": "model.layers.10.output"}),
        ("sae_lens_standard", {"architecture": "jumprelu_skip_transcoder"}),
        ("openmoss_topk", {"hook_point_out": "blocks.13.hook_resid_post"}),
        ("llama_scope", {"hook_point_out": "blocks.16.hook_resid_post"}),
    ],
)
def test_a_transcoder_is_called_one(edit, name, fields):
    with pytest.raises(ValueError, match="is a transcoder: it reads"):
        saes.load(str(edit(name, fields).parent))


# Everything that the makers' training runs write and that sounds like a part of the encoder.
IDLE = {
    "sae_lens_old": {
        "noise_scale": 0.5, "lp_norm": 1.0, "mse_loss_normalization": "dense_batch",
        "normalize_sae_decoder": True, "scale_sparsity_penalty_by_decoder_norm": True,
        "decoder_orthogonal_init": True, "decoder_heuristic_init": True,
        "decoder_heuristic_init_norm": 0.1, "init_encoder_as_decoder_transpose": True,
        "b_dec_init_method": "geometric_median", "jumprelu_init_threshold": 0.001,
        "jumprelu_bandwidth": 0.001, "dead_feature_threshold": 1e-6, "dead_feature_window": 5000,
        "feature_sampling_window": 1000, "feature_reinit_scale": 0.2, "expansion_factor": 32,
        "act_store_device": "cpu", "use_cached_activations": True,
        "cached_activations_path": "activations/x", "log_activations_store_to_wandb": True,
        "activation_fn_str": "relu", "activation_fn_kwargs": {}, "hook_point_layer": 8,
        "model_from_pretrained_kwargs": {"center_writing_weights": False}, "tokens_per_buffer": 9,
        "hook_point_head_index": None, "lr": 4e-4, "run_name": "24576-L1-8e-05", "dtype": "float16",
        "prepend_bos": True, "dataset_path": "x", "context_size": 128, "seqpos_slice": [None],
        "sae_lens_version": "3.22.2", "sae_lens_training_version": None, "l1_coefficient": 8e-5,
    },
    "sae_lens_topk": {
        "decoder_init_norm": 0.1, "use_sparse_activations": True, "aux_loss_coefficient": 1.0,
        "topk_threshold_lr": 0.01, "n_batches_for_norm_estimate": 1000, "dtype": "torch.bfloat16",
        "activations_mixing_fraction": 0.5, "metadata.training_architecture": "topk",
        "metadata.training_architecture_details": {"k": 9}, "pre_act_loss_coefficient": 3e-6,
        "metadata.hf_hook_name": "model.layers.12", "jumprelu_tanh_scale": 4.0,
    },
    "saebench_topk": {
        "trainer.auxk_alpha": 0.03, "trainer.threshold_beta": 0.999, "trainer.top_k_aux": 1152,
        "trainer.threshold_start_step": 1000, "trainer.group_fractions": [0.5, 0.5],
        "trainer.group_weights": [0.5, 0.5], "trainer.group_sizes": [20, 20],
        "trainer.bandwidth": 0.001, "trainer.sparsity_penalty": 1.0, "trainer.resample_steps": None,
        "buffer.io": "out", "buffer.device": "cuda:0",
    },
    "sparsify_topk": {"multi_topk": True, "normalize_decoder": False, "expansion_factor": 8},
    "openmoss_topk": {
        "expansion_factor": 8, "force_unit_decoder_norm": True, "jumprelu_threshold_window": 2.0,
        "jump_relu_threshold": 0.3, "sparsity_threshold_for_csr": 0.05, "use_glu_encoder": False,
        "sae_type": "sae", "use_triton_kernel": False, "clip_grad_norm": 0.1,
    },
    "llama_scope": {
        "decoder_exactly_fixed_norm": False, "init_decoder_norm": 0.5, "init_encoder_norm": 1.0,
        "bias_init_method": "all_zero", "lp": 1, "k_warmup_steps": 78125, "tp_size": 1,
        "use_batch_norm_mse": True, "use_ghost_grads": False, "expansion_factor": 8,
        "init_encoder_with_decoder_transpose": True, "l1_coefficient": 8e-5,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for name in CONFIGS
        for field in ("added_scale", "metadata.added_scale", "trainer.added_scale", "a.b.rescale")
    ]
    + [("sae_lens_topk", "metadata.hook_head_index"), ("saebench_topk", "trainer.normalize_inputs")]
    + [("saebench_topk", "buffer.io"), ("sae_lens_old", "hook_point_head_index")],
)
def test_a_field_that_is_null_is_absent_however_deep_it_stands(edit, name, field):
    path = edit(name, {field: None})
    plain = GOLDEN / name / Path(CONFIGS[name]).parent
    for ours, theirs in zip(latents(path.parent), latents(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", IDLE)
def test_what_steered_the_training_changes_nothing(edit, name):
    path = edit(name, IDLE[name])
    plain = GOLDEN / name / Path(CONFIGS[name]).parent
    for ours, theirs in zip(latents(path.parent), latents(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("sae_lens_standard", {"d_in": 13}, "d_in=13, but the encoder in"),
        ("sae_lens_standard", {"d_sae": 80}, "d_sae=80, but the encoder in"),
        ("saebench_topk", {"trainer.dict_size": 41}, "dict_size=41"),
        ("sparsify_topk", {"num_latents": 41}, "num_latents=41"),
        ("openmoss_topk", {"d_model": 13}, "d_model=13"),
        ("llama_scope", {"d_sae": 41}, "d_sae=41"),
        ("gemma_scope_2", {"width": 41}, "width=41"),
    ],
)
def test_settings_of_another_sae_are_refused(edit, name, fields, said):
    assert said in refused(edit(name, fields))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "value", ["12", -3, 0, 1.5, [1], {"a": 1}, True, 1 << 70, "x" * 100_000],
    ids=lambda v: str(v)[:9],
)  # fmt: skip
def test_a_field_of_another_type_is_named(edit, name, value):
    width = {"saebench": "trainer.activation_dim", "sparsify": "d_in", "gemma": "width"}
    width |= {"openmoss": "d_model", "llama": "d_model", "sae": "d_in"}
    path = edit(name, {width[name.partition("_")[0]]: value})
    said = refused(path)
    assert said.startswith(f"{path} is damaged (") or f"={value}" in said
    assert len(said) < 800


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "text", ["", "[1]", '"x"', "{", '{"k": 1e400}', '{"a": ' * 50_000, "\x00", '{"k": NaN}']
)
def test_damaged_settings_are_named(edit, name, text):
    path = edit(name, {})
    path.write_text(text)
    assert refused(path).startswith(f"{path} is damaged (")


# ---- tensors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "extra", "size"),
    [
        ("sae_lens_standard", "threshold", 40),
        ("sae_lens_standard", "W_skip", 12),
        ("sae_lens_topk", "b_pre", 12),
        ("sparsify_topk", "W_gate", 40),
        ("openmoss_topk", "log_jumprelu_threshold", 40),
        ("openmoss_topk", "W_E_glu", 40),
        ("llama_scope", "encoder_glu.weight", 40),
        ("gemma_scope_2", "input_mean", 12),
        ("saebench_topk", "b_pre", 12),
        ("saebench_standard", "threshold", 40),
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(edit, name, extra, size):
    folder = edit(name, {}).parent
    (path,) = [path for path in folder.rglob("*") if path.suffix in (".pt", ".safetensors")]
    if path.suffix == ".pt":
        torch.save(torch.load(path) | {extra: torch.ones(size)}, path)
    else:
        save_file(load_file(path) | {extra: np.ones(size, np.float32)}, path)
    with pytest.raises(ValueError, match=f"holds {extra}, which probejax does not know"):
        saes.load(str(folder))


@pytest.mark.parametrize("name", ["finetuning_scaling_factor", "scaling_factor"])
def test_a_scaling_factor_of_the_decoder_is_applied_under_both_names(edit, name):
    path = edit("sae_lens_standard", {"finetuning_scaling_factor": True})
    with pytest.raises(ValueError, match="has no finetuning_scaling_factor"):
        saes.load(str(path.parent))
    before, weights = saes.load(str(GOLDEN / "sae_lens_standard")), path.parent
    weights = weights / "sae_weights.safetensors"
    factor = np.linspace(0.5, 2, 40, dtype=np.float32)
    save_file(load_file(weights) | {name: factor}, weights)
    after = saes.load(str(path.parent))
    np.testing.assert_array_equal(after.W_enc, before.W_enc)
    np.testing.assert_allclose(after.W_dec, factor[:, None] * before.W_dec, rtol=1e-6)


@pytest.mark.parametrize("name", ["hook_point", "hook_name"])
def test_old_hooks_name_their_layer_apart(edit, name):
    path = edit("sae_lens_old", {name: "blocks.{layer}.hook_resid_post", "hook_point_layer": 5})
    found = saes.find(str(path.parent))
    assert (found.layer, found.kind) == (5, "resid_post")


# ---- how the model was loaded that an SAE read ---------------------------------------------------

CENTRING = {"center_writing_weights": True}
KWARGS = "metadata.model_from_pretrained_kwargs"
MODEL, HOOK = "metadata.model_name", "metadata.hook_name"


@pytest.mark.parametrize(
    ("fields", "centred"),
    [
        ({}, False),
        ({KWARGS: {"fold_ln": True, "center_unembed": True, "dtype": "float16"}}, False),
        ({KWARGS: {"center_writing_weights": False}}, False),
        ({KWARGS: CENTRING}, False),  # of Gemma, whose norms take no mean off
        ({KWARGS: CENTRING, MODEL: "meta-llama/Meta-Llama-3.1-8B-Instruct"}, False),
        ({KWARGS: CENTRING, MODEL: "gpt2-small"}, True),
        ({KWARGS: CENTRING, MODEL: "EleutherAI/pythia-70m-deduped"}, True),
        ({KWARGS: CENTRING, MODEL: "gpt2", HOOK: "blocks.3.hook_mlp_out"}, True),
        ({KWARGS: CENTRING, MODEL: "gpt2", HOOK: "blocks.3.attn.hook_z"}, False),
    ],
)
def test_writing_weights_that_were_centred_centre_what_is_read(edit, fields, centred):
    folder = edit("sae_lens_jumprelu", fields).parent
    found, plain = saes.find(str(folder)), saes.find(str(GOLDEN / "sae_lens_jumprelu"))
    assert (found.centred, found.load().normalise) == (centred, "zero_mean" if centred else "none")
    x = np.random.default_rng(0).normal(2.0, size=(9, 12)).astype(np.float32)
    read = x - x.mean(axis=1, keepdims=True) if centred else x
    np.testing.assert_allclose(
        saes.encode(found.load(), x), saes.encode(plain.load(), read), atol=1e-5
    )


@pytest.mark.parametrize(
    "repository",
    [
        "jbloom/GPT2-Small-SAEs-Reformatted",
        "models--jbloom--GPT2-Small-SAEs-Reformatted/snapshots/0",
        "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8",
        "tommmcgrath/gpt2-small-mlp-out-saes",
    ],
)
def test_repositories_that_do_not_say_so_are_known_to_read_what_is_centred(tmp_path, repository):
    plain = saes.find(str(GOLDEN / "sae_lens_old"))
    folder = tmp_path / repository / "blocks.8.hook_resid_pre"
    shutil.copytree(GOLDEN / "sae_lens_old", folder)
    found = saes.find(str(folder))
    assert not plain.centred and found.centred and found.load().normalise == "zero_mean"
    assert found.fingerprint() != plain.fingerprint()
    x = np.random.default_rng(0).normal(2.0, size=(9, 12)).astype(np.float32)
    centred = saes.encode(plain.load(), x - x.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(saes.encode(found.load(), x), centred, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({KWARGS: {"center_writing_weights": "yes"}}, "center_writing_weights=yes; expected true"),
        (
            {KWARGS: {"fold_value_biases": True}, HOOK: "blocks.3.attn.hook_z"},
            "fold_value_biases=true; expected false",
        ),
        (
            {KWARGS: {"refactor_factored_attn_matrices": True}, HOOK: "blocks.3.attn.hook_z"},
            "refactor_factored_attn_matrices=true; expected false",
        ),
        (
            {KWARGS: CENTRING, MODEL: "gpt2", "normalize_activations": "constant_norm_rescale"},
            "constant_norm_rescale, which probejax does not do together",
        ),
    ],
)
def test_other_weights_that_are_not_implemented_are_refused(edit, fields, said):
    assert said in refused(edit("sae_lens_jumprelu", fields))


@pytest.mark.parametrize("said", [True, False])
def test_settings_say_whether_bos_stood_before_the_texts(edit, said):
    for name, field in (("sae_lens_old", "prepend_bos"), ("sae_lens_topk", "metadata.prepend_bos")):
        path = edit(name, {field: said})
        assert saes.find(str(path.parent)).prepends_bos is said


def test_files_from_before_version_6_had_bos_unless_they_say_otherwise(edit):
    for name, expected in (("sae_lens_old", True), ("sae_lens_topk", None)):
        path = edit(name, {})
        found = json.loads(path.read_text())
        for table in (found, found.get("metadata", {})):
            table.pop("prepend_bos", None)
        path.write_text(json.dumps(found))
        assert saes.find(str(path.parent)).prepends_bos is expected


@pytest.mark.parametrize("field", ["act_fn", "sparsity_include_decoder_norm"])
def test_what_decides_openmoss_latents_must_be_said(edit, field):
    path = edit("openmoss_topk", {})
    found = json.loads(path.read_text())
    found.pop(field, None)
    path.write_text(json.dumps(found))
    assert field in refused(path)
