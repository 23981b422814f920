"""Files of SAEs that lie: refused by their numbers, in little memory and time."""

import io
import json
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from probejax import saes
from probejax.foreign import DamagedFile
from probejax.saes.formats import npz, safetensors_file, torch_zip
from tests.golden.saes import make

GOLDEN = Path(make.__file__).parent
HUGE = 10**9


# ---- headers ------------------------------------------------------------------------------------


def safetensors(entry=None, text=None, length=None, body=64):
    header = text if text is not None else json.dumps({"W_enc": entry}).encode()
    length = len(header) if length is None else length
    return struct.pack("<Q", length) + header + b"\0" * body


def entry(shape, begin=0, end=64, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def npy(descr="'<f4'", fortran="False", shape="(4, 4)", body=64, version=1):
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    return header(text, version) + b"\0" * body


def header(text, version=1, length=None):
    length = len(text) if length is None else length
    size = struct.pack("<H" if version == 1 else "<I", length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


def zipped(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def pickled(shape, strides, kind=b"FloatStorage", first=0, numel=16):
    number = lambda n: b"\x8a" + bytes([len(b := n.to_bytes(9, "little", signed=True))]) + b
    tuple_of = lambda numbers: b"(" + b"".join(map(number, numbers)) + b"t"
    storage = b"(X\x07\0\0\0storagectorch\n" + kind + b"\nX\x01\0\0\x000X\x03\0\0\0cpu"
    tensor = (
        storage
        + number(numel)
        + b"tQ"
        + number(first)
        + tuple_of(shape)
        + tuple_of(strides)
        + b"\x89}t"
    )
    text = b"\x80\x02}X\x05\0\0\0W_encctorch._utils\n_rebuild_tensor_v2\n(" + tensor + b"Rs."
    return zipped({"x/data.pkl": text, "x/data/0": b"\0" * 64})


def grown(name):
    """A zip whose list of members says that its content is of four gigabytes."""
    content = bytearray(zipped({name: npy() if name.endswith("npy") else b"\x80\x02}."}))
    place = content.rindex(b"PK\1\2")
    content[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    return bytes(content)


def moved(by):
    """A zip whose list of members points elsewhere."""
    content = bytearray(zipped({"W_enc.npy": npy()}))
    place = content.rindex(b"PK\1\2")
    content[place + 42 : place + 46] = struct.pack("<I", by)
    return bytes(content)


def listed(count):
    """A zip with very many members of no content."""
    return zipped({f"{i}": b"" for i in range(count)})


LIES = {
    "params.safetensors": {
        "length": safetensors(text=b"{}", length=2**63),
        "length_of_a_gigabyte": safetensors(text=b"{}", length=2**30),
        "nesting": safetensors(text=b'{"a":' * 100_000),
        "list_nesting": safetensors(text=b"[" * 500_000),
        "not_an_object": safetensors(text=b"[]"),
        "entry_is_text": safetensors(text=b'{"W_enc": "x"}'),
        "overflowing_product": safetensors(entry([2**32, 2**32])),
        "product_of_64_bits": safetensors(entry([2**62, 4])),
        "empty_and_endless": safetensors(entry([0, 2**62], 0, 0)),
        "negative": safetensors(entry([-4, -4])),
        "huge": safetensors(entry([HUGE, HUGE])),
        "beyond_the_end": safetensors(entry([4, 4], HUGE, HUGE + 64)),
        "backwards": safetensors(entry([4, 4], 64, 0)),
        "before_the_start": safetensors(entry([4, 4], -64, 0)),
        "other_bytes": safetensors(entry([4, 4], 0, 60)),
        "fractions": safetensors(entry([4.5, 4])),
        "text_for_numbers": safetensors(entry(["4", "4"])),
        "exponent": safetensors(text=b'{"W":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}'),
        "many_axes": safetensors(entry([1] * 5000, 0, 4)),
        "unknown_dtype": safetensors(entry([4, 4], dtype="F8_E4M3")),
        "no_tensor": safetensors(text=b"{}"),
        "empty": b"",
    },
    "params.npz": {
        "overflowing_product": zipped({"W_enc.npy": npy(shape="(4294967296, 4294967296)")}),
        "huge": zipped({"W_enc.npy": npy(shape="(1000000000, 1000000000)")}),
        "negative": zipped({"W_enc.npy": npy(shape="(-4, -4)")}),
        "empty_and_endless": zipped({"W_enc.npy": npy(shape="(0, 4611686018427387904)")}),
        "other_bytes": zipped({"W_enc.npy": npy(shape="(4, 3)")}),
        "many_axes": zipped({"W_enc.npy": npy(shape=f"({'1,' * 3000})", body=4)}),
        "objects": zipped({"W_enc.npy": npy(descr="'|O'")}),
        "records": zipped({"W_enc.npy": npy(descr="[('a', '<f4')]")}),
        "endless_records": zipped({"W_enc.npy": npy(descr="('<f4', (1000000000,))")}),
        "strange_dtype": zipped({"W_enc.npy": npy(descr="'<f99'")}),
        "void": zipped({"W_enc.npy": npy(descr="'|V1000000000'")}),
        "text": zipped({"W_enc.npy": npy(descr="'<U1000000000'")}),
        "code": zipped({"W_enc.npy": npy(shape="__import__('os').abort()")}),
        "nesting": zipped({"W_enc.npy": header(b"(" * 9000)}),
        "minus_signs": zipped({"W_enc.npy": header(b"-" * 9000 + b"1")}),
        "long_header": zipped({"W_enc.npy": header(b" " * (1 << 19), 2)}),
        "endless_header": zipped({"W_enc.npy": header(b"{}", 2, 2**32 - 1)}),
        "other_version": zipped({"W_enc.npy": npy(version=9)}),
        "bomb": zipped({"W_enc.npy": npy(body=1 << 24)}, zipfile.ZIP_DEFLATED),
        "grown": grown("W_enc.npy"),
        "moved": moved(7),
        "moved_far": moved(0xFFFFFF00),
        "many_members": listed(40_000),
        "no_zip": b"PK\5\6" + b"\xff" * 18,
        "empty": b"",
    },
    "x-SAE-l1.pt": {
        "repeated": pickled((HUGE, 4), (0, 0)),
        "repeated_columns": pickled((4, HUGE), (4, 0)),
        "overflowing_strides": pickled((2, 2), (2**62, 2**62)),
        "product_of_64_bits": pickled((2**32, 2**32), (0, 0)),
        "empty_and_endless": pickled((0, 2**62), (1, 1)),
        "negative": pickled((-4, -4), (1, 1)),
        "negative_strides": pickled((4, 4), (-4, 1), first=15),
        "beyond_the_end": pickled((4, 5), (5, 1)),
        "far_beyond": pickled((1,), (1,), first=2**62),
        "many_axes": pickled((1,) * 5000, (1,) * 5000),
        "more_strides": pickled((4, 4), (4, 1, 1)),
        "a_storage_that_lies": pickled((HUGE,), (1,), numel=HUGE),
        "unknown_storage": pickled((4, 4), (4, 1), kind=b"ComplexFloatStorage"),
        "memo": zipped({"x/data.pkl": b"\x80\x02}r\0\0\0\x0c."}),
        "long_text": zipped({"x/data.pkl": b"\x80\x02X\xf0\xff\xff\xffa."}),
        "long_number": zipped({"x/data.pkl": b"\x80\x02\x8b\xf0\xff\xff\x7fa."}),
        "many_lists": zipped({"x/data.pkl": b"]" * ((1 << 20) + 9)}),
        "lists_in_lists": zipped({"x/data.pkl": b"]" * 400_000 + b"a" * 399_999 + b"."}),
        "bomb": zipped({"x/data.pkl": b"}" * (1 << 26)}, zipfile.ZIP_DEFLATED),
        "grown": grown("x/data.pkl"),
        "no_pickle": zipped({"x/data/0": b""}),
        "two_pickles": zipped({"x/data.pkl": b"}.", "y/data.pkl": b"}."}),
        "many_members": listed(40_000),
        "empty": b"",
    },
}  # fmt: skip
MEGABYTES = 300  # above what Python and JAX have when nothing is read

# Reads each file in turn under a bound on memory; prints what was said, or fails.
READER = """
import resource, sys, time
from probejax import saes
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {megabytes} * 2**20,) * 2)
for line in sys.stdin:
    path, began = line.rstrip(), time.monotonic()
    try:
        saes.load(path)
        print("read", flush=True)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        assert path in said and said.endswith(".") and len(said) < 1000, said
        assert "MemoryError" not in said, said
        print(f"{{time.monotonic() - began:.2f}} {{said!r}}", flush=True)
"""


def test_files_that_lie_are_refused_in_little_memory_and_time(tmp_path):
    paths = []
    for name, lies in LIES.items():
        for lie, content in lies.items():
            (tmp_path / lie).mkdir(exist_ok=True)
            path = tmp_path / lie / name
            path.write_bytes(content)
            paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", READER.format(megabytes=MEGABYTES)],
        input="\n".join(paths), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = done.stdout.splitlines()
    assert len(answers) == len(paths) == sum(map(len, LIES.values()))
    for path, answer in zip(paths, answers, strict=True):
        assert answer != "read", path
        assert float(answer.split()[0]) < 5, (path, answer)


def test_a_list_of_members_as_long_as_the_file_is_not_read(tmp_path):
    size = 1 << 30  # sparse: it takes no room on the disk
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, size - 22, 0, 0)
    with (tmp_path / "params.npz").open("wb") as file:
        file.truncate(size - 22)
        file.seek(size - 22)
        file.write(end)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedFile, match="it asks for 1,073,741,802 bytes at once"):
        saes.load(str(tmp_path / "params.npz"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_an_expanded_tensor_of_a_usual_width_is_read(tmp_path):
    import torch

    torch.save({"W": torch.ones(50, 50), "t": torch.tensor([2.0]).expand(700)}, tmp_path / "x.pt")
    np.testing.assert_array_equal(torch_zip.read(tmp_path / "x.pt")["t"][...], np.full(700, 2.0))


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "tensor", "named"),
    [
        *(("gemma_scope_2", each, each.replace("w_", "W_"))
          for each in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")),
        *(("sae_lens_gated", each, None)
          for each in ("b_gate", "b_mag", "r_mag", "b_dec", "W_enc")),
        *(("openmoss_topk", each, None) for each in ("W_E", "b_E", "W_D", "b_D")),
        *(("llama_scope", each, None) for each in ("encoder.weight", "decoder.weight")),
        *(("sparsify_topk", each, None) for each in ("encoder.bias", "b_dec", "W_dec")),
    ],
)  # fmt: skip
def test_weights_that_are_not_finite_are_refused(tmp_path, name, tensor, named, bad):
    shutil.copytree(GOLDEN / name, tmp_path / "copy")
    (path,) = (tmp_path / "copy").rglob("*.safetensors")
    tensors = load_file(path)
    tensors[tensor] = np.array(tensors[tensor])
    tensors[tensor].flat[-1] = bad
    save_file(tensors, path)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    if (tensor, bad) == ("threshold", np.inf):  # of a latent that is never active
        assert saes.load(str(folder)).threshold[-1] == np.inf
        return
    with pytest.raises(ValueError, match=rf"{path} holds NaN or infinite numbers in {named or ''}"):
        saes.load(str(folder))
    with pytest.raises(ValueError, match="holds NaN or infinite numbers in"):
        stored = saes.find(str(folder)).open()
        stored.encoder(20, 40), stored.columns([39]), stored.decoder(20, 40)


# ---- mutations ----------------------------------------------------------------------------------

FILES = {
    name: next(path for path in (GOLDEN / name).rglob(f"*{suffix}") if path.stem != "expected")
    for name, suffix in (
        ("gemma_scope", ".npz"),
        ("gemma_scope_2", ".safetensors"),
        ("sae_lens_topk", ".safetensors"),
        ("sae_lens_old", ".json"),
        ("saebench_matryoshka", ".pt"),
        ("saebench_interrupted", ".json"),
        ("openmoss_topk", ".json"),
        ("llama_scope", ".json"),
        ("sparsify_topk", ".json"),
        ("gemma_scope_2", ".safetensors"),
        ("goodfire", ".pth"),
    )
}
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["put", "insert", "cut"]), st.binary(max_size=9)),
    min_size=1, max_size=4,
)  # fmt: skip


