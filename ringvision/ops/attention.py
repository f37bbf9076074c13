"""Attention of a block of queries to a block of keys, by tiles, giving the log-sum-exp by which results are merged.

In: queries, keys, values, and for every token its position and segment id (0 is padding): nothing is inferred from an index. Out: the
output and `lse`, the natural logarithm of the sum of exponentiated scores, float32. Two results over different keys merge exactly:

    lse = log(exp(lse_1) + exp(lse_2))        out = out_1 exp(lse_1 - lse) + out_2 exp(lse_2 - lse)

The backward pass is written out too (Dao et al., 2022): it takes the lse and out over *all* keys, and then the gradients of any blocks
of keys simply add up. A query with nothing to attend to has out 0, lse -inf, and gives and gets zero gradient.

Letters: B batch, T queries, S keys and values, N query heads, K KV heads, G = N/K, H head width; Q and R tiles of queries and of keys.
Inside, heads come first: queries [B, K, G, T, H], keys and values [B, K, S, H], lse [B, K, G, T].
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST_TILE, SMALLEST_TILE = 512, 128
SCORES_OF_A_TILE = 2**18
"""Over batch and heads: 1 MB of float32, which stays in a core's cache. Tiles of 4 MB cost a CPU up to twice the time."""


class Tokens(NamedTuple):
    """What decides who sees whom: int32 [B, T] each. Segment 0 is padding."""

    positions: jax.Array
    segment_ids: jax.Array


class Rule(NamedTuple):
    """Who sees whom and how scores are scaled; fixed when compiling. `window`: only positions less than this apart."""

    causal: bool
    window: int | None
    scale: float


Partial = tuple[jax.Array, jax.Array]
"""(out, lse) over some of the keys."""


def allowed(q_tokens: Tokens, k_tokens: Tokens, rule: Rule) -> jax.Array:
    """bool [B, T, S]. Causal, positions 0 1 0 1 2 0, segments 1 1 2 2 2 0 (two documents and padding), window 2:

    1 0 0 0 0 0
    1 1 0 0 0 0
    0 0 1 0 0 0
    0 0 1 1 0 0
    0 0 0 1 1 0
    0 0 0 0 0 0
    """
    q_segments, k_segments = q_tokens.segment_ids[:, :, None], k_tokens.segment_ids[:, None, :]
    mask = (q_segments == k_segments) & (k_segments != 0)
    distance = q_tokens.positions[:, :, None] - k_tokens.positions[:, None, :]
    if rule.causal:
        mask &= distance >= 0
    if rule.window is not None:
        mask &= jnp.abs(distance) < rule.window
    return mask


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    q_positions: jax.Array,
    k_positions: jax.Array,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
) -> Partial:
    """q [B, T, N, H], k and v [B, S, K, H], tokens int32 [B, T] and [B, S] -> out float32 [B, T, N, H], lse float32 [B, N, T].

    `scale=None` is H ** -0.5. The score matrix exists one tile at a time. Not differentiable by itself: `ring_attention` is.
    """
    rule = Rule(causal, window, q.shape[-1] ** -0.5 if scale is None else scale)
    out, lse = forward(
        group(q, k.shape[2]), heads_first(k), heads_first(v), Tokens(q_positions, q_segment_ids), Tokens(k_positions, k_segment_ids), rule
    )
    return ungroup(out), lse.reshape(lse.shape[0], -1, lse.shape[-1])


def heads_first(x: jax.Array) -> jax.Array:
    """[B, S, K, H] -> [B, K, S, H]."""
    return jnp.swapaxes(x, 1, 2)


