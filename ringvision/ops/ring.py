"""Ring attention (Liu, Zaharia and Abbeel, 2023): exact attention over a sequence that no single device could
hold.

In: queries, keys and values whose length is spread over the mesh axis `context`, with the position and
segment of every token. Out: the attention's output, spread the same way. Each device keeps its queries; keys
and values travel round the ring, one neighbour a hop, and every device attends to the block that is there. n
devices, at most n - 1 hops:

    forward     keys and values travel; the result over each block is merged with that over the blocks before
                it (softmax by log-sum-exp). Within a step nothing waits for the permute that it started.
    backward    keys and values travel once more, and behind them what has been summed of their gradients, in
                float32; those set out from the first device that has something to add and return to their
                own device with a last permute. A device's share for its own keys never travels. Half of it is
                computed while the first block is on its way, half while the gradients return.

The backward pass is written out rather than derived: with the log-sum-exp over all keys every block's
gradient is exact and they add up. Only KV heads travel, in their own type; positions and segment ids, a few
bytes a token, travel with them.

A hop on which no device of the mesh attends to anything (ops/route.py tells before the first) is not run.
Other ways for keys to arrive:

    two_way     half of the KV heads (where there is one, half of the keys) goes round each way: both
                directions of a link are used
    gather      every device gathers all keys and values first: for chunks so short that a hop cannot hide
                behind the work on one

and, inside any of them, Ulysses on the mesh axis `ulysses` (ops/ulysses.py).

This file has the public functions, the gradient rule, and what is done before and after the hops on each
device; the hops are in ring_hops.py.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from ringvision.mesh import partition_spec
from ringvision.ops import attention, kernels, ulysses
from ringvision.ops.attention import OutputGradient, Partial
from ringvision.ops.exchange import Exchange
from ringvision.ops.inputs import RingOptions, prepare
from ringvision.ops.layout import Layout
from ringvision.ops.mask import Tokens
from ringvision.ops.reach import order_queries
from ringvision.ops.ring_hops import backward_ring, forward_ring, make_kv_block
from ringvision.ops.spec import AttentionSpec

AnyMesh = Mesh | AbstractMesh
Gradients = tuple[jax.Array, jax.Array, jax.Array]
"""dq [B, T, N, H], dk and dv [B, T, K, H]."""
Results = tuple[jax.Array, jax.Array, jax.Array]
"""What the forward pass gave, and the gradient of its output: out and d_out [B, T, N, H], lse float32
[B, N, T]; out and d_out in q's type.
"""


def ring_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mesh: AnyMesh | None = None,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    earliest: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    layout: Layout | None = None,
    exchange: Exchange | None = None,
    kernel: kernels.Name | None = None,
) -> jax.Array:
    """Softmax attention over the whole sequence. Differentiable (once) in q, k and v; works inside and
    outside jit.

    Scores, sums and gradients are accumulated in float32. The batch is spread over (data, fsdp), the length
    over (context, ulysses), the heads over tensor.

    Args:
        q: queries [B, T, N, H], of any floating-point type; a global array, as all are, with its tokens in
            any order that `positions` tells.
        k: keys [B, T, K, H], of q's type; K divides N.
        v: values [B, T, K, H], of q's type.
        mesh: None: the mesh in context if it has an axis `context`, else a ring of all devices.
        positions: int [B, T]. None: 0, 1, 2, ... in the order of `layout`.
        segment_ids: int [B, T]; a token attends to those of its own segment; segment 0 is padding and neither
            attends nor is attended to. None: all are one segment.
        earliest: int [B, T], the lowest position that each token attends to: a token with a window of W has
            its position - W + 1, one that sees everything something very low (ops/mask.py: `ANY`). None: any.
        causal: a token attends to positions up to its own only.
        window: it attends to positions less than this far away only, whichever token it is; None: to any.
        scale: of the scores; None: H ** -0.5.
        layout: the one that the tokens are in (ops/layout.py); None: as they stand. With positions outside
            jit it is checked against them.
        exchange: "ring", "two_way" or "gather"; None: what suits the chip and the length of a chunk
            (ops/exchange.py).
        kernel: "xla", "splash" or "cudnn"; None: what suits the devices (ops/kernels).

    Returns:
        [B, T, N, H] in q's type.

    Raises:
        UserError: shapes, types or a mesh that do not fit.
    """
    tokens, spec = prepare(
        q,
        k,
        v,
        mesh=mesh,
        positions=positions,
        segment_ids=segment_ids,
        earliest=earliest,
        causal=causal,
        window=window,
        scale=scale,
        layout=layout,
        exchange=exchange,
        kernel=kernel,
    )
    return _attention(q, k, v, tokens, spec)


def ring_attention_with_lse(
    q: jax.Array, k: jax.Array, v: jax.Array, **options: Unpack[RingOptions]
) -> Partial:
    """`ring_attention` as a partial result, to be merged with attention to other keys. Forward only.

    Args:
        q: queries [B, T, N, H].
        k: keys [B, T, K, H], of q's type.
        v: values [B, T, K, H], of q's type.
        **options: the keyword arguments of `ring_attention`.

    Returns:
        out [B, T, N, H] and the natural log-sum-exp [B, N, T], both float32.

    Raises:
        UserError: shapes, types or a mesh that do not fit.
    """
    tokens, spec = prepare(q, k, v, **options)
    return _forward(q, k, v, tokens, spec)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, spec: AttentionSpec) -> jax.Array:
    return _forward(q, k, v, tokens, spec)[0].astype(q.dtype)


def _attention_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, spec: AttentionSpec
) -> tuple[jax.Array, tuple]:
    out, lse = _forward(q, k, v, tokens, spec)
    out = checkpoint_name(out.astype(q.dtype), attention.ATTENDED)
    return out, (q, k, v, tokens, out, checkpoint_name(lse, attention.ATTENDED))


def _attention_backward(spec: AttentionSpec, saved: tuple, d_out: jax.Array) -> tuple:
    q, k, v, tokens, out, lse = saved
    dq, dk, dv = _backward(q, k, v, tokens, (out, lse, d_out), spec)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attention.defvjp(_attention_forward, _attention_backward)


@partial(jax.jit, static_argnames=("spec",))
def _forward(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, spec: AttentionSpec) -> Partial:
    """Global arrays -> out float32 [B, T, N, H] and lse float32 [B, N, T]."""
    queries, keys, per_token, per_row = _partition_specs(spec.mesh)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens) -> Partial:
        size = spec.ulysses_devices
        kernel = kernels.load(spec.kernel, spec.mesh)
        q = ulysses.to_heads(q, size, length=1, heads=2)  # (B, T, N, H) with Ulysses' T and N
        k, v = (ulysses.keys_to_heads(x, size) for x in (k, v))  # (B, T, K, H)
        length, heads = q.shape[1:3]
        kv_heads = k.shape[2]
        tokens = ulysses.whole(tokens, size)
        taken = order_queries(tokens)
        q_tokens = attention.repeat_tokens(tokens.map(taken.apply), heads // kv_heads, kernel.folds)
        q = attention.group(taken.apply(q), kv_heads, kernel.folds)
        results = forward_ring(q, q_tokens, make_kv_block(k, v, tokens), spec)
        in_place = (taken.undo(attention.ungroup(x, length)) for x in results)
        out, lse = (
            ulysses.to_length(x, size, length=1, heads=2) for x in in_place
        )  # (B, T, N, H) and (B, T, N)
        return out, jnp.swapaxes(lse, 1, 2)

    in_specs = (queries, keys, keys, per_token)
    return _on_mesh(local, spec.mesh, in_specs, (queries, per_row))(q, k, v, tokens)


@partial(jax.jit, static_argnames=("spec",))
def _backward(
    q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, results: Results, spec: AttentionSpec
) -> Gradients:
    """Global arrays -> the gradients in float32."""
    queries, keys, per_token, per_row = _partition_specs(spec.mesh)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, results: Results) -> Gradients:
        out, lse, d_out = results
        size = spec.ulysses_devices
        kv_heads = k.shape[2]
        kernel = kernels.load(spec.kernel, spec.mesh)
        delta = (d_out.astype(lse.dtype) * out.astype(lse.dtype)).sum(axis=-1)  # (B, T, N)
        lse = jnp.swapaxes(lse, 1, 2)  # (B, T, N)
        by_query = (ulysses.to_heads(x, size, length=1, heads=2) for x in (q, lse, d_out, delta))
        k, v = (ulysses.keys_to_heads(x, size) for x in (k, v))
        tokens = ulysses.whole(tokens, size)
        taken = order_queries(tokens)
        q, lse, d_out, delta = (attention.group(taken.apply(x), k.shape[2], kernel.folds) for x in by_query)
        length = tokens.positions.shape[1]
        q_tokens = attention.repeat_tokens(tokens.map(taken.apply), q.shape[3] // length, kernel.folds)
        gradient = OutputGradient(lse, d_out, delta)
        dq, (dk, dv) = backward_ring(q, q_tokens, make_kv_block(k, v, tokens), gradient, spec)
        dk, dv = (ulysses.keys_to_length(attention.heads_first(x), size, kv_heads) for x in (dk, dv))
        dq = taken.undo(attention.ungroup(dq, length))
        return ulysses.to_length(dq, size, length=1, heads=2), dk, dv

    in_specs = (queries, keys, keys, per_token, (queries, per_row, queries))
    return _on_mesh(local, spec.mesh, in_specs, (queries, keys, keys))(q, k, v, tokens, results)


def _partition_specs(
    mesh: AnyMesh,
) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec, PartitionSpec]:
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
