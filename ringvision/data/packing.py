"""Many examples to a row.

In: examples of different lengths. Out: one `Batch` of fixed shape, in which no example sees another: each has
its own segment id, its own positions from 0, and targets shifted inside itself. How much an example counts
does not depend on what it shares its row with, so the loss of a batch equals that of the same examples one to
a row.

    tokens       a b c d | e f g | .       two examples of 4 and 3 tokens and one slot of padding
    targets      b c d . | f g . | .
    positions    0 1 2 3 | 0 1 2 | 0
    segment_ids  1 1 1 1 | 2 2 2 | 0

An example longer than a row is cut, and its positions go on in the next piece:

    tokens       a b c d e f g h    i j k . . . . .     an example of 11 tokens in rows of 8
    targets      b c d e f g h i    j k . . . . . .
    positions    0 1 2 3 4 5 6 7    8 9 10
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Piece(NamedTuple):
    """Consecutive tokens of an example, which share a row.

    tokens, targets: int32 [n]; the last target is the first token of what follows in the example (0 where
    nothing does). loss_weights: float32 [n]. position: of the first token.
    """

    tokens: np.ndarray
    targets: np.ndarray
    loss_weights: np.ndarray
    position: int


def whole(example: Example) -> Piece:
    """An example in one piece, with positions from 0 on."""
    # A target is the token after it; the last token of an example has none, so nothing crosses over.
    targets = np.append(example.tokens[1:], np.int32(0))
    loss_weights = np.zeros(len(targets), np.float32)
    total = float(example.loss_mask[1:].sum(dtype=np.float64))
    if total:
        # Divided by its own total alone: an example counts `weight`, whatever else is in its row.
        loss_weights[:-1] = example.loss_mask[1:] * (example.weight / total)
    return Piece(example.tokens, targets, loss_weights, 0)


def cut(piece: Piece, length: int, max_length: int) -> list[Piece]:
    """A whole example as pieces of at most `length` tokens.

    Positions go on from piece to piece, until they would reach max_length, where they start from 0 again. The
    weights of all pieces together are the example's, and the last token of a piece is to predict the first of
    the next one.

    Args:
        piece: what `whole` gave.
        length: tokens of a row.
        max_length: positions stay below it; at least `length`.

    Returns:
        The pieces in order: the piece itself where it is no longer than a row.
    """
    count = len(piece.tokens)
    restart = max_length // length * length  # a piece begins at every multiple of this
    return [
        Piece(
            piece.tokens[start : start + length],
            piece.targets[start : start + length],
            piece.loss_weights[start : start + length],
            start % restart,
        )
        for start in range(0, count, length)
    ]


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
    pieces: list[list[Piece]] = [[] for _ in range(rows)]
    starts: list[list[int]] = [[] for _ in range(rows)]
    for example, (row, start) in sorted(zip(examples, slots, strict=True), key=lambda pair: pair[1]):
        pieces[row].append(whole(example))
        starts[row].append(start)
    return stack([fill_row(*pair, length) for pair in zip(pieces, starts, strict=True)])


def fill_row(pieces: Sequence[Piece], starts: Sequence[int], length: int) -> Batch:
    """One row of these pieces, each a segment of its own, at places that do not overlap: arrays [length]."""
    tokens = np.zeros(length, np.int32)
    targets = np.zeros(length, np.int32)
    positions = np.zeros(length, np.int32)
    segment_ids = np.zeros(length, np.int32)
    loss_weights = np.zeros(length, np.float32)
    for segment, (piece, start) in enumerate(zip(pieces, starts, strict=True), start=1):
        here = slice(start, start + len(piece.tokens))
        tokens[here] = piece.tokens
        targets[here] = piece.targets
        positions[here] = np.arange(piece.position, piece.position + len(piece.tokens), dtype=np.int32)
        segment_ids[here] = segment
        loss_weights[here] = piece.loss_weights
    return Batch(tokens, targets, positions, segment_ids, loss_weights)


def stack(rows: Sequence[Batch]) -> Batch:
    """Rows, arrays [length] each -> one batch, arrays [rows, length]."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *rows)


def fill_ratio(batch: Batch) -> float:
    """The share of a batch's slots [B, L] that is not padding."""
    return float(np.mean(np.asarray(batch.segment_ids) > 0))
