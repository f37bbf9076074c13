"""Ring attention (Liu, Zaharia and Abbeel, 2023): exact attention over a sequence that no single device could
hold.

In: queries, keys and values whose length is spread over the mesh axis `context`, with the position and
segment of every token. Out: the attention's output, spread the same way. Each device keeps its queries; keys
and values travel round the ring, one neighbour a hop, and every device attends to what is visiting. n
devices, at most n - 1 hops:

    forward     keys and values travel; what a visitor gives is merged with what others gave before (softmax by log-sum-exp). Within a
                step nothing waits for the permute that it started.
    backward    keys and values travel once more, and behind them what has been summed of their gradients, in float32; those set out
                from the first device that has something to say and come home with a last permute. A device's
                share for its own keys never travels. Half of it is computed while the first visitor is on its
                way, half while the gradients come home.

The backward pass is written out rather than derived: with the log-sum-exp over all keys every block's
gradient is exact and they add up. Only KV heads travel, in their own type; positions and segment ids, a few
bytes a token, travel with them.

A hop on which no device of the mesh sees anything (ops/route.py tells before the first) is not run. Other
ways for keys to arrive:

    two_way     half of the KV heads (where there is one, half of the keys) goes round each way: both directions of a link are used
    gather      every device gathers all keys and values first: for chunks so short that a hop cannot hide behind the work on one

and, inside any of them, Ulysses on the mesh axis `ulysses` (ops/ulysses.py).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from ringvision.errors import UserError
from ringvision.mesh import partition_spec
from ringvision.ops import attention, kernels, ulysses
from ringvision.ops.attention import MaskSpec, Partial, Tokens
from ringvision.ops.exchange import Exchange, choose_exchange
from ringvision.ops.inputs import (
    check_heads,
    check_layout,
    check_length,
    make_mask_spec,
    make_tokens,
    resolve_mesh,
)
from ringvision.ops.layout import Layout
from ringvision.ops.route import AXIS, Route, all_hops, make_route

AnyMesh = Mesh | AbstractMesh
Three = tuple[jax.Array, jax.Array, jax.Array]


class Setting(NamedTuple):
    """What is fixed when compiling. `hops`: how many there are to run, where that is known by then."""

    mesh: AnyMesh
    mask_spec: MaskSpec
    kernel: kernels.Name
    exchange: Exchange
    hops: int | None

    @property
    def devices(self) -> int:
        return self.mesh.shape[AXIS]

    @property
    def group(self) -> int:
        return self.mesh.shape.get(ulysses.AXIS, 1)


class KVBlock(NamedTuple):
    """What travels, in as few permutes as can be: keys and values [2, B, K, S, H], their positions and
    segment ids int32 [2, B, S].
    """

    kv: jax.Array
    whose: jax.Array

    @property
    def tokens(self) -> Tokens:
        return Tokens(*self.whose)


def ring_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mesh: AnyMesh | None = None,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    layout: Layout | None = None,
    exchange: Exchange | None = None,
    kernel: kernels.Name | None = None,
) -> jax.Array:
    """Softmax attention over the whole sequence. Differentiable (once) in q, k and v; works inside and
    outside jit.

    q [B, T, N, H], k and v [B, T, K, H], one floating-point type, K dividing N: global arrays, their tokens
    in any order that `positions` tells. positions, segment_ids: int [B, T]; a token sees those of its own
    segment, segment 0 is padding and neither sees nor is seen. Defaults: positions 0, 1, 2, ... in the order
    of `layout` (None: as they stand), one segment. `causal`: only positions up to its own. `window`: only
    positions less than `window` away. `scale=None` is H ** -0.5. `mesh=None`: the mesh in context if it has
    an axis `context`, else a ring of all devices. The batch is spread over (data, fsdp), the length over
    (context, ulysses), the heads over tensor.

    `layout`: the one that the tokens are in (ops/layout.py). With positions outside jit it is checked against
    them. `exchange`: "ring", "two_way" or "gather" (None: what suits the chip and the length of a chunk,
    ops/exchange.py). `kernel`: "xla", "splash" or "cudnn" (None: what suits the devices, ops/kernels).

    Returns [B, T, N, H] in q's type; scores, sums and gradients are accumulated in float32. UserError for
    shapes, types or a mesh that do not fit.
    """
    tokens, setting = _prepare(
        q, k, v, mesh, positions, segment_ids, causal, window, scale, layout, exchange, kernel
    )
    return _attention(q, k, v, tokens, setting)


def ring_attention_with_lse(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mesh: AnyMesh | None = None,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    layout: Layout | None = None,
    exchange: Exchange | None = None,
    kernel: kernels.Name | None = None,
) -> Partial:
    """`ring_attention` as a partial result, to be merged with attention to other keys: out float32 [B, T, N,
    H] and the natural log-sum-exp float32 [B, N, T]. Forward only.
    """
    tokens, setting = _prepare(
        q, k, v, mesh, positions, segment_ids, causal, window, scale, layout, exchange, kernel
    )
    return _forward(q, k, v, tokens, setting)


def _prepare(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mesh: AnyMesh | None,
    positions: jax.Array | None,
    segment_ids: jax.Array | None,
    causal: bool,
    window: int | None,
    scale: float | None,
    layout: Layout | None,
    exchange: Exchange | None,
    kernel: kernels.Name | None,
) -> tuple[Tokens, Setting]:
    mesh = resolve_mesh(mesh)
    check_heads(q, k, v, mesh)
    if k.shape[1] != q.shape[1]:
        raise UserError(
            f"k of length {k.shape[1]}: expected q's, {q.shape[1]}; cached_attention takes keys "
            "of another length"
        )
    check_length("q", q.shape[1], mesh)
    mask_spec = make_mask_spec(q, causal, window, scale)
    devices = mesh.shape[AXIS]
    check_layout(layout, positions, segment_ids, q.shape[:2], devices)
    exchange = choose_exchange(exchange, mesh, q, k, mask_spec)
    hops = None
    if segment_ids is None and window is None:
        hops = devices - 1  # the last position sees them all
    elif segment_ids is None and positions is None and exchange == "ring":
        hops = all_hops(q.shape[1], devices, layout, mask_spec)
    tokens = make_tokens("", positions, segment_ids, q.shape[:2], layout, devices)
    return tokens, Setting(mesh, mask_spec, kernels.choose(kernel, mesh, q), exchange, hops)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, setting: Setting) -> jax.Array:
    return _forward(q, k, v, tokens, setting)[0].astype(q.dtype)


def _attention_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, setting: Setting
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    out, lse = _forward(q, k, v, tokens, setting)
    out = out.astype(q.dtype)
    return out, (q, k, v, *tokens, out, lse)


def _attention_backward(setting: Setting, saved: tuple[jax.Array, ...], d_out: jax.Array) -> tuple:
    q, k, v, positions, segment_ids, out, lse = saved
    dq, dk, dv = _backward(q, k, v, Tokens(positions, segment_ids), out, lse, d_out, setting)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attention.defvjp(_attention_forward, _attention_backward)


@partial(jax.jit, static_argnames=("setting",))
def _forward(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, setting: Setting) -> Partial:
    queries, keys, per_token, per_row = _specs(setting.mesh)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens) -> Partial:
        size = setting.group
        kernel = kernels.load(setting.kernel, setting.mesh)
        q = ulysses.to_heads(q, size, length=1, heads=2)
        k, v = (ulysses.keys_to_heads(x, size) for x in (k, v))
        (length, heads), kv_heads, tokens = q.shape[1:3], k.shape[2], ulysses.whole(tokens, size)
        rows = attention.rows_of(tokens, heads // kv_heads, kernel.folds)
        results = _forward_ring(
            attention.group(q, kv_heads, kernel.folds), rows, _kv_block(k, v, tokens), setting
        )
        out, lse = (ulysses.to_length(attention.ungroup(x, length), size, length=1, heads=2) for x in results)
        return out, jnp.swapaxes(lse, 1, 2)

    return _on_mesh(local, setting.mesh, (queries, keys, keys, per_token), (queries, per_row))(
        q, k, v, tokens
    )


@partial(jax.jit, static_argnames=("setting",))
def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    tokens: Tokens,
    out: jax.Array,
    lse: jax.Array,
    d_out: jax.Array,
    setting: Setting,
) -> Three:
    queries, keys, per_token, per_row = _specs(setting.mesh)

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        tokens: Tokens,
        out: jax.Array,
        lse: jax.Array,
        d_out: jax.Array,
    ) -> Three:
        size = setting.group
        kv_heads = k.shape[2]
        kernel = kernels.load(setting.kernel, setting.mesh)
        delta = (d_out.astype(lse.dtype) * out.astype(lse.dtype)).sum(axis=-1)
        lse = jnp.swapaxes(lse, 1, 2)
        by_query = (ulysses.to_heads(x, size, length=1, heads=2) for x in (q, lse, d_out, delta))
        k, v = (ulysses.keys_to_heads(x, size) for x in (k, v))
        q, lse, d_out, delta = (attention.group(x, k.shape[2], kernel.folds) for x in by_query)
        tokens = ulysses.whole(tokens, size)
        length = tokens.positions.shape[1]
        rows = attention.rows_of(tokens, q.shape[3] // length, kernel.folds)
        dq, (dk, dv) = _backward_ring(q, rows, _kv_block(k, v, tokens), lse, d_out, delta, setting)
        dk, dv = (ulysses.keys_to_length(attention.heads_first(x), size, kv_heads) for x in (dk, dv))
        return ulysses.to_length(attention.ungroup(dq, length), size, length=1, heads=2), dk, dv

    in_specs = (queries, keys, keys, per_token, queries, per_row, queries)
    return _on_mesh(local, setting.mesh, in_specs, (queries, keys, keys))(q, k, v, tokens, out, lse, d_out)


def _specs(mesh: AnyMesh) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec, PartitionSpec]:
    """Of q, of k and v, of the tokens, and of lse."""
    return (
        partition_spec(mesh, "batch", "length", "heads", None),
        partition_spec(mesh, "batch", "length", "kv_heads", None),
        partition_spec(mesh, "batch", "length"),
        partition_spec(mesh, "batch", "heads", "length"),
    )


def _on_mesh(local: Callable, mesh: AnyMesh, in_specs: tuple, out_specs: tuple) -> Callable:
    """One device needs no mesh, and compiles faster without."""
    if math.prod(mesh.shape.values()) == 1:
        return local
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


# ---------------------------------------------------------------------------------- on one device of the ring


def _kv_block(k: jax.Array, v: jax.Array, tokens: Tokens) -> KVBlock:
    """k, v [B, S, K, H]."""
    return KVBlock(jnp.stack([attention.heads_first(k), attention.heads_first(v)]), jnp.stack(tokens))


class Lane(NamedTuple):
    """Keys that go round one way (+1 or -1), and the queries, with what belongs to them, that attend to
    those.
    """

    direction: int
    q: jax.Array
    rows: tuple[jax.Array, ...]
    here: KVBlock


def _lanes(q: jax.Array, rows: tuple[jax.Array, ...], here: KVBlock, setting: Setting) -> list[Lane]:
    """One, or two: of half of the KV heads each, or where their number is odd of half of the keys each."""
    kv_heads, keys = here.kv.shape[2:4]
    if setting.exchange != "two_way" or (kv_heads % 2 and keys < 2):
        return [Lane(1, q, rows, here)]
    if kv_heads % 2 == 0:
        parts = slice(0, kv_heads // 2), slice(kv_heads // 2, None)
        return [
            Lane(way, q[:, part], tuple(x[:, part] for x in rows), KVBlock(here.kv[:, :, part], here.whose))
            for way, part in zip((1, -1), parts)
        ]
    parts = slice(0, keys // 2), slice(keys // 2, None)
    return [
        Lane(way, q, rows, KVBlock(here.kv[:, :, :, part], here.whose[:, :, part]))
        for way, part in zip((1, -1), parts)
    ]


def _forward_ring(q: jax.Array, q_tokens: Tokens, here: KVBlock, setting: Setting) -> Partial:
    """Grouped queries [B, K, G, T, H] and this device's keys -> its share of (out, lse)."""
    kernel = kernels.load(setting.kernel, setting.mesh)

    def attend(q: jax.Array, kv_block: KVBlock, onto: Partial | None = None) -> Partial:
        return kernel.forward(
            q, *kv_block.kv, q_tokens, kv_block.tokens, setting.mask_spec, **kernel.onto(onto)
        )

    if setting.devices == 1 or setting.hops == 0:
        return attend(q, here)
    if setting.exchange == "gather":
        return attend(q, _gather(here))
    lanes = _lanes(q, (), here, setting)
    way = _route(here.tokens, setting)

    def step(_: jax.Array, carry: tuple) -> tuple:
        hop, kv_blocks, done = carry
        upcoming = [way.send(kv_block, lane.direction) for lane, kv_block in zip(lanes, kv_blocks)]
        fresh = [attend(lane.q, kv_block, onto) for lane, kv_block, onto in zip(lanes, kv_blocks, done)]
        upcoming, fresh = _in_step((upcoming, fresh))
        upcoming = [way.catch_up(kv_block, hop, lane.direction) for lane, kv_block in zip(lanes, upcoming)]
        return way.after(hop), upcoming, [kernel.merged(*pair) for pair in zip(done, fresh)]

    start = way.start, [lane.here for lane in lanes], [attention.empty(lane.q) for lane in lanes]
    _, kv_blocks, done = jax.lax.fori_loop(0, way.hops, step, start)
    results = [
        kernel.merged(onto, attend(lane.q, kv_block, onto))
        for lane, kv_block, onto in zip(lanes, kv_blocks, done)
    ]
    return _together(results, q.shape[1], attention.merge_grouped)


