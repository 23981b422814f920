"""What to keep under a shift: latents that move come last; numbers are those of scikit-learn."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import probejax as px
from probejax.auditing import keep, orders, page, report, shifted
from probejax.auditing.dataset import dataset
from probejax.auditing.report import Audit
from probejax.auditing.resampled import _weighted_auc, resampled
from probejax.auditing.shift_figure import LOGREG
from probejax.auditing.shifted import Shifted, shifted_set
from probejax.auditing.under_shift import under_shift
from probejax.tasks import Task
from tests.audit_cases import D, N, Rectified, texts

FALSE = {5, 5 + D}  # latents that tell the classes of the original rows alone; 3 does always


def drawn(n, moved, seed):
    """Vectors whose dimension 3 tells the classes, and 5, too, where they are not shifted."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.normal(size=(n, D)).astype(np.float32)
    x[:, 3] += 4 * (y - 0.5)
    x[:, 5] = 6 if moved else x[:, 5] + 4 * (y - 0.5)
    return x, y


X, Y = drawn(N, False, 0)
OTHER = drawn(120, True, 1)


@pytest.fixture(scope="module")
def found():
    data = dataset(X, Y, sae=Rectified(), classes=("ham", "spam"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "RANDOM", 3)
        return under_shift(data, Shifted(*OTHER), (3, 31), seed=0)


def test_what_moves_comes_last_and_what_tells_comes_first(found):
    curves, latents = (table.rows for table in found.tables)
    of = lambda name: curves[curves["order"] == name]
    assert {3, *FALSE} <= set(of(orders.WEIGHT)["latent"][:4])
    assert set(of(orders.LEAST_MOVED)["latent"][-2:]) == FALSE
    assert of(orders.GIVEN)["latent"].tolist() == [3, 31]
    assert latents["latent"].tolist() == of(orders.LEAST_MOVED)["latent"].tolist()
    rates = latents.set_index("latent")["rate_shifted"]
    assert (rates[5], rates[5 + D]) == (1, 0)
    auc = {name: rows.set_index("kept")["auc"] for name, rows in curves.groupby("order")}
    everything = [auc[name][16] for name in (orders.WEIGHT, orders.LEAST_MOVED, orders.AT_RANDOM)]
    assert len(set(everything)) == 1  # a set of latents is one probe, however it was ranked
    assert auc[orders.GIVEN][1] > 0.95 > 0.75 > auc[orders.AT_RANDOM][1]


def test_a_probe_on_one_latent_ranks_as_the_latent_does(found):
    curves, latents = (table.rows for table in found.tables)
    first = curves[(curves["kept"] == 1) & (curves["order"] != orders.AT_RANDOM)]
    z = Rectified().encode(OTHER[0])
    for latent, auc in first[["latent", "auc"]].to_numpy():
        alone = roc_auc_score(OTHER[1], z[:, int(latent)])
        assert min(abs(auc - alone), abs(auc - 1 + alone), abs(auc - 0.5)) < 1e-9
    for latent, auc in latents[["latent", "auc_shifted"]].to_numpy():
        assert auc == pytest.approx(roc_auc_score(OTHER[1], z[:, int(latent)]))


def test_differences_are_those_of_the_rows_and_lie_in_their_intervals(found):
    curves = found.tables[0].rows
    whole = curves[curves["order"] == LOGREG]["auc"].item()
    at_random = curves[curves["order"] == orders.AT_RANDOM].set_index("kept")["auc"]
    rows = curves[curves["order"] == orders.LEAST_MOVED]
    np.testing.assert_allclose(rows["above_logreg"], rows["auc"] - whole, atol=1e-12)
    np.testing.assert_allclose(
        rows["above_random"], rows["auc"].to_numpy() - at_random[rows["kept"]], atol=1e-12
    )
    for name in ("auc", "above_random", "above_logreg"):
        part = curves[curves[name].notna()]
        assert (part[f"{name}_low"] <= part[name] + 1e-9).all()
        assert (part[name] <= part[f"{name}_high"] + 1e-9).all()


def test_every_claim_has_its_chance_and_the_rule_is_said_first(found):
    assert page.answers([found])[0].startswith("AUC of 8 latents, least moved first, on shifted")
    for claim in found.claims:
        assert 0 <= claim.by_chance <= 1 and claim.value > claim.by_chance - 0.2
    best = next(claim for claim in found.claims if "as given" in claim.text)
    assert best.value > 0.95 and best.by_chance < 0.95


def test_the_page_and_the_folder_have_the_picture(found, tmp_path):
    Audit("a", (found,), {}).save(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert names == {
        *("audit.html", "kept_under_shift.csv", "shifted_latents.csv"),
        *("figures/kept_under_shift.png", "figures/kept_under_shift.svg"),
    }
    assert names - {"audit.html"} <= set(report.FILES)
    text = (tmp_path / "audit.html").read_text()
    assert text.count('class="chart"') == 1 and "8 kept, least moved first" in text
    # What was written for a person to reorder can be handed back.
    assert keep.read(tmp_path / "shifted_latents.csv") == tuple(found.tables[1].rows["latent"])


def test_weighted_draws_give_the_areas_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, y = np.round(rng.normal(size=(3, 60)), 1), np.arange(60) % 3 == 0
    same = np.arange(60) // 2
    found = resampled(scores, y.astype(int), same)
    for column in range(3):
        assert found.aucs[column] == pytest.approx(roc_auc_score(y, scores[column]))
    assert found.draws.shape == (1000, 3)
    assert found.draws.std(axis=0) == pytest.approx(0.08, abs=0.03)
    one = resampled(scores, y.astype(int), np.zeros(60, int))  # one prompt: nothing is drawn
    np.testing.assert_allclose(one.draws, np.tile(one.aucs, (1000, 1)))
    assert found.interval(np.array([1.0, -1.0, 0.0])).mean == pytest.approx(
        found.aucs[0] - found.aucs[1]
    )


def test_a_weight_counts_as_so_many_rows():
    rng = np.random.default_rng(1)
    score, y, times = (
        np.round(rng.normal(size=40), 1),
        np.arange(40) % 2,
        rng.integers(0, 4, (5, 40)),
    )
    for weights, auc in zip(times, _weighted_auc(score, y, times.astype(float)), strict=True):
        rows = np.repeat(np.arange(40), weights)
        assert auc == pytest.approx(roc_auc_score(y[rows], score[rows]))


@pytest.mark.parametrize("name", ["66_living-room", "mine"])
def test_rows_are_those_of_a_run(name):
    prompts = [*texts(2400), *texts(100)]  # the last stand there twice
    labels = np.arange(2500) % 2
    other = [*texts(60), *(f"o {text}" for text in texts(240)), "o twice", "o twice"]
    y = np.arange(302) % 2
    task, moved = (Task(name, tuple(p), z, False) for p, z in ((prompts, labels), (other, y)))
    found = shifted.draw(task, moved, 42)
    (condition,) = px.tasks.draw(task, moved, ("covariate_shift",), (42,), "strict").conditions
    assert len(found.train) == 1024 and (labels[found.train] == condition.y_train).all()
    assert sorted(y[found.test]) == sorted(condition.y_test)
    assert sorted(found.test) == list(range(60, 302))  # not those that are originals, too
    assert len({prompts[row] for row in found.train}) == 1024
    if name != "mine":  # the study's tasks keep their rows, as they stand
        assert (found.train == condition.train).all()


def test_prompts_are_told_apart_by_text_or_else_by_their_vectors():
    data = dataset(X, Y, texts=texts(N))
    given = np.concatenate([X[:10], OTHER[0]]), np.concatenate([Y[:10], OTHER[1]])
    assert len(shifted.split(data, shifted_set(data, *given), 0).test) == 120
    named = shifted_set(data, *given, [*texts(20), *(f"o {text}" for text in texts(110))])
    assert len(shifted.split(data, named, 0).test) == 110


WRONG = {
    "no SAE": ({"sae": None}, "needs an SAE; give sae, too"),
    "four parts": ({"shifted": (*OTHER, texts(120), 1)}, "shifted has 4 parts; expected (x, y)"),
    "one class": ({"shifted": (OTHER[0], OTHER[1] * 0)}, "the labels have 1 different values"),
    "other classes": (
        {"shifted": (OTHER[0], OTHER[1] + 1)},
        "the shifted labels are '1' and '2', and y has '0' and '1'; expected the same two",
    ),
    "another width": ({"shifted": (OTHER[0][:, :9], OTHER[1])}, "shifted x is 9 wide and x is 16"),
    "texts of another number": (
        {"shifted": (*OTHER, texts(3))},
        "there are 3 shifted texts and 120 labels",
    ),
    "texts that are none": ({"shifted": (*OTHER, [None] * 120)}, "shifted texts[0] is None"),
    "half of a character": (
        {"shifted": (*OTHER, [*texts(119), "\udc00"])},
        "shifted texts[119] holds half of a character",
    ),
    "the same rows": ({"shifted": (X, Y)}, "2 of either class to test on and has 0 of '0'"),
    "keep alone": ({"shifted": None, "keep": [1]}, "give shifted=(x, y), too"),
    "keep nothing": ({"keep": []}, "keep names no latent"),
    "keep what is absent": ({"keep": [1, 32]}, "keep names latent 32, and the SAE has those from 0 "
                                               "to 31"),
    "keep twice": ({"keep": [4, 2, 4]}, "keep names latent 4 twice"),
    "keep no number": ({"keep": [4, 2.5]}, "keep names 2.5; expected numbers of latents"),
    "keep below zero": ({"keep": [-1]}, "keep names -1; expected numbers of latents, from 0 on"),
    "keep many": ({"keep": range(65)}, "keep names 65 latents; give the best 64 at most"),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_what_will_not_do_is_a_sentence(which):
    more, said = WRONG[which]
    given = {"sae": Rectified(), "shifted": OTHER, **more}
    with pytest.raises(ValueError, match=re.escape(said)):
        px.audit(X, Y, **given)


FILES = {
    "lines": (b"7\n3\n\n12\n", (7, 3, 12)),
    "lines of Windows": (b"\xef\xbb\xbf7\r\n 3 \r\n", (7, 3)),
    "a column": (b'rank,latent\n1,"7"\n2,3\n', (7, 3)),
    "a column alone": (b"latent\n7\n", (7,)),
}
DAMAGED = {
    "nothing": (b"", "names no latent"),
    "a header alone": (b"latent,moved\n", "names no latent"),
    "blank lines": (b"\n \n", "names no latent"),
    "a word": (b"7\nbest\n", "line 2: 'best' is not the number of a latent"),
    "a feed in a header": (b"latent\x0cen\n1\n", "en'; expected one called latent"),
    "a fraction": (b"latent\n7.0\n", "line 2: '7.0' is not the number of a latent"),
    "below zero": (b"-7\n", "line 1: '-7' is not the number of a latent"),
    "other digits": ("٣\n".encode(), "line 1: '٣' is not the number of a latent"),
    "a long number": (b"9" * 5000, "is not the number of a latent"),
    "another column": (b"id,rank\n7,1\n", "line 1: 'id,rank' is not the number of a latent"),
    "twice": (b"7\n3\n7\n", "names latent 7 twice"),
    "many": ("\n".join(map(str, range(65))).encode(), "names 65 latents; give the best 64"),
    "no text": (b"\xff\xfe7\0", "is UTF-16 text"),
    "rows of other lengths": (b"latent,rank\n7\n", "1 field on line 2"),
}


@pytest.mark.parametrize("which", [*FILES, *DAMAGED])
def test_files_of_what_to_keep(which, tmp_path):
    content, expected = (FILES | DAMAGED)[which]
    path = tmp_path / "keep.csv"
    path.write_bytes(content)
    if which in FILES:
        assert keep.read(path) == expected
        return
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        keep.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
