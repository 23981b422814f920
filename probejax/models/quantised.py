"""Refuses quantised weights by name: read as if they were the values, they would be far off.

Only GGUF files may be quantised; there the format says how each value is made.
"""

from collections.abc import Mapping
from typing import Any

FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors spells the types that are values

# What each way of quantising leaves in the names or types of tensors; the first that fits counts.
_SIGNS = (
    ("bitsandbytes", (".SCB", ".absmax", ".quant_state.", ".quant_map", ".weight_format")),
    ("GPTQ or AWQ", (".qweight", ".qzeros", ".g_idx")),
    ("compressed-tensors", (".weight_packed", ".weight_shape")),
    ("MXFP4", ("_blocks", ".weight_block")),
)
_INSTEAD = "use the repository that it was made from, in bfloat16 or float32, or a GGUF file"


def require_float_config(fields: Mapping[str, Any], name: str) -> None:
    """Raises ValueError if a `config.json` says that the weights are quantised."""
    for key in ("quantization_config", "quantization"):  # MLX writes the second
        if settings := fields.get(key):
            settings = settings if isinstance(settings, dict) else {}
            how = str(settings.get("quant_method", "unknown method"))
            flags = {4: settings.get("load_in_4bit"), 8: settings.get("load_in_8bit")}
            bits = settings.get("bits") or next((n for n, on in flags.items() if on), None)
            raise ValueError(_sentence(name, f"{how}, {bits} bits" if bits else how))


def require_floats(types: Mapping[str, str], path: Any) -> None:
    """Raises ValueError unless all tensors hold plain floating-point values.

    Args:
      types: tensor name -> its type, as safetensors spells it.
      path: for the message.
    """
    for method, signs in _SIGNS:
        if any(sign in name for name in types for sign in signs):
            raise ValueError(_sentence(path, method))
    for name, kind in types.items():
        if kind.startswith("F8"):
            raise ValueError(_sentence(path, f"FP8: {name} is {kind}"))
        if kind not in FLOATS:
            raise ValueError(_sentence(path, f"{name} is {kind}"))


def _sentence(what: Any, how: str) -> str:
    return f"{what} holds quantised weights ({how}), which probejax does not read; {_INSTEAD}."
