"""Write-once results: atomic, reproducible, and clear about what went wrong."""

import json
import math
import multiprocessing
import os
import resource
import socket
from typing import ClassVar

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from probejax import foreign, storage
from probejax.storage import ConfigMismatch, StorageError, Store

FACTS = {"task": "87_glue_cola", "method": "logreg", "protocol": "paper", "model": "m"}
FACTS |= {"site": "resid_post.9", "sae_id": "", "k": None}
FITS = {"regime": ["standard", "scarcity"], "level": [None, 2.0], "seed": [42, 42]}
FITS |= {"num_train": [9, 2], "num_test": [3, 3], "val_auc": [0.1 + 0.2, math.nan]}
FITS |= {name: [0.5, 1.0] for name in ("test_auc", "test_acc", "test_f1")}
FITS |= {"hyperparameter": [1e5, None], "gap": [1e-9, math.nan], "code": [0, 1]}
PAYLOAD = {"unit": FACTS, "fits": FITS}


def test_a_unit_comes_back_exactly_and_its_bytes_do_not_depend_on_the_timing(tmp_path):
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    first.put("u1", PAYLOAD, timing={"seconds": 1.5})
    second.put("u1", {"fits": FITS, "unit": FACTS}, timing={"seconds": 9})
    assert first.done() == {"u1"}
    fits = FITS | {"val_auc": [0.30000000000000004, None], "gap": [1e-9, None]}
    assert list(first.read_all()) == [{"unit": FACTS, "fits": fits}]
    name = "units/u1.json"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a/timings/u1.json").read_text()) == {"seconds": 1.5}


def test_arrays_and_numpy_scalars_are_stored_as_plain_numbers():
    text = storage.encode_json({"b": np.float32(0.1), "a": np.array([1, 2]), "c": (np.inf,)})
    assert text == '{"a":[1,2],"b":0.10000000149011612,"c":[null]}'


def test_unit_id_depends_on_the_fields_and_not_on_their_order():
    name = storage.unit_id({"task": "a", "k": 16})
    assert name == storage.unit_id({"k": 16, "task": "a"}) == "a517655901a1949e"
    assert name != storage.unit_id({"task": "a", "k": 128})


def test_an_empty_store_has_nothing_done_and_reading_makes_no_folder(tmp_path):
    store = Store(tmp_path / "new")
    assert store.done() == set() and list(store.read_all()) == []
    assert not (tmp_path / "new").exists()


def test_stale_temporary_files_are_no_results(tmp_path):
    store = Store(tmp_path)
    store.put("u1", PAYLOAD)
    for name in (".0123.part", ".u2.json", "u3.txt"):
        (tmp_path / "units" / name).write_text("{")
    assert store.done() == {"u1"}
    assert len(list(store.read_all())) == 1


