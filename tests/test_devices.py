"""Memory, programs, and whose devices are whose."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
import zstandard
from etils import epath

from probejax import artifacts, devices


def test_a_thread_s_own_devices_are_its_default_one_or_all_local_ones():
    with jax.default_device(None):
        assert devices.own() == jax.local_devices()
    with jax.default_device(jax.local_devices()[2]):
        assert devices.own() == [jax.local_devices()[2]]


class _Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_the_budget_is_a_share_of_the_device_s_limit(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device({"bytes_limit": 1000})])
    assert devices.memory_room() == 800


def test_on_a_cpu_the_budget_is_half_of_the_container_s_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device(None)])
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "_CGROUP_LIMIT", limit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert devices.memory_room() == machine // 2
    limit.write_text("max\n")
    assert devices.memory_room() == machine // 2
    limit.write_text("8000\n")
    assert devices.memory_room() == 4000


def test_cores_are_counted_where_nobody_tells_which_are_one_s_own(monkeypatch):
    """As on a Mac."""
    monkeypatch.delenv("NPROC", raising=False)
    assert devices.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert devices.cores() == os.cpu_count()


def test_a_host_that_jax_may_not_use_is_named(monkeypatch):
    assert devices.host().platform == "cpu"

    def refuse(**_):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", refuse)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(ValueError, match="give JAX_PLATFORMS=tpu,cpu, or leave it unset"):
        devices.host()


def test_programs_alone_may_be_in_a_bucket(tmp_path, settings, monkeypatch):
    for place in ("gs://bucket/programs", str(tmp_path / "programs")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", place)
        assert devices.compilation_cache(tmp_path) == epath.Path(place)
        assert settings[0]() == place and settings[1]() == 0
    assert not (tmp_path / "compiled").exists()
    for given in ({"path": "gs://bucket/cache"}, {}):
        monkeypatch.setenv("PROBEJAX_CACHE", "gs://bucket/cache")
        with pytest.raises(ValueError, match="--cache_dir=gs://bucket/cache is no folder on a di"):
            artifacts.cache_dir(**given)


def _python(code, *arguments, **environment):
    """Starts a Python without proxies, and with no cache of programs but its own."""
    not_these = ("proxy", "jax_compilation_cache", "jax_persistent_cache")
    env = {k: v for k, v in os.environ.items() if not any(n in k.lower() for n in not_these)}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_compiled_programs_are_kept_in_the_cache_folder(tmp_path):
    code = """
import sys, jax, jax.numpy as jnp
from probejax import devices
jax.jit(lambda x: x + 2)(1.0)  # a program compiled before must not switch the cache off
print(devices.compilation_cache(sys.argv[1]))
jax.jit(lambda x: jnp.sin(x) + 1)(1.0)
"""
    run = _python(code, tmp_path)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert out.strip() == str(tmp_path / "compiled")
    assert any(p.name.endswith("-cache") for p in (tmp_path / "compiled").iterdir())


@pytest.fixture
def settings(monkeypatch):
    """JAX's settings of its cache, put back afterwards; the environment says nothing of it."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # that of the tests
    names = ("dir", "min_compile_time_secs", "min_entry_size_bytes")
    names = [f"jax_{'compilation' if n == 'dir' else 'persistent'}_cache_{n}" for n in names]
    before = {name: getattr(jax.config, name) for name in names}
    yield lambda: getattr(jax.config, names[0]), lambda: getattr(jax.config, names[1])
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".cache" / "probejax" / "compiled"


OPEN = {
    "the folder is open to all": lambda top: (top / "compiled").chmod(0o777),
    "the folder is open to all, and sticky": lambda top: (top / "compiled").chmod(0o1777),
    "the cache is open to all": lambda top: top.chmod(0o777),
    "a program is open to all": lambda top: (top / "compiled" / "a-cache").chmod(0o666),
    "the folder is a link to one that is open": lambda top: linked(top),
}


def linked(top):
    (top / "compiled").rename(top / "elsewhere")
    (top / "compiled").symlink_to("elsewhere")
    (top / "elsewhere").chmod(0o777)


@pytest.mark.parametrize(
    "owner, group, mode, is_open",
    [
        (1000, 1000, 0o755, False),
        (1000, 1000, 0o775, False),  # the user's own group
        (0, 0, 0o755, False),
        (0, 0, 0o775, True),
        (1000, 50, 0o775, True),
        (1000, 60, 0o775, True),  # of the user's name, but with another member
        (1000, 70, 0o775, True),  # a group that nobody knows
        (1000, 50, 0o755, False),
        (1001, 1000, 0o755, True),
        (1000, 1000, 0o757, True),
        (1000, 1000, 0o1777, True),
    ],
)
def test_who_may_write(owner, group, mode, is_open, monkeypatch):
    groups = {
        1000: SimpleNamespace(gr_name="ann", gr_mem=[]),
        50: SimpleNamespace(gr_name="staff", gr_mem=[]),
        60: SimpleNamespace(gr_name="ann", gr_mem=["ann", "bob"]),
        0: SimpleNamespace(gr_name="root", gr_mem=[]),
    }
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(devices.pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="ann"))
    monkeypatch.setattr(devices.grp, "getgrgid", groups.__getitem__)
    found = os.stat_result((mode, 1, 1, 1, owner, group, 0, 0, 0, 0))
    assert devices._is_open(found) is is_open


PROGRAM = zstandard.ZstdCompressor().compress(bytes(range(256)) * 9999)


