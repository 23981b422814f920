"""Model files that lie, by hand and by chance: one sentence, within a second, in little memory."""

import resource
import struct
import time

import gguf
import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from probejax.models import families, tokens, weights
from probejax.models.gguf import Gguf
from probejax.models.gguf_config import from_gguf
from probejax.models.gguf_header import read_header
from probejax.models.layouts import Named
from probejax.models.safetensors import Safetensors, text_model
from tests import gguf_files, tiny_models
from tests.gguf_files import raw, text

U32, BOOL, STRING, ARRAY, U64 = 4, 7, 8, 9, 10  # types of values
F32, Q8 = 0, 8  # types of tensors
ALIGNMENT = "general.alignment"
MOST_SECONDS, MOST_KIB = 2.0, 100_000  # a loaded machine is slow; what is refused takes neither


def u32(x):
    return struct.pack("<I", x)


def array(kind, count, data=b""):
    return struct.pack("<IQ", kind, count) + data


def nested(depth):
    return b"".join(array(ARRAY, 1) for _ in range(depth)) + array(U32, 1, u32(1))


LIES = {
    "keys": raw(counts=(0, 2**63)),
    "tensors": raw(counts=(2**63, 0)),
    "many empty keys": raw(data=bytes(1 << 22), counts=(0, 1 << 15)),
    "a string longer than the file": raw([("k", STRING, struct.pack("<Q", 2**62))]),
    "a key longer than the file": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63) + b"k" * 64,
    "an array longer than the file": raw([("k", ARRAY, array(U32, 2**60))]),
    "an array of strings, longer than the file": raw([("k", ARRAY, array(STRING, 2**60))]),
    "an array of arrays, longer than the file": raw([("k", ARRAY, array(ARRAY, 2**60))]),
    "an array of very many empty strings": raw(
        [("k", ARRAY, array(STRING, 1 << 23))], data=bytes(1 << 26)
    ),
    "deep nesting": raw([("k", ARRAY, nested(10_000))]),
    "an unknown type of value": raw([("k", ARRAY, array(77, 1))]),
    "text that is none": raw([("k", STRING, struct.pack("<Q", 2) + b"\xff\xfe")]),
    "a key twice": raw([("k", U32, u32(1)), ("k", U32, u32(2))]),
    "a tensor twice": raw(tensors=[("a", (8,), F32, 0), ("a", (8,), F32, 32)], data=bytes(64)),
    "tensors that overlap": raw(
        tensors=[("a", (16,), F32, 0), ("b", (8,), F32, 32)], data=bytes(96)
    ),
    "tensors in one place": raw(tensors=[("a", (8,), F32, 0), ("b", (8,), F32, 0)], data=bytes(96)),
    "an offset past the end": raw(tensors=[("a", (8,), F32, 2**62)], data=bytes(64)),
    "an odd offset": raw(tensors=[("a", (8,), F32, 1)], data=bytes(64)),
    "an axis of none": raw(tensors=[("a", (8, 0), F32, 0)], data=bytes(64)),
    "no axis": raw(tensors=[("a", (), F32, 0)], data=bytes(64)),
    "huge axes": raw(tensors=[("a", (2**63, 2**63), F32, 0)], data=bytes(64)),
    "axes whose product wraps around": raw(tensors=[("a", (2**32, 2**32), F32, 0)]),
    "many axes": raw(tensors=[("a", (1,) * 5, F32, 0)], data=bytes(64)),
    "very many axes": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + b"\xff" * 64,
    "a row of half blocks": raw(tensors=[("a", (33,), Q8, 0)], data=bytes(96)),
    **{
        f"an alignment of {x}": raw([(ALIGNMENT, U32, u32(x))], [("a", (8,), F32, 0)], bytes(64))
        for x in (0, 1, 12, 2**31)
    },
    "an alignment that is text": raw([(ALIGNMENT, STRING, text("32"))], data=bytes(64)),
    "an alignment that is a flag": raw([(ALIGNMENT, BOOL, b"\1")], data=bytes(64)),
    "an alignment that is a list": raw([(ALIGNMENT, ARRAY, array(U32, 1, u32(32)))]),
}


