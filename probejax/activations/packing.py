"""Packs prompts of mixed length into rows of few shapes, several prompts to a row."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROW_LENGTHS = (128, 256, 512, 1024)  # a prompt goes into the shortest row that holds it


class Batch(NamedTuple):
    """One call of the model.

    Attributes:
      tokens: int32 [rows, pos], 0 where there is no prompt.
      segments: int32 [rows, pos], 1, 2, ... for the prompts of a row, 0 for padding.
      prompts: int [p], which prompts these are.
      starts: int [p], where each begins in the flattened [rows * pos] tokens.
      lengths: int [p], its number of tokens.
    """

    tokens: np.ndarray
    segments: np.ndarray
    prompts: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def pack(prompts: Sequence[np.ndarray], batch_tokens: int) -> list[Batch]:
    """Packs prompts, longest first, into batches of at most `batch_tokens` tokens.

    Prompts are never split. The same prompts give the same batches, which is what lets an
    interrupted harvest continue.

    Args:
      prompts: token ids of each prompt.
      batch_tokens: tokens of one batch, padding included; one row at least.
    """
    lengths = np.array([len(p) for p in prompts], int)
    row_lengths = (*ROW_LENGTHS, *_longer(int(lengths.max(initial=0))))
    batches, below = [], 0
    for row_length in row_lengths:
        members = np.flatnonzero((lengths > below) & (lengths <= row_length))
        below = row_length
        rows = _fill(members[np.argsort(-lengths[members], kind="stable")], lengths, row_length)
        per_batch = max(batch_tokens // row_length, 1)
        for i in range(0, len(rows), per_batch):
            batches.append(_batch(rows[i : i + per_batch], prompts, (per_batch, row_length)))
    return batches


def _longer(longest: int) -> list[int]:
    """Returns the row lengths past the standard ones: powers of two."""
    found, length = [], ROW_LENGTHS[-1]
    while length < longest:
        length *= 2
        found.append(length)
    return found


def _fill(order: np.ndarray, lengths: np.ndarray, row_length: int) -> list[list[int]]:
    """Best-fit decreasing: each prompt goes into the fullest row that still has room for it."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows by their free places
    for prompt in order:
        need = int(lengths[prompt])
        room = next((r for r in range(need, row_length + 1) if by_room[r]), None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, row_length
        else:
            row = by_room[room].pop()
        rows[row].append(int(prompt))
        by_room[room - need].append(row)
    return rows


def _batch(rows: list[list[int]], prompts: Sequence[np.ndarray], shape: tuple[int, int]) -> Batch:
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    members, starts = [], []
    for r, row in enumerate(rows):
        at = 0
        for number, prompt in enumerate(row, start=1):
            end = at + len(prompts[prompt])
            tokens[r, at:end] = prompts[prompt]
            segments[r, at:end] = number
            members.append(prompt)
            starts.append(r * shape[1] + at)
            at = end
    lengths = np.array([len(prompts[p]) for p in members])
    return Batch(tokens, segments, np.array(members), np.array(starts), lengths)
