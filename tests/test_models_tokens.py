import json

import gguf
import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import processors

from probejax import artifacts, tasks
from probejax.models import tokens

BOS = 2
PER_TASK = 9

HARD = {
    "empty": "",
    "space": " ",
    "spaces": "a  b   c    d" + " " * 40 + "e ",
    "leading": "  two before",
    "space_sign": "a▁b ▁▁ c",
    "newlines": "a\nb\n\nc" + "\n" * 45 + "d\r\n\r\ne",
    "tabs": "a\tb\t\t c" + "\t" * 40 + "\t d",
    "emoji": "👩‍👩‍👧‍👦 🇩🇪 ☺️ 🙂🙃",
    "scripts": "Ünïcödé 日本語のテキスト العربية עברית हिन्दी ไทย Ελληνικά",
    "accents": "e\u0301 \u00e9 \ufb01 \uff21\u00a0\u2003\u200b|\ufeff",
    "byte_fallback": "\U0010ffff \ue000 \x00 \x07 \x1b[0m",
    "byte_token": "<0x0A><0x41>",
    "html": "<table><tr><td>a</td></tr></table> <h1>b</h1><div class='x'></div><bbox>",
    "bos": "<bos>",
    "bos_inside": "a<bos>b <bos> <bos><bos>",
    "turn": "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    "control": "<pad><eos><unk><mask>[multimodal]<unused7><unused6241><start_of_image>",
    "almost": "<start_of_turn <bos > < bos> [multimodal <unused99999>",
    "code": "def f(x):\n    return {x: [1, 2.5e-3]}  # 100%\n\n\nif x == 'main':\n\tf(0)",
    "digits": "1234567890 3.14159 2024-01-01 $1,000,000.00",
    "long_word": "abcdefgh" * 5_000,
    "long": "The quick brown fox jumps over the lazy dog. " * 5_000,
}


@pytest.fixture(scope="module")
def path():
    return artifacts.gemma_3_270m()


@pytest.fixture(scope="module")
def ours(path):
    return tokens.tokenizer_from_gguf(path)


@pytest.fixture(scope="module")
def theirs(path):
    return transformers.AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name, truncation_side="left"
    )


@pytest.fixture(scope="module")
def prompts():
    """Nine prompts of each of the 113 tasks, evenly spaced through the file."""
    found = []
    for name in tasks.names():
        every = tasks.load(name).prompts
        found += [every[i] for i in np.linspace(0, len(every) - 1, PER_TASK).astype(int)]
    assert len(found) == 113 * PER_TASK >= 1000
    return found


def test_real_prompts_equal_transformers(ours, theirs, prompts):
    expected = theirs(prompts)["input_ids"]
    found = tokens.encode(ours, prompts, max_length=10**6)
    assert [p for p, a, b in zip(prompts, found, expected, strict=True) if a.tolist() != b] == []
    assert sum(map(len, found)) > 100_000


@pytest.mark.parametrize("max_length", [1, 2, 17, 1024])
def test_truncation_equals_transformers(ours, theirs, prompts, max_length):
    texts = prompts[::10]
    expected = theirs(texts, truncation=True, max_length=max_length)["input_ids"]
    found = tokens.encode(ours, texts, max_length)
    assert [ids.tolist() for ids in found] == expected
    assert any(len(ids) == max_length for ids in found)


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_hard_cases_equal_transformers(ours, theirs, text):
    (found,) = tokens.encode(ours, [text], max_length=10**6)
    assert found.dtype == np.int32
    assert found.tolist() == theirs(text)["input_ids"]


def test_every_token_has_transformers_id_and_flags(ours, theirs):
    assert ours.get_vocab() == theirs.get_vocab()
    expected = theirs.backend_tokenizer.get_added_tokens_decoder()
    assert {i: repr(t) for i, t in ours.get_added_tokens_decoder().items()} == {
        i: repr(t) for i, t in expected.items()
    }


@pytest.mark.parametrize("name", ["emoji", "scripts", "byte_fallback", "newlines", "spaces"])
def test_decode_gives_the_text_back(ours, name):
    (ids,) = tokens.encode(ours, [HARD[name]], max_length=10**6)
    assert ours.decode(ids[1:]) == HARD[name]


