"""Which token of a prompt is read: each position against the rows of all tokens."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers, processors

from probejax import models, positions, sweep
from probejax.activations import reading
from probejax.activations.language_model import LanguageModel
from tests import tiny_models
from tests.test_sweep import write_task

TEXTS = ["w1 w2 w3 w4 w5", "w7 w2 w9", "w2 w2 w4 w2 w6 w8", "w5 w2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("positions")
    tiny_models.write(root / "tiny")
    (root / "tasks").mkdir()
    write_task(root / "tasks" / "mine.csv", 60, 0)
    return root


@pytest.fixture(scope="module")
def lm(folder):
    return LanguageModel(models.find(str(folder / "tiny")), "float32")


@pytest.fixture(scope="module")
def tokens(lm):
    """Every token's row, text by text, BOS first."""
    found = lm.activations(TEXTS, 1, positions="all")
    ends = found.starts + found.counts
    return [np.asarray(found.x[a:b]) for a, b in zip(found.starts, ends, strict=True)]


def test_a_position_has_one_form():
    assert [positions.parse(text) for text in ("last", "-1", "-2", "mean", "after:Yes, ")] == [
        "last", "last", "-2", "mean", "after:Yes, ",
    ]  # fmt: skip
    line = "after:<start_of_turn>model\n"
    assert positions.parse(line) == line
    for long in ("after:a\x1b[2J", "after:" + 1000 * "a", "after:a\r\n"):
        with pytest.raises(ValueError, match=r"will not do: TEXT has at most 1,000 characters"):
            positions.parse(long)
    for wrong in ("", "first", "2", "-0", "-02", "after:", "--2", "all", "-12345"):
        with pytest.raises(ValueError, match="is no position: give last, mean, a number"):
            positions.parse(wrong)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("last", lambda rows, _: rows[-1]),
        ("-1", lambda rows, _: rows[-1]),
        ("-2", lambda rows, _: rows[-2]),
        ("mean", lambda rows, _: rows[1:].astype(np.float64).mean(axis=0)),
        ("after:w2", lambda rows, words: rows[len(words) - words[::-1].index("w2")]),
        ("after: w", lambda rows, _: rows[-1]),
    ],
)
def test_every_position_is_that_row(lm, tokens, position, expected):
    found = lm.activations(TEXTS, 1, positions=position).last()
    for row, rows, text in zip(found, tokens, TEXTS, strict=True):
        wanted = expected(rows, text.split())
        np.testing.assert_allclose(row, wanted, rtol=0, atol=2e-6 * np.abs(rows).max())
    assert len(rows) == 3  # one row for BOS and each word of the last text


@pytest.mark.parametrize(
    ("position", "texts", "why"),
    [
        (
            "-3",
            TEXTS,
            r"--position=-3 is no token of 'w5 w2', which has 2 tokens that the model re",
        ),
        ("mean", ["w1", ""], "no token of '', which has 0 tokens that the model reads"),
        ("-2", ["w1 w2", "w3"], "no token of 'w3', which has 1 token that the model reads; leave"),
        ("after:w9", TEXTS, "is no token of 'w1 w2 w3 w4 w5', which does not hold 'w9'"),
    ],
)
def test_a_prompt_without_that_token_is_named(lm, position, texts, why):
    with pytest.raises(ValueError, match=why):
        lm.activations(texts, 1, positions=position)


@pytest.mark.filterwarnings("ignore:.*are longer than max_length")
@pytest.mark.parametrize("length", [5, 256])
@pytest.mark.parametrize("position", ["last", "-2", "mean", "after:w2", "all"])
def test_vectors_are_equal_where_the_same_tokens_are_seen(lm, position, length):
    ends = ["", " w2", " w9", " w2 w9", " w9 w9 w4", " w2 w3 w4"]
    texts = [f"w{i} w2{end}" for i in (5, 6, 7) for end in ends]
    texts += ["w5  w2", "w1 w3 w5 w7 w2", "w3 w5 w7 w2", "w8 w3 w5 w7 w2"]
    found = lm.activations(texts, 2, positions=position, max_length=length)
    bounds = zip(found.starts, found.counts, strict=True)
    vectors = [np.asarray(found.x[start : start + count]) for start, count in bounds]
    how = {"bos": lm.bos, "template": None, "position": position, "max_length": length}
    seen = reading.read(texts, lm.tokenizer, lm.config, **how).seen(position)
    equal = 0
    for i, j in itertools.combinations(range(len(texts)), 2):
        same = vectors[i].shape == vectors[j].shape
        same = same and np.allclose(vectors[i], vectors[j], rtol=0, atol=1e-5)
        assert same == (seen[i] == seen[j]), (texts[i], texts[j])
        equal += same
    assert equal


