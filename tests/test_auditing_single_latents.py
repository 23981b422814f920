"""A single latent's rule: chosen on one half, and true of the other; noise makes none that is."""

import numpy as np
import pytest
from scipy.stats import beta

from probejax.auditing.dataset import dataset
from probejax.auditing.latents import latents, marked
from probejax.auditing.single_latents import choose, single_latents
from probejax.metrics import host_auc
from tests.audit_cases import D, N, Rectified, texts

FIRES = 60  # rows on which latent 5 fires: all of class 1, but the suspects


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).astype(np.float32)
    y = np.arange(N) % 2
    on = np.flatnonzero(y)[:FIRES]
    x[:, 5] = -1
    x[on, 5] = 5 + rng.random(FIRES)
    y[on[:4]] = 0  # whose label is wrong
    ends = ["!" if row in on else "." for row in range(N)]
    named = [f"{text}{end}" for text, end in zip(texts(N), ends, strict=True)]
    return dataset(x, y, texts=named, sae=Rectified(), classes=("ham", "spam"))


def test_a_rule_finds_the_rows_that_contradict_it(data):
    found = single_latents(data)
    rules, rows = (table.rows for table in found.tables)
    surest = rules[rules["latent"] == 5]
    assert set(surest["chosen_on_half"]) == {1, 2} and set(surest["says"]) == {"spam"}
    assert (surest["share"] > 0.8).all() and (surest["share_of_all"] < 0.6).all()
    contradicted = rows[rows["latent"] == 5]
    wrong = set(np.flatnonzero((data.x[:, 5] > 0) & (data.y == 0)))
    assert set(contradicted["row"]) <= wrong and len(contradicted) >= 3
    assert (contradicted["label"] == "ham").all() and rows["row"].is_unique
    alone, gain, _ = found.claims
    assert gain.value > 0.3 > 0.15 > gain.by_chance
    assert alone.value > alone.by_chance


def test_of_noise_no_rule_holds(data):
    y = np.random.RandomState(1).permutation(data.y)
    _, gain, _ = single_latents(data._replace(y=y)).claims
    assert abs(gain.value) < 0.25 and abs(gain.by_chance) < 0.15


def test_a_rule_is_as_sure_as_its_rows_are_many():
    y = np.arange(100) % 2
    few, many = np.zeros(100), np.zeros(100)
    few[np.flatnonzero(y)[:12]] = 1
    many[np.flatnonzero(y)[:30]] = 1
    first, second, *rest = choose(np.stack([few, many], axis=1), y, np.ones(100))
    assert (first.column, second.column) == (1, 0) and first.says == second.says == 1
    assert 0 < first.threshold < 1 and first.limit > second.limit and not rest
    assert choose(np.zeros((100, 2)), y, np.ones(100)) == []  # what never fires says nothing


def test_copies_of_a_prompt_are_one_witness():
    y, z = np.arange(120) % 2, np.zeros((120, 1))
    on = np.flatnonzero(y)[:40]
    z[on, 0] = 2 + np.repeat(np.arange(20), 2)  # twenty prompts, twice each
    weight = np.ones(120)
    weight[on] = 1 / 2
    (rule,) = choose(z, y, weight)
    assert rule.says == 1 and rule.limit == pytest.approx(beta.ppf(0.05, 20, 1) - 40 / 100)
    weight[on] = 1 / 5  # eight prompts, five times each: fewer than a rule needs
    assert choose(z, y, weight) == []


def test_a_rule_is_found_below_rows_of_the_other_class():
    z, y = np.arange(100.0)[:, None], np.arange(100) >= 60
    y[-11:] = False
    first, *_ = choose(z, y.astype(int), np.ones(100))
    assert first.says == 1 and 58 < first.threshold < 65


def test_the_latents_are_shown_with_what_makes_them_fire(data):
    found, own = latents(data)
    table = found.tables[0].rows
    assert own.numbers[0] == table["latent"][0] == 5
    np.testing.assert_array_equal(own.values[:, 0], np.maximum(data.x[:, 5], 0))
    assert table["auc"][0] == pytest.approx(host_auc(own.values[:, 0].astype(float), data.y))
    assert table["strongest_ends"][0] == "'!' 100 %"
    assert table["rate_ham"][0] == pytest.approx(4 / (data.y == 0).sum())
    (claim,) = found.claims
    assert claim.value > 0.65 > claim.by_chance


def test_the_end_of_a_prompt_is_marked():
    assert marked("a cat sat.") == "a cat sat⟦.⟧"
    assert marked("a cat sat") == "a cat ⟦sat⟧"
    assert marked("a cat ") == "a cat⟦ ⟧"
    assert marked("x" * 100 + " y").startswith("…") and marked("") == ""


@pytest.mark.parametrize("rows", [1, 9, 10, 11, 12])
def test_of_few_rows_there_are_few_rules_and_no_error(rows):
    z, y = np.arange(1.0, rows + 1)[:, None], np.arange(rows) > 0
    assert len(choose(z, y.astype(int), np.ones(rows))) <= 1


def test_a_rule_that_does_not_hold_on_the_other_half_accuses_no_row(data):
    found = single_latents(data)
    rules, rows = (table.rows for table in found.tables)
    assert rules["holds"].dtype == bool and rules.loc[rules["latent"] == 5, "holds"].all()
    assert not rules.loc[~(rules["share"] > rules["share_of_all"]), "holds"].any()
    assert set(rows["latent"]) <= set(rules.loc[rules["holds"], "latent"])
    y = np.random.RandomState(1).permutation(data.y)
    noise, accused = (table.rows for table in single_latents(data._replace(y=y)).tables)
    assert not noise["holds"].all() and set(accused["latent"]) <= set(
        noise[noise["holds"]]["latent"]
    )
