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

    tokens int32: what is read (0 in padding). targets int32: what comes next within the example (0 where
    nothing does). positions int32: place within the example. segment_ids int32: which example of the row,
    from 1; 0 is padding. loss_weights float32: how much predicting the target counts; those of an example sum
    to its weight (1 for one of weight 1).
    """

    tokens: Array
    targets: Array
    positions: Array
    segment_ids: Array
    loss_weights: Array


Place = tuple[int, int]  # (row, where in it the example starts)


def place(lengths: Sequence[int], length: int, rows: int, *, before: int = 0) -> list[Place | None]:
    """Where examples of these lengths go in `rows` rows of `length`: the longest first, each into the fullest
    row that takes it.

    The first `before` of them are placed before the others. None for those that found no room. Deterministic:
    among equals the earlier example, then the lower row, goes first.
    """
    room = [length] * rows
    places: list[Place | None] = [None] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: (i >= before, -lengths[i])):
        takers = [(left, row) for row, left in enumerate(room) if left >= lengths[index]]
        if takers:
            left, row = min(takers)
            places[index] = (row, length - left)
            room[row] = left - lengths[index]
    return places


def pack(examples: Sequence[Example], length: int, rows: int) -> Batch:
    """Pack all of them into `rows` rows of `length`. UserError where one is longer than a row or they do not
    all fit.
    """
    places = place([len(example.tokens) for example in examples], length, rows)
    missing = [len(example.tokens) for example, found in zip(examples, places, strict=True) if found is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(examples)} examples (the longest of {max(missing)} tokens) "
            f"found no room in {rows} rows of"
            f" {length} tokens; give longer or more rows, or fewer examples"
        )
    return fill(examples, [found for found in places if found is not None], length, rows)


def fill(examples: Sequence[Example], places: Sequence[Place], length: int, rows: int) -> Batch:
    """Write examples at places that do not overlap (`place` gives such) into a new batch, rows x length."""
    tokens, targets, positions, segment_ids = (np.zeros((rows, length), np.int32) for _ in range(4))
    loss_weights = np.zeros((rows, length), np.float32)
    segments = [0] * rows
    for example, (row, start) in sorted(zip(examples, places, strict=True), key=lambda pair: pair[1]):
        size = len(example.tokens)
        here = slice(start, start + size)
        segments[row] += 1
        tokens[row, here] = example.tokens
        positions[row, here] = np.arange(size, dtype=np.int32)
        segment_ids[row, here] = segments[row]
        if size > 1:
            targets[row, start : start + size - 1] = example.tokens[1:]
            total = float(example.loss_mask[1:].sum(dtype=np.float64))
            if total:
                loss_weights[row, start : start + size - 1] = example.loss_mask[1:] * (example.weight / total)
    return Batch(tokens, targets, positions, segment_ids, loss_weights)


def fill_ratio(batch: Batch) -> float:
    """The share of a batch that is not padding."""
    return float(np.mean(np.asarray(batch.segment_ids) > 0))
