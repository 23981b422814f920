"""Settings that must be made before JAX, or a Hugging Face library, is used for the first time."""

import atexit
import os
import shutil
import tempfile

# No test may reach the Hub; the pinned archives come through pip and obey PROBEJAX_CACHE.
os.environ["HF_HUB_OFFLINE"] = "1"
# LAPACK's own threads and XLA's would wait for each other, as experiments/__init__.py explains.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What one process of a run of the tests has compiled, the others read: half of a run is compiling.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="probejax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

_SETTINGS = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_default_matmul_precision")


@pytest.fixture(autouse=True)
def nothing_leaks():
    """A test leaves the environment, the working folder and JAX's settings as it found them."""

    def state():
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        return environment, os.getcwd(), {name: getattr(jax.config, name) for name in _SETTINGS}

    before = state()
    yield
    assert state() == before


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drops compiled programs before there are too many: some 2,000 tests make as many."""
    from probejax import devices  # imported sooner, its annotations would not be checked

    yield
    devices.limit_programs()
