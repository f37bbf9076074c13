"""Attention kernels for TPUs, in Pallas: only the tiles of the score matrix in which somebody sees somebody
are fetched and computed.

In: grouped queries [B, K, G, T, H], heads-first keys and values [B, K, S, H], bfloat16 or float32, and their
tokens. Out, in float32: `forward` gives out [B, K, G, T, H] and the natural lse [B, K, G, T]; `backward`
gives this block's share of the gradients, from the lse and delta over *all* keys. Who sees whom is data:
positions may come in any order. A query that sees nothing: out 0, lse -inf, gradients zero.

The work is a list of tiles, told from the tokens on the device (tiles.py), sorted by row, and handed to the
kernel as scalars: the grid is (B, K, longest list), and what a step fetches is read off the list. EMPTY tiles
are not on it, so they cost not even a step; FULL ones skip the mask; PARTIAL ones build it from the positions
and segments. A row without work keeps one EMPTY tile, which writes its zeros.

Scores stand transposed, [R, Q]: what belongs to a query (its maximum, sum, lse, delta) then lies along the
lanes, which takes no space for copies, is combined with scores without a shuffle, and is reduced over
sublanes, the cheap direction. Sums over keys are kept as [H, Q] and turned once, at the end of their row. The
G query heads of a KV head are taken one after the other against the same keys, values and mask.

The backward pass is two kernels: one goes along the keys and sums dq, one along the queries and sums dk and
dv. One alone would save two of seven products, but what it sums across would have to go through the memory of
the device, with a copy for every tile or in an order of its own; here every sum stays in the core until it is
done and temporaries are O(T + S).

Letters as in attention.py. Inside, exponentials are of base 2: log2(e) comes with the scale for nothing.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ringvision.errors import UserError
from ringvision.ops import tiles
from ringvision.ops.attention import MaskSpec, Partial, Tokens, finite

LANES = 128
SUBLANES = 8


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
MOST_TILES = 2**17
"""On the lists of one call: half of the 1 MB of scalar memory."""
UNSEEN = -0.7 * float(np.finfo(np.float32).max)
"""The score of a key that is not seen: finite, so that differences are never inf - inf."""
LOG2_E = math.log2(math.e)

Interpret = bool | pltpu.InterpretParams

FIRST = 4
LAST = 8
COLUMN_BIT = 4
ROW_BIT = 18
_END_OF_LIST = np.iinfo(np.int32).max
_SEEN_BY_NOBODY = np.iinfo(np.int32).min


class Work(NamedTuple):
    """Lists of tiles, one for each row of the batch. `tiles` int32 [B * most], of which the first counts[b]
    of every `most` are tiles:

    row (13 bits) | column (14 bits) | LAST of its row | FIRST of its row | EMPTY, PARTIAL or FULL (2 bits)
    """

    tiles: jax.Array
    counts: jax.Array
    longest: jax.Array

    @property
    def most(self) -> int:
        return self.tiles.size // self.counts.size


class Blocks(NamedTuple):
    """What of an array a step needs."""

    q_tokens: pl.BlockSpec
    k_tokens: pl.BlockSpec
    queries: pl.BlockSpec
    per_query: pl.BlockSpec
    keys: pl.BlockSpec


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    mask_spec: MaskSpec,
    *,
    interpret: Interpret | None = None,
) -> Partial:
    """`interpret`: run on any device, slowly; None: unless the default backend is a TPU. To compile for a TPU
    elsewhere say False.
    """
    sizes = tile_sizes(q.shape, k.shape, q.dtype)
    return _by_batch(
        partial(_forward, sizes, mask_spec, _interpret(interpret)), sizes, (q, k, v, q_tokens, k_tokens)
    )


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
    *,
    interpret: Interpret | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """dq [B, K, G, T, H], dk and dv [B, K, S, H]. `interpret` as in `forward`."""
    sizes = tile_sizes(q.shape, k.shape, q.dtype)
    return _by_batch(
        partial(_backward, sizes, mask_spec, _interpret(interpret)),
        sizes,
        (q, k, v, q_tokens, k_tokens, lse, d_out, delta),
    )


def tile_sizes(q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: Any) -> Sizes:
    """Multiples of the lanes, as even and as large as the vector memory allows."""
    groups, length, width = q_shape[2:]
    for most in TILE_SIZES:
        sizes = Sizes(_even(length, most.queries), _even(k_shape[2], most.keys))
        if _vector_memory(groups, sizes, width, jnp.dtype(dtype).itemsize) <= VECTOR_MEMORY:
            break
    return sizes


def _even(length: int, most: int) -> int:
    return _up(pl.cdiv(length, pl.cdiv(length, most)), LANES)


def _up(size: int, multiple: int) -> int:
    return pl.cdiv(size, multiple) * multiple


def _vector_memory(groups: int, sizes: Sizes, width: int, itemsize: int) -> int:
    """Bytes, of the hungrier backward kernel. Blocks are there twice: one travels while the other is worked
    on.
    """
    width = _up(width, LANES)
    queries = groups * sizes.queries * width
    keys = sizes.keys * width
    inputs = 2 * (2 * queries + 2 * keys) * itemsize
    return inputs + 4 * max(3 * queries, 4 * keys) + SCORES_AT_ONCE * 4 * sizes.queries * sizes.keys


def _interpret(choice: Interpret | None) -> Interpret:
    return jax.default_backend() != "tpu" if choice is None else choice


def _by_batch(function: Callable, sizes: Sizes, arrays: tuple) -> Any:
    """The whole batch at once if its lists of tiles fit the scalar memory, one row after the other if not."""
    batch = arrays[0].shape[0]
    length = arrays[0].shape[3]
    keys = arrays[1].shape[2]
    count = pl.cdiv(length, sizes.queries) * pl.cdiv(keys, sizes.keys)
    if count > MOST_TILES:
        raise UserError(
            f"{length} queries and {keys} keys on one device make {count} tiles, at most "
            f"{MOST_TILES} fit: use more devices"
        )
    if batch * count <= MOST_TILES:
        return function(*arrays)
    results = jax.lax.map(lambda row: function(*row), jax.tree.map(lambda x: x[:, None], arrays))
    return jax.tree.map(lambda x: x[:, 0], results)


def _forward(
    sizes: Sizes,
    mask_spec: MaskSpec,
    interpret: Interpret,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
) -> Partial:
    *_, groups, length, width = q.shape
    q, k, v, q_tokens, k_tokens = _whole(q, k, v, q_tokens, k_tokens, sizes)
    work = list_work(_kinds(q_tokens, k_tokens, sizes, mask_spec))
    blocks = _blocks(q, sizes, work, rows_are_queries=True)
    out, lse = _call(
        partial(_forward_kernel, mask_spec, work.most),
        work,
        (
            (blocks.q_tokens, _rows(q_tokens)),
            (blocks.k_tokens, _rows(k_tokens)),
            (blocks.queries, q),
            (blocks.keys, k),
            (blocks.keys, v),
        ),
        ((blocks.queries, q.shape), (blocks.per_query, q.shape[:-1])),
        ((groups, sizes.queries), (groups, sizes.queries), (groups, q.shape[-1], sizes.queries)),
        _cost(q, k, mask_spec, products=2),
        interpret,
    )
    return out[..., :length, :width], lse[..., :length]


def _backward(
    sizes: Sizes,
    mask_spec: MaskSpec,
    interpret: Interpret,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    (*_, groups, length, width), keys = q.shape, k.shape[2]
    q, k, v, q_tokens, k_tokens = _whole(q, k, v, q_tokens, k_tokens, sizes)
    d_out = _pad(d_out.astype(v.dtype), q.shape)
    lse, delta = (_pad(x, q.shape[:-1]) for x in (finite(lse) * LOG2_E, delta))
    kinds = _kinds(q_tokens, k_tokens, sizes, mask_spec)

    def call(
        kernel: Callable, work: Work, blocks: Blocks, outputs: tuple, scratch: tuple, products: int
    ) -> Any:
        tokens = ((blocks.q_tokens, _rows(q_tokens)), (blocks.k_tokens, _rows(k_tokens)))
        sides = ((blocks.queries, q), (blocks.keys, k), (blocks.keys, v), (blocks.queries, d_out))
        per_query = ((blocks.per_query, lse), (blocks.per_query, delta))
        inputs = (*tokens, *sides, *per_query)
        return _call(
            partial(kernel, mask_spec, work.most),
            work,
            inputs,
            outputs,
            scratch,
            _cost(q, k, mask_spec, products),
            interpret,
        )

    along_keys = list_work(kinds)
    blocks = _blocks(q, sizes, along_keys, rows_are_queries=True)
    (dq,) = call(
        _dq_kernel,
        along_keys,
        blocks,
        ((blocks.queries, q.shape),),
        ((groups, q.shape[-1], sizes.queries),),
        3,
    )
    along_queries = list_work(jnp.swapaxes(kinds, 1, 2))
    blocks = _blocks(q, sizes, along_queries, rows_are_queries=False)
    dk, dv = call(
        _dk_dv_kernel, along_queries, blocks, ((blocks.keys, k.shape), (blocks.keys, k.shape)), (), 4
    )
    return dq[..., :length, :width], dk[:, :, :keys, :width], dv[:, :, :keys, :width]


def _whole(
    q: jax.Array, k: jax.Array, v: jax.Array, q_tokens: Tokens, k_tokens: Tokens, sizes: Sizes
) -> tuple:
    """Filled up to whole tiles with segment 0, and to a width that lies well in memory."""
    length = _up(q.shape[3], sizes.queries)
    keys = _up(k.shape[2], sizes.keys)
    width = q.shape[-1]
    width = _up(width, LANES if width > LANES // 2 else LANES // 2)
    q = _pad(q, (*q.shape[:3], length, width))
    k, v = (_pad(x, (*x.shape[:2], keys, width)) for x in (k, v))
    q_tokens, k_tokens = (
        Tokens(*(_pad(x, (x.shape[0], size)) for x in side))
        for side, size in ((q_tokens, length), (k_tokens, keys))
    )
    return q, k, v, q_tokens, k_tokens


def _pad(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return x if x.shape == shape else jnp.pad(x, [(0, size - had) for size, had in zip(shape, x.shape)])


def _rows(tokens: Tokens) -> jax.Array:
    """int32 [B, 8, T]: positions, segments, and nothing: as many rows as are turned at once."""
    return _pad(jnp.stack(tokens, 1), (tokens.positions.shape[0], SUBLANES, tokens.positions.shape[1]))


def _kinds(q_tokens: Tokens, k_tokens: Tokens, sizes: Sizes, mask_spec: MaskSpec) -> jax.Array:
    return jnp.asarray(
        tiles.kinds(tiles.ranges(q_tokens, sizes.queries), tiles.ranges(k_tokens, sizes.keys), mask_spec)
    )


def list_work(kinds: jax.Array) -> Work:
    """kinds int8 [B, rows, columns] -> the tiles to compute."""
    batch, rows, columns = kinds.shape
    assert max(rows, columns) < 2 ** (31 - ROW_BIT), "an entry has 13 bits for a row"
    kinds = kinds.astype(jnp.int32)
    listed = kinds != tiles.EMPTY
    listed |= ~listed.any(-1, keepdims=True) & (jnp.arange(columns) == 0)
    place = listed.cumsum(-1)
    ends = FIRST * (place == 1) + LAST * (place == place[..., -1:])
    entries = (jnp.arange(rows)[:, None] << ROW_BIT) | (jnp.arange(columns) << COLUMN_BIT) | ends | kinds
    entries = jnp.sort(jnp.where(listed, entries, _END_OF_LIST).reshape(batch, -1), axis=-1)
    counts = listed.sum((1, 2), dtype=jnp.int32)
    return Work(entries.reshape(-1), counts, counts.max())


def _blocks(q: jax.Array, sizes: Sizes, work: Work, *, rows_are_queries: bool) -> Blocks:
    groups = q.shape[2]
    width = q.shape[-1]

    def spec(shape: tuple[int | None, ...], is_row: bool, place: Callable) -> pl.BlockSpec:
        def index(b: jax.Array, h: jax.Array, step: jax.Array, entries: Any, counts: Any) -> tuple:
            entry, _ = _entry(entries, counts, b, step, work.most)
            return place(b, h, _row(entry) if is_row else _column(entry))

        return pl.BlockSpec(shape, index)

    rows = rows_are_queries
    columns = not rows_are_queries
    return Blocks(
        spec((None, SUBLANES, sizes.queries), rows, lambda b, h, i: (b, 0, i)),
        spec((None, SUBLANES, sizes.keys), columns, lambda b, h, i: (b, 0, i)),
        spec((None, None, groups, sizes.queries, width), rows, lambda b, h, i: (b, h, 0, i, 0)),
        spec((None, None, groups, sizes.queries), rows, lambda b, h, i: (b, h, 0, i)),
        spec((None, None, sizes.keys, width), columns, lambda b, h, i: (b, h, i, 0)),
    )


def _call(
    kernel: partial,
    work: Work,
    inputs: tuple,
    outputs: tuple,
    scratch: tuple,
    cost: pl.CostEstimate,
    interpret: Interpret,
) -> tuple[jax.Array, ...]:
    """`inputs`: pairs of a block and its array. `outputs`: pairs of a block and the shape of its array;
    float32, as `scratch` is.
    """
    specs, arrays = zip(*inputs)
    out_specs, shapes = zip(*outputs)
    batch, kv_heads = shapes[0][:2]
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, kv_heads, work.longest),
            in_specs=specs,
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=cost,
        interpret=interpret,
        name=f"ringvision{kernel.func.__name__}",
    )(work.tiles, work.counts, *arrays)


def _cost(q: jax.Array, k: jax.Array, mask_spec: MaskSpec, products: int) -> pl.CostEstimate:
    """What the compiler is told, to hide transfers behind: one document. Nobody knows the documents when
    compiling.
    """
    share = 2 if mask_spec.causal else 1
    scores = math.prod(q.shape[:-1]) * k.shape[2] // share
    bytes_accessed = (q.size * 3 + k.size * 4) * q.dtype.itemsize
    return pl.CostEstimate(
        flops=2 * products * scores * q.shape[-1], transcendentals=scores, bytes_accessed=bytes_accessed
    )


def _entry(
    entries: Any, counts: Any, b: jax.Array, step: jax.Array, most: int
) -> tuple[jax.Array, jax.Array]:
    """This step's entry, and whether the list reaches so far: past its end the last entry stays, so that
    nothing is fetched.
    """
    return entries[b * most + jnp.minimum(step, counts[b] - 1)], step < counts[b]


def _row(entry: jax.Array) -> jax.Array:
    return entry >> ROW_BIT


def _column(entry: jax.Array) -> jax.Array:
    return (entry >> COLUMN_BIT) & (2 ** (ROW_BIT - COLUMN_BIT) - 1)


def _on_tile(
    most: int, entries: Any, counts: Any, start: Callable, add: Callable, finish: Callable, mask: Callable
) -> None:
    """At the first tile of a row `start`; `add(None)` or, where some are not seen, `add(mask())`; at the last
    one `finish`.
    """
    entry, active = _entry(entries, counts, pl.program_id(0), pl.program_id(2), most)
    kind = entry & 3
    pl.when(active & (entry & FIRST != 0))(start)
    pl.when(active & (kind == tiles.FULL))(lambda: add(None))
    pl.when(active & (kind == tiles.PARTIAL))(lambda: add(mask()))
    pl.when(active & (entry & LAST != 0))(finish)


def _forward_kernel(
    mask_spec: MaskSpec,
    most: int,
    entries: Any,
    counts: Any,
    q_tokens: Any,
    k_tokens: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    largest: Any,
    total: Any,
    out_sum: Any,
) -> None:
    """Scratch, all of one row: largest score and sum of weights [G, Q], sum of weighted values [G, H, Q]."""

    def start() -> None:
        largest[...] = jnp.full(largest.shape, UNSEEN, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        out_sum[...] = jnp.zeros(out_sum.shape, jnp.float32)

    def add(mask: jax.Array | None) -> None:
        values = v[...].T
        for g in range(q.shape[0]):
            row = pl.ds(g, 1)
            scores = _scores(q[g], k[...], mask, mask_spec)
            before = largest[row, :]
            now = jnp.maximum(before, scores.max(axis=0, keepdims=True))
            weights = jnp.exp2(scores - now)
            kept = jnp.exp2(before - now)
            largest[row, :] = now
            total[row, :] = total[row, :] * kept + weights.sum(axis=0, keepdims=True)
            out_sum[g] = out_sum[g] * kept + _product(values, weights.astype(values.dtype), 1, 0)

    def finish() -> None:
        seen = largest[...] > UNSEEN
        divisor = jnp.where(seen, total[...], 1)
        lse[...] = jnp.where(seen, (largest[...] + jnp.log2(divisor)) / LOG2_E, -jnp.inf)
        for g in range(q.shape[0]):
            row = slice(g, g + 1)
            out[g] = jnp.where(seen[row], out_sum[g] / divisor[row], 0).T

    _on_tile(most, entries, counts, start, add, finish, lambda: _mask(q_tokens, k_tokens, mask_spec))


def _dq_kernel(
    mask_spec: MaskSpec,
    most: int,
    entries: Any,
    counts: Any,
    q_tokens: Any,
    k_tokens: Any,
    q: Any,
    k: Any,
    v: Any,
    d_out: Any,
    lse: Any,
    delta: Any,
    dq: Any,
    dq_sum: Any,
) -> None:
    """Scratch: the row's sum [G, H, Q]."""

    def start() -> None:
        dq_sum[...] = jnp.zeros(dq_sum.shape, jnp.float32)

    def add(mask: jax.Array | None) -> None:
        keys = k[...].T
        for g in range(q.shape[0]):
            _, d_scores = _weights_and_d_scores(g, mask, mask_spec, q, k, v, d_out, lse, delta)
            dq_sum[g] += _product(keys, d_scores.astype(keys.dtype), 1, 0)

    def finish() -> None:
        for g in range(q.shape[0]):
            dq[g] = (dq_sum[g] * mask_spec.scale).T

    _on_tile(most, entries, counts, start, add, finish, lambda: _mask(q_tokens, k_tokens, mask_spec))


