"""`params.npz`: read in place, and never trusted."""

import io
import pathlib
import zipfile

import numpy as np
import pytest

from probejax.saes.formats import Files, gemma_scope, npz

SHAPES = {"W_enc": (6, 20), "b_enc": (20,), "W_dec": (20, 6), "b_dec": (6,), "threshold": (20,)}


def random_arrays(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def load(path):
    return gemma_scope.FORMAT.load(Files(path, None), "reference")


def arrays_of(path):
    return {name: found[...] for name, found in npz.read(path).items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params.npz"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_every_float_dtype_is_read_as_float32(path, dtype):
    arrays = random_arrays(dtype)
    np.savez(path, **arrays)
    sae = load(path).load()
    for name, array in arrays.items():
        found = getattr(sae, name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array.astype(np.float32))


def test_members_are_places_in_the_file(path):
    arrays = random_arrays(np.float16)
    np.savez(path, **arrays)
    content = path.read_bytes()
    for name, found in npz.read(path).items():
        assert found.path == path and found.dtype == np.float16 and found.shape == SHAPES[name]
        size = 2 * int(np.prod(found.shape))
        assert content[found.offset : found.offset + size] == arrays[name].tobytes()


def test_parts_and_transposes_of_a_member(path):
    arrays = random_arrays()
    np.savez(path, **arrays)
    found = npz.read(path)["W_enc"]
    np.testing.assert_array_equal(found[:, 3:7], arrays["W_enc"][:, 3:7])
    np.testing.assert_array_equal(found.T[5:], arrays["W_enc"].T[5:])
    np.testing.assert_array_equal(found[[4, 0], 2], arrays["W_enc"][[4, 0], 2])


def test_lower_case_names_and_other_members(path):
    arrays = random_arrays()
    lower = {name.lower() if name[0] == "W" else name: array for name, array in arrays.items()}
    np.savez(path, hparams=np.array(["text"]), scaling_factor=np.float32(1), **lower)
    assert load(path).d_sae == 20
    assert set(zipfile.ZipFile(path).namelist()) >= {"w_enc.npy", "w_dec.npy", "hparams.npy"}
    found = arrays_of(path)
    for name in SHAPES:
        np.testing.assert_array_equal(found[name], arrays[name])


def test_fortran_order(path):
    arrays = random_arrays()
    np.savez(path, **{name: np.asfortranarray(array) for name, array in arrays.items()})
    np.testing.assert_array_equal(arrays_of(path)["W_enc"], arrays["W_enc"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read_back(path, dtype):
    arrays = random_arrays(dtype)
    arrays["b_enc"] = arrays["b_enc"].astype(np.float32)  # dtypes may be mixed
    path.write_bytes(gemma_scope.to_bytes({**arrays, "other": np.ones(3)}))
    mapped = npz.read(path)
    for name, array in arrays.items():
        assert mapped[name].dtype == array.dtype
        np.testing.assert_array_equal(mapped[name][...], array)
    with np.load(path) as archive:  # the layout is that of np.savez, other readers' included
        assert sorted(archive.files) == sorted(SHAPES)
    assert gemma_scope.to_bytes(arrays) == gemma_scope.to_bytes(arrays)


def refused(path, *parts, kind=ValueError):
    """Checks that reading fails with one sentence that names the file and holds the parts."""
    with pytest.raises(kind) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(path, share):
    content = gemma_scope.to_bytes(random_arrays())
    size = int(share * len(content))
    path.write_bytes(content[:size])
    refused(path, "is damaged (File is not a zip file)", "download it")


def test_a_hole_in_the_middle_is_refused(path):
    # The directory at the end is whole, but the members lie elsewhere than it says.
    content = gemma_scope.to_bytes(random_arrays())
    path.write_bytes(content[:300] + content[500:])
    refused(path, "is damaged (")


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
            load(path)
            outcomes.append("read")  # a space for a space, or another dtype of the same size
        except ValueError as error:
            assert str(path) in str(error)
            outcomes.append("refused")
    assert outcomes.count("refused") > 300


def test_a_member_that_ends_past_the_end_of_the_file_is_refused(path):
    content = gemma_scope.to_bytes(random_arrays())
    path.write_bytes(content.replace(b"'shape': (6, 20), ", b"'shape': (6, 9999)"))
    refused(path, "W_enc.npy: an array of shape (6, 9999) ends past the end of the file")


def test_a_compressed_file_is_refused(path):
    np.savez_compressed(path, **random_arrays())
    refused(path, "W_enc.npy is compressed, so it cannot be read in place")


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


@pytest.mark.parametrize(
    "dtype", ["V2", ">i2", np.longdouble, np.int32, "f4,f4", "c8", "?", "M8[s]"]
)
def test_other_dtypes_are_refused(path, dtype):
    # numpy stores bfloat16 as two raw bytes (V2), so what they mean is lost.
    arrays = random_arrays()
    arrays["W_dec"] = np.zeros((20, 6), dtype)
    np.savez(path, **arrays)
    refused(path, f"W_dec.npy is of dtype {np.dtype(dtype)}; expected floating-point")


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
    refused(path, "has no b_enc, threshold; expected W_enc, b_enc, W_dec, b_dec, threshold, found ")


def test_what_is_no_zip_is_refused(path):
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    path.write_bytes(buffer.getvalue())
    refused(path, "(File is not a zip file)")


def test_no_file_and_a_folder_are_refused(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=str(path)):
        load(path)
    refused(tmp_path, "is no regular file")


def test_a_scaling_factor_is_refused(path):
    np.savez(path, scaling_factor=np.full(20, 2.0), **random_arrays())
    refused(path, "has a scaling_factor other than 1")


def test_saes_of_the_embedding_read_it_scaled(tmp_path):
    arrays = random_arrays()
    for folder in ("embedding", "layer_0"):
        path = tmp_path / folder / "width_4k" / "average_l0_6" / "params.npz"
        path.parent.mkdir(parents=True)
        path.write_bytes(gemma_scope.to_bytes(arrays))
        sae, scale = load(path).load(), np.float32(6**0.5) if folder == "embedding" else 1
        np.testing.assert_allclose(sae.W_enc, arrays["W_enc"] / scale, rtol=1e-6)
        np.testing.assert_allclose(sae.W_dec, arrays["W_dec"] * scale, rtol=1e-6)
        np.testing.assert_allclose(sae.b_dec, arrays["b_dec"] * scale, rtol=1e-6)
        np.testing.assert_array_equal(sae.b_enc, arrays["b_enc"])


@pytest.mark.parametrize("fortran", [False, True])
def test_columns_are_read_alone(path, fortran):
    arrays = random_arrays(np.float16)
    order = np.asfortranarray if fortran else np.asarray
    np.savez(path, **{name: order(array) for name, array in arrays.items()})
    found = npz.read(path)["W_enc"]
    for start, stop in ((0, 20), (3, 7), (15, 99), (19, None), (20, 20)):
        columns = found.columns(start, stop)
        assert columns.dtype == np.float32
        np.testing.assert_array_equal(columns, arrays["W_enc"][:, start:stop])
    content = path.read_bytes()
    path.write_bytes(content[: found.offset + 100])
    if not fortran:
        with pytest.raises(ValueError, match="has become shorter while it was read"):
            found.columns(0, 20)
