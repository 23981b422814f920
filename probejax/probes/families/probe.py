"""What all probes have in common: they are called on new activations, and come alone or in stacks.

A stack of L probes has one more axis, the lanes, first in every array but those that its probes
share. A family says how the logits of a stack are computed, once: the sweep's own test scores, a
call and a file that was read back all go that way.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from probejax import inputs
from probejax.activations.ragged import Activations


def shared() -> Any:
    """Marks an array that all probes of a stack have in common."""
    return dataclasses.field(metadata={"shared": True})


def static(default: Any) -> Any:
    """Marks a setting that is no array."""
    return dataclasses.field(default=default, metadata={"static": True})


class Probe:
    """A fitted probe, or a stack of them."""

    @property
    def lanes(self) -> int | None:
        """How many probes a stack has; None for a single probe."""
        raise NotImplementedError

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads all tokens of a prompt, not the last alone."""
        return False

    @property
    def width(self) -> int | None:
        """Width of the activations that it reads; None where an old file does not say."""
        raise NotImplementedError

    def source(self, x: Any) -> Any:
        """Returns what `of_rows` reads, made of activations; by default the rows themselves."""
        return self.rows(x)

    def of_rows(
        self, source: Any, rows: Int[np.ndarray, "L m"], mask: Bool[np.ndarray, "L m"]
    ) -> Float[Array | np.ndarray, "L m"]:
        """Returns the logits of each probe of a stack on rows of its own.

        Where an intercept is added they are float64: beside a large one, float32 would make equals
        of rows that are not.

        Args:
          source: of all rows, from `source`.
          rows: which of them.
          mask: which of these matter; the logits of the others may be anything finite.
        """
        raise NotImplementedError

    def __call__(self, x: Any) -> Float[Array | np.ndarray, "*lanes n"]:
        """Returns logits; above 0 predicts the positive class.

        Args:
          x: [n, d] activations as NumPy, JAX or torch array, at the place where the probe was
            trained; or `Activations`, whose last or all tokens it reads, as it was trained.

        Returns:
          The logits [n] of a single probe, [L, n] of a stack; NaN where a row of `x` is not finite.

        Raises:
          ValueError: `x` is no such matrix, or of another width; or the probe reads all tokens of
            a prompt and got a matrix.
        """
        stack = self if self.lanes is not None else self[None]
        source, fine = stack.source(x), self._finite(x)
        count = len(fine)
        if not count:
            logits = np.zeros((cast(int, stack.lanes), 0), np.float32)
            return logits if self.lanes is not None else logits[0]
        rows = np.broadcast_to(np.arange(count), (cast(int, stack.lanes), count))
        logits = stack.of_rows(source, rows, np.ones(rows.shape, bool))
        logits = jnp.where(fine[None, :], logits, jnp.nan).astype(jnp.float32)
        return logits if self.lanes is not None else logits[0]

    def __getitem__(self, lane: Any) -> "Probe":
        """Returns a probe of a stack, or with a slice or a list a smaller stack.

        Raises:
          IndexError: it is a single probe, which has no lanes.
        """
        if self.lanes is None and lane is not None:
            raise IndexError("this is a single probe, not a stack of them: call it as it is")
        return self.over_lanes(lambda leaf: np.asarray(np.asarray(leaf)[lane]))

    def over_lanes(self, change: Callable[[Any], Any]) -> "Probe":
        """Returns the probe with all arrays changed that have a lane axis."""
        changed = {name: jax.tree.map(change, getattr(self, name)) for name in self._own()}
        return dataclasses.replace(cast(Any, self), **changed)

    def kept(self) -> "Probe":
        """Returns the probe with no more than it needs, as it is saved; by default all of it."""
        return self

    @classmethod
    def _own(cls) -> list[str]:
        fields = dataclasses.fields(cast(Any, cls))
        return [f.name for f in fields if not {"shared", "static"} & set(f.metadata)]

    def rows(self, x: Any) -> Float[Array | np.ndarray, "n d"]:
        """Returns one float32 row per prompt, of the right width."""
        tokens = x if isinstance(x, Activations) else None
        x = inputs.matrix(x) if tokens is None else tokens.last()
        if self.width is not None and x.shape[1] != self.width:
            raise ValueError(
                f"the activations are {x.shape[1]} wide; this probe was trained on {self.width}: "
                "give those of the same model and place"
            )
        return x

    def _finite(self, x: Any) -> Bool[Array | np.ndarray, " n"]:
        """Tells of which prompts all numbers are finite that the probe reads."""
        if not self.reads_tokens:
            return jnp.isfinite(self.rows(x)).all(axis=1)
        return self.tokens(x).finite()

    def tokens(self, x: Any) -> Activations:
        """Returns the tokens of prompts, of the right width."""
        tokens = x if isinstance(x, Activations) else None
        if tokens is None:
            raise ValueError(
                "this probe reads all tokens of a prompt; give it Activations with "
                'positions="all", not a matrix with one row per prompt'
            )
        if self.width is not None and tokens.d_model != self.width:
            raise ValueError(
                f"the activations are {tokens.d_model} wide; this probe was trained on {self.width}"
            )
        return tokens


def joined(stacks: Sequence[Probe]) -> Probe:
    """Returns one stack of several of one family, shorter arrays padded with zeros."""
    first = stacks[0]

    def together(*leaves):
        sizes = [max(each) for each in zip(*(np.shape(leaf)[1:] for leaf in leaves), strict=True)]
        pads = [
            [
                (0, 0),
                *((0, size - have) for size, have in zip(sizes, np.shape(leaf)[1:], strict=True)),
            ]
            for leaf in leaves
        ]
        return np.concatenate([np.pad(np.asarray(a), p) for a, p in zip(leaves, pads, strict=True)])

    own = {
        name: jax.tree.map(together, *(getattr(stack, name) for stack in stacks))
        for name in first._own()
    }
    return dataclasses.replace(cast(Any, first), **own)
