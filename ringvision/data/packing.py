"""Many examples to a row.

In: examples of different lengths. Out: one `Batch` of fixed shape, in which no example sees another: each has
its own segment id, its own positions from 0, and targets shifted inside itself. How much an example counts
does not depend on what it shares its row with, so the loss of a batch equals that of the same examples one to
a row.

    tokens       a b c d | e f g | .       two examples of 4 and 3 tokens and one slot of padding
    targets      b c d . | f g . | .
    positions    0 1 2 3 | 0 1 2 | 0
    segment_ids  1 1 1 1 | 2 2 2 | 0
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ringvision.data.stream import Example
from ringvision.errors import UserError

Array = Any  # numpy where a batch is made, jax where it is used


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """What the trainer feeds the transformer: five arrays [B, L].

    tokens: int32 [B, L], what is read (0 in padding).
    targets: int32 [B, L], what comes next within the example (0 where nothing does).
    positions: int32 [B, L], from 0 within the example.
    segment_ids: int32 [B, L], which example of the row, from 1; 0 is padding.
    loss_weights: float32 [B, L], how much predicting the target counts; those of an example sum to its
    weight.
    """

    tokens: Array
    targets: Array
    positions: Array
    segment_ids: Array
    loss_weights: Array


Slot = tuple[int, int]  # (row, where in it the example starts)


def assign_slots(lengths: Sequence[int], length: int, rows: int, *, before: int = 0) -> list[Slot | None]:
    """Where examples go in rows: the longest first, each into the fullest row that takes it.

    Deterministic: among equals the earlier example, then the lower row, goes first.

    Args:
        lengths: tokens of each example.
        length: tokens of a row.
        rows: how many rows there are.
        before: the first so many examples get their slots before the others.

    Returns:
        The slot of each example; None for those that fit into no row.
    """
    free = [length] * rows
    slots: list[Slot | None] = [None] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: (i >= before, -lengths[i])):
        takers = [(left, row) for row, left in enumerate(free) if left >= lengths[index]]
        if takers:
            left, row = min(takers)
            slots[index] = (row, length - left)
            free[row] = left - lengths[index]
    return slots


def pack(examples: Sequence[Example], length: int, rows: int) -> Batch:
    """All of them in one batch [rows, length]. UserError where one is longer than a row or they do not all
    fit.
    """
    slots = assign_slots([len(example.tokens) for example in examples], length, rows)
    missing = [len(example.tokens) for example, slot in zip(examples, slots, strict=True) if slot is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(examples)} examples (the longest of {max(missing)} tokens) do not fit "
            f"into {rows} rows of {length} tokens; give longer or more rows, or fewer examples"
        )
    return fill(examples, [slot for slot in slots if slot is not None], length, rows)


def fill(examples: Sequence[Example], slots: Sequence[Slot], length: int, rows: int) -> Batch:
    """Write examples at slots that do not overlap, as `assign_slots` gives them.

    Args:
        examples: their tokens are int32 [n], their loss_mask float32 [n].
        slots: where each of them begins.
        length: tokens of a row.
        rows: how many rows there are.

    Returns:
        A batch of arrays [rows, length]; what no example fills is 0.
    """
    tokens = np.zeros((rows, length), np.int32)
    targets = np.zeros((rows, length), np.int32)
    positions = np.zeros((rows, length), np.int32)
    segment_ids = np.zeros((rows, length), np.int32)
    loss_weights = np.zeros((rows, length), np.float32)
    segments = [0] * rows
    for example, (row, start) in sorted(zip(examples, slots, strict=True), key=lambda pair: pair[1]):
        size = len(example.tokens)
        here = slice(start, start + size)
        segments[row] += 1
        tokens[row, here] = example.tokens
        positions[row, here] = np.arange(size, dtype=np.int32)
        segment_ids[row, here] = segments[row]
        if size > 1:
            # A target is the token after it; the last token of an example has none, so nothing crosses over.
            targets[row, start : start + size - 1] = example.tokens[1:]
            total = float(example.loss_mask[1:].sum(dtype=np.float64))
            if total:
                # Divided by its own total alone: an example counts `weight`, whatever else is in its row.
                loss_weights[row, start : start + size - 1] = example.loss_mask[1:] * (example.weight / total)
    return Batch(tokens, targets, positions, segment_ids, loss_weights)


def fill_ratio(batch: Batch) -> float:
    """The share of a batch's slots [B, L] that is not padding."""
    return float(np.mean(np.asarray(batch.segment_ids) > 0))
