"""What a file format is: which files it consists of, and how they are read."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from probejax.saes.stored import StoredSAE


class Files(NamedTuple):
    """The files of one SAE.

    Attributes:
      weights: the tensors.
      config: the settings beside them, or None.
    """

    weights: Path
    config: Path | None

    def settings(self) -> dict[str, Any]:
        """Returns the settings, empty where there is no file.

        Raises:
          ValueError: the file is no JSON object.
        """
        if self.config is None:
            return {}
        try:
            return dict(json.loads(self.config.read_text()).items())
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{self.config} is damaged ({error}); delete it or restore it."
            ) from error


class Description(NamedTuple):
    """What is known of an SAE before its weights are read; None where it is not recorded.

    Attributes:
      d_model: width of what it reads.
      d_sae: number of latents.
      model: name of the model, as the last part of its Hugging Face id.
      layer: the block whose output it reads, -1 for the embedding.
      site: `resid_post`, `mlp_out`, `attn_out`, `attn_z` or what the file calls it.
      l0: advertised mean number of active latents.
      architecture: what was trained, one of `saes.architectures.ARCHITECTURES` where it is one.
    """

    d_model: int
    d_sae: int
    model: str | None = None
    layer: int | None = None
    site: str | None = None
    l0: float | None = None
    architecture: str | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """One way of storing SAEs.

    Attributes:
      name: its name.
      weights: pattern of the file with the tensors, relative to the SAE's folder.
      config: name of the file with the settings, or None.
      describe: reads headers and settings only.
      load: opens the SAE; its third argument is a variant.
      needs_config: False where the settings may be missing.
      by_name: pattern of further names, for a file that is named itself.
      variants: readings of the same file, the default first.
    """

    name: str
    weights: str
    config: str | None
    describe: Callable[[Files], Description]
    load: Callable[[Files, str], StoredSAE]
    needs_config: bool = True
    by_name: str | None = None
    variants: tuple[str, ...] = ("reference",)

    def files(self, path: Path) -> Files | None:
        """Returns the files of this format at a folder or weights file, None if it has none."""
        folder = path
        if path.is_file():
            if not any(path.match(p) for p in (self.weights, self.by_name) if p):
                return None
            folder = path.parents[self.weights.count("/")]
            found = [path]
        else:
            found = sorted(folder.glob(self.weights))
        config = folder / self.config if self.config else None
        if config is not None and not config.is_file():
            config = None
        if len(found) != 1 or (self.config and self.needs_config and config is None):
            return None
        return Files(found[0], config)


_HOOKS = (
    (r"blocks\.(\d+)\.hook_(resid_post|resid_pre|mlp_out|attn_out)", None),
    (r"blocks\.(\d+)\.attn\.hook_z", "attn_z"),
    (r"model\.(?:language_model\.)?layers\.(\d+)\.output", "resid_post"),
    (r"model\.(?:language_model\.)?layers\.(\d+)\.self_attn\.o_proj\.input", "attn_z"),
    (r"model\.(?:language_model\.)?layers\.(\d+)\.post_feedforward_layernorm\.output", "mlp_out"),
    (r"(resid_post)_layer_(\d+)", None),
    (r"layers?[._](\d+)", "resid_post"),
)


def place(hook: str | None) -> tuple[int | None, str | None]:
    """Returns layer and site of a hook's name: (20, "resid_post") for `blocks.20.hook_resid_post`.

    What enters block n is what leaves block n - 1, so `resid_pre` becomes `resid_post` of that, and
    the embedding is layer -1.
    """
    for pattern, site in _HOOKS:
        if found := re.fullmatch(pattern, hook or ""):
            number, *rest = sorted(found.groups(), key=lambda text: not text.isdigit())
            layer, site = int(number), site or rest[0]
            return (layer - 1, "resid_post") if site == "resid_pre" else (layer, site)
    if hook in ("hook_embed", "embed_tokens"):
        return -1, "resid_post"
    return None, hook


def model_name(text: str | None) -> str | None:
    """Returns the last part of a model's id, `gemma-2-2b` for `google/gemma-2-2b`."""
    return text.rstrip("/").rsplit("/", 1)[-1] if text else None


def take(path: Path, tensors: dict[str, Any], *names: str) -> list[Any]:
    """Returns the tensors of these names.

    Raises:
      ValueError: some are missing; all of them are named.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; expected {', '.join(names)}, "
            f"found {', '.join(map(str, tensors)) or 'nothing'}."
        )
    return [tensors[name] for name in names]


def refuse_transcoder(path: Path) -> ValueError:
    """Returns the error for what reads one place and writes another."""
    return ValueError(
        f"{path} is a transcoder: it reads one place and reconstructs another; expected an SAE of "
        "the residual stream."
    )
