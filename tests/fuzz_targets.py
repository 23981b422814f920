"""Every parser of a file from outside, each with a valid file to begin with; see `fuzzing`."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from probejax import foreign, probes, storage, stored_scores
from probejax.activations import given, npz, stored
from probejax.analysis import run
from probejax.auditing import keep
from probejax.models import gguf_header, safetensors
from probejax.probes.families.linear import Linear
from probejax.saes.formats import npz as sae_npz
from probejax.saes.formats import safetensors_file, torch_zip
from probejax.tasks import columns


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(4) % 2)
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
        archive.writestr("x/data/0", b"\0" * 64)
    return stream.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 16


def _gguf() -> bytes:
    def text(value: str) -> bytes:
        return len(value).to_bytes(8, "little") + value.encode()

    fields = text("general.architecture") + (8).to_bytes(4, "little") + text("gemma3")
    tensor = text("a.weight") + (1).to_bytes(4, "little") + (4).to_bytes(8, "little")
    tensor += bytes(4) + bytes(8)
    numbers = b"".join(n.to_bytes(8, "little") for n in (1, 1))
    return b"GGUF" + (3).to_bytes(4, "little") + numbers + fields + tensor + bytes(200)


def _parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), stream)
    return stream.getvalue()


def _probe() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.safetensors"
        w = np.ones(3, np.float32)
        probes.saved.save(Linear(w[None], w[:1], w), path, task="a")
        return path.read_bytes()


def _scores() -> bytes:
    rows = stored_scores.ScoredRows(42, np.arange(2), np.arange(2), np.ones(2, np.float32))
    return stored_scores.encode(stored_scores.StoredScores(("a", "b"), (rows,)))


def _unit() -> bytes:
    fits = {name: [] for name in ("regime", "level", "seed", "num_train", "num_test", "code")}
    fits |= {name: [] for name in ("val_auc", "test_auc", "test_acc", "test_f1", "gap")}
    unit = {"task": "a", "method": "logreg", "protocol": "paper", "model": "m", "layer": "9"}
    unit |= {"sae_id": "", "k": None}
    return json.dumps({"unit": unit, "fits": fits | {"hyperparameter": []}}).encode()


def _as(name: str, parse: Callable[[Path], object]) -> Callable[[Path], object]:
    """Returns a parser of a folder that has the bytes under their own name."""

    def of_folder(path: Path) -> object:
        target = path.parent / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
        return parse(path.parent)

    return of_folder


def _labels(at: Path) -> object:
    np.save(at / "x.npy", np.eye(4))
    return given.read(at / "x.npy", at / "y.npy")


_MANIFEST = (
    b'{"format":2,"site":"resid_post.1","prompts":2,"shape":[2,3],"rows":"0","model":"m",'
    b'"fingerprint":"f","dtype":"float32","max_length":9,"positions":"last"}'
)
_CONFIG = b'{"model":"m","site":["resid_post.1"],"seeds":[42],"protocol":"paper"}'

# name -> a parser of a file, and a valid file to begin with
TARGETS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "csv": (lambda path: columns.read(path, columns.Columns()), b'text,label\na,0\n"b,\nc",1\n'),
    "jsonl": (
        lambda path: columns.read(path, columns.Columns()),
        b'{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n',
    ),
    "parquet": (lambda path: columns.read(path, columns.Columns()), _parquet()),
    "json": (lambda path: foreign.read_json(path, dict[str, object], "go"), b'{"a": [1, null]}'),
    "unit": (_as("units/u.json", lambda at: list(storage.Store(at).read_all())), _unit()),
    "scores": (
        _as("scores/u.safetensors", lambda at: storage.Store(at).read_scores("u")),
        _scores(),
    ),
    "config": (_as("config.json", run.read_run), _CONFIG),
    "manifest": (_as("manifest.json", stored.read_manifest), _MANIFEST),
    "rows": (
        lambda path: npz.read(path, "W_enc", "b_enc"),
        _npz(W_enc=np.eye(3), b_enc=np.ones(3)),
    ),
    "labels_npy": (_as("y.npy", _labels), _npy()),
    "vectors_npz": (
        _as("x.npz", lambda at: given.read(at / "x.npz")),
        _npz(x=np.eye(2), y=np.ones(2)),
    ),
    "keep": (keep.read, b"latent,weight\n3,0.5\n1,0.25\n"),
    "probes": (probes.load_probe, _probe()),
    "gguf": (gguf_header.read_header, _gguf()),
    "model_safetensors": (
        _as("model.safetensors", lambda at: safetensors.Safetensors(at)),
        _safetensors(),
    ),
    "sae_npz": (sae_npz.read, _npz(W_enc=np.ones((4, 3), np.float32), b_enc=np.zeros(3))),
    "sae_safetensors": (safetensors_file.read, _safetensors()),
    "sae_torch": (torch_zip.read, _zip()),
}
