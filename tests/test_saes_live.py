"""The golden SAEs, read by their makers' own libraries where these are installed.

    pip install sae-lens; pip install --no-deps dictionary-learning eai-sparsify

PROBEJAX_REQUIRE_SAE_LIBRARIES=1 turns a missing library into a failure.
"""

import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from probejax import saes
from tests.golden.saes import make

GOLDEN = Path(make.__file__).parent
REQUIRED = os.environ.get("PROBEJAX_REQUIRE_SAE_LIBRARIES") == "1"
# A real library's imports warn, and our setting of errors is for our own code.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def environment():
    """Some libraries set variables when they are imported."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def needs(library):
    missing = importlib.util.find_spec(library) is None and not REQUIRED
    return pytest.mark.skipif(missing, reason=f"{library} is not installed")


def compare(spec, encode, decode=None):
    """Our latents and theirs, on the golden inputs, whose decisions are clear."""
    name = Path(spec.partition("@")[0]).relative_to(GOLDEN).parts[0]
    with np.load(GOLDEN / name / "expected.npz") as expected:
        x = expected["x"]
    sae = saes.load(spec)
    ours = np.asarray(saes.encode(sae, x))
    with torch.no_grad():
        theirs = encode(torch.tensor(x))
        theirs = theirs.to_dense() if theirs.layout != torch.strided else theirs
        decoded = None if decode is None else decode(theirs).numpy()
    theirs = theirs.numpy()
    np.testing.assert_array_equal(ours != 0, theirs != 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    if decoded is not None:
        again = np.asarray(saes.reconstruct(sae, x))
        np.testing.assert_allclose(again, decoded, rtol=1e-5, atol=2e-5 * np.abs(decoded).max())


# ---- SAELens ------------------------------------------------------------------------------------


@needs("sae_lens")
@pytest.mark.parametrize(
    "case",
    [
        *("standard", "gated", "jumprelu", "topk", "topk_rescaled", "abstopk"),
        *("constant_norm", "layer_norm"),
    ],
)
def test_sae_lens(case):
    from sae_lens import SAE

    path = GOLDEN / f"sae_lens_{case}"
    twin = SAE.load_from_disk(str(path))
    compare(str(path), twin.encode, twin.decode)


@needs("sae_lens")
def test_sae_lens_folded():
    from sae_lens import SAE

    twin = SAE.load_from_disk(str(GOLDEN / "sae_lens_jumprelu"))
    twin.fold_W_dec_norm()
    compare(f"{GOLDEN / 'sae_lens_folded'}@fold_decoder_norm", twin.encode, twin.decode)


def converted(loader, repository, folder, root, monkeypatch):
    """An SAE as SAELens' own loader of a release makes it, from our files."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def download(repo_id, filename, subfolder="", **_):  # ours have no folder of the repository's
        name = f"{subfolder}/{filename}".lstrip("/").removeprefix(folder).lstrip("/")
        return str(root / name)

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    shapes = {"w_enc": [12, 40], "b_enc": [40], "w_dec": [40, 12], "b_dec": [12], "threshold": [40]}
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    config, state, *_ = getattr(loaders, loader)(
        repository, folder, device="cpu", force_download=False, cfg_overrides={"dtype": "float32"}
    )
    config = loaders.handle_config_defaulting(config)
    name = config["architecture"]
    twin = SAE.get_sae_class_for_architecture(name)(
        SAE.get_sae_config_class_for_architecture(name).from_dict(config)
    )
    twin.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    return twin


@needs("sae_lens")
def test_sae_lens_on_gemma_scope():
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig  # its loader wants the published widths

    path = GOLDEN / "gemma_scope" / "layer_20" / "width_40" / "average_l0_11"
    twin = JumpReLUSAE(JumpReLUSAEConfig(d_in=12, d_sae=40, apply_b_dec_to_input=False))
    with np.load(path / "params.npz") as arrays:
        twin.load_state_dict({name: torch.tensor(arrays[name]) for name in arrays.files})
    compare(str(path), twin.encode, twin.decode)


@needs("sae_lens")
def test_sae_lens_on_gemma_scope_2(monkeypatch):
    twin = converted(
        "gemma_3_sae_huggingface_loader",
        *(
            "google/gemma-scope-2-270m-pt",
            "resid_post/layer_9_width_16k_l0_small",
            GOLDEN / "gemma_scope_2",
        ),
        monkeypatch,
    )
    compare(str(GOLDEN / "gemma_scope_2"), twin.encode, twin.decode)


@needs("sae_lens")
def test_sae_lens_on_llama_scope(monkeypatch):
    twin = converted(
        "llama_scope_sae_huggingface_loader",
        *(
            "fnlp/Llama3_1-8B-Base-LXR-8x",
            "Llama3_1-8B-Base-L15R-8x",
            GOLDEN / "llama_scope_saelens",
        ),
        monkeypatch,
    )
    twin.fold_activation_norm_scaling_factor(12**0.5 / 10.8125)
    compare(f"{GOLDEN / 'llama_scope_saelens'}@saelens", twin.encode, twin.decode)


# ---- dictionary_learning ------------------------------------------------------------------------


def bare(package):
    """Imports modules of a package without its `__init__`, which imports much more."""
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        stub = types.ModuleType(package)
        stub.__path__ = list(spec.submodule_search_locations)
        sys.modules[package] = stub


@needs("dictionary_learning")
@pytest.mark.parametrize(
    "case, module, name",
    [
        ("standard", "dictionary", "AutoEncoder"),
        ("standard_raw", "dictionary", "AutoEncoder"),
        ("april_update", "dictionary", "AutoEncoderNew"),
        ("gated", "dictionary", "GatedAutoEncoder"),
        ("jumprelu", "dictionary", "JumpReluAutoEncoder"),
        ("topk", "trainers.top_k", "AutoEncoderTopK"),
        ("batchtopk", "trainers.batch_top_k", "BatchTopKSAE"),
        ("matryoshka", "trainers.matryoshka_batch_top_k", "MatryoshkaBatchTopKSAE"),
    ],
)
def test_dictionary_learning(case, module, name):
    bare("dictionary_learning")
    twin = getattr(importlib.import_module(f"dictionary_learning.{module}"), name)
    path = GOLDEN / f"saebench_{case}"
    if case == "standard":
        dictionary = twin.from_pretrained(str(path / "ae.pt"))
    else:
        sizes = {"topk": (5,), "batchtopk": (5,), "matryoshka": (5, [10, 30])}.get(case, ())
        dictionary = twin(12, 40, *sizes)
        dictionary.load_state_dict(torch.load(path / "ae.pt"))
    spec = f"{path}@raw" if case == "standard_raw" else str(path)
    compare(spec, dictionary.encode, dictionary.decode)


# ---- sparsify -----------------------------------------------------------------------------------


@needs("sparsify")
@pytest.mark.parametrize("case", ["topk", "groupmax"])
def test_sparsify(case):
    bare("sparsify")
    from safetensors.torch import load_file
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    path = GOLDEN / f"sparsify_{case}" / "layers.10"
    settings = json.loads((path / "cfg.json").read_text())
    twin = SparseCoder(
        12, SparseCoderConfig(activation=settings["activation"], k=settings["k"], num_latents=40)
    )
    twin.load_state_dict(load_file(path / "sae.safetensors"))

    def encode(x):
        found = twin.encode(x)
        return torch.zeros(len(x), 40).scatter_(1, found.top_indices, found.top_acts)

    compare(str(path), encode)
