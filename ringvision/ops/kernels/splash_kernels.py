"""What the splash kernels do with one tile, in Pallas: the bodies of the calls that splash.py makes.

In: references to the list of work, to the tile's tokens, queries, keys and values, and in the backward pass
to d_out, lse and delta. Out: written to references, float32. The sums of a row of tiles are started at its
first tile and finished at its last (`_on_tile`).

Shapes of one step, letters as in ops/attention.py: tokens [8, Q] and [8, R], of which row 0 is positions, row
1 segment ids and row 2, of queries that have it, `earliest`; queries and d_out [G, Q, H]; keys and values
[R, H]; per query [G, Q]. Scores stand transposed, [R, Q]: what belongs to a query (its maximum, sum, lse,
delta) then lies along the lanes, which takes no space for copies, is combined with scores without a shuffle,
and is reduced over sublanes, the cheap direction. Sums over keys are kept as [H, Q] and turned once, at the
end of their row. The G query heads of a KV head are taken one after the other against the same keys, values
and mask.

Inside, exponentials are of base 2: log2(e) comes with the scale for nothing.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from ringvision.ops import tiles
from ringvision.ops.kernels.splash_work import FIRST, KIND, LAST, read_entry
from ringvision.ops.mask import MaskSpec

UNSEEN = -0.7 * float(np.finfo(np.float32).max)
"""The score of a key that is masked: finite, so that differences are never inf - inf."""
LOG2_E = math.log2(math.e)
_NO_SEGMENT = np.iinfo(np.int32).min
"""Of padding among the keys: a segment that no query has."""


class TileList(NamedTuple):
    """References to `Work.tiles` and `Work.counts`, in scalar memory, `Work.most`, and whether the queries
    have an `earliest` (ops/mask.py).
    """

    entries: Any
    counts: Any
    most: int
    bounded: bool


class ForwardRefs(NamedTuple):
    """References of the forward kernel in Pallas' order: inputs, outputs out [G, Q, H] and lse [G, Q], and
    scratch for one row: largest score and sum of weights [G, Q], sum of weighted values [G, H, Q].
    """

    q_tokens: Any
    k_tokens: Any
    q: Any
    k: Any
    v: Any
    out: Any
    lse: Any
    largest: Any
    total: Any
    out_sum: Any


class BackwardRefs(NamedTuple):
    """References of both backward kernels' inputs. lse is of base 2."""

    q_tokens: Any
    k_tokens: Any
    q: Any
    k: Any
    v: Any
    d_out: Any
    lse: Any
    delta: Any


def forward_kernel(mask_spec: MaskSpec, work: TileList, refs: tuple) -> None:
    """The running softmax, one tile of keys [R, H] after another for a tile of queries [G, Q, H]. `refs`: the
    fields of ForwardRefs.
    """
    r = ForwardRefs(*refs)

    def start() -> None:
        r.largest[...] = jnp.full(r.largest.shape, UNSEEN, jnp.float32)
        r.total[...] = jnp.zeros(r.total.shape, jnp.float32)
        r.out_sum[...] = jnp.zeros(r.out_sum.shape, jnp.float32)

    def add(mask: jax.Array | None) -> None:
        values = r.v[...].T  # (H, R)
        for g in range(r.q.shape[0]):
            row = pl.ds(g, 1)
            scores = _scores(r.q[g], r.k[...], mask, mask_spec)  # (R, Q)
            before = r.largest[row, :]  # (1, Q)
            now = jnp.maximum(before, scores.max(axis=0, keepdims=True))
            weights = jnp.exp2(scores - now)  # (R, Q), exponents are at most 0
            kept = jnp.exp2(before - now)
            r.largest[row, :] = now
            r.total[row, :] = r.total[row, :] * kept + weights.sum(axis=0, keepdims=True)
            r.out_sum[g] = r.out_sum[g] * kept + _product(values, weights.astype(values.dtype), 1, 0)

    def finish() -> None:
        seen = r.largest[...] > UNSEEN
        divisor = jnp.where(seen, r.total[...], 1)
        r.lse[...] = jnp.where(seen, (r.largest[...] + jnp.log2(divisor)) / LOG2_E, -jnp.inf)
        for g in range(r.q.shape[0]):
            row = slice(g, g + 1)
            r.out[g] = jnp.where(seen[row], r.out_sum[g] / divisor[row], 0).T

    _on_tile(work, start, add, finish, partial(_mask, r.q_tokens, r.k_tokens, mask_spec, work.bounded))