def _dk_dv_kernel(
    mask_spec: MaskSpec,
    most: int,
    entries: Any,
    counts: Any,
    q_tokens: Any,
    k_tokens: Any,
    q: Any,
    k: Any,
    v: Any,
    d_out: Any,
    lse: Any,
    delta: Any,
    dk: Any,
    dv: Any,
) -> None:
    """A row is one of keys; its sums stay in dk and dv."""

    def start() -> None:
        dk[...] = jnp.zeros(dk.shape, jnp.float32)
        dv[...] = jnp.zeros(dv.shape, jnp.float32)

    def add(mask: jax.Array | None) -> None:
        for g in range(q.shape[0]):
            weights, d_scores = _weights_and_d_scores(g, mask, mask_spec, q, k, v, d_out, lse, delta)
            dv[...] += _product(weights.astype(v.dtype), d_out[g], 1, 0)
            dk[...] += _product(d_scores.astype(q.dtype), q[g], 1, 0)

    def finish() -> None:
        dk[...] *= mask_spec.scale

    _on_tile(most, entries, counts, start, add, finish, lambda: _mask(q_tokens, k_tokens, mask_spec))


def _weights_and_d_scores(
    g: int,
    mask: jax.Array | None,
    mask_spec: MaskSpec,
    q: Any,
    k: Any,
    v: Any,
    d_out: Any,
    lse: Any,
    delta: Any,
) -> tuple[jax.Array, jax.Array]:
    """[R, Q] each, of one query head: softmax over all keys, and the gradient of the scaled scores."""
    row = pl.ds(g, 1)
    weights = jnp.exp2(_scores(q[g], k[...], mask, mask_spec) - lse[row, :])
    return weights, weights * (_product(v[...], d_out[g], 1, 1) - delta[row, :])


def _scores(q: jax.Array, k: jax.Array, mask: jax.Array | None, mask_spec: MaskSpec) -> jax.Array:
    """[R, Q], for base 2."""
    scores = _product(k, q, 1, 1) * (mask_spec.scale * LOG2_E)
    return scores if mask is None else jnp.where(mask, scores, UNSEEN)


def _mask(q_tokens: Any, k_tokens: Any, mask_spec: MaskSpec) -> jax.Array:
    """bool [R, Q]: `attention.attention_mask`, transposed."""
    q_positions = q_tokens[0:1, :]
    q_segments = q_tokens[1:2, :]
    columns = k_tokens[...].T
    k_positions = columns[:, 0:1]
    k_segments = columns[:, 1:2]
    mask = q_segments == jnp.where(k_segments == 0, _SEEN_BY_NOBODY, k_segments)
    if mask_spec.causal:
        mask &= q_positions >= k_positions
    if mask_spec.window is not None:
        mask &= jnp.abs(q_positions - k_positions) < mask_spec.window
    return mask


def _product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """Summed over these axes in float32. Who passes float32 means it."""
    precision = jax.lax.Precision.HIGHEST if a.dtype.itemsize >= 4 else jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(
        a, b, (((axis_a,), (axis_b,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
