"""From text to array: a language model that gives the activations of a list of texts."""

import functools
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from probejax.activations import forward
from probejax.activations.ragged import Activations
from probejax.activations.reading import read, require_tokens
from probejax.models import checkpoint
from probejax.positions import ALL
from probejax.positions import parse as parse_position
from probejax.rules import DTYPES
from probejax.sites import Site, parse


class LanguageModel:
    """A language model that is asked for activations, see `load_model`.

    Its weights are read when it is first asked, no further than up to the site that is asked for.
    """

    def __init__(
        self, found: checkpoint.Checkpoint, dtype: str, bos: str = "auto", chat: bool = False
    ):
        """Keeps where the model is; reads none of it but its numbers and how it reads texts."""
        self.checkpoint, self.config, self.dtype = found, found.config, dtype
        self.bos, self.template = found.bos_token(bos), found.template(chat)
        self._transformer = None

    def __repr__(self) -> str:
        held = 0 if self._transformer is None else len(self._transformer.layers)
        return (
            f"LanguageModel({self.config.name}: {self.config.n_layers} layers of width "
            f"{self.config.d_model}, {self.dtype}; {held} in memory)"
        )

    @functools.cached_property
    def tokenizer(self):
        """Its tokenizer, of the library `tokenizers`."""
        return self.checkpoint.tokenizer()

    def activations(
        self,
        texts: Iterable[str],
        site: str | int | Site,
        *,
        positions: str = "last",
        max_length: int = 1024,
        batch_tokens: int = forward.BATCH_TOKENS,
    ) -> Activations:
        """Returns the activations of texts at one site.

        The numbers are those that a sweep or `experiments.harvest` would keep of the same list of
        texts; here nothing is kept. A bar shows the tokens per second.

        Args:
          texts: N strings, in a list, tuple, array or column of a table. Equal ones run once; an
            empty one is the BOS token alone, and refused where no BOS is put before texts.
          site: `resid_post.9`, `mlp_out.9`, ..., see `probejax.sites`; `9` is short for
            `resid_post.9`.
          positions: `last` keeps the last token of each text, `all` every token, BOS first; `-2`,
            `mean` and `after:TEXT` keep other places, see `probejax.positions`.
          max_length: tokens of a text that the model reads, BOS included; of a longer text it reads
            the end, and a warning says how many are longer.
          batch_tokens: tokens of one pass, padding included.

        Returns:
          Activations in the dtype of the model. `np.asarray(found)` or `found.last()` is float32
          [N, d], a row for each text; of `all`, text i has the rows
          `found.x[found.starts[i] : found.starts[i] + found.counts[i]]`.

        Raises:
          ValueError: texts that are no list of strings, or none; a site that the model does not
            have; activations that are not finite.
          ArtifactError: the weights could not be fetched.

        Example:
          >>> lm = px.load_model("gemma-3-270m")
          >>> lm.activations(["The sky is blue.", "The sky is green."], "resid_post.9")
          Activations(2 texts, 2 rows of width 640, float32)
        """
        texts, site = _strings(texts), parse(site)
        positions = ALL if positions == ALL else parse_position(positions)
        self.config.check([site])
        require_tokens(texts, self.bos, self.template, "the texts")
        distinct = list(dict.fromkeys(texts))
        how = {"bos": self.bos, "template": self.template, "position": positions}
        ids, places, cut = read(distinct, self.tokenizer, self.config, max_length=max_length, **how)
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(distinct)} different texts are longer than max_length="
                f"{max_length} tokens; the model reads their end.",
                stacklevel=2,
            )
        batches, parts = forward.batches(ids, batch_tokens), []
        with tqdm(total=sum(map(len, ids)), unit="tok", unit_scale=True, desc=str(site)) as bar:
            for part in forward.run(self._up_to(site), batches, (site,), positions, places):
                parts.append(part)
                bar.update(part.tokens)
        number = {text: i for i, text in enumerate(distinct)}
        found = _joined(parts, site, np.array([number[text] for text in texts]))
        return found._replace(bos=self.bos is not None)

    def _up_to(self, site: Site):
        """Returns the transformer with the blocks up to a site, and keeps the deepest."""
        if self._transformer is None or len(self._transformer.layers) < site.blocks:
            self._transformer = None  # before its place is taken
            dtype = jnp.dtype(self.dtype)
            self._transformer = self.checkpoint.transformer(site.blocks, dtype)
        return self._transformer