@pytest.mark.parametrize("content", [b"", b'{"unit": {"ta', b"[1]", b"\xff\xfe"])
def test_a_damaged_unit_is_named_with_what_to_do(tmp_path, content):
    store = Store(tmp_path)
    store.put("u1", PAYLOAD)
    (tmp_path / "units" / "u2.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"units/u2\.json is damaged \(.*delete it and run"):
        list(store.read_all())


def test_an_unwritable_place_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match=r"Cannot write .*file/units/u1\.json: a file is where a folder .*--out"
    ):
        Store(tmp_path / "file").put("u1", PAYLOAD)
    with pytest.raises(StorageError, match=r"Cannot write .*file/run/config\.json: "):
        storage.write_config(tmp_path / "file" / "run", {})


@pytest.mark.parametrize("write", ["config", "unit"])
def test_a_link_to_nowhere_is_said_to_be_one(tmp_path, write):
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match=r"out is a link to a place that does not exist\. Free"):
        if write == "config":
            storage.write_config(tmp_path / "out", {})
        else:
            Store(tmp_path / "out").put("u1", PAYLOAD)


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "results.csv"
    storage.write_atomic(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(
            StorageError, match=r"Cannot write .*results\.csv: File too large\. Free"
        ):
            storage.write_atomic(path, "new" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def test_the_same_config_is_accepted_and_its_file_is_not_touched(tmp_path):
    storage.write_config(tmp_path / "run", {"layer": 9, "seeds": (42,), "sae": {"id": None}})
    path = tmp_path / "run" / "config.json"
    before = path.stat()
    storage.write_config(tmp_path / "run", {"sae": {"id": None}, "seeds": [42], "layer": 9})
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert json.loads(path.read_text()) == {"layer": 9, "seeds": [42], "sae": {"id": None}}
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]


def test_another_config_is_refused_with_each_difference(tmp_path):
    storage.write_config(tmp_path, {"layer": 9, "seeds": [42], "dtype": "float32"})
    with pytest.raises(ConfigMismatch) as raised:
        storage.write_config(tmp_path, {"layer": 12, "seeds": [42], "max_length": 256})
    assert (
        'configuration: dtype is "float32" there and absent here; layer is 9 there and 12 here; '
        "max_length is absent there and 256 here. Give the same flags to resume"
        in str(raised.value)
    )
    assert json.loads((tmp_path / "config.json").read_text())["layer"] == 9


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"layer":')
    with pytest.raises(StorageError, match=r"config\.json is damaged .*another --out"):
        storage.write_config(tmp_path, {"layer": 9})


def _write_config(arguments):
    out, layer = arguments
    try:
        storage.write_config(out, {"layer": layer})
    except ConfigMismatch:
        return None
    return layer


def test_of_processes_that_write_different_configs_at_once_one_wins(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for trial in range(20):
            out = tmp_path / str(trial)
            accepted = pool.map(_write_config, [(out, 1), (out, 2), (out, 3)], chunksize=1)
            kept = json.loads((out / "config.json").read_text())["layer"]
            assert [layer for layer in accepted if layer is not None] == [kept]


class _Bucket(MemoryFileSystem):
    """Stands in for Google Cloud Storage: objects in memory."""

    protocol = ("gcs", "gs")
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    def __init__(self, finalize_on_close=True, **options):
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("gs://").strip("/")


def test_a_bucket_works_like_a_disk(monkeypatch):
    monkeypatch.setitem(_registry, "gcs", _Bucket)
    store = Store("gs://bucket/run")
    assert store.done() == set()
    store.put("u1", PAYLOAD, timing={"seconds": 1})
    store.put("u2", PAYLOAD)
    assert store.done() == {"u1", "u2"} and len(list(store.read_all())) == 2
    storage.write_config("gs://bucket/run", {"layer": 9})
    with pytest.raises(ConfigMismatch, match="layer is 9 there and 12 here"):
        storage.write_config("gs://bucket/run", {"layer": 12})
    assert sorted(_Bucket.store) == [
        "/bucket/run/config.json",
        "/bucket/run/timings/u1.json",
        "/bucket/run/units/u1.json",
        "/bucket/run/units/u2.json",
    ]


def test_a_bucket_without_its_package_says_which_one(monkeypatch):
    class Missing:
        def __init__(self, *_, **__):
            raise ImportError("Please install gcsfs to access Google Storage")

    # Not `gs`: epath keeps the file systems that it has found.
    monkeypatch.setitem(_registry, "az", Missing)
    with pytest.raises(StorageError, match=r"install gcsfs .*pip install 'probejax\[gcs\]'"):
        Store("az://bucket/run").put("u1", PAYLOAD)


DAMAGE = {
    "a site that leads elsewhere": ("unit", {"site": "/../../../../escaped/x"}),
    "a site that no model has": ("unit", {"site": "resid_mid.9"}),
    "a number for a site": ("unit", {"site": 9}),
    "no site": ("unit", {"site": None}),
    "a site and a layer": ("unit", {"layer": "9"}),
    "an old layer that leads elsewhere": ("unit", {"site": None, "layer": "../9"}),
    "a regime that leads elsewhere": ("fits", {"regime": ["../x", "standard"]}),
    "a method of several lines": ("unit", {"method": "logreg\nlogreg"}),
    "a task with a NUL": ("unit", {"task": "a\0b"}),
    "a task of a million letters": ("unit", {"task": "a" * 10**6}),
    "a negative k": ("unit", {"k": -1}),
    "a k that is a text": ("unit", {"k": "16"}),
    "an AUC above one": ("fits", {"test_auc": [0.5, 1.5]}),
    "an AUC that is a text": ("fits", {"val_auc": ["high", None]}),
    "a short column": ("fits", {"seed": [42]}),
    "no columns": ("fits", {"code": None}),
    "fits that are a list": ("fits", None),
    "a seed past 32 bits": ("fits", {"seed": [42, 1 << 32]}),
    "a latent without a number": ("latents", [None, [{"mean": [0.0, 1.0]}]]),
    "a latent of three classes": ("latents", [None, [{"index": 1, "mean": [0.0, 1.0, 2.0]}]]),
    "fewer lists of latents than fits": ("latents", [None]),
    "an L0 below zero": ("sae", {"l0": -3.0}),
    "an SAE that is a text": ("sae", "gemma-scope"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_unit_that_departs_from_the_schema_is_named(tmp_path, name):
    part, change = DAMAGE[name]
    before = {"unit": FACTS, "fits": FITS}.get(part)
    changed = before | change if before and change else change
    Store(tmp_path).put("u1", PAYLOAD | {part: changed})
    for read in (lambda store: list(store.read_all()), lambda store: store.read("u1")):
        with pytest.raises(StorageError, match=r"u1\.json is no unit \(.+\); delete it and run"):
            read(Store(tmp_path))


def test_a_unit_may_hold_more_than_is_known(tmp_path):
    more = PAYLOAD | {"sae": {"l0": 3.5, "why": []}, "note": "x"}
    Store(tmp_path).put("u1", more | {"unit": FACTS | {"data": ""}})
    assert Store(tmp_path).read("u1")["note"] == "x"


def test_a_pipe_in_place_of_a_unit_is_refused_and_not_waited_for(tmp_path):
    Store(tmp_path).put("u1", PAYLOAD)
    os.mkfifo(tmp_path / "units" / "u2.json")
    with pytest.raises(StorageError, match=r"u2\.json is no regular file"):
        list(Store(tmp_path).read_all())


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        dead = pool.apply(os.getpid)
    host = foreign.file_name(socket.gethostname())
    names = {
        "dead": f".{host}-{dead}-{'0' * 32}.part",
        "alive": f".{host}-{os.getpid()}-{'0' * 32}.part",
        "elsewhere": f".other-{dead}-{'0' * 32}.part",
        "old": f".other-{dead}-{'1' * 32}.part",
        "older": f".{'2' * 32}.part",  # as earlier versions called them
        "mine": "notes.part",
    }
    (tmp_path / "units").mkdir()
    for name in names.values():
        (tmp_path / "units" / name).write_text("half")
    for name in ("old", "older"):
        os.utime(tmp_path / "units" / names[name], (0, 0))
    storage.remove_leftovers(tmp_path)
    left = {path.name for path in (tmp_path / "units").iterdir()}
    assert left == {names["alive"], names["elsewhere"], names["mine"]}


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), storage.writing(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_folder_from_before_a_setting_existed_goes_on(tmp_path):
    storage.write_config(tmp_path, {"a": 1})
    storage.write_config(tmp_path, {"a": 1, "b": (2,)}, {"a": 9, "b": (2,)})
    with pytest.raises(storage.ConfigMismatch):
        storage.write_config(tmp_path, {"a": 1, "b": (3,)}, {"a": 9, "b": (2,)})
    with pytest.raises(storage.ConfigMismatch):
        storage.write_config(tmp_path, {"a": 9, "b": (2,)}, {"a": 9, "b": (2,)})
