"""The local kernel in plain JAX: for the CPU, where it is fast, and the reference for the others everywhere.

In and out: as kernels/__init__.py says; letters and shapes are those of ops/attention.py. One KV head of one
row at a time, its G query heads stacked to P = G Q rows of one product, in tiles of the score matrix that
stay in a core's cache. What a tile costs is decided before anything is computed (ops/tiles.py): every row of
tiles goes through its FULL ones, without a mask, then through its PARTIAL ones; EMPTY ones are on neither
list. The softmax is a running one (Milakov and Gimelshein, 2018), divided once at the end.

Scores are at most one tile's; the rest of what is held is as long as the block. Small problems are one tile
of everything at once.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ringvision.ops import tiles
from ringvision.ops.attention import (
    MaskSpec,
    Partial,
    Tokens,
    accumulator,
    attention_mask,
    empty,
    finite,
    merge_grouped,
)

Three = tuple[jax.Array, jax.Array, jax.Array]

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


class Cut(NamedTuple):
    """A block cut into tiles. For each row of tiles: the numbers of the tiles of keys, FULL ones first and
    then PARTIAL ones [B, rows, tiles]; where each kind ends [B, rows].
    """

    q_tile: int
    k_tile: int
    q_tokens: Tokens
    k_tokens: Tokens
    order: jax.Array
    full: jax.Array
    some: jax.Array

    def place(self, number: jax.Array, kv_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Row of the batch, KV head and row of tiles of the `number`-th of all."""
        head, i = jnp.divmod(number, self.order.shape[1])
        return *jnp.divmod(head, kv_heads), i

    def mask(self, row: jax.Array, i: jax.Array, j: jax.Array, mask_spec: MaskSpec) -> jax.Array:
        """bool [Q, R]."""
        queries = Tokens(*(_take(x, (row, i * self.q_tile), (1, self.q_tile)) for x in self.q_tokens))
        keys = Tokens(*(_take(x, (row, j * self.k_tile), (1, self.k_tile)) for x in self.k_tokens))
        return attention_mask(queries, keys, mask_spec)[0]


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    mask_spec: MaskSpec,
    onto: Partial | None = None,
) -> Partial:
    """q [B, K, G, T, H], k and v [B, K, S, H] -> out [B, K, G, T, H] and lse [B, K, G, T], float32.

    `onto`: the result over other keys, to go on from: the running softmax starts where that one stopped, and
    nothing needs merging.
    """
    groups, length, width = q.shape[2:]
    onto = empty(q) if onto is None else onto
    if q.size // width * k.shape[2] <= SCORES_AT_ONCE:
        return _forward_at_once(q, k, v, attention_mask(q_tokens, k_tokens, mask_spec), mask_spec, onto)
    cut = _cut(groups, q_tokens, k_tokens, mask_spec, ROWS_FORWARD)
    q, out, lse = (_pad(x, 3, cut.q_tile) for x in (q, *onto))
    k = _pad(k, 2, cut.k_tile)
    v = _pad(v, 2, cut.k_tile)
    rows = groups * cut.q_tile

    def row(number: jax.Array, results: Partial) -> Partial:
        b, h, i = cut.place(number, k.shape[1])
        corner = b, h, 0, i * cut.q_tile
        queries, weighted = (
            _take(x, (*corner, 0), (1, 1, groups, cut.q_tile, width)).reshape(rows, width)
            for x in (q, results[0])
        )
        largest = _take(results[1], corner, (1, 1, groups, cut.q_tile)).reshape(rows)

        def step(n: jax.Array, seen: Three, whole: bool) -> Three:
            j = cut.order[b, i, n]
            keys, values = (
                _take(x, (b, h, j * cut.k_tile, 0), (1, 1, cut.k_tile, width))[0, 0] for x in (k, v)
            )

            def add(mask: jax.Array | None = None) -> Three:
                total, weighted, largest = seen
                scores = _product("PH,RH->PR", queries, keys) * mask_spec.scale
                if mask is not None:
                    scores = jnp.where(mask, scores.reshape(groups, *mask.shape), -jnp.inf).reshape(rows, -1)
                new = jnp.maximum(largest, scores.max(-1))
                safe = new if mask is None else finite(new)
                weights = jnp.exp(scores - safe[:, None])
                shrink = jnp.exp(largest - safe)
                weighted = weighted * shrink[:, None] + _product("PR,RH->PH", weights, values)
                return total * shrink + weights.sum(-1), weighted, new

            if whole:
                return add()
            mask = cut.mask(b, i, j, mask_spec)
            return jax.lax.cond(mask.any(), lambda: add(mask), lambda: seen)

        seen = (largest != -jnp.inf).astype(largest.dtype), weighted, largest
        seen = jax.lax.fori_loop(0, cut.full[b, i], partial(step, whole=True), seen)
        total, weighted, largest = jax.lax.fori_loop(
            cut.full[b, i], cut.some[b, i], partial(step, whole=False), seen
        )
        out = weighted / jnp.where(total == 0, 1, total)[:, None]
        lse = finite(largest) + jnp.log(total)
        return (
            _put(results[0], (*corner, 0), out.reshape(1, 1, groups, -1, width)),
            _put(results[1], corner, lse.reshape(1, 1, groups, -1)),
        )

    out, lse = jax.lax.fori_loop(0, _rows_in_all(cut, k), row, (out, lse))
    return out[:, :, :, :length], lse[..., :length]


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    mask_spec: MaskSpec,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
    onto: jax.Array | None = None,
) -> Three:
    """This block's share of the gradients: dq [B, K, G, T, H], dk and dv [B, K, S, H], float32. `onto`: a dq
    to add to.

    `lse` is over all the keys, of this block and of others; `delta` [B, K, G, T] is `sum(d_out * out, -1)`
    with the out over all of them. Queries are gone through once, keys again and again: they are G times
    fewer. In a tile keys stand in the rows: then of its three products for the gradients only dq's reads the
    tile across.
    """
    groups, length, width = q.shape[2:]
    keys_in_all = k.shape[2]
    onto = jnp.zeros(q.shape, accumulator(q)) if onto is None else onto
    if q.size // width * keys_in_all <= SCORES_AT_ONCE:
        return _backward_at_once(
            q, k, v, attention_mask(q_tokens, k_tokens, mask_spec), mask_spec, lse, d_out, delta, onto
        )
    cut = _cut(groups, q_tokens, k_tokens, mask_spec, ROWS_BACKWARD)
    q, d_out, lse, delta, onto = (_pad(x, 3, cut.q_tile) for x in (q, d_out, lse, delta, onto))
    k = _pad(k, 2, cut.k_tile)
    v = _pad(v, 2, cut.k_tile)
    wide = accumulator(q)
    rows = groups * cut.q_tile

    def row(number: jax.Array, results: Three) -> Three:
        b, h, i = cut.place(number, k.shape[1])
        corner = b, h, 0, i * cut.q_tile
        queries, d_outs = (
            _take(x, (*corner, 0), (1, 1, groups, cut.q_tile, width)).reshape(rows, width) for x in (q, d_out)
        )
        lses, deltas = (_take(x, corner, (1, 1, groups, cut.q_tile)).reshape(rows) for x in (lse, delta))
        lses = finite(lses)

        def step(n: jax.Array, sums: Three, whole: bool) -> Three:
            j = cut.order[b, i, n]
            there = (b, h, j * cut.k_tile, 0)
            tile = (1, 1, cut.k_tile, width)
            keys, values = (_take(x, there, tile)[0, 0] for x in (k, v))

            def add(mask: jax.Array | None = None) -> Three:
                dq, dk, dv = sums
                weights = jnp.exp(_product("RH,PH->RP", keys, queries) * mask_spec.scale - lses)
                if mask is not None:
                    weights = jnp.where(mask.T[:, None], weights.reshape(-1, groups, cut.q_tile), 0).reshape(
                        -1, rows
                    )
                d_weights = _product("RH,PH->RP", values, d_outs)
                d_scores = weights * (d_weights - deltas) * mask_spec.scale
                more_dv = _product("RP,PH->RH", weights, d_outs)
                more_dk = _product("RP,PH->RH", d_scores, queries)
                dk, dv = (
                    _put(x, there, _take(x, there, tile) + more) for x, more in ((dk, more_dk), (dv, more_dv))
                )
                return dq + _product("RP,RH->PH", d_scores, keys), dk, dv

            if whole:
                return add()
            mask = cut.mask(b, i, j, mask_spec)
            return jax.lax.cond(mask.any(), lambda: add(mask), lambda: sums)

        dq, dk, dv = results
        before = _take(dq, (*corner, 0), (1, 1, groups, cut.q_tile, width)).reshape(rows, width)
        sums = jax.lax.fori_loop(0, cut.full[b, i], partial(step, whole=True), (before, dk, dv))
        more, dk, dv = jax.lax.fori_loop(cut.full[b, i], cut.some[b, i], partial(step, whole=False), sums)
        return _put(dq, (*corner, 0), more.reshape(1, 1, groups, -1, width)), dk, dv

    dq, dk, dv = jax.lax.fori_loop(
        0, _rows_in_all(cut, k), row, (onto, *(jnp.zeros(x.shape, wide) for x in (k, v)))
    )
    return dq[:, :, :, :length], dk[:, :, :keys_in_all], dv[:, :, :keys_in_all]


