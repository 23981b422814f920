import gguf
import numpy as np
import pytest

from probejax.models.gguf_header import read_header


def small_file(path, alignment=32):
    """A file with every type of value, an array of each kind, and plain and quantised tensors."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_custom_alignment(alignment)
    for bits in (8, 16, 32, 64):
        getattr(writer, f"add_uint{bits}")(f"u{bits}", 2**bits - 1)
        getattr(writer, f"add_int{bits}")(f"i{bits}", -(2 ** (bits - 1)))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", "a ▁ é 🙂")
    writer.add_array("tokens", ["<pad>", "▁a", "", "  "])
    writer.add_array("scores", [-1.5, 0.0, 2.5])
    writer.add_array("types", [3, 1, -6])
    rng = np.random.default_rng(0)
    writer.add_tensor("a", rng.normal(size=(3, 64)).astype(np.float32))
    q8 = gguf.quants.quantize(
        rng.normal(size=(5, 96)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("b", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("c", rng.normal(size=7).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [32, 64])
def test_header_equals_the_gguf_package(tmp_path, alignment):
    path = small_file(tmp_path / "x.gguf", alignment)
    header = read_header(path)
    theirs = gguf.GGUFReader(path)
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert header.fields == fields
    assert header.fields["i64"] == -(2**63) and header.fields["u64"] == 2**64 - 1
    assert header.fields["yes"] is True and header.fields["no"] is False
    assert header.fields["tokens"] == ["<pad>", "▁a", "", "  "]
    assert [t.name for t in theirs.tensors] == list(header.tensors) == ["a", "b", "c"]
    for t in theirs.tensors:
        shape = tuple(int(n) for n in reversed(t.shape))
        assert header.tensors[t.name] == (shape, t.tensor_type, t.data_offset, t.n_bytes)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = small_file(tmp_path / "x.gguf")
    whole = path.read_bytes()
    end = max(t.offset + t.n_bytes for t in read_header(path).tensors.values())
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 200), *range(200, end, 7), end - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf is damaged \(.*\); download it again\.$"):
            read_header(cut)
    cut.write_bytes(whole[:end])
    assert read_header(cut) == read_header(path)


def test_damage_is_named(tmp_path):
    path = small_file(tmp_path / "x.gguf")
    whole = path.read_bytes()

    def refused(damaged, message):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            read_header(path)

    refused(b"PK\x03\x04" + whole[4:], "it starts with b'PK")
    refused(whole[:4] + b"\x01" + whole[5:], "its version is 1, known are 2 and 3")
    at = whole.index(b"general.architecture") + len(b"general.architecture")
    refused(whole[:at] + b"\x0d" + whole[at + 1 :], "there is no value type 13")
    at = whole.index(b"general.alignment") + len(b"general.alignment") + 4
    refused(whole[:at] + b"\x00" + whole[at + 1 :], "its general.alignment is 0")
    refused(
        whole[:16] + b"\xff" * 8 + whole[24:],
        "it claims 18,446,744,073,709,551,615 keys and 3 tensors",
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no GGUF file .*none\.gguf"):
        read_header(tmp_path / "none.gguf")
