"""Settings that must be made before JAX, or a Hugging Face library, is used for the first time."""

import os

# No test may reach the Hub; the pinned archives come through pip and obey PROBEJAX_CACHE.
os.environ["HF_HUB_OFFLINE"] = "1"
# LAPACK's own threads and XLA's would wait for each other, as experiments/__init__.py explains.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest
import sklearn  # noqa: F401  like JAX, it sets variables of the environment when imported

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# The same inputs on every machine, however slow it is.
hypothesis.settings.register_profile("ours", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ours")

# The longest files begin: whatever comes last, one process has all to itself.
_LONG = {
    *("test_probes_aggregators", "test_probes_attention", "test_probes_logreg", "test_probes_pca"),
    *("test_probes_sae", "test_probes_sae_pooled", "test_probes_saved", "test_processes"),
    *("test_solvers_l2", "test_sweep", "test_sweep_workers"),
}
_SETTINGS = ("jax_enable_x64", "jax_numpy_rank_promotion", "jax_default_matmul_precision")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in _LONG)


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