def dq_kernel(mask_spec: MaskSpec, work: TileList, refs: tuple) -> None:
    """The gradient of queries [G, Q, H], summed along the keys. `refs`: the fields of BackwardRefs, the
    output dq [G, Q, H], and scratch for the row's sum [G, H, Q].
    """
    *inputs, dq, dq_sum = refs
    r = BackwardRefs(*inputs)

    def start() -> None:
        dq_sum[...] = jnp.zeros(dq_sum.shape, jnp.float32)

    def add(mask: jax.Array | None) -> None:
        keys = r.k[...].T  # (H, R)
        for g in range(r.q.shape[0]):
            _, d_scores = _weights_and_d_scores(g, mask, mask_spec, r)  # (R, Q)
            dq_sum[g] += _product(keys, d_scores.astype(keys.dtype), 1, 0)

    def finish() -> None:
        for g in range(r.q.shape[0]):
            dq[g] = (dq_sum[g] * mask_spec.scale).T

    _on_tile(work, start, add, finish, partial(_mask, r.q_tokens, r.k_tokens, mask_spec, work.bounded))


def dk_dv_kernel(mask_spec: MaskSpec, work: TileList, refs: tuple) -> None:
    """The gradients of keys and values [R, H], summed along the queries: a row of tiles is one of keys.
    `refs`: the fields of BackwardRefs, and the outputs dk and dv [R, H], in which the sums stay.
    """
    *inputs, dk, dv = refs
    r = BackwardRefs(*inputs)

    def start() -> None:
        dk[...] = jnp.zeros(dk.shape, jnp.float32)
        dv[...] = jnp.zeros(dv.shape, jnp.float32)

    def add(mask: jax.Array | None) -> None:
        for g in range(r.q.shape[0]):
            weights, d_scores = _weights_and_d_scores(g, mask, mask_spec, r)  # (R, Q)
            dv[...] += _product(weights.astype(r.v.dtype), r.d_out[g], 1, 0)
            dk[...] += _product(d_scores.astype(r.q.dtype), r.q[g], 1, 0)

    def finish() -> None:
        dk[...] *= mask_spec.scale

    _on_tile(work, start, add, finish, partial(_mask, r.q_tokens, r.k_tokens, mask_spec, work.bounded))


def _on_tile(
    work: TileList, start: Callable, add: Callable, finish: Callable, mask: Callable[[], jax.Array]
) -> None:
    """At the first tile of a row `start`; `add(None)` or, where some pairs are masked, `add(mask())`; at the
    last one `finish`.
    """
    entry, active = read_entry(work.entries, work.counts, pl.program_id(0), pl.program_id(2), work.most)
    kind = entry & KIND
    pl.when(active & (entry & FIRST != 0))(start)
    pl.when(active & (kind == tiles.FULL))(lambda: add(None))
    pl.when(active & (kind == tiles.PARTIAL))(lambda: add(mask()))
    pl.when(active & (entry & LAST != 0))(finish)


def _weights_and_d_scores(
    g: int, mask: jax.Array | None, mask_spec: MaskSpec, r: BackwardRefs
) -> tuple[jax.Array, jax.Array]:
    """[R, Q] each, of query head g: softmax over all keys, and the gradient of the scaled scores."""
    row = pl.ds(g, 1)
    weights = jnp.exp2(_scores(r.q[g], r.k[...], mask, mask_spec) - r.lse[row, :])
    return weights, weights * (_product(r.v[...], r.d_out[g], 1, 1) - r.delta[row, :])


def _scores(q: jax.Array, k: jax.Array, mask: jax.Array | None, mask_spec: MaskSpec) -> jax.Array:
    """q [Q, H], k [R, H] -> [R, Q], for base 2."""
    scores = _product(k, q, 1, 1) * (mask_spec.scale * LOG2_E)
    return scores if mask is None else jnp.where(mask, scores, UNSEEN)


def _mask(q_tokens: Any, k_tokens: Any, mask_spec: MaskSpec, bounded: bool) -> jax.Array:
    """bool [R, Q]: `attention_mask`, transposed."""
    q_positions = q_tokens[0:1, :]  # (1, Q)
    q_segments = q_tokens[1:2, :]
    columns = k_tokens[...].T  # (R, 8)
    k_positions = columns[:, 0:1]  # (R, 1)
    k_segments = columns[:, 1:2]
    mask = q_segments == jnp.where(k_segments == 0, _NO_SEGMENT, k_segments)
    return mask_spec.restrict(mask, q_positions, k_positions, q_tokens[2:3, :] if bounded else None)


def _product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Summed over these axes in float32. Who passes float32 means it."""
    precision = jax.lax.Precision.HIGHEST if a.dtype.itemsize >= 4 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a, b, (((axis_a,), (axis_b,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
