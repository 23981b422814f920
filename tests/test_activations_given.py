"""Activations from files: what is read, and what is refused in one sentence."""

import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from probejax.activations import given

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 1, 0, 1, 1, 0])


def put(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_kind_of_file_holds_the_same(tmp_path, kind):
    x = X.astype(kind)
    np.savez(tmp_path / "both.npz", x=x, y=Y)
    np.savez_compressed(tmp_path / "packed.npz", x=x, y=Y)
    save_file({"x": x, "y": Y}, tmp_path / "both.safetensors")
    put(tmp_path / "y.npy", Y)
    pairs = [("both.safetensors", None), ("both.safetensors", "y.npy")]
    if kind != ml_dtypes.bfloat16:  # which npy does not know
        put(tmp_path / "x.npy", x)
        pairs += [("both.npz", None), ("packed.npz", None), ("x.npy", "y.npy")]
    found = [given.read(tmp_path / a, b and tmp_path / b) for a, b in pairs]
    for each, (name, _) in zip(found, pairs, strict=True):
        assert each.name == name.split(".")[0] and each.labels == tuple(Y.tolist())
        assert each.x.dtype == kind
        np.testing.assert_array_equal(each.x.astype(np.float32), x.astype(np.float32))
    assert len({each.fingerprint for each in found}) == 1


@pytest.mark.parametrize(
    "labels", [Y.astype(bool), Y * 2.5, np.where(Y == 1, "spam", "ham"), 1 - 2 * Y]
)
def test_labels_are_any_two_values(tmp_path, labels):
    put(tmp_path / "x.npy", X)
    found = given.read(tmp_path / "x.npy", put(tmp_path / "y.npy", labels))
    assert found.labels == tuple(labels.tolist())


def test_what_changes_changes_the_fingerprint(tmp_path):
    prints = set()
    for x, y in ((X, Y), (X + 1, Y), (X, 1 - Y), (X.astype(np.float64), Y), (X.T.copy(), Y[:4])):
        put(tmp_path / "x.npy", x)
        prints.add(given.read(tmp_path / "x.npy", put(tmp_path / "y.npy", y)).fingerprint)
    assert len(prints) == 5


def damaged(array, **changes):
    array = array.astype(object if None in changes.values() else array.dtype)
    for place, value in changes.items():
        array[int(place[1:])] = value
    return array


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


PICKLED = r"holds Python objects, which are never unpickled; save"
REFUSED = {
    "one dimension": (X[:, 0], Y, r"x\.npy holds float32 \[6\]; expected floats \[N, d\]"),
    "integers": (Y[:, None], Y, r"x\.npy holds int64 \[6, 1\]; expected floats"),
    "no columns": (X[:, :0], Y, r"x\.npy holds float32 \[6, 0\]; expected floats"),
    "NaN": (damaged(X, r3=np.nan), Y, r"x\.npy holds NaN, infinity .* in row 3 \(from 0\)"),
    "infinity": (damaged(X, r5=np.inf), Y, r"x\.npy holds NaN, infinity .* in row 5"),
    "too large": (X.astype(np.float64) * 1e300, Y, r"what float32 cannot hold in row 0"),
    "a mean that float32 drowns in": (
        1e-3 * X.astype(np.float64) + 1e7,
        Y,
        r"column 0 of the vectors in .*x\.npy holds differences too small for float32",
    ),
    "too small": (X.astype(np.float64) * 1e-50, Y, r"differences too small for float32"),
    "objects": (
        np.array([[Evil()]], object),
        Y,
        rf"x\.npy {PICKLED}",
    ),
    "fewer labels": (X, Y[:5], r"y\.npy holds int64 \[5\] as labels; expected \[6\]"),
    "a column of labels": (X, Y[:, None], r"y\.npy holds int64 \[6, 1\] as labels"),
    "a label of NaN": (X, damaged(Y * 1.0, r2=np.nan), r"no value .* column y in row 2"),
    "an empty label": (X, np.array(["a", "b", "", "a", "b", "a"]), r"no value .* y in row 2"),
    "complex labels": (X, Y * 1j, r"y\.npy holds complex128 \[6\] as labels"),
    "objects as labels": (
        X,
        np.array([Evil()] * 6, object),
        rf"y\.npy {PICKLED}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused(tmp_path, case, capsys):
    x, y, said = REFUSED[case]
    put(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=said) as error:
        given.read(tmp_path / "x.npy", put(tmp_path / "y.npy", y))
    assert "\n" not in str(error.value) and "unpickled" not in capsys.readouterr().out


def test_files_that_are_something_else_are_refused(tmp_path):
    x = put(tmp_path / "x.npy", X)
    np.savez(tmp_path / "no_y.npz", x=X, labels=Y)
    save_file({"activations": X}, tmp_path / "no_x.safetensors")
    (tmp_path / "a.pt").write_bytes(b"")
    (tmp_path / "cut.npy").write_bytes(x.read_bytes()[:-7])
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    for name, said in (
        ("x.npy", r"has no labels in it: give --labels=y\.npy, or one \.npz or"),
        ("no_y.npz", r"no_y\.npz has no array 'y', only 'x', 'labels'"),
        ("no_x.safetensors", r"has no array 'x', only 'activations'"),
        ("a.pt", r"--activations=.*a\.pt: its name must end in one of \.npy, \.npz, \.safetensors"),
        ("cut.npy", r"cut\.npy is damaged"),
        ("pickle.npy", r"pickle\.npy is damaged"),
        ("cut.safetensors", r"cut\.safetensors is damaged"),
    ):
        with pytest.raises(ValueError, match=said):
            given.read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        given.read(tmp_path / "absent.npy")


def test_an_npz_of_pickles_is_not_unpickled(tmp_path, capsys):
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
        archive.writestr("y.npy", stream.getvalue())
    with pytest.raises(ValueError, match=rf"evil\.npz {PICKLED}"):
        given.read(tmp_path / "evil.npz")
    assert "unpickled" not in capsys.readouterr().out


def test_labels_of_pandas_are_told_how_to_be_saved(tmp_path):
    put(tmp_path / "x.npy", X)
    objects = np.array(["a", "b"] * 3, dtype=object)
    np.save(tmp_path / "y.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "both.npz", x=X, y=objects)
    for files in (("x.npy", "y.npy"), ("both.npz", None)):
        with pytest.raises(ValueError, match=r"holds Python objects, .* save y\.astype\(str\) in"):
            given.read(*(name and tmp_path / name for name in files))
