"""Reads GGUF files: the header, and quantised tensors under their Hugging Face names."""

import re
from collections.abc import Iterable
from pathlib import Path

import gguf
import numpy as np

from probejax.models.gguf_header import read_header

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


class Gguf:
    """A GGUF file; each tensor is mapped and dequantised when it is read."""

    def __init__(self, path: Path):
        """Reads the header.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is no GGUF file, or damaged or cut short.
        """
        self._path = path
        header = read_header(path)
        self.fields = header.fields
        self._tensors = {hf_name(name): info for name, info in header.tensors.items()}

    def names(self) -> Iterable[str]:
        """Returns the Hugging Face name of every tensor."""
        return self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape, in row-major order as Hugging Face stores it."""
        return self._tensors[name].shape

    def read(self, name: str, cuts: tuple[slice, ...]) -> np.ndarray:
        """Dequantises the rows asked for, then cuts the other axes.

        llama.cpp stores a Gemma norm as its whole gain, `1 + weight`; the one comes off here.
        """
        tensor = self._tensors[name]
        rows = tensor.shape[0]
        data = np.memmap(self._path, np.uint8, "r", tensor.offset, (rows, tensor.n_bytes // rows))
        values = gguf.quants.dequantize(data[cuts[0]], tensor.kind)
        values = values.reshape(-1, *tensor.shape[1:])[(slice(None), *cuts[1:])]
        return values - 1.0 if name.endswith("norm.weight") else values


def hf_name(name: str) -> str:
    """Returns the Hugging Face name of a GGUF tensor; an unknown name passes through."""
    layer = _LAYER.match(name)
    stem = (layer[2] if layer else name).removesuffix(".weight")
    if stem not in _NAMES:
        return name
    return f"model.{f'layers.{layer[1]}.' if layer else ''}{_NAMES[stem]}.weight"
