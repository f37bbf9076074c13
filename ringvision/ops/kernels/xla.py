"""The local kernel in plain JAX: for the CPU, where it is fast, and the reference for the others everywhere.

In and out: as kernels/__init__.py says; letters and shapes are those of ops/attention.py. One KV head of one row at a time, its G query
heads stacked to P = G Q rows of one product, in tiles of the score matrix that stay in a core's cache. What a tile costs is decided before
anything is computed (ops/tiles.py): every row of tiles goes through its FULL ones, without a mask, then through its PARTIAL ones; EMPTY
ones are on neither list. The softmax is a running one (Milakov and Gimelshein, 2018), divided once at the end.

Scores are at most one tile's; the rest of what is held is as long as the block. Small problems are one tile of everything at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ringvision.ops import tiles
from ringvision.ops.attention import Partial, Rule, Tokens, accumulator, allowed, empty, finite

Three = tuple[jax.Array, jax.Array, jax.Array]

SCORES_AT_ONCE = 2**18
"""Up to so many scores, batch and heads included, are one tile: 1 MB of float32."""
ROWS_FORWARD, ROWS_BACKWARD, KEYS = 512, 256, 256
"""P and R of a tile. Scores in float32, twice (forward) and three times (backward), then fit a core's cache of 1 MB."""
FEWEST_QUERIES = 32


class Schedule(NamedTuple):
    """For every row of tiles: the numbers of the others, FULL ones first, then PARTIAL ones [rows, others]; where each kind ends [rows]."""

    order: jax.Array
    full: jax.Array
    some: jax.Array


def forward(q: jax.Array, k: jax.Array, v: jax.Array, q_tokens: Tokens, k_tokens: Tokens, rule: Rule) -> Partial:
    """q [B, K, G, T, H], k and v [B, K, S, H] -> out [B, K, G, T, H] and lse [B, K, G, T], float32."""
    groups, length, width = q.shape[2:]
    if q.size // width * k.shape[2] <= SCORES_AT_ONCE:
        return _forward_at_once(q, k, v, allowed(q_tokens, k_tokens, rule), rule)
    q_tile, k_tile = tile_sizes(groups, length, k.shape[2], ROWS_FORWARD)
    q, q_tokens = _pad(q, 3, q_tile), _pad_tokens(q_tokens, q_tile)
    k, v, k_tokens = _pad(k, 2, k_tile), _pad(v, 2, k_tile), _pad_tokens(k_tokens, k_tile)
    kinds = tiles.kinds(tiles.ranges(q_tokens, q_tile), tiles.ranges(k_tokens, k_tile), rule)
    schedules = jax.vmap(_schedule)(jnp.asarray(kinds))

    def row(inputs: tuple) -> Partial:
        q, k, v, q_tokens, k_tokens, schedule = inputs

        def head(arrays: Three) -> Partial:
            q, k, v = arrays
            return _forward_head(q, k, v, q_tokens, k_tokens, schedule, q_tile, k_tile, rule)

        return jax.lax.map(head, (q, k, v))

    out, lse = jax.lax.map(row, (q, k, v, q_tokens, k_tokens, schedules))
    return out[:, :, :, :length], lse[..., :length]


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    rule: Rule,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
) -> Three:
    """This block's share of the gradients: dq [B, K, G, T, H], dk and dv [B, K, S, H], float32.

    `lse` is over all the keys, of this block and of others; `delta` [B, K, G, T] is `sum(d_out * out, -1)` with the out over all of them.
    """
    groups, length, width = q.shape[2:]
    keys = k.shape[2]
    if q.size // width * keys <= SCORES_AT_ONCE:
        return _backward_at_once(q, k, v, allowed(q_tokens, k_tokens, rule), rule, lse, d_out, delta)
    q_tile, k_tile = tile_sizes(groups, length, keys, ROWS_BACKWARD)
    q, d_out, lse, delta = (_pad(x, 3, q_tile) for x in (q, d_out, lse, delta))
    k, v = _pad(k, 2, k_tile), _pad(v, 2, k_tile)
    q_tokens, k_tokens = _pad_tokens(q_tokens, q_tile), _pad_tokens(k_tokens, k_tile)
    kinds = tiles.kinds(tiles.ranges(q_tokens, q_tile), tiles.ranges(k_tokens, k_tile), rule)
    schedules = jax.vmap(_schedule)(jnp.asarray(kinds).swapaxes(1, 2))

    def row(inputs: tuple) -> Three:
        q, k, v, lse, d_out, delta, q_tokens, k_tokens, schedule = inputs

        def head(arrays: tuple) -> Three:
            q, k, v, lse, d_out, delta = arrays
            return _backward_head(q, k, v, lse, d_out, delta, q_tokens, k_tokens, schedule, q_tile, k_tile, rule)

        return jax.lax.map(head, (q, k, v, lse, d_out, delta))

    dq, dk, dv = jax.lax.map(row, (q, k, v, lse, d_out, delta, q_tokens, k_tokens, schedules))
    return dq[:, :, :, :length], dk[:, :, :keys], dv[:, :, :keys]


