"""Which regimes a task can have under which protocol, said before anything is run."""

import dataclasses

import numpy as np
import pytest

from probejax import tasks
from probejax.tasks import Task


def task(zeros, ones, name="mine", prefix="p", repeat=0):
    """Distinct prompts, of which the first few occur once more with the other label."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], (zeros, ones)))
    prompts = [f"{prefix}{i}" for i in range(len(labels))]
    prompts += prompts[:repeat]
    labels = np.r_[labels, 1 - labels[:repeat]]
    return Task(name, tuple(prompts), labels, False, class_names=("no", "yes"))


def draw(own, shifted=None, regimes=tasks.REGIMES, protocol="paper", seeds=(42,)):
    return tasks.draw(own, shifted, regimes, seeds, protocol)


def test_the_study_s_tasks_are_drawn_as_the_study_has_it():
    for name in (*tasks.DEMO[2:], "66_living-room", "95_toxic_is"):
        own = tasks.load(name)
        shifted = tasks.load_shifted(name) if name in tasks.shifted_names() else None
        for protocol in ("paper", "strict"):
            drawing = draw(own, shifted, tasks.ALL_REGIMES, protocol)
            assert drawing.task is own and drawing.shifted is shifted and not drawing.left_out
            if protocol == "strict":
                continue
            of_shifted = None if shifted is None else shifted.labels
            expected = tasks.conditions(own.labels, tasks.REGIMES, shifted_labels=of_shifted)
            for one, other in zip(drawing.conditions, expected, strict=True):
                assert (one.regime, one.level, one.seed) == (other.regime, other.level, other.seed)
                for field in ("train", "y_train", "test", "y_test"):
                    np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_a_file_called_as_a_task_of_the_study_is_drawn_as_that():
    drawing = draw(task(388, 60, "87_glue_cola"))
    assert set(drawing.left_out) == {"imbalance"}
    assert "needs 97 prompts of each label where it has 388" in drawing.left_out["imbalance"]


@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_a_regime_that_cannot_be_had_is_left_out_alone(protocol):
    drawing = draw(task(40, 6), protocol=protocol)
    assert set(drawing.left_out) == {"imbalance"}
    assert {c.regime for c in drawing.conditions} == {
        *("standard", "scarcity", "label_noise", "imbalance"),
    }
    drawing = draw(task(40, 3), protocol=protocol)
    assert not drawing.conditions
    assert drawing.left_out["standard"] == (
        "it needs 4 of either class and has 40 of 'no' and 3 of 'yes'"
    )


def test_strict_draws_from_distinct_prompts_whatever_their_balance():
    own = task(300, 60, repeat=40)  # 40 prompts have both labels, 320 are left
    assert len(own.prompts) == 400
    for protocol, total in (("paper", 400), ("strict", 320)):
        (condition,) = draw(own, None, ["standard"], protocol).conditions
        assert len(condition.train) + len(condition.test) == total


def test_only_the_prompts_that_are_drawn_are_kept():
    own = dataclasses.replace(task(9000, 9000), groups=tuple("ab" * 9000))
    drawing = draw(own, task(50, 50, prefix="q"), tasks.ALL_REGIMES)
    assert len(drawing.task.prompts) < 15_000
    assert len(drawing.task.groups) == len(drawing.task.prompts) == len(drawing.task.labels)
    assert tuple(own.prompts[row] for row in drawing.rows) == drawing.task.prompts
    labels = np.concatenate([each.labels for each in drawing.sets])
    prompts = [prompt for each in drawing.sets for prompt in each.prompts]
    known = {
        p: y
        for t in (own, task(50, 50, prefix="q"))
        for p, y in zip(t.prompts, t.labels, strict=True)
    }
    used = set()
    for c in drawing.conditions:
        assert [known[prompts[row]] for row in c.test] == c.y_test.tolist()
        np.testing.assert_array_equal(labels[c.test], c.y_test)
        used |= {*c.train.tolist(), *c.test.tolist()}
    assert used == set(range(len(prompts)))


def test_a_task_without_a_condition_keeps_a_prompt():
    drawing = draw(task(60, 60), regimes=["covariate_shift"])
    assert (len(drawing.task.prompts), drawing.conditions, drawing.left_out) == (1, [], {})


def test_strict_says_which_rows_it_does_not_draw():
    own = task(60, 60, repeat=10)  # 20 rows of prompts with both labels
    own = dataclasses.replace(
        own,
        prompts=(*own.prompts, *own.prompts[50:53]),
        labels=np.r_[own.labels, own.labels[50:53]],
    )
    assert draw(own, protocol="strict").left_out["strict"] == (
        "23 of 133 rows are not drawn: 3 are copies of others and 20 have a prompt that stands "
        "there with both labels"
    )
    assert "strict" not in draw(task(60, 60), protocol="strict").left_out
    assert not draw(own, protocol="paper").left_out


def test_strict_needs_shifted_prompts_that_are_new():
    own = task(800, 800)
    known = Task("mine", own.prompts[:40], own.labels[:40], False)
    assert not draw(own, known, ["covariate_shift"]).left_out
    assert (
        "has 0 of 'no' and 0 of 'yes'"
        in draw(own, known, protocol="strict").left_out["covariate_shift"]
    )


def test_an_unknown_protocol_regime_or_seed_is_refused():
    own = task(60, 60)
    with pytest.raises(ValueError, match=r"no protocol 'Paper'; expected paper or strict"):
        draw(own, protocol="Paper")
    with pytest.raises(ValueError, match=r"no regime 'scarce'; the regimes are standard, sca"):
        draw(own, regimes=["scarce"])
    with pytest.raises(ValueError, match=r"the seed -1 is out of range"):
        draw(own, seeds=(-1,))


def test_distinct_rows_refuses_what_does_not_match():
    with pytest.raises(ValueError, match="there are 2 prompts and 3 labels"):
        tasks.distinct_rows(("a", "b"), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="the labels are -1, 1, and only 0 and 1 will do"):
        tasks.distinct_rows(("a", "b"), np.array([-1, 1]))
