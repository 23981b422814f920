"""What a default run compiles: few programs, and none that depends on how large a task is."""

import collections

import jax
import numpy as np
import pytest

from experiments.benchmarks.compile import costs
from probejax import probes, sweep
from probejax.sweep import work
from tests import sae_cases

pytestmark = pytest.mark.thorough
MOST = 60  # programs of the default run of one task


def job(folder, rows, sae):
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, 24)).astype(np.float32)
    np.save(folder / f"x{rows}.npy", x)
    np.save(folder / f"y{rows}.npy", (x[:, 0] + rng.normal(size=rows) > 0).astype(int))
    config = sweep.Config(
        activations=str(folder / f"x{rows}.npy"), labels=str(folder / f"y{rows}.npy"), sae=(sae,)
    )
    return sweep.Execution(sweep.resolve(config))


@pytest.fixture(scope="module")
def first_and_second(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compile")
    made = sae_cases.random_sae(24, 512)
    sae = folder / "layer_0" / "width_512" / "average_l0_20" / "params.npz"
    sae.parent.mkdir(parents=True)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    np.savez(sae, **{name: np.asarray(getattr(made, name)) for name in names})
    jax.clear_caches()  # of what other tests compiled
    return [list(costs(each, each.plan.units())) for each in
            (job(folder, 1700, str(sae)), job(folder, 2300, str(sae)))]  # fmt: skip


def test_a_default_run_compiles_few_programs(first_and_second):
    first, _ = first_and_second
    names = collections.Counter(name for cost in first for name in cost.names)
    assert {cost.method for cost in first} >= {"logreg", "pca", "knn", "mlp", "lda", "sae_k16"}
    assert 20 < names.total() <= MOST, names.most_common()
    methods = [probes.parse(cost.method) for cost in first]
    families = [method.family for method in methods]
    known = sum(
        work.programs(method, again=method.family in families[:number]) or 0
        for number, method in enumerate(methods)
    )
    assert abs(known - names.total()) <= 12  # what a dry run says


def test_a_task_of_another_size_compiles_next_to_nothing(first_and_second):
    _, second = first_and_second
    names = [name for cost in second for name in cost.names]
    # Fits that only float64 ends may come up for the first time.
    assert set(names) <= {"jit(_walk)", "jit(_advance)"} and len(names) <= 3, names
