"""The attention mask: which keys a query attends to, told from positions and segment ids alone.

In: for every query and key its position and its segment id (0 is padding), for every query the lowest
position that it may attend to, and a `MaskSpec`. Out: the mask of pairs of tokens, or, from ranges of
positions, which tiles of it are empty or full.

Letters: B batch, T queries, S keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

Mask = TypeVar("Mask", jax.Array, np.ndarray)

ANY = -np.iinfo(np.int32).max
"""As `Tokens.earliest`: this query attends to any position."""


class Tokens(NamedTuple):
    """What the attention mask is made from: int32 [B, T] each. Segment 0 is padding.

    earliest: of queries, the lowest position that each attends to; None: any. So one query may have a window
    where another sees everything: at position p a window of W is p - W + 1, and `ANY` is none. Keys have no
    `earliest`, and it never travels: queries stay where they are.
    """

    positions: jax.Array
    segment_ids: jax.Array
    earliest: jax.Array | None = None

    def map(self, function: Callable[[Any], Any]) -> "Tokens":
        """`function` of each array that is there, int32 [B, T] -> anything."""
        return jax.tree.map(function, self)

    @property
    def as_keys(self) -> "Tokens":
        """Without `earliest`."""
        return self._replace(earliest=None)


class Range(NamedTuple):
    """Lowest and highest position of some tokens, int32 of one shape."""

    low: jax.Array | np.ndarray
    high: jax.Array | np.ndarray


class MaskSpec(NamedTuple):
    """Which positions a query attends to within its own segment, and how scores are scaled; fixed when
    compiling. `window`: only positions less than this apart, for all queries alike; what differs from query
    to query is data, `Tokens.earliest`.

    `restrict` applies it to pairs of tokens (`attention_mask`, the splash kernel), `judge` to ranges of
    positions (ops/tiles.py, by which tiles and whole hops are left out). `has_horizon` says whether distance
    alone can leave a hop without work. Two more files restate `causal` and `window` and change with them:
    layout_choice.py, which counts visible pairs without making a mask, and kernels/cudnn.py (DIAGONAL).
    """

    causal: bool
    window: int | None
    scale: float

    @property
    def has_horizon(self) -> bool:
        """Whether keys that come before a query can be too far away for it."""
        return self.window is not None

    def restrict(
        self, mask: Mask, q_positions: Mask, k_positions: Mask, earliest: Mask | None = None
    ) -> Mask:
        """`mask` without the pairs that the rule forbids; all arrays are broadcast to one shape.

        Args:
            mask: bool, such as [B, T, S].
            q_positions: int32, such as [B, T, 1].
            k_positions: int32, such as [B, 1, S].
            earliest: as q_positions, the lowest position that each query attends to; None: any.

        Returns:
            bool, of the shape that all have together.
        """
        if self.causal:
            mask = mask & (q_positions >= k_positions)
        if self.window is not None:
            mask = mask & (abs(q_positions - k_positions) < self.window)
        if earliest is not None:
            mask = mask & (k_positions >= earliest)
        return mask

    def judge(
        self, empty: Mask, full: Mask, q: Range, k: Range, earliest: Range | None = None
    ) -> tuple[Mask, Mask]:
        """The same for whole tiles, of whose positions the ranges are known.

        Args:
            empty: bool [B, tiles of queries, tiles of keys]: no query attends to any key, for other reasons.
            full: bool, the same shape: every query attends to every key, as far as other reasons go.
            q: range of the queries' positions, int32 [B, tiles of queries, tiles of keys].
            k: range of the keys' positions, likewise.
            earliest: range of the queries' `earliest`, likewise; None: they have none.

        Returns:
            empty and full with the rule taken into account. Both are certain where they are true.
        """
        if self.causal:
            empty = empty | (q.high < k.low)
            full = full & (q.low >= k.high)
        if self.window is not None:
            empty = empty | (q.low - k.high >= self.window) | (k.low - q.high >= self.window)
            full = full & (q.high - k.low < self.window) & (k.high - q.low < self.window)
        if earliest is not None:
            empty = empty | (k.high < earliest.low)
            full = full & (k.low >= earliest.high)
        return empty, full


def attention_mask(q_tokens: Tokens, k_tokens: Tokens, mask_spec: MaskSpec) -> jax.Array:
    """q_tokens int32 [B, T], k_tokens int32 [B, S] -> bool [B, T, S]: True where a query attends to a key.

    Causal, window 2, positions 0 1 0 1 2 0, segments 1 1 2 2 2 0 (two documents and padding):

    1 0 0 0 0 0
    1 1 0 0 0 0
    0 0 1 0 0 0
    0 0 1 1 0 0
    0 0 0 1 1 0
    0 0 0 0 0 0

    The same with the window for the first two tokens of the second document alone, by `earliest`: its third
    one sees all of it.

        0 0 1 1 1 0
    """
    q_segments = q_tokens.segment_ids[:, :, None]  # (B, T, 1)
    k_segments = k_tokens.segment_ids[:, None, :]  # (B, 1, S)
    mask = (q_segments == k_segments) & (k_segments != 0)  # (B, T, S)
    earliest = None if q_tokens.earliest is None else q_tokens.earliest[:, :, None]  # (B, T, 1)
    q_positions = q_tokens.positions[:, :, None]
    return mask_spec.restrict(mask, q_positions, k_tokens.positions[:, None, :], earliest)
