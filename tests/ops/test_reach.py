"""Queries that look back all the way are taken first, and results go back to where they belong."""

import jax.numpy as jnp
import numpy as np
from dense import make_problem

from ringvision.ops.attention import group
from ringvision.ops.mask import ANY, MaskSpec, Tokens
from ringvision.ops.reach import order_queries
from ringvision.ops.tiles import EMPTY, kinds, ranges

CAUSAL = MaskSpec(True, None, 1.0)


def stamped(frames: int = 16, frame: int = 8, window: int = 10) -> Tokens:
    """Frames of one word and codes."""
    positions = jnp.arange(frames * frame)[None]
    earliest = jnp.where(positions % frame == 0, ANY, positions - window + 1)
    return Tokens(positions, jnp.ones_like(positions), earliest)


def test_words_first_and_each_kind_in_its_order():
    tokens = Tokens(
        jnp.arange(6)[None], jnp.ones((1, 6), jnp.int32), jnp.array([[3, ANY, 4, ANY, 0, 1]], jnp.int32)
    )
    taken = order_queries(tokens)
    assert tokens.map(taken.apply).positions.tolist() == [[1, 3, 4, 0, 2, 5]]


def test_back_in_place_also_along_another_axis_and_folded():
    p = make_problem().with_kinds()
    taken = order_queries(Tokens(p.q_positions, p.q_segment_ids, jnp.asarray(p.q_earliest)))
    there = taken.apply(jnp.asarray(p.q))
    assert not np.array_equal(there, p.q)
    np.testing.assert_array_equal(taken.undo(there), p.q)
    for fold in (False, True):
        np.testing.assert_array_equal(taken.undo(group(there, 2, fold), axis=3), group(p.q, 2, fold))


def test_as_they_stand_where_nothing_tells_them_apart():
    p = make_problem()
    one = jnp.zeros((2, 1), jnp.int32)
    for tokens in (Tokens(p.q_positions, p.q_segment_ids), Tokens(one, one, one)):
        assert order_queries(tokens) == (None, None)
        assert order_queries(tokens).apply(p.q) is order_queries(tokens).undo(p.q) is p.q


def test_words_between_the_tokens_of_a_video_do_not_keep_tiles_from_being_left_out():
    """Three rows of tiles of words (and of the first ten tokens, whose window holds all there is) see all
    before them; the others see their own tile of keys and a few before it.
    """
    tokens = stamped()
    keys = ranges(tokens.as_keys, 8)
    as_they_stand = kinds(ranges(tokens, 8), keys, CAUSAL) != EMPTY
    taken = kinds(ranges(tokens.map(order_queries(tokens).apply), 8), keys, CAUSAL) != EMPTY
    assert as_they_stand.sum() == 16 * 17 / 2
    assert taken[0, 2].sum() == 16
    assert taken[0, 3:].sum(1).max() <= 4
