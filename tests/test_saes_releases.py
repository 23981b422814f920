"""Short ids of releases: what they mean, which files are fetched, and which pages exist."""

import shutil

import pytest

from probejax import artifacts, saes
from probejax.saes import releases
from tests.test_saes_formats import GOLDEN


@pytest.mark.parametrize("family", releases.FAMILIES, ids=lambda family: family.repository)
def test_the_example_of_every_family_is_found_with_and_without_its_owner(family):
    found = releases.find(family.example)
    assert found == releases.find(f"{family.owner}/{family.example}")
    assert found.repository.startswith(f"{family.owner}/") and found.files == family.files
    assert f"{found.repository}/{found.folder}" == f"{family.owner}/{family.example}"


@pytest.mark.parametrize(
    "spec, repository, folder, model",
    [
        (
            "gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_408",
            "google/gemma-scope-9b-pt-res",
            "layer_20/width_16k/average_l0_408",
            "gemma-2-9b",
        ),
        (
            "gemma-scope-2b-pt-res/layer_12/width_16k/canonical",
            "google/gemma-scope-2b-pt-res",
            "layer_12/width_16k/average_l0_82",
            "gemma-2-2b",
        ),
        (
            "gemma-scope-9b-it-res/layer_20/width_131k/canonical",
            "google/gemma-scope-9b-it-res",
            "layer_20/width_131k/average_l0_81",
            "gemma-2-9b-it",
        ),
        (
            "gemma-scope-2-270m-pt/resid_post/layer_9_width_16k_l0_small",
            "google/gemma-scope-2-270m-pt",
            "resid_post/layer_9_width_16k_l0_small",
            "gemma-3-270m",
        ),
        (
            "gemma-scope-2-4b-pt/resid_post_all/layer_9_width_16k_l0_big",
            "google/gemma-scope-2-4b-pt",
            "resid_post_all/layer_9_width_16k_l0_big",
            "gemma-3-4b-pt",
        ),
        ("me/mine/layer_3", "me/mine", "layer_3", None),
        (
            "sae-SmolLM2-135M-64x/layers.3.mlp",
            "EleutherAI/sae-SmolLM2-135M-64x",
            "layers.3.mlp",
            None,
        ),
    ],
)
def test_what_a_short_id_means(spec, repository, folder, model):
    assert releases.find(spec)[:2] == (repository, folder)
    assert releases.find(spec).model == model


def test_canonical_saes_are_those_of_the_published_list():
    found = {}
    for spec in ("9b-pt-res 20 16k", "9b-pt-res 41 131k", "2b-pt-res 25 65k", "2b-pt-res 12 1m",
                 "27b-pt-res 22 131k", "9b-it-res 9 131k", "2b-pt-att 0 16k"):  # fmt: skip
        name, layer, width = spec.split()
        release = releases.find(f"gemma-scope-{name}/layer_{layer}/width_{width}/canonical")
        found[spec] = int(release.folder.rpartition("_")[2])
    assert list(found.values()) == [68, 84, 93, 107, 82, 121, 104]
    with pytest.raises(ValueError, match=r"no canonical SAE in layer_20/width_262k; give its"):
        releases.find("gemma-scope-9b-pt-res/layer_20/width_262k/canonical")


@pytest.mark.parametrize(
    "spec",
    ["", "layer_1", "a/b", "../a/b/c", "/a/b/c", "a b/c/d", "x:1/2/3", "tests/nothing/here"],
)
def test_other_texts_are_no_short_ids(spec):
    assert releases.find(spec) is None


def test_a_wrong_folder_of_a_known_repository_shows_a_right_one():
    with pytest.raises(
        ValueError, match=r"of google/gemma-scope-9b-pt-res are; expected something"
    ):
        releases.find("gemma-scope-9b-pt-res/20/16k")


@pytest.mark.parametrize(
    "path, expected",
    [
        ("layer_20/width_131k/average_l0_114", "20-gemmascope-res-131k"),
        ("layer_20/width_131k/average_l0_276", "20-gemmascope-res-131k__l0-276"),
        ("layer_20/width_16k/average_l0_408", "20-gemmascope-res-16k__l0-408"),
        ("layer_20/width_262k/average_l0_50", None),
        ("layer_9/width_16k/average_l0_51", None),
    ],
)
def test_pages_of_gemma_scope_are_those_of_the_canonical_map(path, expected):
    page = releases.neuronpedia(f"/models--google--gemma-scope-9b-pt-res/{path}/params.npz")
    assert page == (f"gemma-2-9b/{expected}" if expected else None)


@pytest.mark.parametrize(
    "path, expected",
    [
        (
            "gemma-scope-2-4b-it/snapshots/a/resid_post/layer_17_width_16k_l0_medium/params.st",
            "gemma-3-4b-it/17-gemmascope-2-res-16k",
        ),
        ("gemma-scope-2-4b-it/resid_post/layer_17_width_262k_l0_medium_seed_1/x", None),
        ("gemma-scope-2-4b-it/resid_post_all/layer_17_width_16k_l0_medium/x", None),
        ("gemma-scope-2-4b-it/resid_post/layer_17_width_16k_l0_small/x", None),
        ("x/Llama3_1-8B-Base-L15R-32x/checkpoints", "llama3.1-8b/15-llamascope-res-131k"),
        ("x/params.npz", None),
    ],
)
def test_pages_of_other_releases(path, expected):
    assert releases.neuronpedia(path) == expected


@pytest.mark.parametrize("family", releases.FAMILIES, ids=lambda family: family.repository)
def test_an_id_may_end_in_a_slash_or_in_one_of_the_sae_s_own_files(family):
    for name in ("", *filter(None, family.files)):
        assert releases.folder_of(f"{family.example}/{name.rstrip('?')}") == family.example
        assert releases.folder_of(f"{family.example}/{name.rstrip('?')}/") == family.example


