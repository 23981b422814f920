"""What `torch.save` writes: read as it was, and nothing else read at all."""

import io
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from probejax import saes
from probejax.saes.formats import torch_pickle, torch_zip
from tests.golden.saes import make

GOLDEN = Path(make.__file__).parent
TORCH = sorted(path for path in GOLDEN.rglob("*") if path.suffix in (".pt", ".pth"))


class Saved(torch.nn.Module):
    """A module whose state dictionary holds given tensors under given names."""

    def __init__(self, tensors):
        super().__init__()
        for name, tensor in tensors.items():
            *modules, name = name.split(".")
            place = self
            for module in modules:
                if not hasattr(place, module):
                    place.add_module(module, torch.nn.Module())
                place = getattr(place, module)
            if tensor.is_floating_point() and tensor.ndim:
                place.register_parameter(name, torch.nn.Parameter(tensor))
            else:
                place.register_buffer(name, tensor)


def copy(path, tmp_path):
    """A golden SAE, copied; returns its file and what `--sae` is given."""
    inside = path.relative_to(GOLDEN)
    shutil.copytree(GOLDEN / inside.parts[0], tmp_path / "copy")
    copied = tmp_path / "copy" / Path(*inside.parts[1:])
    return copied, str(copied.parent if path.name == "ae.pt" else copied)


@pytest.mark.parametrize("path", TORCH, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_modules_state_dictionary_is_read(path, protocol, tmp_path):
    copied, spec = copy(path, tmp_path)
    before, found = saes.load(spec), torch.load(path)
    state = Saved(found.get("ae", found)).state_dict()
    assert state._metadata and type(state) is not dict  # what a plain dictionary is not
    torch.save(found | {"ae": state} if "ae" in found else state, copied, pickle_protocol=protocol)
    after = saes.load(spec)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert after.keep == before.keep


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_in_another_precision_is_read(dtype, tmp_path):
    (path,) = [path for path in TORCH if path.parent.name == "saebench_topk"]
    copied, spec = copy(path, tmp_path)
    module = Saved(torch.load(path)).to(dtype)
    torch.save(module.state_dict(), copied)
    W_enc = module.state_dict()["encoder.weight"].float().numpy().T
    np.testing.assert_array_equal(saes.load(spec).W_enc, W_enc)


def test_a_whole_module_is_refused_and_told_how_to_be_saved(tmp_path):
    path = tmp_path / "x-SAE-l1.pt"
    torch.save(torch.nn.Linear(2, 3), path)
    with pytest.raises(
        ValueError, match=r"wants torch\.nn\.modules\.linear\.Linear.*state_dict\(\)"
    ):
        saes.load(str(path))


def test_one_storage_may_hold_several_tensors(tmp_path):
    whole = torch.arange(60.0)
    state = {"first": whole[:20].view(4, 5), "second": whole[20:].view(5, 8).T, "all": whole}
    torch.save(state, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert len([name for name in archive.namelist() if "/data/" in name]) == 1
    found = torch_zip.read(tmp_path / "x.pt")
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name][...], tensor.numpy())


def test_optimizers_and_schedules_of_a_checkpoint_are_read_too(tmp_path):
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.ones(3, 2)}
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": False, "maximize": None, "params": [0]}
    optimizer = {"state": {0: moments}, "param_groups": [group]}
    state = Saved({"encoder.weight": torch.ones(3, 2)}).state_dict()
    torch.save({"ae": state, "optimizer": optimizer}, tmp_path / "x.pt")
    found = torch_zip.read(tmp_path / "x.pt")
    assert found["optimizer"]["param_groups"] == [group]
    assert found["optimizer"]["state"][0]["exp_avg"].shape == (3, 2)