def tile_sizes(groups: int, length: int, keys: int, rows: int) -> tuple[int, int]:
    """(queries, keys) of a tile: as near to equal parts of the block as goes, so that little is padded. Few
    queries take more keys.
    """
    q_tile = _even(length, max(rows // groups, FEWEST_QUERIES))
    return q_tile, _even(keys, max(KEYS, rows * KEYS // (groups * q_tile)))


def _even(length: int, most: int) -> int:
    return -(-length // -(-length // most))


def _cut(groups: int, q_tokens: Tokens, k_tokens: Tokens, mask_spec: MaskSpec, rows: int) -> Cut:
    q_tile, k_tile = tile_sizes(groups, q_tokens.positions.shape[1], k_tokens.positions.shape[1], rows)
    q_tokens, k_tokens = (
        Tokens(*(_pad(x, 1, tile) for x in tokens))
        for tokens, tile in ((q_tokens, q_tile), (k_tokens, k_tile))
    )
    kinds = jnp.asarray(
        tiles.kinds(tiles.ranges(q_tokens, q_tile), tiles.ranges(k_tokens, k_tile), mask_spec)
    )
    order = jnp.argsort(-kinds, axis=2, stable=True).astype(jnp.int32)
    return Cut(
        q_tile, k_tile, q_tokens, k_tokens, order, (kinds == tiles.FULL).sum(2), (kinds != tiles.EMPTY).sum(2)
    )


def _rows_in_all(cut: Cut, k: jax.Array) -> int:
    return k.shape[0] * k.shape[1] * cut.order.shape[1]


def _forward_at_once(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, mask_spec: MaskSpec, onto: Partial
) -> Partial:
    def compute() -> Partial:
        scores = _scores_at_once(q, k, mask, mask_spec)
        largest = finite(scores.max(axis=-1))
        weights = jnp.exp(scores - largest[..., None])
        total = weights.sum(axis=-1)
        out = _product("BKPR,BKRH->BKPH", _rows(weights), v).reshape(q.shape)
        return merge_grouped(
            onto, (out / jnp.where(total == 0, 1, total)[..., None], largest + jnp.log(total))
        )

    if (
        q.shape[3] * q.shape[2] <= FEWEST_QUERIES
    ):  # reading the keys is most of the work: XLA copies what goes into a condition
        return compute()
    return jax.lax.cond(mask.any(), compute, lambda: onto)


def _backward_at_once(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    mask_spec: MaskSpec,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
    onto: jax.Array,
) -> Three:
    def compute() -> Three:
        weights = jnp.exp(_scores_at_once(q, k, mask, mask_spec) - finite(lse)[..., None])
        d_outs = _rows(d_out)
        dv = _product("BKPR,BKPH->BKRH", _rows(weights), d_outs)
        d_weights = _product("BKPH,BKRH->BKPR", d_outs, v).reshape(weights.shape)
        d_scores = _rows(weights * (d_weights - delta[..., None]) * mask_spec.scale)
        dk = _product("BKPR,BKPH->BKRH", d_scores, _rows(q))
        return onto + _product("BKPR,BKRH->BKPH", d_scores, k).reshape(q.shape), dk, dv

    return jax.lax.cond(
        mask.any(), compute, lambda: (onto, *(jnp.zeros(x.shape, accumulator(x)) for x in (k, v)))
    )


def _scores_at_once(q: jax.Array, k: jax.Array, mask: jax.Array, mask_spec: MaskSpec) -> jax.Array:
    """[B, K, G, T, S], -inf where a query does not see a key."""
    scores = _product("BKPH,BKRH->BKPR", _rows(q), k) * mask_spec.scale
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
    """Zeros up to a multiple of `size` (for tokens: segment 0, so nobody sees them)."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, padding)