def changed(content, changes):
    for where, how, what in changes:
        place = int(where * len(content))
        if how == "put":
            content = content[:place] + what + content[place + len(what) :]
        elif how == "insert":
            content = content[:place] + what + content[place:]
        else:
            content = content[:place] + content[place + 1 + sum(what) :]
    return content


@pytest.mark.parametrize("name", FILES)
@hypothesis.settings(max_examples=40)
@hypothesis.given(changes=CHANGES)
def test_whatever_bytes_a_file_has_it_is_read_or_refused(tmp_path_factory, name, changes):
    folder = tmp_path_factory.mktemp("mutated") / "copy"
    shutil.copytree(GOLDEN / name, folder, ignore=shutil.ignore_patterns("expected.npz"))
    path = folder / FILES[name].relative_to(GOLDEN / name)
    path.write_bytes(changed(path.read_bytes(), changes))
    try:
        saes.load(str(path if path.suffix in (".npz", ".pth") else path.parent))
    except (ValueError, FileNotFoundError) as error:
        assert str(folder) in str(error) and "\n" not in str(error) and len(str(error)) < 1500
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("read", [npz.read, torch_zip.read, safetensors_file.read])
@hypothesis.settings(max_examples=60)
@hypothesis.given(content=st.binary(max_size=300))
def test_bytes_of_no_format_are_refused(tmp_path_factory, read, content):
    path = tmp_path_factory.mktemp("noise") / "x"
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        read(path)
