"""Feeds a parser with bytes that a fuzzer makes from valid ones, guided by what they reach in it.

    python -m tests.fuzzing gguf -max_total_time=60 -rss_limit_mb=2048 -timeout=10

A parser may refuse its file in one sentence and nothing else: any other error, more memory or more
time ends the run with the bytes that caused it. `atheris` is in the extra `fuzz`.
"""

import io
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GOLDEN = Path(__file__).parent / "golden" / "saes"

with atheris.instrument_imports(include=["probejax"], enable_loader_override=False):
    from probejax import foreign, probes, storage
    from probejax.activations import npz, stored
    from probejax.models import gguf_header, safetensors
    from probejax.saes.formats import npz as sae_npz
    from probejax.saes.formats import safetensors_file, torch_zip


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, W_enc=np.ones((4, 3), np.float32), b_enc=np.zeros(3, np.float32))
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


def _table(path: Path) -> None:
    columns.read(path, columns.Columns())


def _unit() -> bytes:
    fits = {name: [] for name in ("regime", "level", "seed", "num_train", "num_test", "code")}
    fits |= {name: [] for name in ("val_auc", "test_auc", "test_acc", "test_f1", "gap")}
    unit = {"task": "a", "method": "logreg", "protocol": "paper", "model": "m", "layer": "9"}
    unit |= {"sae_id": "", "k": None}
    return json.dumps({"unit": unit, "fits": fits | {"hyperparameter": []}}).encode()


def _read_unit(path: Path) -> None:
    target = path.parent / "units" / "u.json"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(path.read_bytes())
    list(storage.Store(path.parent).read_all())


def _read_manifest(path: Path) -> None:
    (path.parent / "manifest.json").write_bytes(path.read_bytes())
    stored.read_manifest(path.parent)


_MANIFEST = (
    b'{"format":2,"layer":1,"prompts":2,"shape":[2,3],"rows":"0","model":"m","fingerprint":"f",'
    b'"dtype":"float32","max_length":9,"positions":"last"}'
)

# name -> a parser of a file, and a valid file to begin with
TARGETS = {
    "csv": (_table, b'prompt,target\na,0\n"b,\nc",1\n'),
    "jsonl": (_table, b'{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n'),
    "parquet": (_table, _parquet()),
    "json": (lambda path: foreign.read_json(path, dict[str, object], "go"), b'{"a": [1, null]}'),
    "unit": (_read_unit, _unit()),
    "manifest": (_read_manifest, _MANIFEST),
    "rows": (lambda path: npz.read(path, "W_enc", "b_enc"), _npz()),
    "probes": (probes.load, _safetensors()),
    "gguf": (gguf_header.read_header, _gguf()),
    "model_safetensors": (lambda path: safetensors.Safetensors(path.parent), _safetensors()),
    "sae_npz": (sae_npz.read, _npz()),
    "sae_safetensors": (safetensors_file.read, _safetensors()),
    "sae_torch": (torch_zip.read, _zip()),
}


def main() -> None:
    name, *flags = sys.argv[1:]
    parse, seed = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    path = folder / ("model.safetensors" if name == "model_safetensors" else f"x.{name}")
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(seed)

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            parse(path)
        except (ValueError, storage.StorageError) as error:
            if str(folder) not in str(error):  # a sentence names its file
                raise

    one(seed)
    os.chdir(folder)  # where the fuzzer leaves what it finds
    atheris.Setup([sys.argv[0], str(corpus), *flags], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
