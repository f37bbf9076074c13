"""How large a tile the splash kernels compute, and the list of tiles that they go through.

In: sizes of a block; the kind of each of its tiles (ops/tiles.py). Out: `Sizes`, and `Work`: the tiles to
compute, sorted by row, as the scalars that the kernels read (`read_entry`, `row_of`, `column_of`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from ringvision.ops import tiles

LANES = 128


class Sizes(NamedTuple):
    """Of a tile."""

    queries: int
    keys: int


TILE_SIZES = (Sizes(512, 512), Sizes(256, 512), Sizes(256, 256), Sizes(128, 256), Sizes(128, 128))
"""Tried in this order."""
VECTOR_MEMORY = 13 * 2**20
"""Bytes that may be taken by `_vector_memory`; 16 MB are there by default on every generation."""
SCORES_AT_ONCE = 6
"""Arrays as large as a tile that are alive at one time."""

KIND = 3
FIRST = 4
LAST = 8
COLUMN_BIT = 4
ROW_BIT = 18
_END_OF_LIST = np.iinfo(np.int32).max


class Work(NamedTuple):
    """Lists of tiles, one for each row of the batch. `tiles` int32 [B * most], of which the first counts[b]
    of every `most` are tiles:

    row (13 bits) | column (14 bits) | LAST of its row | FIRST of its row | EMPTY, PARTIAL or FULL (2 bits)

    `counts` int32 [B], `longest` the largest of them, an int32 scalar.
    """

    tiles: jax.Array
    counts: jax.Array
    longest: jax.Array

    @property
    def most(self) -> int:
        return self.tiles.size // self.counts.size


def tile_sizes(q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: Any) -> Sizes:
    """Shapes [B, K, G, T, H] and [B, K, S, H] -> the sizes of a tile: multiples of the lanes, as even and as
    large as the vector memory allows.
    """
    groups, length, width = q_shape[2:]
    for most in TILE_SIZES:
        sizes = Sizes(_even(length, most.queries), _even(k_shape[2], most.keys))
        if _vector_memory(groups, sizes, width, jnp.dtype(dtype).itemsize) <= VECTOR_MEMORY:
            break
    return sizes


def _even(length: int, most: int) -> int:
    return round_up(pl.cdiv(length, pl.cdiv(length, most)), LANES)


def round_up(size: int, multiple: int) -> int:
    """To the next multiple."""
    return pl.cdiv(size, multiple) * multiple


def _vector_memory(groups: int, sizes: Sizes, width: int, itemsize: int) -> int:
    """Bytes, of the backward kernel that takes more. Blocks are there twice: one travels while the other is
    worked on; beside inputs that is dq and its scratch, or dk and dv, in float32.
    """
    width = round_up(width, LANES)
    queries = groups * sizes.queries * width
    keys = sizes.keys * width
    inputs = 2 * (2 * queries + 2 * keys) * itemsize
    return inputs + 4 * max(3 * queries, 4 * keys) + SCORES_AT_ONCE * 4 * sizes.queries * sizes.keys


def list_work(kinds: jax.Array) -> Work:
    """kinds int8 [B, rows, columns] -> the tiles to compute."""
    batch, rows, columns = kinds.shape
    assert max(rows, columns) < 2 ** (31 - ROW_BIT), "an entry has 13 bits for a row"
    kinds = kinds.astype(jnp.int32)
    listed = kinds != tiles.EMPTY
    # A row without work keeps one EMPTY tile, which writes its zeros.
    listed |= ~listed.any(-1, keepdims=True) & (jnp.arange(columns) == 0)
    index = listed.cumsum(-1)  # (B, rows, columns), from 1
    ends = FIRST * (index == 1) + LAST * (index == index[..., -1:])
    entries = (jnp.arange(rows)[:, None] << ROW_BIT) | (jnp.arange(columns) << COLUMN_BIT) | ends | kinds
    entries = jnp.sort(jnp.where(listed, entries, _END_OF_LIST).reshape(batch, -1), axis=-1)
    counts = listed.sum((1, 2), dtype=jnp.int32)
    return Work(entries.reshape(-1), counts, counts.max())


def read_entry(
    entries: Any, counts: Any, b: jax.Array, step: jax.Array, most: int
) -> tuple[jax.Array, jax.Array]:
    """The entry of a step, and whether the list reaches so far: past its end the last entry stays, so that
    nothing is fetched.

    Args:
        entries: `Work.tiles`, int32 [B * most], or a reference to it.
        counts: `Work.counts`, int32 [B], or a reference to it.
        b: int32 scalar, row of the batch.
        step: int32 scalar.
        most: `Work.most`.

    Returns:
        int32 and bool scalars.
    """
    return entries[b * most + jnp.minimum(step, counts[b] - 1)], step < counts[b]


def row_of(entry: jax.Array) -> jax.Array:
    """int32 scalar -> int32 scalar: the row of an entry's tile."""
    return entry >> ROW_BIT


def column_of(entry: jax.Array) -> jax.Array:
    """int32 scalar -> int32 scalar: the column of an entry's tile."""
    return (entry >> COLUMN_BIT) & (2 ** (ROW_BIT - COLUMN_BIT) - 1)