def group(x: jax.Array, kv_heads: int) -> jax.Array:
    """[B, T, N, H] -> [B, K, G, T, H]: the query heads that share a KV head stand together."""
    batch, length, heads, width = x.shape
    return jnp.moveaxis(x.reshape(batch, length, kv_heads, heads // kv_heads, width), 1, 3)


def ungroup(x: jax.Array) -> jax.Array:
    """[B, K, G, T, H] -> [B, T, N, H]."""
    batch, kv_heads, groups, length, width = x.shape
    return jnp.moveaxis(x, 3, 1).reshape(batch, length, kv_heads * groups, width)


def merge(a: Partial, b: Partial) -> Partial:
    """Two results over different keys -> the result over both. out [B, T, N, H], lse [B, N, T]."""
    lse, weight_a, weight_b = _weights(a[1], b[1])
    return a[0] * jnp.swapaxes(weight_a, 1, 2)[..., None] + b[0] * jnp.swapaxes(weight_b, 1, 2)[..., None], lse


def merge_grouped(a: Partial, b: Partial) -> Partial:
    """`merge` for out [B, K, G, T, H] and lse [B, K, G, T]."""
    lse, weight_a, weight_b = _weights(a[1], b[1])
    return a[0] * weight_a[..., None] + b[0] * weight_b[..., None], lse


def _weights(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    largest = finite(jnp.maximum(a, b))
    part_a, part_b = jnp.exp(a - largest), jnp.exp(b - largest)
    total = part_a + part_b
    divisor = jnp.where(total == 0, 1, total)
    return largest + jnp.log(total), part_a / divisor, part_b / divisor


def finite(lse: jax.Array) -> jax.Array:
    """-inf (nothing seen) becomes 0, so that differences to it are never inf - inf."""
    return jnp.where(lse == -jnp.inf, 0, lse)


def empty(q: jax.Array) -> Partial:
    """The result over no keys at all, for grouped queries."""
    wide = accumulator(q)
    return jnp.zeros(q.shape, wide), jnp.full(q.shape[:-1], -jnp.inf, wide)


def accumulator(x: jax.Array) -> jnp.dtype:
    """float32, or float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)


def tile_size(q: jax.Array) -> int:
    """How many queries, and how many keys, make a tile for grouped queries of this batch and these heads."""
    size, heads = LARGEST_TILE, math.prod(q.shape[:3])
    while size > SMALLEST_TILE and heads * size**2 > SCORES_OF_A_TILE:
        size //= 2
    return size


def forward(q: jax.Array, k: jax.Array, v: jax.Array, q_tokens: Tokens, k_tokens: Tokens, rule: Rule) -> Partial:
    """Grouped queries, heads-first keys and values -> out [B, K, G, T, H], lse [B, K, G, T], float32. A tile in which nobody sees anybody
    costs no more than finding that out: causal work is half, and short documents packed to a row cost what they would alone."""
    length, size = q.shape[3], tile_size(q)
    if length <= size and k.shape[2] <= size:
        mask = allowed(q_tokens, k_tokens, rule)
        return jax.lax.cond(mask.any(), lambda: _forward_tile(q, k, v, mask, rule), lambda: empty(q))
    q_tiles = (_cut(q, 3, size), *(_cut(x, 1, size) for x in q_tokens))
    k_tiles = (_cut(k, 2, size), _cut(v, 2, size), *(_cut(x, 1, size) for x in k_tokens))

    def row(q_tile: tuple[jax.Array, ...]) -> Partial:
        q, *q_tokens = q_tile

        def step(seen: Partial, k_tile: tuple[jax.Array, ...]) -> tuple[Partial, None]:
            k, v, *k_tokens = k_tile
            mask = allowed(Tokens(*q_tokens), Tokens(*k_tokens), rule)
            return jax.lax.cond(mask.any(), lambda: merge_grouped(seen, _forward_tile(q, k, v, mask, rule)), lambda: seen), None

        return jax.lax.scan(step, empty(q), k_tiles)[0]

    out, lse = jax.lax.map(row, q_tiles)
    return _join(out, 3, length), _join(lse, 3, length)


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
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """This block's share of the gradients: dq [B, K, G, T, H], dk and dv [B, K, S, H], float32.

    `lse` is over all the keys, of this block and of others; `delta` [B, K, G, T] is `sum(d_out * out, -1)` with the out over all of them.
    """
    length, keys, size = q.shape[3], k.shape[2], tile_size(q)
    if length <= size and keys <= size:
        mask = allowed(q_tokens, k_tokens, rule)
        nothing = tuple(jnp.zeros(x.shape, accumulator(x)) for x in (q, k, v))
        return jax.lax.cond(mask.any(), lambda: _backward_tile(q, k, v, mask, rule, lse, d_out, delta), lambda: nothing)
    q_tiles = (*(_cut(x, 3, size) for x in (q, lse, d_out, delta)), *(_cut(x, 1, size) for x in q_tokens))
    k_tiles = (_cut(k, 2, size), _cut(v, 2, size), *(_cut(x, 1, size) for x in k_tokens))

    def column(dq: jax.Array, k_tile: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        k, v, *k_tokens = k_tile

        def step(
            sums: tuple[jax.Array, jax.Array], tile: tuple[jax.Array, tuple[jax.Array, ...]]
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            dq, (q, lse, d_out, delta, *q_tokens) = tile
            mask = allowed(Tokens(*q_tokens), Tokens(*k_tokens), rule)

            def add() -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
                more_dq, dk, dv = _backward_tile(q, k, v, mask, rule, lse, d_out, delta)
                return (sums[0] + dk, sums[1] + dv), dq + more_dq

            return jax.lax.cond(mask.any(), add, lambda: (sums, dq))

        zeros = jnp.zeros(k.shape, accumulator(k))
        sums, dq = jax.lax.scan(step, (zeros, zeros), (dq, q_tiles))
        return dq, sums

    dq, (dk, dv) = jax.lax.scan(column, jnp.zeros(q_tiles[0].shape, accumulator(q)), k_tiles)
    return _join(dq, 3, length), _join(dk, 2, keys), _join(dv, 2, keys)


def _forward_tile(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rule: Rule) -> Partial:
    scores = _scores(q, k, mask, rule)
    largest = finite(scores.max(axis=-1))
    weights = jnp.exp(scores - largest[..., None])
    total = weights.sum(axis=-1)
    out = _product("BKPR,BKRH->BKPH", _rows(weights).astype(v.dtype), v).reshape(q.shape)
    return out / jnp.where(total == 0, 1, total)[..., None], largest + jnp.log(total)


def _backward_tile(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, rule: Rule, lse: jax.Array, d_out: jax.Array, delta: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    weights = jnp.exp(_scores(q, k, mask, rule) - finite(lse)[..., None])
    d_out_rows = _rows(d_out).astype(v.dtype)
    dv = _product("BKPR,BKPH->BKRH", _rows(weights).astype(v.dtype), d_out_rows)
    d_weights = _product("BKPH,BKRH->BKPR", d_out_rows, v).reshape(weights.shape)
    d_scores = _rows(weights * (d_weights - delta[..., None]) * rule.scale).astype(q.dtype)
    dk = _product("BKPR,BKPH->BKRH", d_scores, _rows(q))
    return _product("BKPR,BKRH->BKPH", d_scores, k).reshape(q.shape), dk, dv


def _scores(q: jax.Array, k: jax.Array, mask: jax.Array, rule: Rule) -> jax.Array:
    """[B, K, G, Q, R], -inf where a query does not see a key."""
    scores = _product("BKPH,BKRH->BKPR", _rows(q), k) * rule.scale
    return jnp.where(mask[:, None, None], scores.reshape(*q.shape[:-1], -1), -jnp.inf)


def _rows(x: jax.Array) -> jax.Array:
    """[B, K, G, Q, ...] -> [B, K, P, ...] with P = G Q: the heads that share keys are more rows of one product."""
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _product(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Accumulates in float32. Who passes float32 means it: no tensor cores' shorter formats there."""
    precision = jax.lax.Precision.HIGHEST if a.dtype.itemsize >= 4 else None
    return jnp.einsum(letters, a, b, precision=precision, preferred_element_type=accumulator(a))


def _cut(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Axis `axis` in tiles, which come first; the last one is filled up with zeros (segment 0, so nobody sees it)."""
    size = min(size, x.shape[axis])
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    x = jnp.pad(x, padding)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :]), axis, 0)


def _join(x: jax.Array, axis: int, length: int) -> jax.Array:
    """The inverse of `_cut` for an array that was `length` long."""
    x = jnp.moveaxis(x, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.lax.slice_in_dim(x, 0, length, axis=axis)
