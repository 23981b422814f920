import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import processors

from probejax import artifacts, tasks
from probejax.models import gguf_header, sentencepiece_bpe, tokens
from probejax.models.ggml_vocabulary import Vocabulary
from tests import gguf_files, text_cases
from tests.text_cases import HARD

BOS = 2
GOLDEN = json.loads((Path(__file__).parent / "golden" / "tokens" / "gemma-3.json").read_text())
TASKS = {"tasks": tasks.load, "shifted": tasks.load_shifted}


@pytest.fixture(scope="module")
def path():
    return artifacts.gemma_3_270m()


@pytest.fixture(scope="module")
def ours(path):
    return tokens.tokenizer_from_gguf(path)


def ids(tokenizer, texts):
    """The ids of each text, whole and without the BOS that `encode` puts before them."""
    return [row[1:] for row in tokens.encode(tokenizer, texts, max_length=10**6)]


@pytest.mark.parametrize("name", HARD)
def test_hard_cases_equal_googles(ours, name):
    (found,) = ids(ours, [HARD[name]])
    assert found.dtype == np.int32
    assert found.tolist() == GOLDEN["hard"][name]


def test_the_merges_are_googles_in_order(ours):
    assert text_cases.merges_digest(ours) == GOLDEN["merges"]


def test_the_golden_ids_are_of_these_texts_and_tasks():
    assert list(GOLDEN["hard"]) == list(HARD)
    assert tuple(GOLDEN["tasks"]) == tasks.names() and len(GOLDEN["tasks"]) == 113
    assert tuple(GOLDEN["shifted"]) == tasks.shifted_names() and len(GOLDEN["shifted"]) == 8


@pytest.mark.thorough
@pytest.mark.parametrize("part", TASKS)
def test_prompts_of_every_task_equal_googles(ours, part):
    """Of each task nine prompts, and all that hold more than 31 spaces or the like in a row."""
    for name, (n, expected, _, _) in GOLDEN[part].items():
        found = text_cases.sample(TASKS[part](name).prompts)
        assert (len(found), text_cases.digest(ids(ours, found))) == (n, expected), name


@pytest.mark.slow  # 330,000 prompts
@pytest.mark.parametrize("part", TASKS)
def test_all_prompts_of_all_tasks_equal_googles(ours, part):
    for name, (_, _, n, expected) in GOLDEN[part].items():
        found = TASKS[part](name).prompts
        assert (len(found), text_cases.digest(ids(ours, found))) == (n, expected), name


def test_the_image_token_that_the_model_has_no_row_for_is_text(ours):
    """Google's file gives it the id 262144; the smaller models' embeddings end before it."""
    assert ours.get_vocab_size() == 262_144
    (found,) = ids(ours, ["<image_soft_token>"])
    assert len(found) > 1 and found.max() < 262_144


@pytest.fixture(scope="module")
def truncating(ours):
    """Our tokenizer, cut by transformers' own code."""
    copy = tokenizers.Tokenizer.from_str(ours.to_str())
    copy.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", BOS)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=copy, truncation_side="left")


@pytest.mark.parametrize("max_length", [1, 2, 17, 1024])
def test_truncation_equals_transformers(ours, truncating, max_length):
    texts = [p for name in tasks.DEMO for p in text_cases.sample(tasks.load(name).prompts)]
    texts += [HARD["long"] * 3, HARD["long_word"], HARD["margins"], ""]
    expected = truncating(texts, truncation=True, max_length=max_length)["input_ids"]
    found = tokens.encode(ours, texts, max_length)
    assert [ids.tolist() for ids in found] == expected
    assert any(len(ids) == max_length for ids in found)


def test_tokens_that_are_never_cut(ours, path):
    fields = gguf_header.read_header(path).fields
    texts = [sentencepiece_bpe.spelled(t) for t in fields["tokenizer.ggml.tokens"]]
    kinds = fields["tokenizer.ggml.token_type"]
    whole = {i: text for i, text in enumerate(texts) if kinds[i] in (3, 4)}
    added = ours.get_added_tokens_decoder()
    assert {i: token.content for i, token in added.items()} == whole
    assert not any(token.normalized for token in added.values())
    assert [row.tolist() for row in ids(ours, list(whole.values()))] == [[i] for i in whole]


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
    assert tokens.encode(ours, ["hi"], 8, bos="<eos>")[0].tolist() == [1, 2202]