def test_a_file_whose_members_are_compressed_is_refused(tmp_path):
    torch.save({"a": torch.zeros(200)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as old,
        zipfile.ZipFile(tmp_path / "y-SAE-l1.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="is compressed, so it cannot be read in place"):
        saes.load(str(tmp_path / "y-SAE-l1.pt"))


def test_numbers_in_the_other_byte_order_are_refused(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(content.replace(b"little", b"bigbig"))
    with pytest.raises(ValueError, match="are not in little-endian order"):
        torch_zip.read(tmp_path / "x.pt")


# ---- other pickles ------------------------------------------------------------------------------


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def torch_zip_file(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", np.zeros(4, np.float32).tobytes())


def test_a_malicious_pickle_is_refused_and_never_run(tmp_path):
    shutil.copytree(GOLDEN / "saebench_topk", tmp_path / "copy")
    canary, path = tmp_path / "canary", tmp_path / "copy" / "ae.pt"
    torch_zip_file(path, pickle.dumps({"k": Canary(canary)}))
    with pytest.raises(
        ValueError, match=r"a pickle that wants .*touch|getattr.*, which is refused"
    ):
        saes.load(str(path.parent))
    assert not canary.exists()
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("archive/data.pkl"))
    assert canary.exists()  # the canary sings when it is run


@pytest.mark.parametrize(
    "text", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"\x80\x04\x82\x01."]
)
def test_other_callables_are_refused(tmp_path, text):
    path = tmp_path / "x-SAE-l1.pt"
    torch_zip_file(path, text)
    with pytest.raises(
        ValueError,
        match=r"is a pickle that wants (os\.system|builtins\.eval|the operation EXT1), which",
    ):
        saes.load(str(path))


class Liar(pickle.Pickler):
    """Puts a storage of four numbers where `...` stands."""

    def persistent_id(self, obj):
        return ("storage", torch.FloatStorage, "0", "cpu", 4) if obj is ... else None


class Lie:
    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


@pytest.mark.parametrize(
    "first, shape, strides, message",
    [
        (0, (5,), (1,), "ends past the end of its storage"),
        (3, (2,), (1,), "ends past the end of its storage"),
        (0, (2, 2), (2, 4), "ends past the end of its storage"),
        (-1, (2,), (1,), "negative extent"),
        (1, (2,), (-1,), "negative extent"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, first, shape, strides, message):
    stream = io.BytesIO()
    Liar(stream, 2).dump({"W": Lie(..., first, shape, strides, False, {})})
    path = tmp_path / "x-SAE-l1.pt"
    torch_zip_file(path, stream.getvalue())
    with pytest.raises(ValueError, match=message):
        torch_zip.read(path)


def test_what_torch_writes_is_read_as_it_was(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "view": base[1:, ::2],
        "transposed": base.T,
        "half": base.half(),
        "bf16": base.bfloat16(),
        "scalar": torch.tensor(3),
        "flag": torch.tensor([True, False]),
        "double": base.double(),
        "parameter": torch.nn.Parameter(base),
        "empty": torch.zeros(0, 3),
        "nested": {"step": 3, "name": "x", "list": [1.5, None]},
    }
    torch.save(state, tmp_path / "x.pt")
    found = torch_zip.read(tmp_path / "x.pt")
    assert found["nested"] == state["nested"]
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor):
            expected = tensor.detach().float().numpy()
            np.testing.assert_array_equal(found[name][...], expected, err_msg=name)
            assert found[name].shape == expected.shape


def test_a_file_of_before_1_6_is_refused(tmp_path):
    path = tmp_path / "x-SAE-l1.pt"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"torch\.save of PyTorch 1\.6 or later"):
        saes.load(str(path))


@pytest.mark.parametrize(
    "text",
    [
        b"", b".", b"}", b"}h\x00.", b"0.",
        b"q\x00.", b"r\xff\xff\xff\xff.", b"}(s.", b"u.", b"}u.",
        b"(}(tu.", b"\x85.", b"R.", b"}}R.", b"ctorch._utils\n_rebuild_tensor_v2\n)R.", b"b.",
        b"ctorch._utils\n_rebuild_parameter\n)R.", b"ccollections\nOrderedDict\n}R.",
        b"NQ.", b"}e.",
        b"X\xff\xff\xff\xffa.", b"\x8a\xff.", b"(" * 9999 + b"t" * 9999 + b".", b"}" * (1 << 20),
        b"})}s.", b"}]K\x01s.",
    ],
)  # fmt: skip
def test_pickles_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "x.pt"
    torch_zip_file(path, text)
    with pytest.raises(ValueError, match=rf"^{path} (is|holds) a?") as caught:
        torch_zip.read(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_place_in_the_memo_takes_no_memory_before_it(tmp_path):
    path = tmp_path / "x.pt"
    torch_zip_file(path, b"\x80\x02}r\x00\x00\x00\x0cX\x01\x00\x00\x00aK\x01s.")
    assert torch_zip.read(path) == {"a": 1}  # pickle's own reader makes room for 200 million


def test_keys_whose_hash_takes_forever_are_refused(tmp_path):
    pairs = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
    torch_zip_file(tmp_path / "x.pt", b"}K\x01" + pairs + b"K\x01s.")
    with pytest.raises(ValueError, match="wants keys that are neither text nor numbers"):
        torch_zip.read(tmp_path / "x.pt")


def test_the_walk_reads_what_pickle_reads():
    value = {"a": [1, 2.5, None, True, (), (1,), (1, 2, 3, 4)], 7: {"b": "x" * 300, "c": -(2**40)}}
    value["again"] = value["a"]
    for protocol in (2, 3, 4, 5):
        assert torch_pickle.load(pickle.dumps(value, protocol), lambda *_: None) == value
