"""The formats in which SAEs are stored: one file each, one registry."""

from pathlib import Path

from probejax.saes.formats import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    linear_pair,
    llama_scope,
    openmoss,
    sae_lens,
    sparsify,
)
from probejax.saes.formats.format import Description, Files, Format

__all__ = ["FORMATS", "Description", "Files", "Format", "detect", "gemma_scope"]

# The first that fits wins: Goodfire's takes any PyTorch file, and a config.json may stand anywhere.
FORMATS = {
    each.name: each
    for each in (
        gemma_scope.FORMAT,
        gemma_scope_2.FORMAT,
        llama_scope.FORMAT,
        sae_lens.FORMAT,
        openmoss.FORMAT,
        sparsify.FORMAT,
        dictionary_learning.FORMAT,
        linear_pair.QWEN_SCOPE,
        linear_pair.GOODFIRE,
    )
}


def detect(path: Path) -> tuple[Format, Files] | None:
    """Returns the format and the files of the SAE at a folder or weights file, None if none is."""
    for each in FORMATS.values():
        if files := each.files(path):
            return each, files
    return None
