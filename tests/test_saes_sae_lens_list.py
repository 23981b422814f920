"""SAELens' names: what they mean, typed by hand from its own list, and what is not read."""

import collections

import pytest

from probejax import saes
from probejax.saes import releases, sae_lens_list

NAMES = {
    "gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical": (
        "google/gemma-scope-2b-pt-res", "layer_12/width_16k/average_l0_82", "params.npz",
    ),
    "gemma-scope-9b-pt-res/embedding/width_4k/average_l0_14": (
        "google/gemma-scope-9b-pt-res", "embedding/width_4k/average_l0_14", "params.npz",
    ),
    "gemma-scope-9b-it-res-canonical/layer_31/width_131k/canonical": (
        "google/gemma-scope-9b-it-res", "layer_31/width_131k/average_l0_109", "params.npz",
    ),
    "gemma-scope-27b-pt-res-canonical/layer_34/width_131k/canonical": (
        "google/gemma-scope-27b-pt-res", "layer_34/width_131k/average_l0_72", "params.npz",
    ),
    "gemma-scope-2b-pt-mlp-canonical/layer_25/width_65k/canonical": (
        "google/gemma-scope-2b-pt-mlp", "layer_25/width_65k/average_l0_107", "params.npz",
    ),
    "gemma-scope-2-270m-pt-res/layer_9_width_65k_l0_small": (
        "google/gemma-scope-2-270m-pt", "resid_post/layer_9_width_65k_l0_small",
        "params.safetensors",
    ),
    "gemma-scope-2-4b-it-res-all/layer_0_width_16k_l0_big": (
        "google/gemma-scope-2-4b-it", "resid_post_all/layer_0_width_16k_l0_big",
        "params.safetensors",
    ),
    "gemma-scope-2-27b-it-att/layer_53_width_65k_l0_small": (
        "google/gemma-scope-2-27b-it", "attn_out/layer_53_width_65k_l0_small",
        "params.safetensors",
    ),
    "llama_scope_lxr_8x/l15r_8x": (
        "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L15R-8x",
        "checkpoints/final.safetensors",
    ),
    "llama_scope_lxm_32x/l31m_32x": (
        "fnlp/Llama3_1-8B-Base-LXM-32x", "Llama3_1-8B-Base-L31M-32x", "hyperparams.json",
    ),
    "llama_scope_r1_distill/l31r_800m_openr1_math": (
        "fnlp/Llama-Scope-R1-Distill", "0-Slimpajama-800M-OpenR1-Math-220k/L31R", "config.json",
    ),
    "gpt2-small-res-jb/blocks.8.hook_resid_pre": (
        "jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre", "cfg.json",
    ),
    "gpt2-small-resid-post-v5-32k/blocks.11.hook_resid_post": (
        "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs", "v5_32k_layer_11.pt",
        "sae_weights.safetensors",
    ),
    "pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre": (
        "ctigges/pythia-70m-deduped__res-sm_processed", "e-res-sm", "cfg.json",
    ),
    "gemma-2-2b-res-snap-matryoshka-dc/blocks.24.hook_resid_post": (
        "chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40",
        "snap/blocks.24.hook_resid_post", "cfg.json",
    ),
    "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109/blocks.5.hook_resid_post__trainer_5_step_0": (
        "canrager/saebench_gemma-2-2b_width-2pow12_date-1109",
        "gemma-2-2b_topk_width-2pow12_date-1109/resid_post_layer_5_checkpoints/trainer_5_step_0",
        "ae.pt",
    ),
    "sae_bench_pythia70m_sweep_topk_ctx128_0730/blocks.4.hook_resid_post__trainer_8": (
        "canrager/lm_sae", "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_4/trainer_8", "ae.pt",
    ),
    "saebench_gemma-2-2b_width-2pow12_date-0108/blocks.12.hook_resid_post__trainer_0": (
        "adamkarvonen/saebench_gemma-2-2b_width-2pow12_date-0108",
        "MatryoshkaBatchTopK_gemma-2-2b__0108/resid_post_layer_12/trainer_0", "config.json",
    ),
    "llama-3.1-8b-instruct-andyrdt/resid_post_layer_27_trainer_1": (
        "andyrdt/saes-llama-3.1-8b-instruct", "resid_post_layer_27/trainer_1", "ae.pt",
    ),
    "goodfire-llama-3.3-70b-instruct/layer_50": (
        "Goodfire/Llama-3.3-70B-Instruct-SAE-l50", "Llama-3.3-70B-Instruct-SAE-l50.pt", "",
    ),
    "deepseek-r1-distill-llama-8b-qresearch/blocks.19.hook_resid_post": (
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
        "",
    ),
    "qwen-scope-3-1.7b-base-w32k-l100/layer27": (
        "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_100", "layer27.sae.pt", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_leads_to_a_repository_and_a_file(name):
    repository, folder, file = NAMES[name]
    found = releases.find(name)
    assert (found.repository, found.folder) == (repository, folder) and file in found.files


@pytest.mark.parametrize(
    "name, model",
    [
        ("gemma-scope-9b-it-res/layer_20/width_131k/average_l0_13", "gemma-2-9b-it"),
        ("gemma-scope-2-270m-pt-res/layer_9_width_65k_l0_small", "gemma-3-270m"),
        ("gemma-2-9b-res-matryoshka-dc/blocks.0.hook_resid_post", "gemma-2-9b"),
        ("gemma-3-1b-res-matryoshka-dc/blocks.0.hook_resid_post", "gemma-3-1b-pt"),
    ],
)
def test_a_name_tells_the_model(name, model):
    assert releases.find(name).model == model


def test_the_list_is_whole():
    every = sae_lens_list.releases()
    assert len(every) == 170 and sum(len(each.saes) for each in every.values()) == 13_857
    found = collections.Counter()
    for release in every.values():
        found[release.conversion] += len(release.saes)
    assert found == {
        "gemma_3": 8784, "gemma_2": 2833, "dictionary_learning_1": 838, "qwen_scope": 544,
        "": 272, "mwhanna_transcoder": 208, "llama_scope": 192, "llama_scope_r1_distill": 96,
        "gemma_2_transcoder": 26, "mntss_clt_layer_transcoder": 26, "connor_rob_hook_z": 12,
        "norm_scaling_factor": 17, "normalize_activations": 3, "temporal": 3, "goodfire": 2,
        "deepseek_r1": 1,
    }  # fmt: skip


def test_every_name_is_found_or_refused_and_no_family_reads_it_otherwise():
    known = {family.repository: family for family in releases.FAMILIES}
    read = refused = 0
    for name, release in sae_lens_list.releases().items():
        for sae in release.saes:
            try:
                found = releases.find(f"{name}/{sae}")
            except ValueError as error:
                assert str(error).endswith(", which probejax does not read; choose another SAE.")
                refused += 1
                continue
            read += 1
            family = releases._family(found.repository)
            if family:  # the files that the list names are those of the family
                assert set(found.files) <= {*known[family[0].repository].files}, name
            try:
                typed = releases.find(f"{found.repository}/{found.folder}")
            except ValueError:
                continue  # a folder that only the list knows
            assert typed and typed[:2] == found[:2]
    assert (read, refused) == (9_986, 3_871)


@pytest.mark.parametrize(
    "name, said",
    [
        (
            "gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76",
            "a transcoder of Gemma S",
        ),
        (
            "gemma-scope-2-1b-it-transcoders-all/layer_9_width_262k_l0_big",
            "a transcoder of Gemma S",
        ),
        ("mwhanna-qwen3-4b-transcoders/layer_0", "a transcoder (one safetensors file"),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_25", "one layer of a cross-layer transc"),
        ("temporal-sae-gemma-2-2b/blocks.12.hook_resid_post", "a temporal SAE, which"),
        ("gpt2-small-hook-z-kk/blocks.0.hook_z", "an SAE of attention heads in a PyTorch file"),
        ("gemma-2b-res-jb/blocks.12.hook_resid_post", "with a norm_scaling_factor outside"),
        ("mistral-7b-res-wg/blocks.8.hook_resid_pre", "with another normalize_activations"),
    ],
)
def test_what_is_not_read_is_one_sentence_that_names_it(name, said):
    with pytest.raises(ValueError) as caught:
        saes.find(name)
    assert str(caught.value).startswith(f"{name} is ") and said in str(caught.value)


@pytest.mark.parametrize(
    "name, said",
    [
        ("gpt2-small-res-jb", "has no SAE without a name; one of its 13 is gpt2-small-res-jb/bl"),
        ("gpt2-small-res-jb/blocks.8.hook_resid_prs", "; did you mean gpt2-small-res-jb/blocks.8."),
        ("llama_scope_lxr_8x/15", "has no SAE 15; did you mean llama_scope_lxr_8x/l15r_8x or"),
        ("gemma-scope-2b-pt-res-canonical/layer_12/width_16k", "layer_12/width_16k/canonical"),
    ],
)
def test_what_a_release_does_not_have_is_said_with_what_it_has(name, said):
    with pytest.raises(ValueError, match="SAELens' release") as caught:
        saes.find(name)
    assert said in str(caught.value)
