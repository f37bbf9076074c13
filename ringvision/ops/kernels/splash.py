"""Attention kernels for TPUs, in Pallas: only the tiles of the score matrix in which some query attends to
some key are fetched and computed.

In and out: as kernels/__init__.py says, q, k and v bfloat16 or float32. The mask is data: positions may come
in any order. A query that attends to nothing: out 0, lse -inf, gradients zero.

The work is a list of tiles (splash_work.py), told from the tokens on the device (tiles.py), sorted by row,
and handed to the kernel as scalars: the grid is (B, K, longest list), and what a step fetches is read off the
list. EMPTY tiles are not on it, so they cost not even a step; FULL ones skip the mask; PARTIAL ones build it
from the positions and segments. What is done with a tile is in splash_kernels.py.

The backward pass is two kernels: one goes along the keys and sums dq, one along the queries and sums dk and
dv. One alone would save two of seven products, but what it sums across would have to go through the memory of
the device, with a copy for every tile or in an order of its own; here every sum stays in the core until it is
done and temporaries are O(T + S).

Letters as in attention.py.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ringvision.errors import UserError
from ringvision.ops import tiles
from ringvision.ops.attention import AttentionInputs, KernelGradients, OutputGradient, Partial, finite
from ringvision.ops.kernels.splash_kernels import LOG2_E, TileList, dk_dv_kernel, dq_kernel, forward_kernel
from ringvision.ops.kernels.splash_work import (
    LANES,
    Sizes,
    Work,
    column_of,
    list_work,
    read_entry,
    round_up,
    row_of,
    tile_sizes,
)
from ringvision.ops.mask import MaskSpec, Tokens

SUBLANES = 8
MOST_TILES = 2**17
"""On the lists of one call: half of the 1 MB of scalar memory."""

Interpret = bool | pltpu.InterpretParams


class Blocks(NamedTuple):
    """What of an array a step needs."""

    q_tokens: pl.BlockSpec
    k_tokens: pl.BlockSpec
    queries: pl.BlockSpec
    per_query: pl.BlockSpec
    keys: pl.BlockSpec


class Call(NamedTuple):
    """What the calls of one pass have in common. inputs are filled up to whole tiles, `_pad_inputs`."""

    inputs: AttentionInputs
    sizes: Sizes
    mask_spec: MaskSpec
    interpret: Interpret


def forward(inputs: AttentionInputs, mask_spec: MaskSpec, *, interpret: Interpret | None = None) -> Partial:
    """q [B, K, G, T, H], k and v [B, K, S, H] -> out [B, K, G, T, H] and natural lse [B, K, G, T], float32.
    UserError where one row of the batch has too many tiles for a device.

    `interpret`: run on any device, slowly; None: unless the default backend is a TPU. To compile for a TPU
    elsewhere say False.
    """
    sizes = tile_sizes(inputs.q.shape, inputs.k.shape, inputs.q.dtype)
    return _by_batch(partial(_forward, sizes, mask_spec, _interpret(interpret)), sizes, (inputs,))


def backward(
    inputs: AttentionInputs,
    gradient: OutputGradient,
    mask_spec: MaskSpec,
    *,
    interpret: Interpret | None = None,
) -> KernelGradients:
    """This block's share of the gradients.

    Args:
        inputs: q [B, K, G, T, H], k and v [B, K, S, H], and their tokens.
        gradient: lse and delta [B, K, G, T] over all the keys, of this block and of others, and d_out [B, K,
            G, T, H].
        mask_spec: which positions a query attends to.
        interpret: as in `forward`.

    Returns:
        dq [B, K, G, T, H], dk and dv [B, K, S, H], float32.

    Raises:
        UserError: one row of the batch has too many tiles for a device.
    """
    sizes = tile_sizes(inputs.q.shape, inputs.k.shape, inputs.q.dtype)
    function = partial(_backward, sizes, mask_spec, _interpret(interpret))
    return _by_batch(function, sizes, (inputs, gradient))


def _interpret(choice: Interpret | None) -> Interpret:
    return jax.default_backend() != "tpu" if choice is None else choice


def _by_batch(function: Callable, sizes: Sizes, arguments: tuple) -> Any:
    """The whole batch at once if its lists of tiles fit the scalar memory, one row after the other if not."""
    q, k, *_ = arguments[0]
    batch = q.shape[0]
    length = q.shape[3]
    keys = k.shape[2]
    count = pl.cdiv(length, sizes.queries) * pl.cdiv(keys, sizes.keys)
    if count > MOST_TILES:
        raise UserError(
            f"{length} queries and {keys} keys on one device make {count} tiles, at most "
            f"{MOST_TILES} fit: use more devices"
        )
    if batch * count <= MOST_TILES:
        return function(*arguments)
    results = jax.lax.map(lambda row: function(*row), jax.tree.map(lambda x: x[:, None], arguments))
    return jax.tree.map(lambda x: x[:, 0], results)


def _forward(sizes: Sizes, mask_spec: MaskSpec, interpret: Interpret, inputs: AttentionInputs) -> Partial:
    *_, groups, length, width = inputs.q.shape
    call = Call(_pad_inputs(inputs, sizes), sizes, mask_spec, interpret)
    q, k, v, q_tokens, k_tokens = call.inputs
    work = list_work(_kinds(call))
    blocks = _blocks(q, sizes, work, rows_are_queries=True)
    per_row = (groups, sizes.queries)
    out, lse = _run(
        forward_kernel,
        call,
        work,
        (
            (blocks.q_tokens, _token_rows(q_tokens)),
            (blocks.k_tokens, _token_rows(k_tokens)),
            (blocks.queries, q),
            (blocks.keys, k),
            (blocks.keys, v),
        ),
        ((blocks.queries, q.shape), (blocks.per_query, q.shape[:-1])),
        (per_row, per_row, (groups, q.shape[-1], sizes.queries)),
        products=2,
    )
    return out[..., :length, :width], lse[..., :length]


def _backward(
    sizes: Sizes,
    mask_spec: MaskSpec,
    interpret: Interpret,
    inputs: AttentionInputs,
    gradient: OutputGradient,
) -> KernelGradients:
    *_, groups, length, width = inputs.q.shape
    keys = inputs.k.shape[2]
    call = Call(_pad_inputs(inputs, sizes), sizes, mask_spec, interpret)
    q, k, v, *_ = call.inputs
    d_out = _pad(gradient.d_out.astype(v.dtype), q.shape)
    lse, delta = (_pad(x, q.shape[:-1]) for x in (finite(gradient.lse) * LOG2_E, gradient.delta))
    gradient = OutputGradient(lse, d_out, delta)
    kinds = _kinds(call)

    along_keys = list_work(kinds)
    blocks = _blocks(q, sizes, along_keys, rows_are_queries=True)
    (dq,) = _run(
        dq_kernel,
        call,
        along_keys,
        _backward_inputs(call, gradient, blocks),
        ((blocks.queries, q.shape),),
        ((groups, q.shape[-1], sizes.queries),),
        products=3,
    )
    along_queries = list_work(jnp.swapaxes(kinds, 1, 2))
    blocks = _blocks(q, sizes, along_queries, rows_are_queries=False)
    dk, dv = _run(
        dk_dv_kernel,
        call,
        along_queries,
        _backward_inputs(call, gradient, blocks),
        ((blocks.keys, k.shape), (blocks.keys, k.shape)),
        (),
        products=4,
    )
    return dq[..., :length, :width], dk[:, :, :keys, :width], dv[:, :, :keys, :width]


def _backward_inputs(call: Call, gradient: OutputGradient, blocks: Blocks) -> tuple:
    """Pairs of a block and its array, in the order of splash_kernels.BackwardRefs."""
    q, k, v, q_tokens, k_tokens = call.inputs
    return (
        (blocks.q_tokens, _token_rows(q_tokens)),
        (blocks.k_tokens, _token_rows(k_tokens)),
        (blocks.queries, q),
        (blocks.keys, k),
        (blocks.keys, v),
        (blocks.queries, gradient.d_out),
        (blocks.per_query, gradient.lse),
        (blocks.per_query, gradient.delta),
    )


def _pad_inputs(inputs: AttentionInputs, sizes: Sizes) -> AttentionInputs:
    """Filled up to whole tiles with segment 0, and to a width that lies well in memory."""
    q, k, v, q_tokens, k_tokens = inputs
    length = round_up(q.shape[3], sizes.queries)
    keys = round_up(k.shape[2], sizes.keys)
    width = q.shape[-1]
    width = round_up(width, LANES if width > LANES // 2 else LANES // 2)
    q = _pad(q, (*q.shape[:3], length, width))
    k, v = (_pad(x, (*x.shape[:2], keys, width)) for x in (k, v))
    q_tokens = q_tokens.map(lambda x: _pad(x, (x.shape[0], length)))
    k_tokens = k_tokens.map(lambda x: _pad(x, (x.shape[0], keys)))
    return AttentionInputs(q, k, v, q_tokens, k_tokens)


def _pad(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return x if x.shape == shape else jnp.pad(x, [(0, size - had) for size, had in zip(shape, x.shape)])


def _token_rows(tokens: Tokens) -> jax.Array:
    """int32 [B, 8, T]: positions, segments, `earliest` where there is one, and nothing: as many rows as are
    turned at once.
    """
    rows = jnp.stack(jax.tree.leaves(tokens), 1)  # (B, 2 or 3, T)
    return _pad(rows, (rows.shape[0], SUBLANES, rows.shape[2]))


def _kinds(call: Call) -> jax.Array:
    """int8 [B, tiles of queries, tiles of keys]."""
    queries = tiles.ranges(call.inputs.q_tokens, call.sizes.queries)
    keys = tiles.ranges(call.inputs.k_tokens, call.sizes.keys)
    return jnp.asarray(tiles.kinds(queries, keys, call.mask_spec))


def _blocks(q: jax.Array, sizes: Sizes, work: Work, *, rows_are_queries: bool) -> Blocks:
    groups = q.shape[2]
    width = q.shape[-1]

    def spec(shape: tuple[int | None, ...], is_row: bool, block_index: Callable) -> pl.BlockSpec:
        def index(b: jax.Array, h: jax.Array, step: jax.Array, entries: Any, counts: Any) -> tuple:
            entry, _ = read_entry(entries, counts, b, step, work.most)
            return block_index(b, h, row_of(entry) if is_row else column_of(entry))

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


def _run(
    kernel: Callable,
    call: Call,
    work: Work,
    inputs: tuple,
    outputs: tuple,
    scratch: tuple,
    *,
    products: int,
) -> tuple[jax.Array, ...]:
    """One Pallas call. `inputs`: pairs of a block and its array. `outputs`: pairs of a block and the shape of
    its array; float32, as `scratch` is. `products`: matrix products of a tile.
    """
    specs, arrays = zip(*inputs)
    out_specs, shapes = zip(*outputs)
    batch, kv_heads = shapes[0][:2]

    def on_tile(entries: Any, counts: Any, *refs: Any) -> None:
        bounded = call.inputs.q_tokens.earliest is not None
        kernel(call.mask_spec, TileList(entries, counts, work.most, bounded), refs)

    return pl.pallas_call(
        on_tile,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, kv_heads, work.longest),
            in_specs=specs,
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=_cost(call, products),
        interpret=call.interpret,
        name=f"ringvision_{kernel.__name__}",
    )(work.tiles, work.counts, *arrays)


def _cost(call: Call, products: int) -> pl.CostEstimate:
    """What the compiler is told, to hide transfers behind: one document. The documents are not known when
    compiling.
    """
    q, k, *_ = call.inputs
    share = 2 if call.mask_spec.causal else 1
    scores = math.prod(q.shape[:-1]) * k.shape[2] // share
    bytes_accessed = (q.size * 3 + k.size * 4) * q.dtype.itemsize
    return pl.CostEstimate(
        flops=2 * products * scores * q.shape[-1], transcendentals=scores, bytes_accessed=bytes_accessed
    )
