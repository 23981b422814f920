"""What files say of BOS, as the makers of each family write them, and the rule of a run."""

import json

import pytest
import tokenizers
from tokenizers import processors

from probejax import models
from probejax.models import bos, tokens
from probejax.models.ggml_vocabulary import Vocabulary
from tests import gguf_files, tiny_models

WORDS = ["<unk>", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>", "<|im_start|>"]
ID = {word: i for i, word in enumerate(WORDS)}


@pytest.mark.parametrize(
    "number, added, expected",
    [
        ("<bos>", True, ("<bos>", True)),
        ("<bos>", False, ("<bos>", True)),  # Gemma has it always
        ("<s>", None, ("<s>", True)),
        ("<s>", False, ("<s>", False)),
        ("<|begin_of_text|>", None, ("<|begin_of_text|>", True)),
        ("<|endoftext|>", None, ("<|endoftext|>", False)),
        ("<|endoftext|>", True, ("<|endoftext|>", True)),
        ("<|im_start|>", False, ("<|im_start|>", False)),
    ],
)
def test_a_gguf_header(number, added, expected):
    said = Vocabulary(tokens=WORDS, bos_token_id=ID[number], add_bos_token=added)
    assert bos.of_vocabulary(said) == expected


@pytest.mark.parametrize("number", [None, 99])
@pytest.mark.parametrize("words, token", [(WORDS, "<bos>"), (WORDS[:2], "<s>"), (["a"], None)])
def test_a_gguf_header_that_names_no_bos(number, words, token):
    said = Vocabulary(tokens=words, bos_token_id=number)
    assert bos.of_vocabulary(said) == (token, token is not None)


def tokenizer(words=WORDS, front=None):
    found = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, words[0])
    )
    if front:
        found.post_processor = processors.TemplateProcessing(
            f"{front} $A", None, [(front, words.index(front))]
        )
    return found


BEGIN, END = "<|begin_of_text|>", "<|endoftext|>"


@pytest.mark.parametrize(
    "settings, found, expected",
    [
        ({"bos_token": "<bos>", "add_bos_token": True}, None, ("<bos>", True)),  # Gemma
        ({"bos_token": BEGIN}, None, (BEGIN, True)),  # Llama 3
        ({"bos_token": {"content": "<s>"}, "add_bos_token": True}, None, ("<s>", True)),  # Llama 2
        ({"bos_token": "<s>", "add_bos_token": False}, None, ("<s>", False)),
        ({"bos_token": None, "add_bos_token": False}, None, (None, False)),  # Qwen
        ({"bos_token": END, "add_bos_token": False}, None, (END, False)),
        ({"bos_token": END}, tokenizer(), (END, False)),  # GPT-2, Pythia
        ({"bos_token": END}, tokenizer(front=END), (END, True)),
        ({"bos_token": END, "add_bos_token": False}, tokenizer(front=END), (END, False)),
        ({}, tokenizer(front=END), (END, True)),
        ({}, tokenizer([END, "a"]), (None, False)),
        ({}, tokenizer(), ("<bos>", True)),
        (None, tokenizer(["<unk>", "<s>"]), ("<s>", True)),
        (None, tokenizer(["<unk>", "a"]), (None, False)),
    ],
)
def test_a_folder(tmp_path, settings, found, expected):
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    read = lambda: found or pytest.fail("the tokenizer was read for nothing")
    assert bos.of_folder(tmp_path, read) == expected


