"""Attention of new tokens to a cache that is spread over the ring. The cache never moves: the queries, which
are few, go to every device, each attends to its own share, and the partial results merge by their log-sum-exp
(a pmax and a psum).

In: queries of new tokens, spread like the length (over context and ulysses) or on every device; keys and
values of the cache, heads first as the kernels read them, spread like the length along their slots. Out:
output and log-sum-exp over the whole cache, ready to be merged with attention to anything else. Forward only.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from ringvision.mesh import RULES, num_shards, partition_spec
from ringvision.ops import attention, kernels
from ringvision.ops.attention import MaskSpec, Partial, Tokens
from ringvision.ops.inputs import check_heads, check_length, make_mask_spec, make_tokens, resolve_mesh


def cached_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    q_positions: jax.Array,
    k_positions: jax.Array,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    window: int | None = None,
    scale: float | None = None,
    kernel: kernels.Name | None = None,
) -> Partial:
    """q [B, T, N, H] of new tokens, k and v [B, K, S, H] of the cache -> out float32 [B, T, N, H], natural
    lse float32 [B, N, T].

    Causal by positions. positions and segment_ids: int [B, T] and [B, S]; segment 0 is an empty slot or
    padding. S is a multiple of context x ulysses. Where T is too, the result is spread over these like a
    block of prefill, otherwise every device has it all. UserError for shapes, types or a mesh that do not
    fit.
    """
    mesh = resolve_mesh(mesh)
    by_token = jax.eval_shape(attention.heads_first, k), jax.eval_shape(attention.heads_first, v)
    check_heads(q, *by_token, mesh)
    check_length("k", k.shape[2], mesh)
    q_tokens = make_tokens("q_", q_positions, q_segment_ids, q.shape[:2])
    k_tokens = make_tokens("k_", k_positions, k_segment_ids, (k.shape[0], k.shape[2]))
    return _attend(
        q, k, v, q_tokens, k_tokens, mesh, make_mask_spec(q, True, window, scale), _kernel(kernel, mesh, q)
    )


def _kernel(name: kernels.Name | None, mesh: Mesh | AbstractMesh, q: jax.Array) -> kernels.Name:
    """A single token makes no tiles: a product with all keys at once is as fast as memory is."""
    return "xla" if name is None and q.shape[1] == 1 else kernels.choose(name, mesh, q)


@partial(jax.jit, static_argnames=("mesh", "mask_spec", "kernel"))
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    mesh: Mesh | AbstractMesh,
    mask_spec: MaskSpec,
    kernel: kernels.Name,
) -> Partial:
    devices = num_shards(mesh, "length")
    axes = tuple(axis for axis in RULES.length if axis in mesh.shape)
    scatter = q.shape[1] % devices == 0

    def local(q: jax.Array, k: jax.Array, v: jax.Array, q_tokens: Tokens, k_tokens: Tokens) -> Partial:
        out, lse = kernels.forward(kernels.load(kernel, mesh), q, k, v, q_tokens, k_tokens, mask_spec)
        if devices > 1:
            out, lse = _merge_devices(out, lse, scatter, axes)
        length = q.shape[1] // devices if scatter else q.shape[1]
        return attention.ungroup(out, length), jnp.swapaxes(attention.ungroup(lse, length), 1, 2)

    if all(size == 1 for size in mesh.shape.values()):
        return local(q, k, v, q_tokens, k_tokens)
    keys = partition_spec(mesh, "batch", "kv_heads", "length", None)
    length = "length" if scatter else None
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(
            partition_spec(mesh, "batch", None, "heads", None),
            keys,
            keys,
            partition_spec(mesh, "batch", None),
            partition_spec(mesh, "batch", "length"),
        ),
        out_specs=(
            partition_spec(mesh, "batch", length, "heads", None),
            partition_spec(mesh, "batch", "heads", length),
        ),
        check_vma=False,
    )(q, k, v, q_tokens, k_tokens)


def _merge_devices(out: jax.Array, lse: jax.Array, scatter: bool, axes: tuple[str, ...]) -> Partial:
    """out [B, K, G, T, H] and lse [B, K, G, T] over each device's keys -> over all; with `scatter` each keeps
    its share of T.
    """
    largest = attention.finite(jax.lax.pmax(lse, axes))
    weight = jnp.exp(lse - largest)
    weighted = jnp.concatenate([out * weight[..., None], weight[..., None]], axis=-1)
    if scatter:
        weighted = jax.lax.psum_scatter(weighted, axes, scatter_dimension=3, tiled=True)
        share = weighted.shape[3]
        largest = jax.lax.dynamic_slice_in_dim(largest, jax.lax.axis_index(axes) * share, share, axis=3)
    else:
        weighted = jax.lax.psum(weighted, axes)
    out = weighted[..., :-1]
    total = weighted[..., -1]
    return out / jnp.where(total == 0, 1, total)[..., None], largest + jnp.log(total)
