"""What one device of the ring does: the hops, forward and backward. Inside shard_map, or on one device alone.

In: this device's grouped queries and its keys and values, with their tokens. Out: its share of the output and
log-sum-exp, or of the gradients. What travels, and when, is told at the top of ring.py.

Axes: B batch, K KV heads, G query heads of each, T this device's queries, S its keys, H head width. A kernel
that folds groups has [B, K, 1, T G, H] for [B, K, G, T, H].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ringvision.ops import attention, kernels
from ringvision.ops.attention import AttentionInputs, OutputGradient, Partial
from ringvision.ops.mask import Tokens
from ringvision.ops.route import Route, make_route
from ringvision.ops.spec import AXIS, AttentionSpec


class KVBlock(NamedTuple):
    """What travels, in as few permutes as can be: keys and values [2, B, K, S, H], their positions and
    segment ids int32 [2, B, S].
    """

    kv: jax.Array
    position_and_segment: jax.Array

    @property
    def tokens(self) -> Tokens:
        """int32 [B, S] each."""
        return Tokens(*self.position_and_segment)

    def heads(self, part: slice) -> "KVBlock":
        """Some of the KV heads: keys and values [2, B, K', S, H]."""
        return KVBlock(self.kv[:, :, part], self.position_and_segment)

    def keys(self, part: slice) -> "KVBlock":
        """Some of the keys: keys and values [2, B, K, S', H], tokens [2, B, S']."""
        return KVBlock(self.kv[:, :, :, part], self.position_and_segment[:, :, part])


def make_kv_block(k: jax.Array, v: jax.Array, tokens: Tokens) -> KVBlock:
    """k and v [B, S, K, H], tokens int32 [B, S] -> the block [2, B, K, S, H]. How far back the tokens may
    look, as queries, is not in it.
    """
    return KVBlock(
        jnp.stack([attention.heads_first(k), attention.heads_first(v)]),
        jnp.stack([tokens.positions, tokens.segment_ids]),
    )


class Direction(NamedTuple):
    """Keys that go round the ring one way, and the queries that attend to those. Two of them share the work
    where both directions of the links are used.

    shift: +1 or -1, which neighbour they go to next. q [B, K, G, T, H]; gradient: of these queries, None
    forward; own: the keys that this device sends out.
    """

    shift: int
    q: jax.Array
    gradient: OutputGradient | None
    own: KVBlock


def _directions(
    q: jax.Array, gradient: OutputGradient | None, own: KVBlock, spec: AttentionSpec
) -> list[Direction]:
    """One, or two: of half of the KV heads each, or where their number is odd of half of the keys each."""
    kv_heads, keys = own.kv.shape[2:4]
    if spec.exchange != "two_way" or (kv_heads % 2 and keys < 2):
        return [Direction(1, q, gradient, own)]
    if kv_heads % 2:
        parts = slice(0, keys // 2), slice(keys // 2, None)
        return [Direction(shift, q, gradient, own.keys(part)) for shift, part in zip((1, -1), parts)]
    parts = slice(0, kv_heads // 2), slice(kv_heads // 2, None)
    return [
        Direction(
            shift,
            q[:, part],
            None if gradient is None else OutputGradient(*(x[:, part] for x in gradient)),
            own.heads(part),
        )
        for shift, part in zip((1, -1), parts)
    ]


def forward_ring(q: jax.Array, q_tokens: Tokens, own: KVBlock, spec: AttentionSpec) -> Partial:
    """Attention of this device's queries to the keys of all devices.

    Args:
        q: grouped queries [B, K, G, T, H].
        q_tokens: int32 [B, T].
        own: this device's keys and values.
        spec: what is fixed when compiling.

    Returns:
        out [B, K, G, T, H] and lse [B, K, G, T], float32.
    """
    kernel = kernels.load(spec.kernel, spec.mesh)

    def attend(q: jax.Array, block: KVBlock, initial: Partial | None = None) -> Partial:
        k, v = block.kv
        inputs = AttentionInputs(q, k, v, q_tokens, block.tokens)
        return kernel.forward(inputs, spec.mask, **kernel.starting_from(initial))

    if spec.devices == 1 or spec.hops == 0:
        return attend(q, own)
    if spec.exchange == "gather":
        return attend(q, _gather(own))
    directions = _directions(q, None, own, spec)
    route = make_route(q_tokens, own.tokens, spec)

    def step(_: jax.Array, carry: tuple) -> tuple:
        hop, blocks, done = carry
        upcoming = [route.send(block, d.shift) for d, block in zip(directions, blocks)]
        results = [attend(d.q, block, initial) for d, block, initial in zip(directions, blocks, done)]
        upcoming, results = _schedule_together((upcoming, results))
        upcoming = [route.skip_to_next(block, hop, d.shift) for d, block in zip(directions, upcoming)]
        return route.next_hop(hop), upcoming, [kernel.merge(*pair) for pair in zip(done, results)]

    start = route.start, [d.own for d in directions], [attention.empty(d.q) for d in directions]
    _, blocks, done = jax.lax.fori_loop(0, route.hops, step, start)
    results = [
        kernel.merge(initial, attend(d.q, block, initial))
        for d, block, initial in zip(directions, blocks, done)
    ]
    return _combine(results, q.shape[1], attention.merge_grouped)


def backward_ring(
    q: jax.Array, q_tokens: Tokens, own: KVBlock, gradient: OutputGradient, spec: AttentionSpec
) -> tuple[jax.Array, jax.Array]:
    """This device's share of the gradients.

    Args:
        q: grouped queries [B, K, G, T, H].
        q_tokens: int32 [B, T].
        own: this device's keys and values.
        gradient: of this device's queries; lse and delta over the keys of all devices.
        spec: what is fixed when compiling.

    Returns:
        dq [B, K, G, T, H] and, stacked, dk and dv [2, B, K, S, H], float32.
    """
    block_gradients = partial(_block_gradients, q_tokens, spec)
    if spec.devices == 1 or spec.hops == 0:
        return block_gradients(q, gradient, own)
    if spec.exchange == "gather":
        dq, d_kv = block_gradients(q, gradient, _gather(own))
        return dq, jax.lax.psum_scatter(d_kv, AXIS, scatter_dimension=3, tiled=True)
    directions = _directions(q, gradient, own, spec)
    backward = _BackwardHops(
        q, own, gradient, spec, make_route(q_tokens, own.tokens, spec), directions, block_gradients
    )
    if spec.hops is not None:
        return backward.run()
    return jax.lax.cond(backward.route.hops > 0, backward.run, lambda: block_gradients(q, gradient, own))


def _block_gradients(
    q_tokens: Tokens,
    spec: AttentionSpec,
    q: jax.Array,
    gradient: OutputGradient,
    block: KVBlock,
    initial: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """dq [B, K, G, T, H], started from `initial` where the kernel can, and dk and dv [2, B, K, S, H]."""
    kernel = kernels.load(spec.kernel, spec.mesh)
    k, v = block.kv
    inputs = AttentionInputs(q, k, v, q_tokens, block.tokens)
    dq, dk, dv = kernel.backward(inputs, gradient, spec.mask, **kernel.starting_from(initial))
    return dq, jnp.stack([dk, dv])


@dataclass(frozen=True)
class _BackwardHops:
    """The backward pass over at least one hop. Lists have one item for each direction: `blocks` the keys that
    are here now, `dq` what is summed of the queries' gradients, `d_kv` float32 [2, B, K, S, H] what is summed
    of the gradients of keys, which travels one hop behind them.
    """

    q: jax.Array
    own: KVBlock
    gradient: OutputGradient
    spec: AttentionSpec
    route: Route
    directions: list[Direction]
    block_gradients: Callable[..., tuple[jax.Array, jax.Array]]

    def run(self) -> tuple[jax.Array, jax.Array]:
        """dq [B, K, G, T, H] and, stacked, dk and dv [2, B, K, S, H], float32."""
        kv_heads, keys = self.own.kv.shape[2:4]
        # Own keys in two halves: one while the first hop's keys arrive, one while gradients return.
        halves = [slice(0, -(-keys // 2)), slice(-(-keys // 2), None)][:keys]
        blocks = self._send([d.own for d in self.directions])
        blocks, (own_dq, own_d_kv) = _schedule_together((blocks, self._own_gradients(halves[0], self.q)))
        blocks = self._skip_to_next(blocks, self.route.start)
        hop, d_kv, dq = self._hops(blocks, _split_dq(own_dq, len(self.directions)))
        d_kv, own_dq, q = _schedule_together((d_kv, _combine(dq, kv_heads, jnp.add), self.q))
        d_kv = [self.route.start_return(sums, d.shift) for d, sums in zip(self.directions, d_kv)]
        for half in halves[1:]:
            more_dq, more_d_kv = self._own_gradients(half, q, own_dq)
            d_kv, more_dq, more_d_kv = _schedule_together((d_kv, more_dq, more_d_kv))
            own_dq = self._kernel.add(own_dq, more_dq)
            own_d_kv = jnp.concatenate([own_d_kv, more_d_kv], axis=3)
        d_kv = [self.route.finish_return(sums, hop, d.shift) for d, sums in zip(self.directions, d_kv)]
        return own_dq, own_d_kv + _concatenate_keys(d_kv, kv_heads)

    def _hops(self, blocks: list[KVBlock], dq: list) -> tuple[jax.Array, list, list]:
        """All hops, from when the first keys are here: (the last hop, d_kv, dq)."""
        hop = self.route.next_hop(self.route.start)
        last = self.spec.hops
        if last == 1:
            more, d_kv = self._visiting_gradients(blocks, dq)
            return hop, d_kv, self._add_dq(dq, more)
        upcoming, (more, d_kv) = _schedule_together(
            (self._send(blocks), self._visiting_gradients(blocks, dq))
        )
        dq = self._add_dq(dq, more)
        upcoming = self._skip_to_next(upcoming, hop)
        # Only where the number of hops is known before compiling can the last one be spared what it sends on
        # for nothing.
        carry = self.route.next_hop(hop), upcoming, d_kv, dq
        hop, blocks, d_kv, dq = jax.lax.fori_loop(
            1, self.route.hops if last is None else last - 1, self._step, carry
        )
        if last is None:
            return self.route.previous_hop(hop), d_kv, dq
        arrived = self._send(d_kv)
        arrived, (more, new) = _schedule_together((arrived, self._visiting_gradients(blocks, dq)))
        return hop, _add(arrived, new), self._add_dq(dq, more)

    def _step(self, _: jax.Array, carry: tuple) -> tuple:
        hop, blocks, d_kv, dq = carry
        upcoming = self._send(blocks)
        arrived = self._send(d_kv)
        upcoming, arrived, (more, new) = _schedule_together(
            (upcoming, arrived, self._visiting_gradients(blocks, dq))
        )
        arrived = self._skip_to_next(arrived, self.route.previous_hop(hop))
        upcoming = self._skip_to_next(upcoming, hop)
        return self.route.next_hop(hop), upcoming, _add(arrived, new), self._add_dq(dq, more)

    @property
    def _kernel(self) -> kernels.Kernel:
        return kernels.load(self.spec.kernel, self.spec.mesh)

    def _own_gradients(
        self, part: slice, q: jax.Array, dq: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """From some of this device's own keys."""
        return self.block_gradients(q, self.gradient, self.own.keys(part), dq)

    def _visiting_gradients(
        self, blocks: list[KVBlock], dq: list[jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """From the keys that are here now, of each direction: (dq, d_kv)."""
        results = [
            self.block_gradients(d.q, d.gradient, block, initial)
            for d, block, initial in zip(self.directions, blocks, dq)
        ]
        return [dq for dq, _ in results], [d_kv for _, d_kv in results]

    def _add_dq(self, dq: list[jax.Array], more: list[jax.Array]) -> list[jax.Array]:
        return [self._kernel.add(*pair) for pair in zip(dq, more)]

    def _send(self, arrays: list) -> list:
        return [self.route.send(x, d.shift) for d, x in zip(self.directions, arrays)]

    def _skip_to_next(self, arrays: list, hop: jax.Array) -> list:
        return [self.route.skip_to_next(x, hop, d.shift) for d, x in zip(self.directions, arrays)]


def _schedule_together(arrays: Any) -> Any:
    """An optimization barrier: nothing that uses any of these arrays comes before all of them. A compiler
    that fills the time of a permute then has only the kernel to do it with, also where it takes the permute
    for so short that less would do.
    """
    return jax.lax.optimization_barrier(arrays)


def _gather(own: KVBlock) -> KVBlock:
    """The keys of all devices, one share behind the other."""
    return KVBlock(
        jax.lax.all_gather(own.kv, AXIS, axis=3, tiled=True),
        jax.lax.all_gather(own.position_and_segment, AXIS, axis=2, tiled=True),
    )


def _add(sums: list[jax.Array], more: list[jax.Array]) -> list[jax.Array]:
    return [a + b for a, b in zip(sums, more)]


def _split_dq(dq: jax.Array, directions: int) -> list[jax.Array]:
    """dq [B, K, G, T, H] for each direction to add to: its own heads' or, where both have all heads, the
    second gets zeros to sum in.
    """
    if directions == 1:
        return [dq]
    return jnp.split(dq, directions, axis=1) if dq.shape[1] % directions == 0 else [dq, jnp.zeros_like(dq)]


def _combine(parts: list, kv_heads: int, over_keys: Callable) -> Any:
    """The directions' results for queries, [B, K, ...]: side by side where each had KV heads of its own, else
    combined by `over_keys`.
    """
    if len(parts) == 1:
        return parts[0]
    if kv_heads % 2 == 0:
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *parts)
    return over_keys(*parts)


def _concatenate_keys(parts: list[jax.Array], kv_heads: int) -> jax.Array:
    """The directions' gradients of keys and values, [2, B, K, S, H], along what they had shared out."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2 if kv_heads % 2 == 0 else 3)
