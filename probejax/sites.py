"""Sites: the places in a language model at which activations are read.

A block adds what its attention and what its MLP write to the residual stream:

    resid_pre ─► norm ─► heads ─► attn_z ─► projection ─► norm ─► attn_out ─► (+ resid_pre)
              ─► norm ─► MLP ─► norm ─► mlp_out ─► (+) ─► resid_post

The names are TransformerLens' (`hook_resid_post`, `hook_z`, ...), and so are the places: Gemma 2
and 3 have a norm after the attention and one after the MLP, and `attn_out` and `mlp_out` stand
behind it, "that which is added to the residual stream" (its `transformer_block.py`). Other families
have no norms there, and where the MLP reads what entered the block (GPT-NeoX), both are still what
is added. resid_pre.0 is what enters block 0: with GPT-2's learned positions added. SAELens hooks
into TransformerLens and so means the same. Of Gemma Scope's SAEs (arXiv 2408.05147), those called
`res` read resid_post, those called `mlp` mlp_out, and those called `att` attn_z: the outputs of the
heads side by side, before the projection.
"""

import dataclasses
import re
from collections.abc import Iterable

KINDS = ("resid_pre", "attn_z", "attn_out", "mlp_out", "resid_post")
"""In the order in which a block computes them."""

LAYERS = range(10_000)
"""What may be the number of a block."""

_TEXT = re.compile(rf"({'|'.join(KINDS)})\.([0-9]{{1,4}})")


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a language model; `str` gives its one text form, such as `resid_post.9`.

    What enters a block is what left the one before, so `Site("resid_pre", 9)` is
    `Site("resid_post", 8)`, and `resid_pre.0`, the scaled embedding, is the only `resid_pre`.

    Attributes:
      kind: one of `KINDS`.
      layer: zero-based block.
    """

    kind: str
    layer: int

    def __post_init__(self):
        """Raises ValueError for a kind or a layer that no model has."""
        if self.kind not in KINDS or self.layer not in LAYERS:
            raise _no_site(f"{self.kind}.{self.layer}")
        if self.kind == "resid_pre" and self.layer:
            object.__setattr__(self, "kind", "resid_post")
            object.__setattr__(self, "layer", self.layer - 1)

    def __lt__(self, other: "Site") -> bool:
        """Orders sites as a model computes them."""
        places = ((site.layer, KINDS.index(site.kind)) for site in (self, other))
        return next(places) < next(places)

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    @property
    def short(self) -> str:
        """The shortest text of it: `9` for `resid_post.9`, `embed` for `resid_pre.0`."""
        if self == EMBEDDING:
            return "embed"
        return str(self.layer) if self.kind == "resid_post" else str(self)

    @property
    def hook(self) -> str:
        """What TransformerLens calls it, such as `blocks.9.hook_resid_post`."""
        part = "attn.hook_z" if self.kind == "attn_z" else f"hook_{self.kind}"
        return f"blocks.{self.layer}.{part}"

    @property
    def blocks(self) -> int:
        """Blocks that must run before the site is known."""
        return 0 if self == EMBEDDING else self.layer + 1

    @property
    def is_residual(self) -> bool:
        """Whether it is the residual stream."""
        return self.kind in ("resid_pre", "resid_post")


GIVEN = "given"
"""What stands in results in the place of a site where the vectors were the user's own."""

EMBEDDING = Site("resid_pre", 0)
"""The scaled embedding, which enters block 0."""


def parse(given: "str | int | Site") -> Site:
    """Returns the site that is meant.

    Args:
      given: `resid_post.9`; a zero-based layer, `9` or `"9"`, for what leaves that block; `embed`
        for the scaled embedding; or a site.

    Raises:
      ValueError: it is none of these.
    """
    if isinstance(given, Site):
        return given
    text = str(given)
    if text == "embed":
        return EMBEDDING
    if found := _TEXT.fullmatch(text):
        return Site(found[1], int(found[2]))
    if text.isascii() and text.isdigit() and len(text) <= 4:
        return Site("resid_post", int(text))
    raise _no_site(text)


EVERY = "all"
"""In the place of a layer: every one that the model has."""


def kind_of_all(given: "str | int | Site") -> str | None:
    """Returns the kind that is meant at every layer: `all` is short for `resid_post.all`."""
    text = f"resid_post.{EVERY}" if given == EVERY else str(given)
    kind, _, layer = text.partition(".")
    return kind if layer == EVERY and kind in KINDS else None


def expand(given: "Iterable[str | int | Site]", n_layers: int) -> tuple[Site, ...]:
    """Returns the distinct sites that are meant, in the order given.

    Args:
      given: each as for `parse`; or `all` for what leaves every block, or `mlp_out.all`.
      n_layers: blocks of the model.

    Raises:
      ValueError: one is no site.
    """
    found: list[Site] = []
    for each in given:
        kind = kind_of_all(each)
        found += [parse(each)] if kind is None else [Site(kind, i) for i in range(n_layers)]
    return tuple(dict.fromkeys(found))


def known(text: str) -> Site | None:
    """Returns the site of a result; None where it has none (`given`), or says nothing of it."""
    return None if text in ("", GIVEN) else parse(text)


def in_order(texts: Iterable[str]) -> list[str]:
    """Returns the text forms of sites in the order in which a model computes them."""
    return sorted(texts, key=lambda text: known(text) or EMBEDDING)


def _no_site(text: str) -> ValueError:
    return ValueError(
        f"--site={text} is no site: give a kind and a zero-based layer such as resid_post.9 (there "
        f"are {', '.join(KINDS)}), a layer alone for its resid_post, or `embed`."
    )
