"""An SAE that is called on activations and knows what it was made for."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probejax import inputs
from probejax.saes import stream
from probejax.saes.registry import SaeFile, find
from probejax.saes.sae import SAE, encode
from probejax.saes.stored import StoredSAE
from probejax.sites import Site

_BLOCK = 2048  # latents at a time of an SAE that stays in its file


def reading(sae: "NamedSAE | stream.Dictionary", width: int) -> stream.Dictionary:
    """Returns what encodes, once it is known that it reads vectors of a width.

    Raises:
      ValueError: it reads others, or is nothing that encodes.
    """
    inner = sae.sae if isinstance(sae, NamedSAE) else sae
    if not isinstance(inner, SAE | StoredSAE) and not callable(getattr(inner, "encode", None)):
        raise ValueError(
            f"sae is {inner!r:.50}; expected an SAE, as px.load_sae returns, or anything with "
            "encode(x)"
        )
    own = getattr(inner, "d_model", width)
    if own != width:
        raise ValueError(f"x is {width} wide; the SAE reads vectors of width {own}")
    return inner


@dataclasses.dataclass(frozen=True, repr=False)
class NamedSAE:
    """An SAE, called on activations for its latents.

    Attributes:
      file: what is known of it, `None` where it is not recorded: `sae_id`, `model`, `site`, `l0`,
        `architecture`, `released`, `neuronpedia`.
      sae: its parameters; those that exceed 2 GiB stay in their file.
    """

    file: SaeFile
    sae: SAE | StoredSAE

    def __repr__(self) -> str:
        known = {
            "model": self.model,
            "site": self.site,
            "d_model": self.d_model,
            "d_sae": self.d_sae,
            "l0": None if self.file.l0 is None else f"{self.file.l0:g}",
            "architecture": self.file.architecture,
            "released": self.file.released,
        }
        words = [f"{name}={value}" for name, value in known.items() if value is not None]
        return f"NamedSAE({', '.join([self.file.sae_id, *words])})"

    @property
    def model(self) -> str | None:
        """The model that it was trained on."""
        return self.file.model

    @property
    def site(self) -> Site | None:
        """Where it reads that model."""
        return self.file.site

    @property
    def d_model(self) -> int:
        """Width of what it reads."""
        return self.sae.d_model

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.sae.d_sae

    def __call__(self, x: Any) -> Float[Array | np.ndarray, "*batch d_sae"]:
        """Returns the latents of raw activations, float32, as an array of JAX if `x` is one.

        Args:
          x: [..., d_model] in a NumPy, JAX or torch array of any float dtype, or `Activations` of
            last tokens. NaN in a row makes all its latents NaN.

        Raises:
          ValueError: another width, or no numbers.
        """
        given = x if hasattr(x, "reshape") else np.asarray(x)
        if not given.shape or given.shape[-1] != self.d_model:
            raise ValueError(
                f"the activations are {tuple(given.shape)}; {self.file.sae_id} reads vectors of "
                f"width {self.d_model}, [..., {self.d_model}]"
            )
        flat = jnp.asarray(inputs.matrix(given.reshape(-1, self.d_model)))
        if isinstance(self.sae, SAE):
            found = encode(self.sae, flat)
        else:
            add = lambda blocks, block: [*blocks, block.latents]
            blocks = stream.fold(self.sae, flat, [], add, lambda a, b: a + b, block=_BLOCK)
            found = jnp.concatenate(blocks, axis=1)
        found = found if isinstance(x, jax.Array) else np.asarray(found)
        return found.reshape(*given.shape[:-1], self.d_sae)

    encode = __call__


def load_sae(spec: str, *, cache_dir: str | Path | None = None) -> NamedSAE:
    """Finds and reads an SAE, and fetches it if it is on the Hub.

    Args:
      spec: the id of an SAE that ships with probejax; a file, or a folder that holds one, in any of
        the formats of Gemma Scope 1 and 2, Llama Scope, OpenMOSS, SAELens, dictionary_learning,
        sparsify, Goodfire or Qwen Scope; or a release on the Hub, also by SAELens' names.
        `@<variant>` chooses another reading of the same file.
      cache_dir: where fetched files live; `$PROBEJAX_CACHE`, else `~/.cache/probejax`.

    Returns:
      The SAE. `sae(x)` turns activations [..., d_model] into latents [..., d_sae]; `model`, `site`
      and `file` say what it was made for.

    Raises:
      FileNotFoundError: there is no such SAE; the message says what there is.
      ArtifactError: the files could not be fetched.
      ValueError: the file is damaged or not an SAE, or `spec` is a random SAE, which a sweep
        calibrates on the activations of each task.

    Example:
      >>> import numpy as np
      >>> import probejax as px
      >>> sae = px.load_sae("gemma-3-270m/layer_9/width_4k/average_l0_78")
      >>> x = np.zeros((3, 640), np.float32)  # activations at the site that it reads
      >>> sae(x).shape, str(sae.site)
      ((3, 4096), 'resid_post.9')
    """
    file = find(spec, cache_dir=cache_dir)
    return NamedSAE(file, file.load())
