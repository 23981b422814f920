"""Llama 2's kind of tokenizer from a GGUF header; Gemma's is in test_models_tokens."""

import json

import pytest
import tokenizers

from probejax.models import tokens
from tests import gguf_files

WORDS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES = ["▁", "▁▁", "▁a", "ab", "abb", "▁ab", "a", "b", "[X]"]
WORDS = WORDS + PIECES
KINDS = [2, 3, 3, *[6] * 256, *[1] * 8, 4]
SCORES = [0.0] * 259 + [-5.0, -9.0, -1.0, -2.0, -3.0, -4.0, -6.0, -7.0, -1000.0]
ID = {word: i for i, word in enumerate(WORDS)}

# As Llama 2's makers publish theirs, with the merges that training made, best first.
PUBLISHED = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": ID[word], "content": word, "special": word != "[X]", "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for word in ("<unk>", "<s>", "</s>", "[X]")
    ],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            *({"type": "ByteFallback"}, {"type": "Fuse"}),
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    },
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": ID,
        "merges": ["▁ a", "a b", "ab b", "▁ ab", "▁a b", "▁ ▁"],
    },
}
TEXTS = ["", "ab", " ab", "abb abb", "a  a    a", "a<s>ab</s> [X]ab<unk>", "é\n\x00", "▁a ▁"]


def small(path, *additions, scores=SCORES):
    return gguf_files.header(
        path,
        "llama",
        lambda w: w.add_tokenizer_model("llama"),
        lambda w: w.add_token_list(WORDS),
        lambda w: w.add_token_types(KINDS),
        lambda w: scores is None or w.add_token_scores(scores),
        lambda w: w.add_unk_token_id(0),
        *additions,
    )


@pytest.mark.parametrize("said", [None, True])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_a_published_file(tmp_path, said, text):
    prefix = () if said is None else (lambda w: w.add_add_space_prefix(said),)
    ours = tokens.tokenizer_from_gguf(small(tmp_path / "a.gguf", *prefix))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(PUBLISHED))
    assert json.loads(ours.to_str())["model"]["merges"] == [
        merge.split(" ") for merge in PUBLISHED["model"]["merges"]
    ]
    found, expected = (each.encode(text, add_special_tokens=False) for each in (ours, theirs))
    assert found.ids == expected.ids
    assert ours.decode(found.ids) == theirs.decode(expected.ids)


def test_a_file_may_want_no_space_before_a_text(tmp_path):
    path = small(tmp_path / "a.gguf", lambda w: w.add_add_space_prefix(False))
    (found,) = tokens.encode(tokens.tokenizer_from_gguf(path), ["ab a"], 8, bos="<s>")
    assert found.tolist() == [1, ID["ab"], ID["▁a"]]


@pytest.mark.parametrize(
    "additions, scores, message",
    [
        ((), None, "268 tokens and 0 scores"),
        ((lambda w: w.add_remove_extra_whitespaces(True),), SCORES, "remove_extra_whitespaces"),
    ],
)
def test_files_that_will_not_do(tmp_path, additions, scores, message):
    with pytest.raises(ValueError, match=message):
        tokens.tokenizer_from_gguf(small(tmp_path / "a.gguf", *additions, scores=scores))