def tile_sizes(groups: int, length: int, keys: int, rows: int) -> tuple[int, int]:
    """(queries, keys) of a tile: as near to equal parts of the block as goes, so that little is padded. Few queries take more keys."""
    q_tile = _even(length, max(rows // groups, FEWEST_QUERIES))
    return q_tile, _even(keys, max(KEYS, rows * KEYS // (groups * q_tile)))


def _even(length: int, most: int) -> int:
    return -(-length // -(-length // most))


def _schedule(kinds: jax.Array) -> Schedule:
    order = jnp.argsort(-kinds, axis=1, stable=True).astype(jnp.int32)
    return Schedule(order, (kinds == tiles.FULL).sum(1), (kinds != tiles.EMPTY).sum(1))


def _forward_head(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    schedule: Schedule,
    q_tile: int,
    k_tile: int,
    rule: Rule,
) -> Partial:
    """q [G, T, H], k and v [S, H], tokens [T] and [S] -> out [G, T, H], lse [G, T]."""
    groups, length, width = q.shape
    wide = accumulator(q)

    def row(i: jax.Array, results: Partial) -> Partial:
        queries = _slice(q, 1, i, q_tile).reshape(-1, width)
        mine = _tile_of(q_tokens, i, q_tile)

        def scores(j: jax.Array) -> jax.Array:
            return _product("PH,RH->PR", queries, _slice(k, 0, j, k_tile)) * rule.scale

        def add(j: jax.Array, scores: jax.Array, seen: Three, safe: Callable) -> Three:
            total, weighted, largest = seen
            new = jnp.maximum(largest, scores.max(-1))
            weights, shrink = jnp.exp(scores - safe(new)[:, None]), jnp.exp(largest - safe(new))
            more = _product("PR,RH->PH", weights.astype(v.dtype), _slice(v, 0, j, k_tile))
            return total * shrink + weights.sum(-1), weighted * shrink[:, None] + more, new

        def full(n: jax.Array, seen: Three) -> Three:
            j = schedule.order[i, n]
            return add(j, scores(j), seen, lambda largest: largest)

        def partial(n: jax.Array, seen: Three) -> Three:
            j = schedule.order[i, n]
            mask = _mask(mine, _tile_of(k_tokens, j, k_tile), rule)

            def masked() -> Three:
                under = jnp.where(mask, scores(j).reshape(groups, q_tile, k_tile), -jnp.inf)
                return add(j, under.reshape(-1, k_tile), seen, finite)

            return jax.lax.cond(mask.any(), masked, lambda: seen)

        rows = groups * q_tile
        seen = jnp.zeros(rows, wide), jnp.zeros((rows, width), wide), jnp.full(rows, -jnp.inf, wide)
        seen = jax.lax.fori_loop(0, schedule.full[i], full, seen)
        total, weighted, largest = jax.lax.fori_loop(schedule.full[i], schedule.some[i], partial, seen)
        out = weighted / jnp.where(total == 0, 1, total)[:, None]
        return (
            _put(results[0], 1, i, out.reshape(groups, q_tile, width)),
            _put(results[1], 1, i, (finite(largest) + jnp.log(total)).reshape(groups, q_tile)),
        )

    return jax.lax.fori_loop(0, length // q_tile, row, (jnp.zeros(q.shape, wide), jnp.zeros((groups, length), wide)))


def _backward_head(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    schedule: Schedule,
    q_tile: int,
    k_tile: int,
    rule: Rule,
) -> Three:
    """q and d_out [G, T, H], k and v [S, H], lse and delta [G, T] -> dq [G, T, H], dk and dv [S, H].

    Keys stand in the rows of a tile: then of its three products for the gradients only dq's reads the tile across.
    """
    groups, length, width = q.shape
    wide = accumulator(q)

    def tiled(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(groups, length // q_tile, q_tile, *x.shape[2:]), 0, 1).reshape(-1, groups * q_tile, *x.shape[2:])

    q, d_out, lse, delta = tiled(q), tiled(d_out.astype(v.dtype)), tiled(finite(lse)), tiled(delta)

    def column(j: jax.Array, sums: Three) -> Three:
        keys, values = _slice(k, 0, j, k_tile), _slice(v, 0, j, k_tile)
        theirs = _tile_of(k_tokens, j, k_tile)

        def add(i: jax.Array, mask: jax.Array | None, sums: Three) -> Three:
            dq, dk, dv = sums
            queries, d_outs, lses, deltas = q[i], d_out[i], lse[i], delta[i]
            scores = _product("RH,PH->RP", keys, queries) * rule.scale
            weights = jnp.exp(scores - lses)
            if mask is not None:
                weights = jnp.where(mask[:, None], weights.reshape(k_tile, groups, q_tile), 0).reshape(k_tile, -1)
            d_weights = _product("RH,PH->RP", values, d_outs)
            d_scores = (weights * (d_weights - deltas) * rule.scale).astype(q.dtype)
            dv = dv + _product("RP,PH->RH", weights.astype(v.dtype), d_outs)
            dk = dk + _product("RP,PH->RH", d_scores, queries)
            return dq.at[i].add(_product("RP,RH->PH", d_scores, keys)), dk, dv

        def full(n: jax.Array, sums: Three) -> Three:
            return add(schedule.order[j, n], None, sums)

        def partial(n: jax.Array, sums: Three) -> Three:
            i = schedule.order[j, n]
            mask = _mask(_tile_of(q_tokens, i, q_tile), theirs, rule).T
            return jax.lax.cond(mask.any(), lambda: add(i, mask, sums), lambda: sums)

        dq, dk, dv = sums
        zeros = jnp.zeros((k_tile, width), wide)
        part = jax.lax.fori_loop(0, schedule.full[j], full, (dq, zeros, zeros))
        dq, more_dk, more_dv = jax.lax.fori_loop(schedule.full[j], schedule.some[j], partial, part)
        return dq, _put(dk, 0, j, more_dk), _put(dv, 0, j, more_dv)

    zeros = jnp.zeros(k.shape, wide)
    dq, dk, dv = jax.lax.fori_loop(0, k.shape[0] // k_tile, column, (jnp.zeros(q.shape, wide), zeros, zeros))
    return jnp.swapaxes(dq.reshape(-1, groups, q_tile, width), 0, 1).reshape(groups, length, width), dk, dv


def _forward_at_once(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rule: Rule) -> Partial:
    def compute() -> Partial:
        scores = _scores_at_once(q, k, mask, rule)
        largest = finite(scores.max(axis=-1))
        weights = jnp.exp(scores - largest[..., None])
        total = weights.sum(axis=-1)
        out = _product("BKPR,BKRH->BKPH", _rows(weights).astype(v.dtype), v).reshape(q.shape)
        return out / jnp.where(total == 0, 1, total)[..., None], largest + jnp.log(total)

    return jax.lax.cond(mask.any(), compute, lambda: empty(q))


def _backward_at_once(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rule: Rule, lse: jax.Array, d_out: jax.Array, delta: jax.Array
) -> Three:
    def compute() -> Three:
        weights = jnp.exp(_scores_at_once(q, k, mask, rule) - finite(lse)[..., None])
        d_outs = _rows(d_out).astype(v.dtype)
        dv = _product("BKPR,BKPH->BKRH", _rows(weights).astype(v.dtype), d_outs)
        d_weights = _product("BKPH,BKRH->BKPR", d_outs, v).reshape(weights.shape)
        d_scores = _rows(weights * (d_weights - delta[..., None]) * rule.scale).astype(q.dtype)
        dk = _product("BKPR,BKPH->BKRH", d_scores, _rows(q))
        return _product("BKPR,BKRH->BKPH", d_scores, k).reshape(q.shape), dk, dv

    return jax.lax.cond(mask.any(), compute, lambda: tuple(jnp.zeros(x.shape, accumulator(x)) for x in (q, k, v)))


def _scores_at_once(q: jax.Array, k: jax.Array, mask: jax.Array, rule: Rule) -> jax.Array:
    """[B, K, G, T, S], -inf where a query does not see a key."""
    scores = _product("BKPH,BKRH->BKPR", _rows(q), k) * rule.scale
    return jnp.where(mask[:, None, None], scores.reshape(*q.shape[:-1], -1), -jnp.inf)


def _rows(x: jax.Array) -> jax.Array:
    """[B, K, G, Q, ...] -> [B, K, P, ...]: the heads that share keys are more rows of one product."""
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _mask(queries: Tokens, keys: Tokens, rule: Rule) -> jax.Array:
    """bool [Q, R] for tokens [Q] and [R]."""
    q, k = (Tokens(*(x[None] for x in side)) for side in (queries, keys))
    return allowed(q, k, rule)[0]


def _tile_of(tokens: Tokens, number: jax.Array, size: int) -> Tokens:
    return Tokens(*(_slice(x, 0, number, size) for x in tokens))


def _product(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Accumulates in float32. Who passes float32 means it: no tensor cores' shorter formats there."""
    precision = jax.lax.Precision.HIGHEST if a.dtype.itemsize >= 4 else None
    return jnp.einsum(letters, a, b, precision=precision, preferred_element_type=accumulator(a))


def _slice(x: jax.Array, axis: int, number: jax.Array, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)


def _put(x: jax.Array, axis: int, number: jax.Array, part: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, number * part.shape[axis], axis)


def _pad(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Zeros up to a multiple of `size` (for tokens: segment 0, so nobody sees them)."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, padding)


def _pad_tokens(tokens: Tokens, size: int) -> Tokens:
    return Tokens(*(_pad(x, 1, size) for x in tokens))