def _backward_ring(
    q: jax.Array,
    q_tokens: Tokens,
    here: KVBlock,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
    setting: Setting,
) -> tuple[jax.Array, jax.Array]:
    """This device's share of the gradients: dq [B, K, G, T, H] and, stacked, dk and dv [2, B, K, S, H],
    float32.
    """
    kernel = kernels.load(setting.kernel, setting.mesh)

    def block(
        q: jax.Array, rows: tuple[jax.Array, ...], kv_block: KVBlock, onto: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        dq, dk, dv = kernel.backward(
            q, *kv_block.kv, q_tokens, kv_block.tokens, setting.mask_spec, *rows, **kernel.onto(onto)
        )
        return dq, jnp.stack([dk, dv])

    rows, (kv_heads, keys) = (lse, d_out, delta), here.kv.shape[2:4]
    if setting.devices == 1 or setting.hops == 0:
        return block(q, rows, here)
    if setting.exchange == "gather":
        dq, d_kv = block(q, rows, _gather(here))
        return dq, jax.lax.psum_scatter(d_kv, AXIS, scatter_dimension=3, tiled=True)
    lanes = _lanes(q, rows, here, setting)
    way = _route(here.tokens, setting)
    halves = [slice(0, -(-keys // 2)), slice(-(-keys // 2), None)][:keys]

    def own(half: slice, q: jax.Array, dq: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        return block(q, rows, KVBlock(here.kv[:, :, :, half], here.whose[:, :, half]), dq)

    def visit(kv_blocks: list[KVBlock], dq: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        results = [
            block(lane.q, lane.rows, kv_block, onto) for lane, kv_block, onto in zip(lanes, kv_blocks, dq)
        ]
        return [dq for dq, _ in results], [d_kv for _, d_kv in results]

    def step(_: jax.Array, carry: tuple) -> tuple:
        hop, kv_blocks, travelling, dq = carry
        upcoming = [way.send(kv_block, lane.direction) for lane, kv_block in zip(lanes, kv_blocks)]
        arrived = [way.send(sums, lane.direction) for lane, sums in zip(lanes, travelling)]
        upcoming, arrived, (more, fresh) = _in_step((upcoming, arrived, visit(kv_blocks, dq)))
        arrived = [way.catch_up(sums, way.before(hop), lane.direction) for lane, sums in zip(lanes, arrived)]
        upcoming = [way.catch_up(kv_block, hop, lane.direction) for lane, kv_block in zip(lanes, upcoming)]
        return way.after(hop), upcoming, _add(arrived, fresh), added(dq, more)

    def added(dq: list[jax.Array], more: list[jax.Array]) -> list[jax.Array]:
        return [kernel.added(*pair) for pair in zip(dq, more)]

    def around() -> tuple[jax.Array, jax.Array]:
        kv_blocks = [way.send(lane.here, lane.direction) for lane in lanes]
        kv_blocks, (own_dq, own_kv) = _in_step((kv_blocks, own(halves[0], q)))
        kv_blocks = [
            way.catch_up(kv_block, way.start, lane.direction) for lane, kv_block in zip(lanes, kv_blocks)
        ]
        dq = _apart(own_dq, len(lanes))
        hop = way.after(way.start)
        last = setting.hops
        if last == 1:
            more, travelling = visit(kv_blocks, dq)
            dq = added(dq, more)
        else:
            upcoming = [way.send(kv_block, lane.direction) for lane, kv_block in zip(lanes, kv_blocks)]
            upcoming, (more, travelling) = _in_step((upcoming, visit(kv_blocks, dq)))
            dq = added(dq, more)
            upcoming = [
                way.catch_up(kv_block, hop, lane.direction) for lane, kv_block in zip(lanes, upcoming)
            ]
            # How many hops there are must be known before compiling to spare the last one what it sends on
            # for nothing.
            carry = way.after(hop), upcoming, travelling, dq
            hop, kv_blocks, travelling, dq = jax.lax.fori_loop(
                1, way.hops if last is None else last - 1, step, carry
            )
            if last is None:
                hop = way.before(hop)
            else:
                arrived = [way.send(sums, lane.direction) for lane, sums in zip(lanes, travelling)]
                arrived, (more, fresh) = _in_step((arrived, visit(kv_blocks, dq)))
                travelling = _add(arrived, fresh)
                dq = added(dq, more)
        travelling, own_dq, late_q = _in_step((travelling, _together(dq, kv_heads, jnp.add), q))
        home = [way.homeward(sums, lane.direction) for lane, sums in zip(lanes, travelling)]
        for half in halves[1:]:
            more_dq, more_kv = own(half, late_q, own_dq)
            home, more_dq, more_kv = _in_step((home, more_dq, more_kv))
            own_dq = kernel.added(own_dq, more_dq)
            own_kv = jnp.concatenate([own_kv, more_kv], axis=3)
        home = [way.arrive_home(sums, hop, lane.direction) for lane, sums in zip(lanes, home)]
        return own_dq, own_kv + _joined(home, kv_heads)

    if setting.hops is not None:
        return around()
    return jax.lax.cond(way.hops > 0, around, lambda: block(q, rows, here))


def _in_step(arrays: Any) -> Any:
    """Nothing that uses any of these comes before all of them: a compiler that fills the time of a permute
    then has only the kernel to do it with, also where it takes the permute for so short that less would
    do.
    """
    return jax.lax.optimization_barrier(arrays)


def _route(tokens: Tokens, setting: Setting) -> Route:
    return make_route(
        tokens, setting.mask_spec, setting.mesh, setting.hops, both_ways=setting.exchange == "two_way"
    )


def _gather(here: KVBlock) -> KVBlock:
    """Everybody's keys, one share behind the other."""
    return KVBlock(
        jax.lax.all_gather(here.kv, AXIS, axis=3, tiled=True),
        jax.lax.all_gather(here.whose, AXIS, axis=2, tiled=True),
    )


def _add(sums: list[jax.Array], more: list[jax.Array]) -> list[jax.Array]:
    return [a + b for a, b in zip(sums, more)]


def _apart(dq: jax.Array, lanes: int) -> list[jax.Array]:
    """What the lanes add to: each to its own heads' or, where all of them have all heads, the second to a sum
    of its own.
    """
    if lanes == 1:
        return [dq]
    return jnp.split(dq, lanes, axis=1) if dq.shape[1] % lanes == 0 else [dq, jnp.zeros_like(dq)]


def _together(parts: list, kv_heads: int, over_keys: Callable) -> Any:
    """The lanes' results for queries, [B, K, ...]: side by side where lanes had heads of their own, else
    combined over keys.
    """
    if len(parts) == 1:
        return parts[0]
    if kv_heads % 2 == 0:
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *parts)
    return over_keys(*parts)


def _joined(parts: list[jax.Array], kv_heads: int) -> jax.Array:
    """The lanes' gradients of keys, [2, B, K, S, H]."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2 if kv_heads % 2 == 0 else 3)
