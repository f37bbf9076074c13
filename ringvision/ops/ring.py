"""Ring attention (Liu, Zaharia and Abbeel, 2023): exact attention over a sequence that no single device could hold.

In: queries, keys and values whose length is spread over the mesh axis `context`, with the position and segment of every token. Out: the
attention's output, spread the same way. Each device keeps its queries; keys and values travel round the ring, one neighbour a hop, and
every device attends to what is visiting. n devices, n - 1 hops:

    forward     keys and values travel. What a hop gave is merged during the next hop, so that within a step nothing waits for the
                permute that it started.
    backward    keys and values travel once more, and behind them what has been summed of their gradients, in float32; those set out
                from the first device that has something to say and come home with the last hop. A device's share for its own keys
                never travels.

The backward pass is written out rather than derived: with the log-sum-exp over all keys every block's gradient is exact and they add up.
Only KV heads travel; positions and segment ids, a few bytes a token, are gathered once.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from ringvision.errors import UserError
from ringvision.mesh import spec
from ringvision.ops import attention
from ringvision.ops.attention import Partial, Rule, Tokens
from ringvision.ops.inputs import check_heads, check_length, make_rule, make_tokens, resolve_mesh

AXIS = "context"
AnyMesh = Mesh | AbstractMesh
Three = tuple[jax.Array, jax.Array, jax.Array]


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
) -> jax.Array:
    """Softmax attention over the whole sequence. Differentiable (once) in q, k and v; works inside and outside jit.

    q [B, T, N, H], k and v [B, T, K, H], one floating-point type, K dividing N: global arrays, their tokens in any order that `positions`
    tells. positions, segment_ids: int [B, T]; a token sees those of its own segment, segment 0 is padding and neither sees nor is seen.
    Defaults: positions 0, 1, 2, ..., one segment. `causal`: only positions up to its own. `window`: only positions less than `window` away.
    `scale=None` is H ** -0.5. `mesh=None`: the mesh in context if it has an axis `context`, else a ring of all devices. The batch is spread
    over (data, fsdp), the length over context, the heads over tensor.

    Returns [B, T, N, H] in q's type; scores, sums and gradients are accumulated in float32. UserError for shapes, types or a mesh that do
    not fit.
    """
    mesh, tokens, rule = _prepare(q, k, v, mesh, positions, segment_ids, causal, window, scale)
    return _attention(q, k, v, tokens, mesh, rule)


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
) -> Partial:
    """`ring_attention` as a partial result, to be merged with attention to other keys: out float32 [B, T, N, H] and the natural
    log-sum-exp float32 [B, N, T]. Forward only."""
    mesh, tokens, rule = _prepare(q, k, v, mesh, positions, segment_ids, causal, window, scale)
    return _forward(q, k, v, tokens, mesh, rule)


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
) -> tuple[AnyMesh, Tokens, Rule]:
    mesh = resolve_mesh(mesh)
    check_heads(q, k, v, mesh)
    if k.shape[1] != q.shape[1]:
        raise UserError(f"k of length {k.shape[1]}: expected q's, {q.shape[1]}; cached_attention takes keys of another length")
    check_length("q", q.shape[1], mesh)
    return mesh, make_tokens("", positions, segment_ids, q.shape[:2]), make_rule(q, causal, window, scale)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, mesh: AnyMesh, rule: Rule) -> jax.Array:
    return _forward(q, k, v, tokens, mesh, rule)[0].astype(q.dtype)


def _attention_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, mesh: AnyMesh, rule: Rule
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    out, lse = _forward(q, k, v, tokens, mesh, rule)
    out = out.astype(q.dtype)
    return out, (q, k, v, *tokens, out, lse)


def _attention_backward(mesh: AnyMesh, rule: Rule, saved: tuple[jax.Array, ...], d_out: jax.Array) -> tuple:
    q, k, v, positions, segment_ids, out, lse = saved
    dq, dk, dv = _backward(q, k, v, Tokens(positions, segment_ids), out, lse, d_out, mesh, rule)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attention.defvjp(_attention_forward, _attention_backward)


@partial(jax.jit, static_argnames=("mesh", "rule"))
def _forward(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, mesh: AnyMesh, rule: Rule) -> Partial:
    queries, keys, per_token, per_row = _specs(mesh)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens) -> Partial:
        q, k, v = attention.group(q, k.shape[2]), attention.heads_first(k), attention.heads_first(v)
        out, lse = _forward_ring(q, jnp.stack([k, v]), tokens, mesh.shape[AXIS], rule)
        return attention.ungroup(out), lse.reshape(lse.shape[0], -1, lse.shape[-1])

    return _on_mesh(local, mesh, (queries, keys, keys, per_token), (queries, per_row))(q, k, v, tokens)


@partial(jax.jit, static_argnames=("mesh", "rule"))
def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    tokens: Tokens,
    out: jax.Array,
    lse: jax.Array,
    d_out: jax.Array,
    mesh: AnyMesh,
    rule: Rule,
) -> Three:
    queries, keys, per_token, per_row = _specs(mesh)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, tokens: Tokens, out: jax.Array, lse: jax.Array, d_out: jax.Array) -> Three:
        kv_heads = k.shape[2]
        q, out, d_out = (attention.group(x, kv_heads) for x in (q, out, d_out))
        delta = (d_out.astype(lse.dtype) * out.astype(lse.dtype)).sum(axis=-1)
        kv = jnp.stack([attention.heads_first(k), attention.heads_first(v)])
        dq, (dk, dv) = _backward_ring(q, kv, tokens, mesh.shape[AXIS], rule, lse.reshape(delta.shape), d_out, delta)
        return attention.ungroup(dq), attention.heads_first(dk), attention.heads_first(dv)

    in_specs = (queries, keys, keys, per_token, queries, per_row, queries)
    return _on_mesh(local, mesh, in_specs, (queries, keys, keys))(q, k, v, tokens, out, lse, d_out)


def _specs(mesh: AnyMesh) -> tuple[PartitionSpec, PartitionSpec, PartitionSpec, PartitionSpec]:
    """Of q, of k and v, of the tokens, and of lse."""
    return (
        spec(mesh, "batch", "length", "heads", None),
        spec(mesh, "batch", "length", "kv_heads", None),
        spec(mesh, "batch", "length"),
        spec(mesh, "batch", "heads", "length"),
    )


def _on_mesh(local: Callable, mesh: AnyMesh, in_specs: tuple, out_specs: tuple) -> Callable:
    """One device needs no mesh, and compiles faster without."""
    if math.prod(mesh.shape.values()) == 1:
        return local
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _hop(x: jax.Array, devices: int) -> jax.Array:
    """To the next device of the ring."""
    return jax.lax.ppermute(x, AXIS, [(i, (i + 1) % devices) for i in range(devices)])


def _visitors(tokens: Tokens, devices: int) -> Callable[[int | jax.Array], Tokens]:
    """hop number -> the Tokens of the keys that are visiting after that many hops."""
    everyone = Tokens(*(jax.lax.all_gather(x, AXIS) for x in tokens))
    here = jax.lax.axis_index(AXIS)
    return lambda hops: Tokens(*(jax.lax.dynamic_index_in_dim(x, (here - hops) % devices, keepdims=False) for x in everyone))


def _forward_ring(q: jax.Array, kv: jax.Array, tokens: Tokens, devices: int, rule: Rule) -> Partial:
    """q [B, K, G, T, H] and kv [2, B, K, S, H], this device's share -> its share of (out, lse)."""
    if devices == 1:
        return attention.forward(q, kv[0], kv[1], tokens, tokens, rule)
    visitors = _visitors(tokens, devices)

    def step(carry: tuple[jax.Array, Partial, Partial], hops: jax.Array) -> tuple[tuple[jax.Array, Partial, Partial], None]:
        kv, done, waiting = carry
        upcoming = _hop(kv, devices)
        fresh = attention.forward(q, kv[0], kv[1], tokens, visitors(hops), rule)
        return (upcoming, attention.merge_grouped(done, waiting), fresh), None

    nothing = attention.empty(q)
    (kv, done, waiting), _ = jax.lax.scan(step, (kv, nothing, nothing), jnp.arange(devices - 1))
    last = attention.forward(q, kv[0], kv[1], tokens, visitors(devices - 1), rule)
    return attention.merge_grouped(attention.merge_grouped(done, waiting), last)


