"""Which tiles of the score matrix need computing, told from the positions and segment ids alone.

In: the tokens of queries (with how far back each may look) and of keys, and the sizes of a tile. Out: for
every tile one of

    EMPTY     no query attends to any key: it is not computed
    PARTIAL   some may, some may not: it is computed under a mask
    FULL      every query attends to every key: it is computed without a mask

A tile is judged by the ranges of its segments and of its positions, and those of its first and its last
segment apart. EMPTY and FULL are never wrong, since they follow from ranges. Every full tile is found. An
empty one may be reported as PARTIAL, unless the two tiles share at most one document and it lies at an end of
both. Written with operators alone: numpy arrays stay in numpy.
"""

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.ops.mask import MaskSpec, Range, Tokens

EMPTY = 0
PARTIAL = 1
FULL = 2
_LARGEST = np.iinfo(np.int32).max

Array = jax.Array | np.ndarray


class Spans(NamedTuple):
    """Of what every real token in a tile has: the range over all of them, and over those of the tile's first
    and of its last segment; int32 [B, tiles] each.
    """

    all: Range
    in_first: Range
    in_last: Range


class Ranges(NamedTuple):
    """Of the real tokens in each tile, int32 [B, tiles] each: the lowest and the highest segment, the ranges
    of positions and, of queries that have it, of `earliest`; `whole`, bool [B, tiles], where all tokens are
    real and of one segment. A tile of padding alone has a first segment above its last.
    """

    first_segment: Array
    last_segment: Array
    positions: Spans
    whole: Array
    earliest: Spans | None = None


def ranges(tokens: Tokens, tile: int) -> Ranges:
    """tokens int32 [B, T], `tile` dividing T -> [B, T / tile] each."""
    xp = _numpy_of(tokens.positions)
    in_tiles = tokens.map(lambda x: x.reshape(x.shape[0], -1, tile))
    positions, segment_ids, earliest = in_tiles  # (B, tiles, tile)
    real = segment_ids != 0

    def range_of(x: Array, where: Array) -> Range:
        return Range(xp.where(where, x, _LARGEST).min(-1), xp.where(where, x, -_LARGEST).max(-1))

    first, last = range_of(segment_ids, real)  # (B, tiles)
    in_first, in_last = (real & (segment_ids == end[..., None]) for end in (first, last))

    def spans(x: Array) -> Spans:
        return Spans(*(range_of(x, where) for where in (real, in_first, in_last)))

    whole = real.all(-1) & (first == last)
    return Ranges(first, last, spans(positions), whole, None if earliest is None else spans(earliest))


def kinds(queries: Ranges, keys: Ranges, mask_spec: MaskSpec) -> Array:
    """Ranges [B, tiles of queries] and [B, tiles of keys] -> int8 [B, tiles of queries, tiles of keys] of
    EMPTY, PARTIAL, FULL.
    """
    q = jax.tree.map(lambda x: x[:, :, None], queries)  # (B, tiles of queries, 1)
    k = jax.tree.map(lambda x: x[:, None, :], keys)  # (B, 1, tiles of keys)
    xp = _numpy_of(q.whole)
    lowest = xp.maximum(q.first_segment, k.first_segment)
    highest = xp.minimum(q.last_segment, k.last_segment)
    empty = lowest > highest  # no segment in common
    full = q.whole & k.whole & ~empty

    def range_in_common(spans: Spans, side: Ranges) -> Range:
        """Of the only segment that both have, as far as it is known; else of all. `spans` are of `side`."""
        at_first, at_last = (
            (lowest == highest) & (lowest == end) for end in (side.first_segment, side.last_segment)
        )
        return Range(
            *(
                xp.where(at_first, f, xp.where(at_last, l, a))
                for f, l, a in zip(spans.in_first, spans.in_last, spans.all)
            )
        )

    earliest = None if q.earliest is None else range_in_common(q.earliest, q)
    empty, full = mask_spec.judge(
        empty, full, range_in_common(q.positions, q), range_in_common(k.positions, k), earliest
    )
    return (~empty * (1 + full)).astype(np.int8)


def _numpy_of(x: Array) -> ModuleType:
    return np if isinstance(x, np.ndarray) else jnp