def load_model(
    spec: str,
    *,
    dtype: str = "float32",
    bos: str = "auto",
    chat_template: bool = False,
    cache_dir: str | Path | None = None,
) -> LanguageModel:
    """Finds a language model; its weights are read when it is first asked for activations.

    Args:
      spec: `gemma-3-270m` or `smollm2-135m`, which need no account; a Hugging Face id such as
        `google/gemma-2-2b`; a folder with config.json and safetensors; or a GGUF file.
      dtype: `float32` or `bfloat16`, of the weights and of the activations.
      bos: whether a BOS token is put before each text: `always`, `never`, or `auto` for what is
        the model's own convention (Gemma and Llama have it; GPT-2, Pythia, Qwen and SmolLM2 not).
      chat_template: whether each text is read as the user's turn of a chat, by the tokenizer's own
        template; the last token is then that of the turn.
      cache_dir: where fetched files live; `$PROBEJAX_CACHE`, else `~/.cache/probejax`.

    Returns:
      The model. `activations(texts, site)` turns texts into vectors; `tokenizer` is its tokenizer,
      `config` its numbers.

    Raises:
      FileNotFoundError: a path that does not exist, or a folder that is not a model's.
      ArtifactError: the files could not be fetched.
      ValueError: a spec that is none of these, a model that probejax does not run, a dtype that is
        none of the two, or BOS or a chat template is wanted and the model has none.

    Example:
      >>> import probejax as px
      >>> lm = px.load_model("gemma-3-270m")
      >>> lm
      LanguageModel(gemma-3-270m: 18 layers of width 640, float32; 0 in memory)
      >>> lm.activations(["The sky is blue.", "The sky is green."], "resid_post.2")
      Activations(2 texts, 2 rows of width 640, float32)
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose from {', '.join(DTYPES)}.")
    return LanguageModel(checkpoint.find(spec, cache_dir=cache_dir), dtype, bos, chat_template)


def _strings(texts: Iterable[Any]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("texts is one string; give a list of strings, such as [text].")
    texts = list(texts)
    if not texts:
        raise ValueError("texts is empty; give at least one string.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{i}] is {text!r} ({type(text).__name__}); expected a string.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"texts[{i}] holds half a character (a lone surrogate); write it again."
            ) from None
    return texts


def _joined(parts: list[forward.Part], site: Site, which: np.ndarray) -> Activations:
    """Returns the rows of all batches, those of the first text first.

    Args:
      parts: batches of different texts, in any order.
      site: which of their rows.
      which: for every text asked for, its number among the different ones.
    """
    x = np.concatenate([part.rows[site] for part in parts])
    if not np.isfinite(x.astype(np.float32)).all():
        raise ValueError(
            f"The activations at {site} hold NaN or infinity; the weights may be damaged, or give "
            "dtype='float32'."
        )
    order = np.concatenate([part.prompts for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    starts = np.empty_like(counts)
    starts[order] = np.cumsum(counts) - counts
    sizes = np.empty_like(counts)
    sizes[order] = counts
    if (counts == 1).all():
        return Activations(x[starts[which]], np.arange(len(which)), sizes[which])
    begins = np.cumsum(sizes) - sizes
    rows = np.repeat(starts - begins, sizes) + np.arange(sizes.sum())
    return Activations(x[rows], begins[which], sizes[which])