@pytest.mark.parametrize(
    "settings, found, number, expected",
    [
        ({"model_max_length": 1024}, tokenizer(["a", END]), 1, (END, False)),  # GPT-2
        (None, tokenizer(["a", END]), 1, (END, False)),
        ({"add_bos_token": True}, tokenizer(["a", END]), 1, (END, True)),
        ({}, tokenizer(["a", END]), None, (None, False)),
        ({}, tokenizer(["a", END]), [0, 1], (None, False)),
        *(({}, tokenizer(["a", END]), wrong, (None, False)) for wrong in (-1, 2, 1 << 40)),
        ({}, tokenizer(["a", END, "<s>"]), 1, ("<s>", True)),
        ({}, tokenizer(["a", END, "b"], front="b"), 1, ("b", True)),
        ({"bos_token": None, "add_bos_token": False}, None, 1, (None, False)),  # Qwen
        ({"bos_token": "a"}, tokenizer(["a", END]), 1, ("a", False)),
    ],
)
def test_config_json_names_bos_where_no_file_of_the_tokenizer_does(
    tmp_path, settings, found, number, expected
):
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": number, "n_embd": 8}))
    test_a_folder(tmp_path, settings, found, expected)


def test_the_number_of_bos_must_be_one(tmp_path):
    (tmp_path / "config.json").write_text('{"bos_token_id": "<s>"}')
    with pytest.raises(ValueError, match=r"config\.json is damaged .*; download it again\."):
        bos.of_folder(tmp_path, lambda: tokenizer(["a"]))


def test_a_damaged_tokenizer_config(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": 7}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is damaged .*bos_token"):
        bos.of_folder(tmp_path, tokenizer)


def test_the_rule():
    usual, named, none = bos.Bos("<s>", True), bos.Bos(END, False), bos.Bos(None, False)
    for found, auto, always in ((usual, "<s>", "<s>"), (named, None, END)):
        assert bos.chosen(found, "auto", "m") == auto
        assert bos.chosen(found, "always", "m") == always
        assert bos.chosen(found, "never", "m") is None
    assert bos.chosen(none, "auto", "m") is bos.chosen(none, "never", "m") is None
    said = "^--bos=always puts BOS before each prompt, and the tokenizer of m has no BOS token; "
    with pytest.raises(ValueError, match=said):
        bos.chosen(none, "always", "m")
    with pytest.raises(ValueError, match="the tokenizer of m has no BOS token"):
        bos.chosen(bos.Bos(None, True), "auto", "m")
    with pytest.raises(ValueError, match="--bos=yes does not exist; choose from auto, always, nev"):
        bos.chosen(usual, "yes", "m")


def test_the_models_that_come_without_an_account():
    assert models.find("gemma-3-270m").bos == ("<bos>", True)
    assert models.find("smollm2-135m").bos == ("<|im_start|>", False)


def test_a_checkpoint_of_either_kind(tmp_path):
    folder = tiny_models.write(tmp_path / "tiny")
    assert models.find(folder).bos == ("<bos>", True)
    path = gguf_files.header(
        tmp_path / "x.gguf",
        "llama",
        lambda w: w.add_tokenizer_model("llama"),
        lambda w: w.add_token_list(["<s>"]),
        lambda w: w.add_add_bos_token(False),
    )
    found = models.find(str(path))
    assert (found.bos_token(), found.bos_token("always")) == (None, "<s>")


def test_a_byte_level_folder_is_read_as_it_is(tmp_path):
    """GPT-2's kind of file: its words, no BOS of its own, and special tokens in a text."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: i for i, word in enumerate([*letters, "he", "Ġhe", END])}
    published = {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer")),
        "added_tokens": [
            {"id": vocab[END], "content": END, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["h e", "Ġ he"]},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(published))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": END}))
    read = tokens.tokenizer_from_folder(tmp_path)
    found = bos.of_folder(tmp_path, lambda: read)
    assert found == (END, False)
    texts = ["he he" + END, "é"]
    he, spaced, end = (vocab[word] for word in ("he", "Ġhe", END))
    for rule, first in (("auto", []), ("always", [end])):
        ids = tokens.encode(read, texts, 8, bos.chosen(found, rule, "gpt2"))
        assert ids[0].tolist() == [*first, he, spaced, end] and len(ids[1]) == len(first) + 2
        assert read.decode(ids[1]) == "é"