def test_no_bos(ours):
    found = [row.tolist() for row in tokens.encode(ours, ["hi", "<bos>hi"], 8, bos=None)]
    assert found == [[2202], [BOS, 2202]]
    (whole,) = tokens.encode(ours, [HARD["long"]], 10**6, bos=None)
    for max_length in (1, 5, len(whole)):
        (cut,) = tokens.encode(ours, [HARD["long"]], max_length, bos=None)
        assert cut.tolist() == whole[-max_length:].tolist()
    with pytest.raises(ValueError, match=r"Prompt 300 \(''\) has no token, .*--bos=always"):
        tokens.encode(ours, ["hi"] * 300 + [""], 8, bos=None)


def test_many_prompts_keep_their_order(ours):
    texts = [str(i) for i in range(600)]  # more than one chunk
    found = tokens.encode(ours, texts, 16)
    assert [ours.decode(ids[1:]) for ids in found] == texts


def test_long_prompts_go_alone_and_come_out_the_same(ours, monkeypatch):
    texts = ["a bc", "", "d" * 30, "e", *["f g"] * 9, "h" * 10]
    expected = [ids.tolist() for ids in tokens.encode(ours, texts, 16)]
    monkeypatch.setattr(tokens, "_CHARACTERS", 10)
    sizes = [sum(map(len, chunk)) for chunk in tokens._chunks(texts)]
    assert sizes == [4, 30, 10, 9, 9, 10]
    assert [ids.tolist() for ids in tokens.encode(ours, texts, 16)] == expected


def test_bad_arguments(ours):
    with pytest.raises(ValueError, match="max_length is 0; expected at least 1"):
        tokens.encode(ours, ["a"], 0)
    with pytest.raises(ValueError, match="has no <bos> token; name its own BOS"):
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


def test_small_vocabulary_merges_by_id_then_by_longer_left_part(tmp_path):
    vocab = ["<pad>", "<eos>", "<bos>", "<unk>", "bc", "a", "b", "c", "ab", "abc", "bb", "  "]
    path = gguf_files.header(
        tmp_path / "small.gguf",
        "gemma3",
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


def test_tokens_that_ollama_calls_normal_are_user_defined(path, ours):
    """It keeps SentencePiece's scores, 0 for these, and spells their spaces with the sign."""
    fields = gguf_header.read_header(path).fields
    words = [sentencepiece_bpe.spelled(t) for t in fields["tokenizer.ggml.tokens"]]
    kinds = fields["tokenizer.ggml.token_type"]
    scores = [
        s if kind == 1 else 0.0
        for s, kind in zip(fields["tokenizer.ggml.scores"], kinds, strict=True)
    ]
    found = Vocabulary(
        tokens=words, token_type=[1 if kind == 4 else kind for kind in kinds], scores=scores
    )
    assert sentencepiece_bpe.kinds_of_gemma(found) == kinds
    assert found.unknown() == ours.token_to_id("<unk>")


def test_other_tokenizers_are_refused(tmp_path):
    def file(name, architecture, model, *additions):
        words = (lambda w: w.add_token_list(["a"]), lambda w: w.add_token_types([1]))
        named = lambda w: w.add_tokenizer_model(model)
        return gguf_files.header(tmp_path / name, architecture, named, *words, *additions)

    for architecture, model in (("gemma3", "gpt2"), ("llama", "rwkv")):
        with pytest.raises(ValueError, match=f"holds a '{model}' tokenizer .*tokenizer.json"):
            tokens.tokenizer_from_gguf(file("a.gguf", architecture, model))
    prefix = file("b.gguf", "gemma3", "llama", lambda w: w.add_add_space_prefix(True))
    with pytest.raises(ValueError, match="add_space_prefix=True"):
        tokens.tokenizer_from_gguf(prefix)
    bare = gguf_files.header(
        tmp_path / "c.gguf", "gemma3", lambda w: w.add_tokenizer_model("llama")
    )
    with pytest.raises(ValueError, match=r"c\.gguf has no tokenizer\.ggml\.tokens"):
        tokens.tokenizer_from_gguf(bare)
    nothing = gguf_files.header(tmp_path / "d.gguf", "gemma3")
    with pytest.raises(ValueError, match="holds a None tokenizer"):
        tokens.tokenizer_from_gguf(nothing)
