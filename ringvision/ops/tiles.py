"""Which tiles of the score matrix need computing, told from the positions and segment ids alone.

In: the tokens of queries and of keys, and the sizes of a tile. Out: for every tile one of

    EMPTY     nobody in it sees anybody: it is not computed
    PARTIAL   it may hold both: it is computed under a mask
    FULL      every query sees every key: it is computed without one

A tile is judged by the ranges of its positions and of its segments, so EMPTY and FULL are certain. FULL is found wherever it is true;
EMPTY wherever each of the two sides holds one document. Written with operators alone: numpy arrays stay in numpy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.ops.attention import Rule, Tokens

EMPTY, PARTIAL, FULL = 0, 1, 2
_LARGEST = np.iinfo(np.int32).max

Array = jax.Array | np.ndarray


class Ranges(NamedTuple):
    """Of the real tokens in each tile, [B, tiles]: the lowest and highest segment and position; `whole` where all are real and of one
    segment. A tile of padding alone has a lowest segment above its highest."""

    first_segment: Array
    last_segment: Array
    first_position: Array
    last_position: Array
    whole: Array


def ranges(tokens: Tokens, tile: int) -> Ranges:
    """tokens [B, T], `tile` dividing T -> [B, T / tile] each."""
    xp = np if isinstance(tokens.positions, np.ndarray) else jnp
    positions, segment_ids = (x.reshape(x.shape[0], -1, tile) for x in tokens)
    real = segment_ids != 0
    first_segment, first_position = (xp.where(real, x, _LARGEST).min(-1) for x in (segment_ids, positions))
    last_segment, last_position = (xp.where(real, x, -_LARGEST).max(-1) for x in (segment_ids, positions))
    return Ranges(first_segment, last_segment, first_position, last_position, real.all(-1) & (first_segment == last_segment))


def kinds(queries: Ranges, keys: Ranges, rule: Rule) -> Array:
    """int8 [B, tiles of queries, tiles of keys] of EMPTY, PARTIAL, FULL."""
    q, k = (Ranges(*(x[index] for x in side)) for side, index in ((queries, np.s_[:, :, None]), (keys, np.s_[:, None, :])))
    empty = (q.first_segment > k.last_segment) | (k.first_segment > q.last_segment)
    full = q.whole & k.whole & (q.first_segment == k.first_segment)
    if rule.causal:
        empty |= q.last_position < k.first_position
        full &= q.first_position >= k.last_position
    if rule.window is not None:
        empty |= (q.first_position - k.last_position >= rule.window) | (k.first_position - q.last_position >= rule.window)
        full &= (q.last_position - k.first_position < rule.window) & (k.last_position - q.first_position < rule.window)
    return (~empty * (1 + full)).astype(np.int8)
