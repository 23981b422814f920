"""One value for a place in a model: one text form, one parser, one order."""

import pytest

from probejax import sites
from probejax.sites import EMBEDDING, KINDS, Site, parse

EVERY = [EMBEDDING, *(Site(kind, layer) for layer in (0, 1, 9, 61) for kind in KINDS[1:])]


@pytest.mark.parametrize("site", EVERY, ids=str)
def test_every_text_form_reads_back(site):
    assert parse(site) is site
    assert parse(str(site)) == parse(site.short) == site
    assert hash(parse(str(site))) == hash(site)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (9, "resid_post.9"),
        ("9", "resid_post.9"),
        ("embed", "resid_pre.0"),
        ("resid_pre.0", "resid_pre.0"),
        ("resid_pre.9", "resid_post.8"),
        ("mlp_out.09", "mlp_out.9"),
    ],
)
def test_each_place_has_one_name(given, text):
    assert str(parse(given)) == text


WRONG = (-1, "-1", "", "two", "1.0", "resid_post", "resid_post.", "resid_mid.3", "blocks.3", "²",
         "resid_post.-1", "resid_post.99999", "resid_post.1\n", True)  # fmt: skip


@pytest.mark.parametrize("given", WRONG, ids=repr)
def test_what_is_no_site_is_told_what_there_is(given):
    with pytest.raises(ValueError, match=r"^--site=[^\n]*\n? is no site: .*attn_z, attn_out, m"):
        parse(given)


@pytest.mark.parametrize(("kind", "layer"), [("resid_mid", 3), ("mlp_out", -1), ("mlp_out", 10**4)])
def test_no_site_is_made_that_no_text_could_name(kind, layer):
    with pytest.raises(ValueError, match="is no site"):
        Site(kind, layer)


def test_sites_stand_in_the_order_in_which_a_model_computes_them():
    assert sorted(EVERY[::-1]) == EVERY
    texts = list(map(str, EVERY))
    assert sites.in_order(sorted(texts)) == texts
    assert [site.blocks for site in EVERY] == [0] + [1] * 4 + [2] * 4 + [10] * 4 + [62] * 4


@pytest.mark.parametrize("site", EVERY, ids=str)
def test_the_names_of_hooks_read_back(site):
    from probejax.saes.formats.format import place

    assert place(site.hook) == (site.layer, site.kind)


def test_all_is_every_layer_of_a_model():
    whole = tuple(Site("resid_post", layer) for layer in range(3))
    assert sites.expand(["all"], 3) == sites.expand(["resid_post.all"], 3) == whole
    assert sites.expand([1, "all"], 3) == (whole[1], whole[0], whole[2])  # each once
    assert sites.expand(["mlp_out.all", "embed"], 1) == (Site("mlp_out", 0), EMBEDDING)
    assert sites.expand(["resid_pre.all"], 2) == (EMBEDDING, whole[0])
    for wrong in ("mlp.all", "all.all", "everything", ".all"):
        with pytest.raises(ValueError, match="is no site"):
            sites.expand([wrong], 3)
