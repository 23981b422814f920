"""What a file format is: which files it consists of, and how they are read."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from probejax.saes.formats import settings
from probejax.saes.formats.settings import Kind, changes_latents
from probejax.saes.stored import FileArray, StoredSAE, require_finite
from probejax.sites import EMBEDDING, Site


class Files(NamedTuple):
    """The files of one SAE.

    Attributes:
      weights: the tensors.
      config: the settings beside them, or None.
    """

    weights: Path
    config: Path | None

    def settings(self, kind: type[Kind]) -> Kind:
        """Returns the settings, all at their defaults where there is no file.

        Raises:
          ValueError: the file is damaged, or asks for what is not implemented.
        """
        return settings.settle(self.config, settings.read(self.config), kind)


class Description(NamedTuple):
    """What is known of an SAE before its weights are read; None where it is not recorded.

    Attributes:
      d_model: width of what it reads.
      d_sae: number of latents.
      model: name of the model, as the last part of its Hugging Face id.
      layer: the block that it reads.
      kind: where in it, one of `sites.KINDS`, or what the file calls it.
      l0: advertised mean number of active latents.
      architecture: what was trained, one of `rules.ARCHITECTURES` where it is one.
      centred: whether it reads vectors without their mean over d_model.
      prepends_bos: whether BOS stood before the texts that it was trained on.
    """

    d_model: int
    d_sae: int
    model: str | None = None
    layer: int | None = None
    kind: str | None = None
    l0: float | None = None
    architecture: str | None = None
    centred: bool = False
    prepends_bos: bool | None = None


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
      unlike: pattern of names that are another format's, whatever `weights` says.
    """

    name: str
    weights: str
    config: str | None
    describe: Callable[[Files], Description]
    load: Callable[[Files, str], StoredSAE]
    needs_config: bool = True
    by_name: str | None = None
    variants: tuple[str, ...] = ("reference",)
    unlike: str | None = None

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
        found = [each for each in found if not (self.unlike and each.match(self.unlike))]
        config = folder / self.config if self.config else None
        if config is not None and not config.exists():
            config = None
        if len(found) != 1 or (self.config and self.needs_config and config is None):
            return None
        return Files(found[0], config)


# A block in Hugging Face's models; in those that see pictures the blocks stand deeper.
_BLOCK = (
    r"(?:(?:(?:model|language_model|gpt_neox)\.)*layers|layer|(?:transformer\.)?h)[._](\d{1,4})"
)
_HOOKS = (
    (r"blocks\.(\d{1,4})\.hook_(resid_post|resid_pre|mlp_out|attn_out)", None),
    (r"blocks\.(\d{1,4})\.attn\.hook_z", "attn_z"),
    (rf"{_BLOCK}(?:\.output)?", "resid_post"),
    (rf"{_BLOCK}\.self_attn\.o_proj\.input", "attn_z"),
    (rf"{_BLOCK}\.post_feedforward_layernorm\.output", "mlp_out"),
    (r"(resid_post)_layer_(\d{1,4})", None),
)
_PARTS = (  # what is added to the residual stream unless a norm follows
    (rf"{_BLOCK}\.mlp(?:\.output)?", "mlp_out"),
    (rf"{_BLOCK}\.(?:self_attn|attn|attention)(?:\.output)?", "attn_out"),
)
_POSITIONS_FOLLOW = re.compile(r"gpt-?2", re.IGNORECASE)
_NORM_FOLLOWS = re.compile(r"gemma-?[23](?![\db])", re.IGNORECASE)


def place(hook: str | None, model: str | None = None) -> tuple[int | None, str | None]:
    """Returns layer and kind of a hook's name: (20, "resid_post") for `blocks.20.hook_resid_post`.

    Of a name that is not known, the kind is the name and the layer is None.

    Args:
      hook: TransformerLens' or Hugging Face's name of a place.
      model: of what, or a path that says so; a norm follows the MLP of Gemma 2 and 3, so that
        `layers.10.mlp` is no mlp_out of theirs; and GPT-2 adds positions to what it embeds.
    """
    if hook in ("hook_embed", "embed_tokens"):
        if _POSITIONS_FOLLOW.search(model or ""):
            return None, hook
        return EMBEDDING.layer, EMBEDDING.kind
    parts = () if _NORM_FOLLOWS.search(model or "") else _PARTS
    for pattern, kind in (*_HOOKS, *parts):
        if found := re.fullmatch(pattern, hook or ""):
            number, *rest = sorted(found.groups(), key=lambda text: not text.isdigit())
            site = Site(kind or rest[0], int(number))
            return site.layer, site.kind
    return None, hook


def take(path: Path, tensors: dict[str, Any], *names: str) -> list[FileArray]:
    """Returns the tensors of these names.

    Raises:
      ValueError: some are missing, or no tensors; all that are missing are named.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; expected {', '.join(names)}, "
            f"found {', '.join(map(str, tensors)) or 'nothing'}."
        )
    for name in names:
        if not isinstance(tensors[name], FileArray):
            found = type(tensors[name]).__name__
            raise ValueError(f"{path} has a {found} called {name}; expected a tensor.")
    return [tensors[name] for name in names]


def vectors(path: Path, tensors: dict[str, Any], size: int, *names: str) -> list[np.ndarray]:
    """Returns the vectors of these names and of one size, float64.

    Raises:
      ValueError: some are missing, of another shape, or not finite.
    """
    found = take(path, tensors, *names)
    for name, vector in zip(names, found, strict=True):
        if vector.shape != (size,):
            raise ValueError(f"{path} is not an SAE: {name} is {vector.shape}, expected {(size,)}.")
    values = [vector[...].astype(np.float64) for vector in found]
    for name, vector in zip(names, values, strict=True):
        if "threshold" not in name:  # that of a latent which is never active is infinite
            require_finite(path, name, vector)
    return values


def scalar(path: Path, tensors: dict[str, Any], name: str) -> float:
    """Returns the number of this name.

    Raises:
      ValueError: it is missing, a tensor of several, or not finite.
    """
    (found,) = take(path, tensors, name)
    if found.shape not in ((), (1,)):
        raise ValueError(f"{path} is not an SAE: {name} is {found.shape}, expected one number.")
    require_finite(path, name, found[...])
    return found[...].item()


def nothing_else(path: Path, tensors: dict[str, Any], *known: str) -> None:
    """Checks that no tensor is left out, for a makers' own reader would use it.

    Raises:
      ValueError: there are others, or something else whose name sounds like a part of the encoder.
    """
    others = [
        name
        for name, value in tensors.items()
        if name not in known and (isinstance(value, FileArray) or changes_latents(str(name)))
    ]
    if others:
        raise ValueError(
            f"{path} holds {', '.join(map(str, others))}, which probejax does not know in such an "
            f"SAE and which may change the latents; expected only {', '.join(known)}."
        )


def refuse_transcoder(path: Path) -> ValueError:
    """Returns the error for what reads one place and writes another."""
    return ValueError(
        f"{path} is a transcoder: it reads one place and reconstructs another; expected an SAE of "
        "the residual stream."
    )
