"""`params.npz`: mapped in place, and never trusted."""

import io
import pathlib
import re
import zipfile

import jax
import numpy as np
import pytest

from probejax.saes import gemma_scope

SHAPES = {"W_enc": (6, 20), "b_enc": (20,), "W_dec": (20, 6), "b_dec": (6,), "threshold": (20,)}


def random_arrays(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params.npz"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_every_float_dtype_is_read_as_float32(path, dtype):
    arrays = random_arrays(dtype)
    np.savez(path, **arrays)
    sae = gemma_scope.load(path)
    for name, array in arrays.items():
        found = getattr(sae, name)
        assert isinstance(found, jax.Array) and found.dtype == np.float32
        np.testing.assert_array_equal(found, array.astype(np.float32))


def test_members_are_mapped_and_not_copied(path):
    np.savez(path, **random_arrays(np.float16))
    mapped = gemma_scope.memory_map(path)
    assert list(mapped) == list(SHAPES)
    for name, array in mapped.items():
        assert isinstance(array, np.memmap) and array.dtype == np.float16
        assert pathlib.Path(array.filename) == path and not array.flags.writeable
        # The map begins where the member's numbers lie in the file.
        stored = path.read_bytes()[array.offset : array.offset + array.nbytes]
        assert stored == random_arrays(np.float16)[name].tobytes()


def test_lower_case_names_and_other_members(path):
    arrays = random_arrays()
    lower = {name.lower() if name[0] == "W" else name: array for name, array in arrays.items()}
    np.savez(path, hparams=np.array(["text"]), scaling_factor=np.float32(1), **lower)
    assert set(zipfile.ZipFile(path).namelist()) >= {"w_enc.npy", "w_dec.npy", "hparams.npy"}
    mapped = gemma_scope.memory_map(path)
    assert list(mapped) == list(SHAPES)
    for name in SHAPES:
        np.testing.assert_array_equal(mapped[name], arrays[name])


def test_fortran_order(path):
    arrays = random_arrays()
    np.savez(path, **{name: np.asfortranarray(array) for name, array in arrays.items()})
    np.testing.assert_array_equal(gemma_scope.memory_map(path)["W_enc"], arrays["W_enc"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read_back(path, dtype):
    arrays = random_arrays(dtype)
    arrays["b_enc"] = arrays["b_enc"].astype(np.float32)  # dtypes may be mixed
    path.write_bytes(gemma_scope.to_bytes({**arrays, "other": np.ones(3)}))
    mapped = gemma_scope.memory_map(path)
    for name, array in arrays.items():
        assert mapped[name].dtype == array.dtype
        np.testing.assert_array_equal(mapped[name], array)
    with np.load(path) as archive:  # the layout is that of np.savez, other readers' included
        assert sorted(archive.files) == sorted(SHAPES)
    assert gemma_scope.to_bytes(arrays) == gemma_scope.to_bytes(arrays)


def refused(path, *parts, kind=ValueError):
    """Checks that reading fails with one sentence that names the file and holds the parts."""
    with pytest.raises(kind) as caught:
        gemma_scope.load(path)
    message = str(caught.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(path, share):
    content = gemma_scope.to_bytes(random_arrays())
    size = int(share * len(content))
    path.write_bytes(content[:size])
    refused(path, f"damaged or cut short (File is not a zip file; {size:,} bytes)", "download it")


def test_a_hole_in_the_middle_is_refused(path):
    # The directory at the end is whole, but the members lie elsewhere than it says.
    content = gemma_scope.to_bytes(random_arrays())
    path.write_bytes(content[:300] + content[500:])
    refused(path, "damaged or cut short")


def test_damaged_headers_are_refused_whatever_they_hold(path):
    content = gemma_scope.to_bytes(random_arrays())
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(500):
        damaged = bytearray(content)
        start = content.find(b"{'descr'")
        damaged[start + rng.integers(60)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            gemma_scope.memory_map(path)
            outcomes.append("read")  # a space for a space, or another dtype of the same size
        except ValueError as error:
            assert str(path) in str(error)
            outcomes.append("refused")
    assert outcomes.count("refused") > 300


def test_a_member_that_ends_past_the_end_of_the_file_is_refused(path):
    content = gemma_scope.to_bytes(random_arrays())
    path.write_bytes(content.replace(b"'shape': (6, 20), ", b"'shape': (6, 9999)"))
    refused(path, "W_enc.npy of shape (6, 9999) ends past the end of the file")


def test_a_compressed_file_is_refused(path):
    np.savez_compressed(path, **random_arrays())
    refused(path, "W_enc.npy is compressed, so it cannot be memory-mapped")


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_pickled_objects_are_refused_and_never_run(path, tmp_path):
    canary = tmp_path / "canary"
    arrays = random_arrays()
    arrays["b_enc"] = np.array([Canary(canary)] * 20, object)
    np.savez(path, allow_pickle=True, **arrays)
    refused(path, "b_enc.npy holds Python objects, which are never unpickled")
    assert not canary.exists()
    np.load(path, allow_pickle=True)["b_enc"]
    assert canary.exists()  # the canary sings when it is run


@pytest.mark.parametrize("dtype, shown", [("V2", "|V2"), ("<U3", "<U3"), (np.int32, "int32")])
def test_other_dtypes_are_refused(path, dtype, shown):
    # numpy stores bfloat16 as two raw bytes (V2), so what they mean is lost.
    arrays = random_arrays()
    arrays["W_dec"] = np.zeros((20, 6), dtype)
    np.savez(path, **arrays)
    refused(path, f"W_dec.npy is of dtype {shown}; expected floating-point numbers")


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("W_dec", (6, 20), "W_dec is (6, 20), expected (20, 6)"),
        ("b_enc", (19,), "b_enc is (19,), expected (20,)"),
        ("b_dec", (1, 6), "b_dec is (1, 6), expected (6,)"),
        ("threshold", (), "threshold is (), expected (20,)"),
        ("W_enc", (6,), "W_enc is (6,), expected (d_model, d_sae)"),
    ],
)
def test_wrong_shapes_are_refused(path, name, shape, message):
    np.savez(path, **{**random_arrays(), name: np.zeros(shape, np.float32)})
    refused(path, f"is not an SAE: {message}.")


def test_all_wrong_shapes_are_named_at_once(path):
    arrays = {**random_arrays(), "b_dec": np.zeros(2), "threshold": np.zeros(3)}
    np.savez(path, **arrays)
    refused(path, "b_dec is (2,), expected (6,); threshold is (3,), expected (20,).")


def test_missing_members_are_named(path):
    arrays = random_arrays()
    del arrays["threshold"], arrays["b_enc"]
    np.savez(path, **arrays)
    refused(path, "has no b_enc, threshold; a Gemma Scope params.npz holds W_enc, b_enc, W_dec,")


def test_what_is_no_zip_is_refused(path):
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    path.write_bytes(buffer.getvalue())
    refused(path, f"(File is not a zip file; {len(buffer.getvalue())} bytes)")


def test_no_file_and_a_folder_are_refused(tmp_path, path):
    refused(path, "There is no SAE file", kind=FileNotFoundError)
    refused(tmp_path, "There is no SAE file", kind=FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=re.escape("--sae wants a Gemma Scope params.npz")):
        gemma_scope.memory_map(path)
