"""Shares, memory, programs, and processes that join each other."""

import json
import os
import socket
import subprocess
import sys

import jax
import pytest

from probejax import devices


def test_shares_are_disjoint_and_cover_all_units():
    units = list(range(11))
    shares = [devices.share(units, i, 3) for i in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8]]


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_a_share_of_a_process_that_does_not_exist_is_refused(index, count):
    with pytest.raises(ValueError, match=f"Process {index} of {count} does not exist"):
        devices.share([1], index, count)


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
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "_CGROUP_LIMIT", limit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert devices.memory_budget() == machine // 2 // 4
    limit.write_text("max\n")
    assert devices.memory_budget() == machine // 2 // 4
    limit.write_text("8000\n")
    assert devices.memory_budget() == 1000


def test_one_process_needs_no_cluster():
    devices.initialize(False)
    assert jax.process_count() == 1


@pytest.mark.parametrize(
    ("multihost", "numbers", "message"),
    [
        (False, ("localhost:1", 2, 0), "add --multihost"),
        (True, ("localhost:1", None, 0), "missing: num_processes"),
        (True, ("localhost:1", 2, 2), "Process 2 of 2 does not exist"),
    ],
)
def test_wrong_process_numbers_are_refused(multihost, numbers, message):
    with pytest.raises(ValueError, match=message):
        devices.initialize(multihost, *numbers)


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


def test_initializing_after_jax_was_used_says_so():
    code = """
import jax, sys
from probejax import devices
jax.local_devices()
try:
    devices.initialize(True, "localhost:" + sys.argv[1], 1, 0)
except RuntimeError as error:
    print(error)
"""
    out, err = _python(code, _free_port()).communicate(timeout=60)
    assert "Could not join a multi-host run" in out and "nothing used JAX before" in out, err


def test_without_a_cluster_multihost_says_what_to_give():
    code = """
from probejax import devices
try:
    devices.initialize(True)
except RuntimeError as error:
    print(error)
"""
    out, err = _python(code).communicate(timeout=60)
    assert "Could not join a multi-host run" in out and "give the coordinator's address" in out, err


def _free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_two_processes_join_and_see_their_own_devices():
    code = """
import json, sys
from probejax import devices
devices.initialize(True, "localhost:" + sys.argv[1], 2, int(sys.argv[2]))
import jax
share = devices.share(list(range(5)), jax.process_index(), jax.process_count())
print(json.dumps([share, len(devices.own()), jax.device_count()]))
"""
    port = _free_port()
    runs = [_python(code, port, i, JAX_NUM_CPU_DEVICES="2") for i in range(2)]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert [json.loads(out) for out, _ in outputs] == [[[0, 2, 4], 2, 4], [[1, 3], 2, 4]]


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
