"""Byte-level tokenizers from GGUF headers, against published files and a byte-pair code of its own.

The reference of `SmolLM2` is the algorithm as it was published (Sennrich et al. 2016, with GPT-2's
bytes and pattern), written down here with another library's regular expressions.
"""

import functools
import itertools
import json
from pathlib import Path

import pytest
import regex
import tokenizers

from probejax import artifacts, tasks
from probejax.models import byte_bpe, gguf_header, tokens
from probejax.models.ggml_vocabulary import Vocabulary
from tests import gguf_files, text_cases

GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokens" / "words.json").read_text())


@pytest.fixture(scope="module")
def prompts():
    """The last prompt of every fourth task."""
    return [tasks.load(name).prompts[-1] for name in tasks.names()[::4]]


@functools.cache
def cutting(kind):
    """A tokenizer that knows no more than the bytes."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    known = Vocabulary(tokens=[*letters, "aa"], token_type=[1] * 257, merges=["a a"])
    return byte_bpe.build(known, byte_bpe.KINDS[kind])


@pytest.mark.parametrize("kind", GOLDEN)
@pytest.mark.parametrize("name", text_cases.WORDS)
def test_words_are_those_of_published_files(kind, name):
    assert text_cases.words(cutting(kind), text_cases.WORDS[name]) == GOLDEN[kind]["words"][name]


@pytest.mark.parametrize("kind", GOLDEN)
def test_words_of_hard_texts_and_of_prompts_are_those_of_published_files(kind, prompts):
    found = cutting(kind)
    assert text_cases.words_digest(found, text_cases.HARD.values()) == GOLDEN[kind]["hard"]
    assert text_cases.words_digest(found, prompts) == GOLDEN[kind]["tasks"]


def test_other_spellings_of_a_kind():
    for name, other in (
        ("llama3", "llama-bpe"),
        ("llama-v3", "llama-bpe"),
        ("gpt2", "gpt-2"),
        ("deepseek-r1-qwen", "qwen2"),
    ):
        assert byte_bpe.KINDS[name] == byte_bpe.KINDS[other]
    neox, gpt2 = byte_bpe.KINDS["olmo"], byte_bpe.KINDS["gpt-2"]
    assert byte_bpe.KINDS["mpt"] == neox == gpt2._replace(nfc=True)


# ---- SmolLM2 ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path():
    return artifacts.smollm2_135m()


@pytest.fixture(scope="module")
def ours(path):
    return tokens.tokenizer_from_gguf(path)


@pytest.fixture(scope="module")
def reference(path):
    fields = gguf_header.read_header(path).fields
    kinds = fields["tokenizer.ggml.token_type"]
    ids = {word: i for i, word in enumerate(fields["tokenizer.ggml.tokens"])}
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(fields["tokenizer.ggml.merges"])}
    special = [word for word, i in ids.items() if kinds[i] == 3]
    own = regex.compile("|".join(map(regex.escape, sorted(special, key=len, reverse=True))))
    word = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    letter = {byte: chr(byte) for byte in plain} | {b: chr(256 + n) for n, b in enumerate(rest)}

    @functools.cache
    def merged(text):
        parts = [letter[byte] for byte in text.encode()]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, 1 << 30))
            if best not in ranks:
                break
            at, joined = 0, []
            while at < len(parts):
                two = tuple(parts[at : at + 2]) == best
                joined.append("".join(parts[at : at + 2]) if two else parts[at])
                at += 1 + two
            parts = joined
        return [ids[part] for part in parts if part in ids]  # it has no token for some bytes

    def cut(text):
        at = 0
        for found in own.finditer(text):
            yield from plain_ids(text[at : found.start()])
            yield ids[found.group()]
            at = found.end()
        yield from plain_ids(text[at:])

    def plain_ids(text):
        for stretch in regex.splititer(r"(\p{N})", text):
            for each in [stretch] if regex.fullmatch(r"\p{N}", stretch) else word.findall(stretch):
                yield from merged(each)

    return lambda text: list(cut(text))


@pytest.mark.parametrize("name", [*text_cases.HARD, *text_cases.WORDS])
def test_hard_texts_equal_the_published_algorithm(ours, reference, name):
    text = (text_cases.HARD | text_cases.WORDS)[name]
    assert ours.encode(text, add_special_tokens=False).ids == reference(text)


def test_prompts_equal_the_published_algorithm(ours, reference, prompts):
    found = tokens.encode(ours, prompts, 10**6, bos=None)
    for prompt, ids in zip(prompts, found, strict=True):
        assert ids.tolist() == reference(prompt)


@pytest.mark.slow
def test_a_thousand_prompts_equal_the_published_algorithm(ours, reference):
    more = [p for name in tasks.names() for p in text_cases.sample(tasks.load(name).prompts)]
    assert len(more) > 1000
    test_prompts_equal_the_published_algorithm(ours, reference, more)


def test_a_token_that_a_prompt_spells_out_counts_as_that_token(ours):
    found = tokens.encode(ours, ["<|im_start|>hi<|im_end|>"], 8, bos="<|im_start|>")[0].tolist()
    assert found == [1, 1, *ours.encode("hi").ids, 2]
    assert ours.decode(found, skip_special_tokens=False) == "<|im_start|>" * 2 + "hi<|im_end|>"


# ---- small files --------------------------------------------------------------------------------

LETTERS = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
WORDS = [*LETTERS, "he", "hey", "<|eot|>", "  ", "padding"]
KINDS = [1] * 258 + [3, 4, 5]


def small(path, *additions, kind="llama-bpe", merges=("h e",), words=WORDS, architecture="llama"):
    return gguf_files.header(
        path,
        architecture,
        lambda w: w.add_tokenizer_model("gpt2"),
        lambda w: kind is None or w.add_tokenizer_pre(kind),
        lambda w: w.add_token_list(words),
        lambda w: w.add_token_types(KINDS),
        lambda w: w.add_token_merges(list(merges)),
        *additions,
    )


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_llama_3_keeps_a_word_that_no_merge_makes(tmp_path):
    llama = tokens.tokenizer_from_gguf(small(tmp_path / "a.gguf"))
    gpt2 = tokens.tokenizer_from_gguf(small(tmp_path / "b.gguf", kind="gpt-2"))
    assert ids(llama, "hey") == [257] and ids(gpt2, "hey") == [256, LETTERS.index("y")]


@pytest.mark.parametrize("kind", ["llama-bpe", "gpt-2", "qwen2"])
def test_types_say_which_tokens_are_never_cut_and_which_are_no_text(tmp_path, kind):
    found = tokens.tokenizer_from_gguf(small(tmp_path / "a.gguf", kind=kind))
    assert ids(found, "he<|eot|>he  he") == [256, 258, 256, 259, 256]
    assert 260 not in ids(found, "padding")
    assert found.get_added_tokens_decoder()[258].special
    assert not found.get_added_tokens_decoder()[259].special


@pytest.mark.parametrize("named", [None, "default", ""])
def test_a_file_that_names_no_kind(tmp_path, named):
    for architecture, kind in (("gpt2", "gpt-2"), ("gptneox", "olmo")):
        path = small(tmp_path / f"{architecture}.gguf", kind=named, architecture=architecture)
        found = tokens.tokenizer_from_gguf(path)
        assert (found.normalizer is not None) == byte_bpe.KINDS[kind].nfc
    with pytest.raises(ValueError, match=r"splits text in a way called .* \(tokenizer\.ggml\.pre"):
        tokens.tokenizer_from_gguf(small(tmp_path / "c.gguf", kind=named))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "tekken"}, r"called 'tekken' .*, and known are gpt-2, .*tokenizer\.json\."),
        ({"merges": ["h e", "he y z"]}, r"its merge 1 is not two tokens: 'he y z'"),
        ({"merges": ["h e", "he Q€"]}, r"a\.gguf is damaged \(.*Q€"),
        ({"words": [*WORDS[:-1], "a"]}, "1 of its tokens occur twice"),
        ({"words": WORDS[:-1]}, "260 tokens and 261 token types"),
        ({"merges": []}, "it has no merges"),
    ],
)
def test_files_that_will_not_do(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        tokens.tokenizer_from_gguf(small(tmp_path / "a.gguf", **changes))
    assert "\n" not in str(caught.value) and "a.gguf" in str(caught.value)