def bounded(action):
    """What the action returns; fails if it takes long or much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        return action()
    finally:
        assert time.process_time() - start < MOST_SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIB


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_by_its_numbers(tmp_path, lie):
    path = tmp_path / "x.gguf"
    path.write_bytes(LIES[lie])
    with pytest.raises(ValueError, match=r"x\.gguf is damaged \(.*\); download it again\.$"):
        bounded(lambda: read_header(path))


def test_a_header_that_says_the_same_without_a_lie_is_read(tmp_path):
    path = tmp_path / "x.gguf"
    fields = [(ALIGNMENT, U32, u32(32)), ("k", ARRAY, nested(2))]
    path.write_bytes(raw(fields, [("a", (8,), F32, 0), ("b", (32,), Q8, 32)], bytes(96)))
    header = read_header(path)
    assert header.fields == {ALIGNMENT: 32, "k": [[[1]]]} and list(header.tensors) == ["a", "b"]


TOKENS = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab"],
    "tokenizer.ggml.token_type": [2, 1, 1, 1],
    "tokenizer.ggml.unknown_token_id": 0,
}


def tokenizer_file(path, **changes):
    writer = gguf.GGUFWriter(path, "gemma3")
    for key, value in (TOKENS | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}).items():
        add = {str: writer.add_string, int: writer.add_int32, list: writer.add_array}
        if value is not None:
            add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_type": [2, 1, 1]}, "4 tokens and 3 token types"),
        ({"token_type": [2, 1, 1, 1, 1]}, "4 tokens and 5 token types"),
        ({"token_type": None}, "4 tokens and 0 token types"),
        ({"token_type": ["a"] * 4}, "Expected `int`, got `str`"),
        ({"tokens": None}, r"has no tokenizer\.ggml\.tokens"),
        ({"tokens": [1, 2, 3, 4]}, "Expected `str`, got `int`"),
        ({"tokens": ["<unk>", "a", "b", "a"]}, "1 of its tokens occur twice"),
        ({"unknown_token_id": 4}, "unknown_token_id is 4, of 4 tokens"),
        ({"unknown_token_id": -1}, "unknown_token_id is -1"),
        ({"unknown_token_id": "0"}, "Expected `int | null`, got `str`"),
        ({"unknown_token_id": None, "tokens": ["x", "a", "b", "ab"]}, "nor a token <unk>"),
        ({"scores": ["a"]}, "Expected `float`, got `str`"),
    ],
)
def test_a_tokenizer_that_cannot_be(tmp_path, changes, said):
    path = tokenizer_file(tmp_path / "x.gguf", **changes)
    with pytest.raises(ValueError, match=rf"x\.gguf.*{said}"):
        bounded(lambda: tokens.tokenizer_from_gguf(path))


def test_the_unknown_token_is_found_by_its_text(tmp_path):
    path = tokenizer_file(tmp_path / "x.gguf", unknown_token_id=None)
    assert tokens.tokenizer_from_gguf(path).encode("z").ids == [0]


# Any damage to a whole file ends in one of these, or in none.
FORESEEN = (ValueError, FileNotFoundError)  # DamagedFile is a ValueError
CONFIG = tiny_models.change(tiny_models.GEMMA3, d_vocab=16, d_model=8, d_mlp=8, d_head=4)
CONFIG = tiny_models.change(CONFIG, layer_types=("full_attention",))
DAMAGE = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 1 << 20), st.integers(0, 255)),
    st.tuples(
        st.just("number"), st.integers(0, 1 << 20), st.sampled_from([0, 1, 2**31, 2**64 - 1])
    ),
    st.tuples(st.just("cut"), st.integers(0, 1 << 20), st.just(0)),
    st.tuples(st.just("repeat"), st.integers(0, 1 << 20), st.integers(1, 64)),
    st.tuples(st.just("drop"), st.integers(0, 1 << 20), st.integers(1, 64)),
)


def damaged(whole, damages, most):
    """The file after each damage; places count round the first `most` bytes."""
    found = bytearray(whole)
    for how, at, value in damages:
        at %= max(1, min(most, len(found)))
        if how == "set":
            found[at : at + 1] = bytes([value])
        elif how == "number":
            found[at : at + 8] = struct.pack("<Q", value)
        elif how == "cut":
            del found[at:]
        elif how == "repeat":
            found[at:at] = found[at : at + value]
        else:
            del found[at : at + value]
    return bytes(found)


@pytest.fixture(scope="module")
def arrays():
    return tiny_models.arrays(CONFIG).arrays


@pytest.fixture(scope="module")
def whole_gguf(tmp_path_factory, arrays):
    path = gguf_files.model(tmp_path_factory.mktemp("gguf") / "x.gguf", CONFIG, arrays)
    start = min(tensor.offset for tensor in read_header(path).tensors.values())
    return path, path.read_bytes(), start


@hypothesis.settings(max_examples=400)
@hypothesis.given(st.lists(DAMAGE, min_size=1, max_size=3))
def test_a_gguf_file_damaged_anywhere(whole_gguf, damages):
    path, whole, start = whole_gguf
    path.write_bytes(damaged(whole, damages, start))

    def read():
        found = Gguf(path)
        config = from_gguf(found.fields, "x", found)
        if config.n_parameters < 1 << 20 and config.n_layers < 4:  # others cost a second to lay out
            weights.load(config, Named(found, families.GEMMA3.gguf, config))
        for name in found.names():
            found.read(name, (slice(0, 1), *(slice(None) for _ in found.shape(name)[1:])))

    try:
        bounded(read)
    except FORESEEN as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def whole_safetensors(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("safetensors")
    path = folder / "model.safetensors"
    save_file(arrays, path)
    data = path.read_bytes()
    return folder, data, 8 + struct.unpack_from("<Q", data)[0]


@hypothesis.settings(max_examples=400)
@hypothesis.given(st.lists(DAMAGE, min_size=1, max_size=3))
def test_a_safetensors_file_damaged_anywhere(whole_safetensors, damages):
    folder, whole, start = whole_safetensors
    (folder / "model.safetensors").unlink()  # the last one may still be mapped
    (folder / "model.safetensors").write_bytes(damaged(whole, damages, start))

    def read():
        found = text_model(Safetensors(folder), families.GEMMA3.files, CONFIG)
        weights.load(CONFIG, found, dtype=jnp.float32)

    try:
        bounded(read)
    except FORESEEN as error:
        assert len(str(error)) < 2000


def header(fields, data=b""):
    body = fields if isinstance(fields, bytes) else fields.encode()
    return struct.pack("<Q", len(body)) + body + data


ENTRY = '"%s": {"dtype": "F32", "shape": [%s], "data_offsets": [%d, %d]}'


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 1 << 30) + b"{}",
        struct.pack("<Q", 0),
        header("[]"),
        header("3"),
        header("[" * 100_000),
        header("{" + ENTRY % ("a", "8", 0, 2**60) + "}", bytes(32)),
        header("{" + ENTRY % ("a", "4294967296, 4294967296", 0, 32) + "}", bytes(32)),
        header("{" + ENTRY % ("a", "-8", 0, 32) + "}", bytes(32)),
        header("{" + ENTRY % ("a", "8", 32, 0) + "}", bytes(32)),
        header("{" + ENTRY % ("a", "8", 0, 32) + ", " + ENTRY % ("b", "8", 0, 32) + "}", bytes(32)),
        header(
            "{" + ENTRY % ("a", "8", 0, 32) + ", " + ENTRY % ("b", "8", 16, 48) + "}", bytes(48)
        ),
        header("{" + ENTRY % ("a", "8", 32, 64) + "}", bytes(64)),
        header("{" + ENTRY % ("a", "8", 0, 32) + "}", bytes(64)),
    ],
)
def test_a_safetensors_header_that_lies(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"safetensors is damaged \(.*\); download it again\.$"):
        bounded(lambda: Safetensors(tmp_path))


def test_the_whole_files_are_read(tmp_path, arrays):
    """Else the tests of damage would find damage everywhere."""
    path = gguf_files.model(tmp_path / "x.gguf", CONFIG, arrays)
    found = Gguf(path)
    config = from_gguf(found.fields, "x", found)
    model = weights.load(config, Named(found, families.GEMMA3.gguf, config))
    save_file(arrays, tmp_path / "model.safetensors")
    other = weights.load(CONFIG, text_model(Safetensors(tmp_path), families.GEMMA3.files, CONFIG))
    for a, b in ((model, other),):
        np.testing.assert_allclose(
            a.embed_tokens.weight[...], b.embed_tokens.weight[...], atol=1e-6
        )
