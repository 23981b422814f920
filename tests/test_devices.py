"""Memory, programs, and whose devices are whose."""

import os
import subprocess
import sys

import jax

from probejax import devices


def test_a_thread_s_own_devices_are_its_default_one_or_all_local_ones():
    assert devices.own() == jax.local_devices()
    with jax.default_device(jax.local_devices()[2]):
        assert devices.own() == [jax.local_devices()[2]]


class _Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_the_budget_is_a_share_of_the_device_s_limit(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device({"bytes_limit": 1000})])
    assert devices.memory_budget() == 800


def test_on_a_cpu_the_budget_is_half_of_the_container_s_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "local_devices", lambda: [_Device(None)])
    monkeypatch.setenv("NPROC", "4")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "_CGROUP_LIMIT", limit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert devices.memory_budget() == machine // 2 // 4
    limit.write_text("max\n")
    assert devices.memory_budget() == machine // 2 // 4
    limit.write_text("8000\n")
    assert devices.memory_budget() == 1000


def _python(code, *arguments, **environment):
    env = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
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
