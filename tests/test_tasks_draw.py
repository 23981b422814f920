"""Which regimes a task can have under which protocol, said before anything is run."""

import numpy as np
import pytest

from probejax import tasks
from probejax.tasks import Task


def task(zeros, ones, name="mine", prefix="p", repeat=0):
    """Distinct prompts, of which the first few occur once more with the other label."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], (zeros, ones)))
    prompts = [f"{prefix}{i}" for i in range(len(labels))]
    prompts += prompts[:repeat]
    return Task(name, tuple(prompts), np.r_[labels, 1 - labels[:repeat]], False)


def test_the_study_s_tasks_have_what_they_need_under_either_protocol():
    for name in (*tasks.DEMO, *tasks.shifted_names(), "95_toxic_is"):
        own = tasks.load(name)
        shifted = tasks.load_shifted(name) if name in tasks.shifted_names() else None
        for protocol in ("paper", "strict"):
            assert tasks.unfit(own, shifted, tasks.REGIMES, protocol) is None
            assert tasks.draw(own, shifted, tasks.REGIMES, (42,), protocol)


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_what_is_unfit_is_named_with_the_regimes_and_the_advice(protocol):
    own = task(388, 60)
    reason = tasks.unfit(own, None, tasks.REGIMES, protocol)
    assert reason is not None and reason.startswith("task 'mine' will not do")
    assert ("each prompt counts once" in reason) == (protocol == "strict")
    count = 388 if protocol == "paper" else 60
    assert (
        f"for imbalance it needs 97 prompts of each label where it has {count} of label" in reason
    )
    assert reason.endswith("37 more of label 1; or leave these regimes out.")
    assert tasks.unfit(own, None, ["standard", "scarcity", "label_noise"], protocol) is None
    with pytest.raises(ValueError, match="task 'mine' will not do"):
        tasks.draw(own, None, ["imbalance"], (42,), protocol)


def test_equal_reasons_are_said_once():
    reason = tasks.unfit(task(40, 40), None, tasks.REGIMES)
    assert reason is not None
    assert reason.count("for standard, scarcity, label_noise it needs 51 prompts of each") == 1
    assert "for imbalance it needs 97" in reason and "covariate" not in reason


def test_strict_counts_distinct_prompts():
    own = task(60, 60, repeat=40)  # 40 prompts have both labels, 80 are left
    assert tasks.unfit(own, None, ["standard"]) is None
    reason = tasks.unfit(own, None, ["standard"], "strict")
    assert reason is not None and "(strict): for standard it needs 51 prompts of each" in reason


def test_strict_needs_shifted_prompts_that_are_new():
    own = task(800, 800)
    known = Task("mine", own.prompts[:40], own.labels[:40], False)
    assert tasks.unfit(own, known, ["covariate_shift"]) is None
    reason = tasks.unfit(own, known, ["covariate_shift"], "strict")
    assert reason is not None and "which has 0 of label 0 and 0 of label 1" in reason


def test_an_unknown_protocol_or_regime_is_refused():
    own = task(60, 60)
    with pytest.raises(ValueError, match=r"no protocol 'Paper'; expected paper or strict"):
        tasks.unfit(own, None, ["standard"], "Paper")
    with pytest.raises(ValueError, match=r"no regime 'scarce'; the regimes are standard, sca"):
        tasks.unfit(own, None, ["scarce"])


def test_distinct_rows_refuses_what_does_not_match():
    with pytest.raises(ValueError, match="there are 2 prompts and 3 labels"):
        tasks.distinct_rows(("a", "b"), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="the labels are -1, 1, and only 0 and 1 will do"):
        tasks.distinct_rows(("a", "b"), np.array([-1, 1]))
