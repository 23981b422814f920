"""Suites of SAEs: the published one, a folder, and what a file says of its architecture."""

import json
import shutil

import pytest

from probejax import saes
from probejax.saes import releases, suites
from tests.test_saes_formats import GOLDEN
from tests.test_saes_registry import write


def test_saebench_s_suite_is_the_study_s():
    found = suites.resolve("saebench-gemma-2-2b")
    assert len(found) == len(set(found)) == 48
    series = [
        suites.series_of(f"/cache/snapshots/c0ffee/{spec.split('/', 2)[2]}") for spec in found
    ]
    assert [each.architecture for each in series[::6]] == [
        "relu", "relu_new", "gated", "topk", "jumprelu", "batchtopk", "p_anneal", "matryoshka",
    ]  # fmt: skip
    assert [each.released for each in series[::6]] == [
        "2023-10-04", "2024-04-26", "2024-05-01", "2024-06-06", "2024-07-19", "2024-07-19",
        "2024-07-31", "2024-12-19",
    ]  # fmt: skip
    assert all(len(set(series[i : i + 6])) == 1 for i in range(0, 48, 6))
    for spec in found:
        release = releases.find(spec)
        assert (release.model, release.files[1]) == ("gemma-2-2b", "ae.pt"), spec
        assert f"{release.repository}/{release.folder}" == spec
    # The number under which docs cite BatchTopK's L0 of 80, and the first repository's ReLU.
    assert found[32].endswith("batch_top_k_width-2pow14_date-0107/resid_post_layer_12/trainer_8")
    assert found[0].startswith("adamkarvonen/temp/old_relu_google_gemma-2-2b_standard/")


def test_an_sae_of_the_suite_knows_its_date_wherever_it_lies(tmp_path):
    folder = tmp_path / suites.SUITES["saebench-gemma-2-2b"][6].folder.split("/", 2)[2]
    folder = folder.parent / "trainer_3"
    shutil.copytree(GOLDEN / "saebench_standard", folder)
    found = saes.find(str(folder))
    assert (found.architecture, found.released) == ("p_anneal", "2024-07-31")
    known = {"architecture": "p_anneal", "l0": found.l0, "released": "2024-07-31"}
    assert found.facts().items() >= known.items()
    folder.rename(folder.with_name("trainer_33"))
    found = saes.find(str(folder.with_name("trainer_33")))
    assert (found.architecture, found.released) == ("relu", None)


def test_a_folder_is_a_suite_of_all_saes_in_it(tmp_path):
    for name in ("b/wide/average_l0_9", "a", "b/narrow"):
        write(tmp_path / "suite" / name)
    write(tmp_path / "suite" / "a" / "checkpoints")  # inside an SAE nobody looks
    (tmp_path / "suite" / "README.md").write_text("ours")
    (tmp_path / "suite" / ".cache").mkdir()
    shutil.copy(tmp_path / "suite" / "a" / "params.npz", tmp_path / "suite" / "c.npz")
    found = suites.resolve(str(tmp_path / "suite"))
    names = ["a", "b/narrow", "b/wide/average_l0_9", "c.npz"]
    assert found == tuple(str(tmp_path / "suite" / name) for name in names)
    assert all(saes.find(spec).d_sae == 6 for spec in found)


def test_a_suite_with_an_unfinished_sae_is_refused(tmp_path):
    write(tmp_path / "relu" / "average_l0_9")
    steps = tmp_path / "relu" / "average_l0_40" / "checkpoints" / "steps"
    steps.mkdir(parents=True)
    (steps / "state").write_text("x")
    with pytest.raises(
        ValueError, match=r"relu/average_l0_40 holds no SAE in a known format \(gem"
    ):
        suites.resolve(str(tmp_path))
    with pytest.raises(ValueError, match=r"steps holds no SAE in a known format"):
        suites.resolve(str(steps))


def test_an_unknown_suite_names_the_known_ones():
    with pytest.raises(
        FileNotFoundError, match=r"^--sae_suite=nothing is .* saebench-gemma-2-2b\.$"
    ):
        suites.resolve("nothing")


@pytest.mark.parametrize(
    "name, architecture",
    [
        ("gemma_scope/layer_20/width_40/average_l0_11", "jumprelu"),
        ("gemma_scope_2", "jumprelu"),
        ("llama_scope", "jumprelu"),
        ("openmoss_relu", "relu"),
        ("openmoss_topk", "topk"),
        ("sae_lens_standard", "relu"),
        ("sae_lens_gated", "gated"),
        ("sae_lens_topk", "topk"),
        ("saebench_standard", "relu"),
        ("saebench_april_update", "relu_new"),
        ("saebench_gated", "gated"),
        ("saebench_jumprelu", "jumprelu"),
        ("saebench_topk", "topk"),
        ("saebench_batchtopk", "batchtopk"),
        ("saebench_matryoshka", "matryoshka"),
        ("sparsify_topk/layers.10", "topk"),
        ("sparsify_groupmax/layers.10", "groupmax"),
    ],
)
def test_files_say_their_architecture(name, architecture):
    assert saes.find(str(GOLDEN / name)).architecture == architecture


@pytest.mark.parametrize(
    "trainer, architecture",
    [
        ({"dict_class": "AutoEncoder", "trainer_class": "PAnnealTrainer"}, "p_anneal"),
        ({"dict_class": "AutoEncoder", "trainer_class": "StandardTrainerAprilUpdate"}, "relu_new"),
        ({"dict_class": "AutoEncoder", "trainer_class": "TrainerStandard"}, "relu"),
    ],
)
def test_three_architectures_share_a_class(tmp_path, trainer, architecture):
    shutil.copytree(GOLDEN / "saebench_standard", tmp_path / "sae")
    (tmp_path / "sae" / "config.json").write_text(json.dumps({"trainer": trainer}))
    assert saes.find(str(tmp_path / "sae")).architecture == architecture


def test_what_an_architecture_was_trained_as_is_in_its_record(tmp_path):
    trained = json.dumps({"metadata": {"training_architecture": "matryoshka_batchtopk"}})
    shutil.copytree(GOLDEN / "sae_lens_jumprelu", tmp_path / "lens")
    settings = json.loads((tmp_path / "lens" / "cfg.json").read_text()) | json.loads(trained)
    (tmp_path / "lens" / "cfg.json").write_text(json.dumps(settings))
    assert saes.find(str(tmp_path / "lens")).architecture == "matryoshka"
    write(tmp_path / "ours", {"options": {"architecture": "gated"}})
    assert saes.find(str(tmp_path / "ours")).architecture == "gated"
    write(tmp_path / "shipped", {"options": {"d_sae": 6}})
    assert saes.find(str(tmp_path / "shipped")).architecture == "jumprelu"
