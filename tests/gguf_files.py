"""Small GGUF files, as llama.cpp writes them and as nobody should."""

import struct
from pathlib import Path

import gguf
import numpy as np


def names(n_layers) -> dict[str, str]:
    """Hugging Face's name of each tensor -> llama.cpp's, by llama.cpp's own table."""
    arch = gguf.MODEL_ARCH.GEMMA3
    stems = [s for s in gguf.MODEL_TENSORS[arch] if s != gguf.MODEL_TENSOR.OUTPUT]
    table = gguf.get_tensor_name_map(arch, n_layers).mapping
    return {
        f"{theirs}.weight": f"{ours}.weight"
        for theirs, (stem, ours) in table.items()
        if stem in stems and theirs.startswith("model.") and not theirs.startswith("model.model")
    }


def numbers(config) -> dict[str, object]:
    """The keys of a tiny Gemma 3's header, all that decide its numbers."""
    return {
        "block_count": config.n_layers,
        "embedding_length": config.d_model,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head,
        "feed_forward_length": config.d_mlp,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [t == "sliding_attention" for t in config.layer_types],
        "attention.scale": config.query_pre_attn_scalar**-0.5,
        "rope.freq_base": config.rope_global.base,
        "rope.freq_base_swa": config.rope_local.base,
        "rope.scaling.factor": config.rope_global.factor,
        "final_logit_softcapping": config.final_softcap,
    }


def model(path, config, arrays, *, extra=(), kinds=None, split=None) -> Path:
    """Writes a model: `extra` tensors by llama.cpp's names, `kinds` of the quantised ones.

    Norms are kept as llama.cpp keeps them, and `split` is (number of the part, of how many).
    """
    theirs = names(config.n_layers)
    writer = gguf.GGUFWriter(path, "gemma3")
    for key, value in numbers(config).items() if split is None or split[0] == 0 else ():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
        add[type(value)](f"gemma3.{key}", value)
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
    for name, x in arrays.items():
        x = x + 1 if name.endswith("norm.weight") else x
        _add(writer, theirs[name], x, (kinds or {}).get(name))
    for name, x in dict(extra).items():
        _add(writer, name, x, None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def header(path, architecture, *additions) -> Path:
    """Writes a file without tensors; each addition gets the writer."""
    writer = gguf.GGUFWriter(path, architecture)
    for add in additions:
        add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _add(writer, name, x, kind):
    if kind is None:
        writer.add_tensor(name, np.ascontiguousarray(x))
    else:
        writer.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)


def text(value: str) -> bytes:
    """A string as the format spells it."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def raw(fields=(), tensors=(), data=b"", *, counts=None) -> bytes:
    """A file from its parts: fields (key, type, bytes), tensors (name, shape, type, offset).

    `counts` are the numbers of tensors and fields that it claims.
    """
    fields, tensors = list(fields), list(tensors)
    found = b"GGUF" + struct.pack("<IQQ", 3, *(counts or (len(tensors), len(fields))))
    for key, kind, value in fields:
        found += text(key) + struct.pack("<I", kind) + value
    for name, shape, kind, offset in tensors:
        found += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        found += struct.pack("<IQ", kind, offset)
    return found + b"\0" * (-len(found) % 32) + data
