"""Reads GGUF files: the header, and quantised tensors under their Hugging Face names."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from probejax.foreign import DamagedFile
from probejax.models.gguf_header import TensorInfo, parts, read_header
from probejax.models.weights import HEAD

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}
_LAYER = re.compile(r"^blk\.(\d+)\.(.*)$")
_NOT_TEXT = ("v.", "mm.")  # a vision tower and its projection
_ROPE_FACTORS = "rope_freqs.weight"


class Gguf:
    """A GGUF file, or the parts of one; each tensor is mapped and dequantised when it is read."""

    def __init__(self, path: Path):
        """Reads the headers.

        Raises:
          FileNotFoundError: there is no such file, or a part is missing.
          ValueError: a file that is no GGUF file, damaged or cut short; parts that do not belong
            together; weights of a type that has no values.
        """
        self._path = path
        self._tensors: dict[str, tuple[Path, TensorInfo]] = {}
        files = parts(path)
        for number, part in enumerate(files):
            header = read_header(part)
            _require_part(part, number, len(files), header.fields)
            if number == 0:
                self.fields = header.fields
            for name, info in header.tensors.items():
                if not name.startswith(_NOT_TEXT):
                    self._add(part, name, info)
        self._require_plain_angles()

    def _add(self, path: Path, name: str, info: TensorInfo) -> None:
        ours = hf_name(name)
        if ours in self._tensors:
            raise DamagedFile(
                f"{path} holds {name}, which it or another part holds as well; download it again."
            )
        if not _has_values(info.kind):
            raise ValueError(
                f"{path} stores {name} as {info.kind.name}, which probejax cannot turn into "
                "values; use a file of another quantisation, such as Q8_0."
            )
        self._tensors[ours] = (path, info)

    def _require_plain_angles(self) -> None:
        if _ROPE_FACTORS in self._tensors:
            path, info = self._tensors[_ROPE_FACTORS]
            if info.n_bytes > 1 << 20 or (self.read(_ROPE_FACTORS, (slice(None),)) != 1.0).any():
                raise ValueError(
                    f"{path} scales each rotary angle by a factor of its own ({_ROPE_FACTORS}), "
                    "which no Gemma does and probejax has not implemented."
                )
            del self._tensors[_ROPE_FACTORS]

    @property
    def d_vocab(self) -> int:
        """Rows of the embedding: tokens may be fewer, or more.

        Raises:
          ValueError: there is none.
        """
        if (name := hf_name("token_embd.weight")) not in self._tensors:
            raise ValueError(
                f"{self._path} has no tensor token_embd.weight; give the file of a whole model."
            )
        return self.shape(name)[0]

    def names(self) -> Iterable[str]:
        """Returns the Hugging Face name of every tensor of the text model."""
        return self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape, in row-major order as Hugging Face stores it."""
        return self._tensors[name][1].shape

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Dequantises the rows asked for, then cuts the other axes.

        llama.cpp stores a Gemma norm as its whole gain, `1 + weight`; the one comes off here.
        """
        path, tensor = self._tensors[name]
        rows = tensor.shape[0]
        data = np.memmap(path, np.uint8, "r", tensor.offset, (rows, tensor.n_bytes // rows))
        values = gguf.quants.dequantize(data[cuts[0]], tensor.kind)
        values = values.reshape(-1, *tensor.shape[1:])[(slice(None), *cuts[1:])]
        return values - 1.0 if name.endswith("norm.weight") else values


def hf_name(name: str) -> str:
    """Returns the Hugging Face name of a GGUF tensor; an unknown name passes through."""
    if name == "output.weight":
        return HEAD
    layer = _LAYER.match(name)
    stem, weight, rest = (layer[2] if layer else name).partition(".weight")
    if stem not in _NAMES or not weight or rest:
        return name
    return f"model.{f'layers.{layer[1]}.' if layer else ''}{_NAMES[stem]}.weight"


@functools.cache
def _has_values(kind: gguf.GGMLQuantizationType) -> bool:
    """Tells whether the `gguf` package can turn this type into values."""
    block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    try:
        gguf.quants.dequantize(block, kind)
    except NotImplementedError:
        return False
    return True


def _require_part(path: Path, number: int, count: int, fields: dict[str, Any]) -> None:
    """Raises ValueError unless a file says of itself what its name says of it."""
    said = fields.get("split.no", 0), fields.get("split.count", 1)
    if said != (number, count):
        raise ValueError(
            f"{path} says split.no={said[0]!r} and split.count={said[1]!r} where its name means "
            f"{number} and {count}; keep the names that llama.cpp gives to parts, such as "
            "x-00001-of-00002.gguf, and all of them in one folder."
        )
