"""Results from strangers: no name leads out of the folder, no text becomes part of the page."""

import html.parser
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from probejax import storage
from probejax.analysis.examples import Example
from probejax.analysis.page.elements import link
from probejax.analysis.page.page import Story
from probejax.analysis.report import report
from probejax.analysis.run import Latent
from probejax.analysis.tables import results_table
from tests.report_cases import ARROWS, TASKS, quick_figures, unit

FIELDS = ("task", "method", "protocol", "model", "sae_id", "regime")
HOSTILE = (
    "/../../../x", "../x", "..", ".", "/", "", "a" * 300, "\0", "\\..\\x", "x/../../../y", "~",
    '"><script>alert(1)</script>', "</script><script>alert(1)</script>", "' onload='alert(1)",
    "javascript:alert(1)", "</style>", "<!--", "]]>", "&lt;b&gt;", "$\\frac$", "\u202e",
)  # fmt: skip
NAMES = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8))
SHOWN = (*ARROWS[:1], *ARROWS[2:5:2])  # logreg, and a probe on either SAE
LINKED = "https://www.neuronpedia.org/gemma-2-2b/12-gemmascope-res-16k/1234"


def _write(out, names, told):
    """Reports on two tasks and three arrows; every field of one name ends with a hostile text."""
    units = [unit(task, *arrow) for task in TASKS[:2] for arrow in SHOWN]
    units += [unit(TASKS[0], *arrow, site="resid_post.12") for arrow in SHOWN]
    for each in units:
        if sae_id := each["unit"]["sae_id"]:
            each["sae"] = {"architecture": told + sae_id[-2:], "released": told}
    table = results_table(units)
    for field in FIELDS:
        text = names.get(field, "")
        table[field] = table[field].map(lambda x, text=text: text + x if x else x)
    task = table["task"].iloc[0]
    where = tuple(table[["protocol", "model", "site"]].iloc[0])
    cards = {task: {told: [Latent(3, 0.0, 1.0, told), Latent(4, 0.0, 1.0, LINKED)]}}
    story = Story(told, {told: [told]}, {task: [Example(0, told, told)]}, {where: cards})
    with quick_figures(laid_out=False):
        report(out, table, story=story)
    return (out / "report.html").read_text()


class _Parts(html.parser.HTMLParser):
    """The tags of a page with the names of their attributes, its ids and where it links to."""

    def __init__(self, page):
        super().__init__()
        self.parts, self.links, self.scripts = set(), set(), 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.parts.add((tag, frozenset(name for name, _ in attrs)))
        self.scripts += tag == "script"
        self.links |= {value for name, value in attrs if name in ("href", "src")}

    def handle_comment(self, data):
        self.parts.add(("comment", data))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return _Parts(_write(tmp_path_factory.mktemp("plain") / "out", {}, "plain"))


@settings(max_examples=1)
@given(names=st.dictionaries(st.sampled_from(FIELDS), NAMES, min_size=3), told=NAMES)
@example(names=dict.fromkeys(FIELDS, "/../../../x"), told="x")
@example(names=dict.fromkeys(FIELDS, HOSTILE[11]), told="' onload='alert(1)")
@example(names=dict.fromkeys(FIELDS, "</script>$\\frac$"), told="javascript:alert(1)")
def test_nothing_is_written_outside_and_the_page_keeps_its_parts(plain, names, told):
    with tempfile.TemporaryDirectory() as root:
        out = Path(root) / "a" / "b" / "out"
        with mock.patch.object(storage, "write_atomic", wraps=storage.write_atomic) as written:
            page = _Parts(_write(out, names, told))
        paths = [Path(os.path.abspath(call.args[0])) for call in written.call_args_list]
        assert all(path.is_relative_to(out) for path in paths), paths
        for folder in (out.parent, out.parent.parent, Path(root)):
            assert len(list(folder.iterdir())) == 1, list(folder.iterdir())
        assert not any(path.is_symlink() for path in out.rglob("*"))
    assert page.scripts == 1 and page.parts <= plain.parts, page.parts - plain.parts
    outside = {address for address in page.links if not address.startswith("#")}
    assert outside == {LINKED, "data:,"}


def test_plain_names_of_files_stay_as_they_are(tmp_path):
    _write(tmp_path, {}, "plain")
    paths = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    sae = "gemma-3-270m_layer_9_width_4k_average_l0_78"  # which stands at two sites here
    assert paths >= {
        "figures/standard.png",
        "figures/tasks_label_noise.svg",
        f"saebench/paper_gemma-3-270m_{sae}_resid_post.12_eval_results.json",
        "study/baseline_probes_gemma-3-270m/normal_settings/layer12_results.csv",
    }


@pytest.mark.parametrize(
    ("address", "linked"),
    [
        (LINKED, True),
        ("https://huggingface.co/google/gemma-scope-2b-pt-res", True),
        ("https://arxiv.org/abs/2502.16681", True),
        ("https://github.com/JoshEngels/SAE-Probes", True),
        ("https://github.com", True),
        (None, False),
        ("", False),
        ("http://github.com/x", False),
        ("javascript:alert(1)", False),
        ("https://github.com.evil.org/", False),
        ("https://evil.org/github.com", False),
        ("https://github.com@evil.org/", False),
        ("https://evil.org\\@github.com/", False),
        ("https://github.com:8080/", False),
        ("https://github.com/\n<b>", False),
        ("HTTPS://GITHUB.COM/x", False),
        ("//github.com/x", False),
        (" https://github.com/x", False),
        ("https://github.com/x\n", False),
    ],
)
def test_only_known_sites_are_linked(address, linked):
    assert link("text", address) == (
        f'<a href="{address}" rel="noopener">text</a>' if linked else "text"
    )
