"""The local kernel in plain JAX: for the CPU, where it is fast, and the reference for the others everywhere.

In and out: as kernels/__init__.py says; letters and shapes are those of ops/attention.py. One KV head of one
row of the batch at a time, its G query heads stacked to P = G Q rows of one product, in tiles of the score
matrix that stay in a core's cache. What a tile costs is decided before anything is computed (ops/tiles.py):
every row of tiles goes through its FULL ones, without a mask, then through its PARTIAL ones; EMPTY ones are
on neither list. The softmax is a running one (Milakov and Gimelshein, 2018), divided once at the end.

Scores are at most one tile's; the rest of what is held is as long as the block. Small problems are one tile
of everything at once.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ringvision.ops import tiles
from ringvision.ops.attention import (
    AttentionInputs,
    KernelGradients,
    OutputGradient,
    Partial,
    accumulator,
    empty,
    finite,
    merge_grouped,
)
from ringvision.ops.mask import MaskSpec, Tokens, attention_mask

SCORES_AT_ONCE = 2**18
"""Up to so many scores, batch and heads included, are one tile: 1 MB of float32."""
ROWS_FORWARD = 256
ROWS_BACKWARD = 128
KEYS = 128
"""P and R of a tile. Backward holds three arrays as large as its scores, and devices may share cores and
their caches: hence smaller. Twice as many scores and XLA's CPU runtime splits a tile's arithmetic among
threads, and keeps some memory for every tile until the program ends: 20 GB for a million tokens.
"""
FEWEST_QUERIES = 32

Running = tuple[jax.Array, jax.Array, jax.Array]
"""A running softmax, float32: the sum of weights [P], the sum of weighted values [P, H], the largest score
[P].
"""
Sums = tuple[jax.Array, jax.Array, jax.Array]
"""float32: dq of one row of tiles, across, [H, P], and of all keys dk and dv [B, K, S, H]."""


class Tiling(NamedTuple):
    """A block cut into tiles of q_tile queries and k_tile keys.

    q_tokens, k_tokens: int32 [B, T] and [B, S], filled up to whole tiles. order: int32 [B, rows, tiles], for
    each row of tiles the numbers of the tiles of keys, FULL ones first and then PARTIAL ones. full and some:
    int32 [B, rows], where each kind ends in `order`.
    """

    q_tile: int
    k_tile: int
    q_tokens: Tokens
    k_tokens: Tokens
    order: jax.Array
    full: jax.Array
    some: jax.Array

    def locate(self, number: jax.Array, kv_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """int32 scalar, the `number`-th row of tiles of all -> int32 scalars: row of the batch, KV head, and
        number of the row of tiles in it.
        """
        head, i = jnp.divmod(number, self.order.shape[1])
        b, h = jnp.divmod(head, kv_heads)
        return b, h, i

    def mask(self, b: jax.Array, i: jax.Array, j: jax.Array, mask_spec: MaskSpec) -> jax.Array:
        """The attention mask of one tile.

        Args:
            b: int32 scalar, row of the batch.
            i: int32 scalar, number of the tile of queries.
            j: int32 scalar, number of the tile of keys.
            mask_spec: which positions a query attends to.

        Returns:
            bool [Q, R].
        """
        queries = self.q_tokens.map(lambda x: _take(x, (b, i * self.q_tile), (1, self.q_tile)))
        keys = self.k_tokens.map(lambda x: _take(x, (b, j * self.k_tile), (1, self.k_tile)))
        return attention_mask(queries, keys, mask_spec)[0]


def forward(inputs: AttentionInputs, mask_spec: MaskSpec, initial: Partial | None = None) -> Partial:
    """q [B, K, G, T, H], k and v [B, K, S, H] -> out [B, K, G, T, H] and lse [B, K, G, T], float32.

    `initial`: out and lse over other keys, of the same shapes: the running softmax starts where that one
    stopped, and nothing needs merging.
    """
    q, k, v, q_tokens, k_tokens = inputs
    groups, length, width = q.shape[2:]
    initial = empty(q) if initial is None else initial
    if q.size // width * k.shape[2] <= SCORES_AT_ONCE:
        return _forward_at_once(inputs, attention_mask(q_tokens, k_tokens, mask_spec), mask_spec, initial)
    tiling = _tile(groups, q_tokens, k_tokens, mask_spec, ROWS_FORWARD)
    q, out, lse = (_pad(x, 3, tiling.q_tile) for x in (q, *initial))
    k = _pad(k, 2, tiling.k_tile)
    v = _pad(v, 2, tiling.k_tile)
    row = partial(_forward_row, inputs=inputs._replace(q=q, k=k, v=v), tiling=tiling, mask_spec=mask_spec)
    out, lse = jax.lax.fori_loop(0, _rows_in_all(tiling, k), row, (out, lse))
    return out[:, :, :, :length], lse[..., :length]


def _forward_row(
    number: jax.Array, results: Partial, inputs: AttentionInputs, tiling: Tiling, mask_spec: MaskSpec
) -> Partial:
    """The results out [B, K, G, T, H] and lse [B, K, G, T], after one more row of tiles."""
    q, k, v, *_ = inputs
    groups, _, width = q.shape[2:]
    rows = groups * tiling.q_tile
    b, h, i = tiling.locate(number, k.shape[1])
    corner = b, h, 0, i * tiling.q_tile
    queries, weighted = (
        _take(x, (*corner, 0), (1, 1, groups, tiling.q_tile, width)).reshape(rows, width)
        for x in (q, results[0])
    )  # (P, H)
    largest = _take(results[1], corner, (1, 1, groups, tiling.q_tile)).reshape(rows)  # (P,)

    def step(n: jax.Array, running: Running, whole: bool) -> Running:
        # by itself XLA looks the number up again for every score that it masks
        j = jax.lax.optimization_barrier(tiling.order[b, i, n])
        keys, values = (
            _take(x, (b, h, j * tiling.k_tile, 0), (1, 1, tiling.k_tile, width))[0, 0] for x in (k, v)
        )  # (R, H)
        add = partial(_add_keys, running, queries, keys, values, mask_spec.scale)
        if whole:
            return add(None)
        return add(tiling.mask(b, i, j, mask_spec))  # (Q, R)

    # An earlier result is a softmax whose weights sum to 1 and whose largest score is its lse: the same
    # quotient. Without one, -inf, the sum starts from 0.
    running = (largest != -jnp.inf).astype(largest.dtype), weighted, largest
    running = jax.lax.fori_loop(0, tiling.full[b, i], partial(step, whole=True), running)
    total, weighted, largest = jax.lax.fori_loop(
        tiling.full[b, i], tiling.some[b, i], partial(step, whole=False), running
    )
    out = weighted / jnp.where(total == 0, 1, total)[:, None]  # (P, H)
    lse = finite(largest) + jnp.log(total)  # (P,)
    return (
        _put(results[0], (*corner, 0), out.reshape(1, 1, groups, -1, width)),
        _put(results[1], corner, lse.reshape(1, 1, groups, -1)),
    )


def _add_keys(
    running: Running,
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    scale: float,
    mask: jax.Array | None,
) -> Running:
    """queries [P, H], keys and values [R, H], mask bool [Q, R] or None -> the running softmax with the
    tile's keys. Exponents are at most 0, for `new` is the largest score so far: nothing overflows.
    """
    total, weighted, largest = running
    scores = _product("PH,RH->PR", queries, keys) * scale  # (P, R)
    if mask is not None:
        by_head = scores.reshape(-1, *mask.shape)  # (G, Q, R)
        scores = jnp.where(mask, by_head, -jnp.inf).reshape(scores.shape)
    new = jnp.maximum(largest, scores.max(-1))
    safe = new if mask is None else finite(new)
    weights = jnp.exp(scores - safe[:, None])  # (P, R)
    shrink = jnp.exp(largest - safe)  # (P,)
    weighted = weighted * shrink[:, None] + _product("PR,RH->PH", weights, values)
    return total * shrink + weights.sum(-1), weighted, new


def backward(
    inputs: AttentionInputs,
    gradient: OutputGradient,
    mask_spec: MaskSpec,
    initial: jax.Array | None = None,
) -> KernelGradients:
    """This block's share of the gradients. Queries are gone through once, keys again and again: they are G
    times fewer. In a tile keys stand in the rows: then its three products for the gradients read the tile as
    it lies, where dq is summed across.

    Args:
        inputs: q [B, K, G, T, H], k and v [B, K, S, H], and their tokens.
        gradient: lse and delta [B, K, G, T] over all the keys, of this block and of others, and d_out [B, K,
            G, T, H].
        mask_spec: which positions a query attends to.
        initial: a dq float32 [B, K, G, T, H] to add to.

    Returns:
        dq [B, K, G, T, H], dk and dv [B, K, S, H], float32.
    """
    q, k, v, q_tokens, k_tokens = inputs
    groups, length, width = q.shape[2:]
    num_keys = k.shape[2]
    initial = jnp.zeros(q.shape, accumulator(q)) if initial is None else initial
    if q.size // width * num_keys <= SCORES_AT_ONCE:
        mask = attention_mask(q_tokens, k_tokens, mask_spec)
        return _backward_at_once(inputs, gradient, mask, mask_spec, initial)
    tiling = _tile(groups, q_tokens, k_tokens, mask_spec, ROWS_BACKWARD)
    lse, d_out, delta = gradient
    q, d_out, lse, delta, dq = (_pad(x, 3, tiling.q_tile) for x in (q, d_out, lse, delta, initial))
    k = _pad(k, 2, tiling.k_tile)
    v = _pad(v, 2, tiling.k_tile)
    wide = accumulator(q)
    row = partial(
        _backward_row,
        inputs=inputs._replace(q=q, k=k, v=v),
        gradient=OutputGradient(lse, d_out, delta),
        tiling=tiling,
        mask_spec=mask_spec,
    )
    start = (dq, *(jnp.zeros(x.shape, wide) for x in (k, v)))
    dq, dk, dv = jax.lax.fori_loop(0, _rows_in_all(tiling, k), row, start)
    return dq[:, :, :, :length], dk[:, :, :num_keys], dv[:, :, :num_keys]


def _backward_row(
    number: jax.Array,
    results: KernelGradients,
    inputs: AttentionInputs,
    gradient: OutputGradient,
    tiling: Tiling,
    mask_spec: MaskSpec,
) -> KernelGradients:
    """The gradients dq [B, K, G, T, H], dk and dv [B, K, S, H], after one more row of tiles."""
    q, k, v, *_ = inputs
    lse, d_out, delta = gradient
    groups, _, width = q.shape[2:]
    rows = groups * tiling.q_tile
    b, h, i = tiling.locate(number, k.shape[1])
    corner = b, h, 0, i * tiling.q_tile
    row_shape = (1, 1, groups, tiling.q_tile)
    queries, d_outs = (
        _take(x, (*corner, 0), (*row_shape, width)).reshape(rows, width) for x in (q, d_out)
    )  # (P, H)
    lses, deltas = (_take(x, corner, row_shape).reshape(rows) for x in (lse, delta))  # (P,)
    lses = finite(lses)

    def step(n: jax.Array, sums: Sums, whole: bool) -> Sums:
        j = tiling.order[b, i, n]
        k_corner = (b, h, j * tiling.k_tile, 0)
        k_shape = (1, 1, tiling.k_tile, width)
        keys, values = (_take(x, k_corner, k_shape)[0, 0] for x in (k, v))  # (R, H)

        def add(mask: jax.Array | None = None) -> Sums:
            dq, dk, dv = sums
            # Of keys that are attended to an exponent is at most 0: the lse is over all of them. What
            # overflows elsewhere is masked away.
            weights = jnp.exp(_product("RH,PH->RP", keys, queries) * mask_spec.scale - lses)  # (R, P)
            if mask is not None:
                by_head = weights.reshape(-1, groups, tiling.q_tile)  # (R, G, Q)
                weights = jnp.where(mask.T[:, None], by_head, 0).reshape(-1, rows)
            d_weights = _product("RH,PH->RP", values, d_outs)
            d_scores = weights * (d_weights - deltas) * mask_spec.scale  # (R, P)
            more_dv = _product("RP,PH->RH", weights, d_outs)
            more_dk = _product("RP,PH->RH", d_scores, queries)
            dk, dv = (
                _put(x, k_corner, _take(x, k_corner, k_shape) + more)
                for x, more in ((dk, more_dk), (dv, more_dv))
            )
            return dq + _product("RH,RP->HP", keys, d_scores), dk, dv

        return add() if whole else add(tiling.mask(b, i, j, mask_spec))

    dq, dk, dv = results
    before = _take(dq, (*corner, 0), (*row_shape, width)).reshape(rows, width)  # (P, H)
    sums = jax.lax.fori_loop(0, tiling.full[b, i], partial(step, whole=True), (before.T, dk, dv))
    after, dk, dv = jax.lax.fori_loop(tiling.full[b, i], tiling.some[b, i], partial(step, whole=False), sums)
    return _put(dq, (*corner, 0), after.T.reshape(1, 1, groups, -1, width)), dk, dv


def tile_sizes(groups: int, length: int, keys: int, rows: int) -> tuple[int, int]:
    """The sizes of a tile: as near to equal parts of the block as goes, so that little is padded. Few queries
    take more keys.

    Args:
        groups: query heads to a KV head, G.
        length: queries of the block.
        keys: keys of the block.
        rows: P, the most rows that a tile is to have.

    Returns:
        Q and R.
    """
    q_tile = _even(length, max(rows // groups, FEWEST_QUERIES))
    return q_tile, _even(keys, max(KEYS, rows * KEYS // (groups * q_tile)))


def _even(length: int, most: int) -> int:
    """The size of equal parts of a length, none above `most`, as few as can be."""
    return -(-length // -(-length // most))


def _tile(groups: int, q_tokens: Tokens, k_tokens: Tokens, mask_spec: MaskSpec, rows: int) -> Tiling:
    q_tile, k_tile = tile_sizes(groups, q_tokens.positions.shape[1], k_tokens.positions.shape[1], rows)
    q_tokens = q_tokens.map(lambda x: _pad(x, 1, q_tile))
    k_tokens = k_tokens.map(lambda x: _pad(x, 1, k_tile))
    kinds = jnp.asarray(
        tiles.kinds(tiles.ranges(q_tokens, q_tile), tiles.ranges(k_tokens, k_tile), mask_spec)
    )  # (B, rows, tiles)
    order = jnp.argsort(-kinds, axis=2, stable=True).astype(jnp.int32)
    full = (kinds == tiles.FULL).sum(2)
    some = (kinds != tiles.EMPTY).sum(2)
    return Tiling(q_tile, k_tile, q_tokens, k_tokens, order, full, some)


def _rows_in_all(tiling: Tiling, k: jax.Array) -> int:
    """Rows of tiles, of all rows of the batch and all KV heads."""
    return k.shape[0] * k.shape[1] * tiling.order.shape[1]


def _forward_at_once(
    inputs: AttentionInputs, mask: jax.Array, mask_spec: MaskSpec, initial: Partial
) -> Partial:
    """`forward` as one tile, mask bool [B, T, S]."""
    q, k, v, *_ = inputs

    def compute() -> Partial:
        scores = _scores_at_once(q, k, mask, mask_spec)  # (B, K, G, T, S)
        largest = finite(scores.max(axis=-1))  # (B, K, G, T)
        weights = jnp.exp(scores - largest[..., None])  # exponents are at most 0
        total = weights.sum(axis=-1)
        out = _product("BKPR,BKRH->BKPH", _rows(weights), v).reshape(q.shape)  # (B, K, G, T, H)
        lse = largest + jnp.log(total)
        return merge_grouped(initial, (out / jnp.where(total == 0, 1, total)[..., None], lse))

    # For few queries reading the keys is most of the work: XLA copies what goes into a condition.
    if q.shape[3] * q.shape[2] <= FEWEST_QUERIES:
        return compute()
    return jax.lax.cond(mask.any(), compute, lambda: initial)


def _backward_at_once(
    inputs: AttentionInputs,
    gradient: OutputGradient,
    mask: jax.Array,
    mask_spec: MaskSpec,
    initial: jax.Array,
) -> KernelGradients:
    """`backward` as one tile, mask bool [B, T, S]."""
    q, k, v, *_ = inputs
    lse, d_out, delta = gradient

    def compute() -> KernelGradients:
        weights = jnp.exp(_scores_at_once(q, k, mask, mask_spec) - finite(lse)[..., None])  # (B, K, G, T, S)
        d_outs = _rows(d_out)  # (B, K, P, H)
        dv = _product("BKPR,BKPH->BKRH", _rows(weights), d_outs)  # (B, K, S, H)
        d_weights = _product("BKPH,BKRH->BKPR", d_outs, v).reshape(weights.shape)
        d_scores = _rows(weights * (d_weights - delta[..., None]) * mask_spec.scale)  # (B, K, P, S)
        dk = _product("BKPR,BKPH->BKRH", d_scores, _rows(q))
        return initial + _product("BKPR,BKRH->BKPH", d_scores, k).reshape(q.shape), dk, dv

    return jax.lax.cond(
        mask.any(), compute, lambda: (initial, *(jnp.zeros(x.shape, accumulator(x)) for x in (k, v)))
    )


def _scores_at_once(q: jax.Array, k: jax.Array, mask: jax.Array, mask_spec: MaskSpec) -> jax.Array:
    """[B, K, G, T, S], -inf where a query does not attend to a key."""
    scores = _product("BKPH,BKRH->BKPR", _rows(q), k) * mask_spec.scale  # (B, K, P, S)
    return jnp.where(mask[:, None, None], scores.reshape(*q.shape[:-1], -1), -jnp.inf)


def _rows(x: jax.Array) -> jax.Array:
    """[B, K, G, Q, ...] -> [B, K, P, ...]: the heads that share keys are more rows of one product."""
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _product(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """In float32 whatever comes: a CPU multiplies in nothing shorter, and neither weights nor gradients of
    scores are rounded between.
    """
    wide = accumulator(a)
    return jnp.einsum(letters, a.astype(wide), b.astype(wide), precision=jax.lax.Precision.HIGHEST)


def _take(x: jax.Array, start: tuple, shape: tuple[int, ...]) -> jax.Array:
    return jax.lax.dynamic_slice(x, start, shape)


def _put(x: jax.Array, start: tuple, part: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(x, part.reshape((1,) * (x.ndim - part.ndim) + part.shape), start)


def _pad(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Zeros up to a multiple of `size` (for tokens: segment 0, so no query attends to them)."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, padding)