def test_long_prompts_lose_their_beginning(ours):
    text = " ".join(map(str, range(300)))
    (whole,) = tokens.encode(ours, [text], max_length=10**6)
    for max_length in (1, 2, 100, len(whole) - 1, len(whole), len(whole) + 1):
        (found,) = tokens.encode(ours, [text], max_length)
        kept = min(max_length, len(whole)) - 1
        assert found.tolist() == [BOS, *whole[len(whole) - kept :]]


def test_one_bos_and_only_one(ours):
    assert [ids.tolist() for ids in tokens.encode(ours, ["", "hi"], 8)] == [[BOS], [BOS, 2202]]
    assert tokens.encode(ours, [], 8) == []
    # A prompt that says <bos> holds it; the one of the rule still stands before it.
    assert tokens.encode(ours, ["<bos>hi"], 8)[0].tolist() == [BOS, BOS, 2202]
    assert tokens.encode(ours, ["hi"], 8, bos_id=1)[0].tolist() == [1, 2202]


def test_many_prompts_keep_their_order(ours):
    texts = [str(i) for i in range(600)]  # more than one chunk
    found = tokens.encode(ours, texts, 16)
    assert [ours.decode(ids[1:]) for ids in found] == texts


def test_bad_arguments(ours):
    with pytest.raises(ValueError, match="max_length is 0; expected at least 1"):
        tokens.encode(ours, ["a"], 0)
    with pytest.raises(ValueError, match="has no <bos> token; give the id of its BOS as bos_id"):
        tokens.encode(tokenizers.Tokenizer(tokenizers.models.BPE()), ["a"], 8)


def test_folder_adds_nothing_of_its_own(ours, tmp_path):
    copy = tokenizers.Tokenizer.from_str(ours.to_str())
    copy.post_processor = processors.TemplateProcessing(
        "<bos> $A <eos>", None, [("<bos>", 2), ("<eos>", 1)]
    )
    copy.enable_truncation(4)
    copy.enable_padding(length=64)
    copy.save(str(tmp_path / "tokenizer.json"))
    folder = tokens.tokenizer_from_folder(tmp_path)
    texts = [HARD["code"], HARD["turn"], ""]
    for a, b in zip(
        tokens.encode(folder, texts, 1024), tokens.encode(ours, texts, 1024), strict=True
    ):
        assert a.tolist() == b.tolist()


def test_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        tokens.tokenizer_from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(
        ValueError, match=r"cannot read .*tokenizer\.model .*put the model's tokenizer\.json"
    ):
        tokens.tokenizer_from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged"):
        tokens.tokenizer_from_folder(tmp_path)


def header_only(path, *additions):
    writer = gguf.GGUFWriter(path, "gemma3")
    for add in additions:
        add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_small_vocabulary_merges_by_id_then_by_longer_left_part(tmp_path):
    vocab = ["<pad>", "<eos>", "<bos>", "<unk>", "bc", "a", "b", "c", "ab", "abc", "bb", "  "]
    path = header_only(
        tmp_path / "small.gguf",
        lambda w: w.add_tokenizer_model("llama"),
        lambda w: w.add_token_list(vocab),
        lambda w: w.add_token_types([3, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 4]),
        lambda w: w.add_unk_token_id(3),
    )
    small = tokens.tokenizer_from_gguf(path)
    merges = json.loads(small.to_str())["model"]["merges"]
    assert merges == [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"], ["b", "b"]]
    found = tokens.encode(small, ["abc", "bbc", "azzb", "  "], 8)
    # bc before ab and bb; letters out of the vocabulary become one <unk> together
    assert [ids.tolist() for ids in found] == [[2, 9], [2, 6, 4], [2, 5, 3, 6], [2, 3]]
    assert small.token_to_id("▁▁") == 11


def test_other_tokenizers_are_refused(tmp_path):
    gpt2 = header_only(tmp_path / "a.gguf", lambda w: w.add_tokenizer_model("gpt2"))
    with pytest.raises(ValueError, match="holds a 'gpt2' tokenizer"):
        tokens.tokenizer_from_gguf(gpt2)
    prefix = header_only(
        tmp_path / "b.gguf",
        lambda w: w.add_tokenizer_model("llama"),
        lambda w: w.add_add_space_prefix(True),
    )
    with pytest.raises(ValueError, match="add_space_prefix=True"):
        tokens.tokenizer_from_gguf(prefix)
    bare = header_only(tmp_path / "c.gguf", lambda w: w.add_tokenizer_model("llama"))
    with pytest.raises(ValueError, match=r"c\.gguf has no tokenizer\.ggml\.tokens"):
        tokens.tokenizer_from_gguf(bare)