def compiled(top):
    (top / "compiled").mkdir(parents=True)
    top.chmod(0o755)
    (top / "compiled").chmod(0o755)
    (top / "compiled" / "a-cache").write_bytes(PROGRAM)
    return top


@pytest.mark.parametrize("way", OPEN)
def test_programs_that_others_may_have_written_are_not_run(way, tmp_path, settings, home, capsys):
    top = compiled(tmp_path / "cache")
    OPEN[way](top)
    assert devices.compilation_cache(top) == epath.Path(home)
    assert settings[0]() == str(home) and home.stat().st_mode & 0o777 == 0o700
    said = capsys.readouterr().err
    assert said.startswith(f"{top / 'compiled'} ") and said.count("\n") == 1
    assert said.endswith(f"are kept in {home}; choose another folder with --cache_dir\n")
    home.chmod(0o777)
    assert devices.compilation_cache(top) is None and settings[0]() is None
    assert "so compiled programs are not kept; choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda top: None,
        lambda top: top.chmod(0o1777),  # nobody renames what is not theirs
        lambda top: (top / "compiled").chmod(0o700),
    ],
)
def test_programs_that_only_the_user_may_write_are(change, tmp_path, settings, home, capsys):
    top = compiled(tmp_path / "cache")
    change(top)
    assert devices.compilation_cache(top) == epath.Path(top / "compiled")
    assert settings[1]() == 0 and not capsys.readouterr().err and not home.exists()


def test_what_a_full_disk_cut_short_is_removed(tmp_path, settings):
    top = compiled(tmp_path / "cache")
    pieces = {f"{n}-cache": PROGRAM[:n] for n in (0, 1, 5, 9, len(PROGRAM) // 2, len(PROGRAM) - 1)}
    for name, data in {**pieces, "old-cache": b"zlib", "0-atime": b""}.items():
        (top / "compiled" / name).write_bytes(data)
    devices.compilation_cache(top)
    left = sorted(path.name for path in (top / "compiled").iterdir())
    assert left == ["0-atime", "1-cache", "a-cache", "old-cache"]  # one byte may be anything


def test_a_full_disk_is_said_once_and_not_written_to(tmp_path, settings, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    folder = devices.compilation_cache(tmp_path / "cache")
    said = f"{folder} has no room left, so new programs are not kept; choose another folder with"
    assert capsys.readouterr().err == f"{said} --cache_dir\n" and settings[1]() > 1e6


def test_a_cache_that_cannot_be_made_names_the_flag(tmp_path, settings, home, capsys):
    (tmp_path / "file").touch()
    assert devices.compilation_cache(tmp_path / "file") == epath.Path(home)
    said = f"{tmp_path / 'file' / 'compiled'} cannot be used (File exists), so compiled programs"
    assert capsys.readouterr().err.startswith(said)


def test_a_read_only_cache_serves_without_a_word(tmp_path):
    """Archives, files of the Hub and compiled programs; root looks at it as somebody else."""
    code = """
import os, shutil, sys, tempfile, warnings
from pathlib import Path
warnings.simplefilter("error")
import jax, jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from probejax import artifacts, devices
wheel = artifacts.Wheel("x", "1", "x.whl", "0" * 64, 1)
def serve(cache):
    assert devices.compilation_cache(cache) == cache / "compiled"
    jax.jit(lambda x: jnp.sin(x) + 1)(1.0)
    assert artifacts.fetch(artifacts.Archive("1" * 64, (wheel,), ".*"), cache)
    assert artifacts.hub_file("me/x", "config.json", cache=cache).read_text() == "{}"
with tempfile.TemporaryDirectory() as folder:
    cache = Path(folder) / "cache"
    serve(Path(sys.argv[1]))
    shutil.copytree(sys.argv[1], cache)
    paths = [Path(folder), cache, *cache.rglob("*")]
    assert any(path.name.endswith("-cache") for path in paths)
    for path in paths[1:]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    Path(folder).chmod(0o755)
    jax.clear_caches()
    compilation_cache.reset_cache()
    root = os.getuid() == 0
    if root:
        os.setresuid(65534, 65534, 0)
    serve(cache)
    jax.jit(lambda x: jnp.cos(x) + 2)(1.0)  # is not there
    if root:
        os.setresuid(0, 0, 0)
    assert [Path(folder), cache, *cache.rglob("*")] == paths
    for path in paths:
        path.chmod(0o755)
"""
    cache, name = tmp_path / "cache", "1" * 64
    unpacked = cache / "artifacts" / name
    unpacked.mkdir(parents=True)
    (unpacked / "a").write_bytes(b"a")
    manifest = {"a": [1, hashlib.sha256(b"a").hexdigest()]}
    (unpacked / "manifest.json").write_text(json.dumps(manifest))
    hub = cache / "hub" / "models--me--x"
    (hub / "snapshots" / name[:40]).mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(name[:40])
    (hub / "snapshots" / name[:40] / "config.json").write_text("{}")
    run = _python(code, cache, HF_HUB_OFFLINE="1")
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0 and not err, err


def test_programs_are_dropped_before_there_are_too_many(monkeypatch, tmp_path):
    program = jax.jit(lambda x: x + 3)
    program(1.0)
    maps = tmp_path / "maps"
    monkeypatch.setattr(devices, "_MAPS", maps)
    for lines, left in ((None, 1), (20_000, 1), (20_001, 0)):  # no such file: not Linux
        if lines:
            maps.write_bytes(b"a map\n" * lines)
        devices.limit_programs()
        assert program._cache_size() == left
    assert program(1.0) == 4.0