def _backward_ring(
    q: jax.Array,
    kv: jax.Array,
    tokens: Tokens,
    devices: int,
    rule: Rule,
    lse: jax.Array,
    d_out: jax.Array,
    delta: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """This device's share of the gradients: dq [B, K, G, T, H] and, stacked, dk and dv [2, B, K, S, H], float32."""

    def block(kv: jax.Array, k_tokens: Tokens) -> tuple[jax.Array, jax.Array]:
        dq, dk, dv = attention.backward(q, kv[0], kv[1], tokens, k_tokens, rule, lse, d_out, delta)
        return dq, jnp.stack([dk, dv])

    if devices == 1:
        return block(kv, tokens)
    visitors = _visitors(tokens, devices)
    visitor = _hop(kv, devices)
    dq, own = block(kv, tokens)
    if devices > 2:
        upcoming = _hop(visitor, devices)
        more, travelling = block(visitor, visitors(1))
        dq, visitor = dq + more, upcoming

        def step(carry: Three, hops: jax.Array) -> tuple[Three, None]:
            visitor, travelling, dq = carry
            upcoming, arrived = _hop(visitor, devices), _hop(travelling, devices)
            more, fresh = block(visitor, visitors(hops))
            return (upcoming, arrived + fresh, dq + more), None

        (visitor, travelling, dq), _ = jax.lax.scan(step, (visitor, travelling, dq), jnp.arange(2, devices - 1))
        arrived = _hop(travelling, devices)
        more, fresh = block(visitor, visitors(devices - 1))
        travelling = arrived + fresh
    else:
        more, travelling = block(visitor, visitors(1))
    return dq + more, own + _hop(travelling, devices)