@pytest.mark.parametrize(("position", "length"), [("after:w2", 256), ("last", 4)])
def test_strict_parts_no_prompts_that_the_model_reads_alike(folder, position, length):
    """Labels by chance, 30 prompts that are read and four ways to go on, or to begin."""
    rng = np.random.default_rng(0)
    read = [f"w{3 + i} w2 w4" if position == "last" else f"w{3 + i} w2" for i in range(30)]
    lines, seen = ["text,label"], {}
    for number, label in enumerate(np.repeat(rng.permutation(30) % 2, 4)):
        i, j = divmod(number, 4)
        text = f"{read[i]} w{40 + j}" if position != "last" else f"w{40 + j} w9 {read[i]}"
        seen[text] = read[i]
        lines.append(f"{text},{('no', 'yes')[label]}")
    (folder / "alike.csv").write_text("\n".join(lines) + "\n")
    how = {"model": str(folder / "tiny"), "site": "resid_post.1", "methods": ("mean_difference",)}
    how |= {"data": str(folder / "alike.csv"), "position": position, "max_length": length}
    shared = {}
    for protocol in ("paper", "strict"):
        config = sweep.Config(protocol=protocol, regimes=("standard", "label_noise"), **how)
        job = sweep.Execution(sweep.resolve(config, folder / "cache"))
        (task,) = job.plan.tasks
        data = job.data(task)
        on_both = 0
        for condition in data.conditions:
            sides = (condition.train, condition.test)
            train, test = ({seen[data.task.prompts[row]] for row in rows} for rows in sides)
            on_both += len(train & test)
            near = np.abs(data.features[condition.train][:, None] - data.features[condition.test])
            assert (near.max(axis=-1).min() < 1e-5) == bool(train & test)
        shared[protocol] = on_both
        told = job.plan.left_out.get(task, {}).get("strict", "")
        copies = "90 of 120 rows are not drawn: 90 are copies of others, as the model reads them"
        assert told == (copies if protocol == "strict" else "")
    assert shared["paper"] > 0 == shared["strict"]


LATIN = {letter: i for i, letter in enumerate(["Ġ", "Ċ", *map(chr, range(33, 127))])}
AROUND = {  # what stands after the model in a tokenizer, and leaves spaces out of offsets or not
    "nothing": None,
    "bytes": processors.ByteLevel(trim_offsets=False),
    "bytes, trimmed": processors.ByteLevel(trim_offsets=True),
    "RoBERTa's": processors.RobertaProcessing(("!", 2), ("!", 2), trim_offsets=True),
    "Llama 3's": processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing("! $A", None, [("!", 2)]),
        ]
    ),
}


@pytest.mark.parametrize("around", AROUND)
def test_a_space_belongs_to_the_token_that_holds_it_in_every_tokenizer(around):
    merges = [("Ġ", "y"), ("Ġy", "e"), ("Ġye", "s")]
    words = LATIN | {a + b: len(LATIN) + i for i, (a, b) in enumerate(merges)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(words, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if AROUND[around]:
        tokenizer.post_processor = AROUND[around]
    before = tokenizer.to_str()
    for text, marker, read in (
        ("a: yes", "a: ", "Ġyes"),
        ("a: yes", "a:", ":"),
        ("a: yes no", "yes", "Ġyes"),
        ("a: ", "a: ", "Ġ"),
        ("a:\nb", "a:\n", "Ċ"),
    ):
        ids = models.tokens.encode(tokenizer, [text], 99, None)
        (place,) = reading.from_end(f"after:{marker}", [text], ids, tokenizer, 0)
        assert tokenizer.id_to_token(int(ids[0][-place])) == read, (text, marker)
    assert tokenizer.to_str() == before


def test_what_is_cut_off_is_not_read(lm):
    with pytest.raises(ValueError, match="which has 2 tokens"):
        lm.activations(["w2 w1 w1 w1"], 1, positions="after:w2", max_length=3)


def test_a_run_says_its_position_and_a_run_at_the_last_token_is_named_as_before(folder, tmp_path):
    config = sweep.Config(
        model=str(folder / "tiny"), site="1", data=str(folder / "tasks"),
        methods=("mean_difference",), regimes=("standard",),
    )  # fmt: skip
    last, mean = (
        sweep.Execution(sweep.resolve(dataclasses.replace(config, position=each), tmp_path))
        for each in ("-1", "mean")
    )
    (one,), (other,) = last.plan.units(), mean.plan.units()
    assert "position" not in one.facts and other.facts["position"] == "mean"
    assert one.name != other.name
    assert not np.allclose(last.data("mine").features, mean.data("mine").features)
    manifests = sorted(tmp_path.glob("activations/*/manifest.json"))
    assert {json.loads(path.read_text())["positions"] for path in manifests} == {"last", "mean"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"position": "first"}, "'first' is no position: give last, mean"),
        ({"position": "mean", "methods": ("logreg", "attention")}, "attention reads all tokens"),
        ({"position": "-2", "activations": "x.npy"}, "read by no model, so --position=-2 means no"),
    ],
)
def test_a_position_that_means_nothing_is_refused(settings, why):
    with pytest.raises(ValueError, match=why):
        sweep.Config(**settings)