@pytest.mark.parametrize(
    "spec, near",
    [
        ("gemma-scope-2b-pt-rez/layer_12/width_16k/average_l0_82", "google/gemma-scope-2b-pt-res"),
        ("gemma_scope_9b_pt_res/layer_20/width_16k/average_l0_68", "google/gemma-scope-9b-pt-res"),
        ("Llama3_1-8B-Base-LXR-16x/a/b", "fnlp/Llama3_1-8B-Base-LXR-8x"),
        ("sea_bench_pythia70m_sweep_topk_ctx128_0730/a/b", "sae_bench_pythia70m_sweep_topk"),
        ("lama_scope_lxr_8x/l15r_8x/x", "llama_scope_lxr_8x"),
    ],
)
def test_a_slip_in_a_known_name_is_no_repository(spec, near):
    with pytest.raises(ValueError, match=f"the name of no known release; did you mean .*{near}"):
        releases.find(spec)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub of our golden files; what is asked of it is recorded."""
    asked, root = [], tmp_path / "hub"

    def hub_file(repository, filename, revision=None, cache=None):
        asked.append((repository, filename, revision, cache))
        path = root / f"models--{repository.replace('/', '--')}" / "snapshots" / "c0ffee" / filename
        if not path.is_file():
            raise artifacts.NoSuchFile("there is no such file")
        return path

    def hub_file_if_any(*names):
        try:
            return hub_file(*names)
        except artifacts.NoSuchFile:
            return None

    monkeypatch.setattr(artifacts, "hub_file", hub_file)
    monkeypatch.setattr(artifacts, "hub_file_if_any", hub_file_if_any)

    def add(repository, folder, golden):
        path = root / f"models--{repository.replace('/', '--')}" / "snapshots" / "c0ffee" / folder
        shutil.copytree(GOLDEN / golden, path, dirs_exist_ok=True)
        (path / "expected.npz").unlink(missing_ok=True)

    return add, asked


def test_files_are_named_one_by_one_and_of_one_commit(hub, tmp_path):
    add, asked = hub
    folder = "resid_post/layer_9_width_16k_l0_medium"
    add("google/gemma-scope-2-270m-pt", folder, "gemma_scope_2")
    found = saes.find(f"gemma-scope-2-270m-pt/{folder}", cache_dir=tmp_path)
    assert asked == [
        ("google/gemma-scope-2-270m-pt", f"{folder}/params.safetensors", None, tmp_path),
        ("google/gemma-scope-2-270m-pt", f"{folder}/config.json", "c0ffee", tmp_path),
    ]
    assert found.sae_id == f"google/gemma-scope-2-270m-pt/{folder}"
    assert (found.model, found.layer, found.l0) == ("gemma-3-270m", 9, 60)
    assert found.neuronpedia == "gemma-3-270m/9-gemmascope-2-res-16k"
    assert found.load().d_sae == 40


def test_without_settings_the_path_tells_layer_and_model(hub, tmp_path):
    add, _ = hub
    folder = "resid_post/layer_15_width_16k_l0_small"
    add("google/gemma-scope-2-1b-it", folder, "gemma_scope_2")
    config = next((tmp_path / "hub").rglob(f"{folder}/config.json"))
    config.unlink()
    found = saes.find(f"gemma-scope-2-1b-it/{folder}")
    assert (found.model, found.layer, found.kind) == ("gemma-3-1b-it", 15, "resid_post")


def test_a_missing_file_is_an_error_but_for_those_that_may_be_missing(hub, tmp_path):
    add, asked = hub
    folder = "gemma-2-2b_top_k_width-2pow14_date-0107/resid_post_layer_12/trainer_2"
    add("canrager/saebench_gemma-2-2b_width-2pow14_date-0107", folder, "saebench_topk")
    found = saes.find(f"saebench_gemma-2-2b_width-2pow14_date-0107/{folder}")
    assert [name.rpartition("/")[2] for _, name, *_ in asked] == [
        "config.json",
        "ae.pt",
        "eval_results.json",
    ]
    assert (found.model, found.layer, found.l0) == ("gemma-2-2b", 12, 5)
    next((tmp_path / "hub").rglob("ae.pt")).unlink()
    with pytest.raises(artifacts.ArtifactError, match="there is no such file"):
        saes.find(f"saebench_gemma-2-2b_width-2pow14_date-0107/{folder}")


def test_measured_l0_is_the_advertised_one(tmp_path):
    shutil.copytree(GOLDEN / "saebench_standard", tmp_path / "copy")
    (tmp_path / "copy" / "eval_results.json").write_text('{"l0": 33.5}')
    assert saes.find(str(tmp_path / "copy")).l0 == 33.5


def test_a_variant_of_a_release(hub):
    add, _ = hub
    name = "Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x"
    add("fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L15R-8x", "llama_scope")
    found = saes.find(f"{name}@saelens_pre483")
    assert found.sae_id == f"fnlp/{name}@saelens_pre483" and found.variant == "saelens_pre483"
    assert (found.model, found.layer) == ("Llama-3.1-8B", 15)
    assert found.load().threshold[0] == pytest.approx(0.35546875)


def test_an_sae_in_one_file(hub):
    add, asked = hub
    repository = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    add(f"Qwen/{repository}", "", f"qwen_scope/{repository}")
    found = saes.find(f"{repository}/layer3.sae.pt")
    assert asked == [(f"Qwen/{repository}", "layer3.sae.pt", None, None)]
    assert (found.model, found.layer, found.load().keep.k) == ("Qwen3-1.7B-Base", 3, 5)
