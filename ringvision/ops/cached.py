"""Attention of new tokens to a cache that is spread over the ring. The cache never moves: the queries, which
are few, go to every device, each attends to its own share, and the partial results merge by their log-sum-exp
(a pmax and a psum).

In: queries of new tokens, spread like the length (over context and ulysses) or on every device; keys and
values of the cache, heads first as the kernels read them, spread like the length along their slots. Out:
output and log-sum-exp over the whole cache, ready to be merged with attention to anything else. Forward only.

A cache with fewer rows than there are queries is a prefix that rows share: neighbouring rows of queries
become one row, so that its keys are read once for all of them (cascade inference: Ye et al., 2024).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from ringvision.errors import UserError
from ringvision.mesh import RULES, num_shards, partition_spec
from ringvision.ops import attention, kernels
from ringvision.ops.attention import Partial
from ringvision.ops.inputs import check_heads, check_length, make_mask_spec, make_tokens, resolve_mesh
from ringvision.ops.mask import MaskSpec, Tokens


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
    q_earliest: jax.Array | None = None,
    window: int | None = None,
    scale: float | None = None,
    kernel: kernels.Name | None = None,
) -> Partial:
    """Causal attention of new tokens to a cache.

    Args:
        q: floating-point [B, T, N, H], queries of the new tokens.
        k: [B, K, S, H] in q's type, or [P, K, S, H] where each row is a prefix of B / P rows of queries. S is
            a multiple of context x ulysses.
        v: as k.
        mesh: the devices (None: those in context, or all).
        q_positions: int32 [B, T].
        k_positions: int32 [B, S], or [P, S].
        q_segment_ids: int32 [B, T]; 0 is padding.
        k_segment_ids: int32 [B, S], or [P, S]; 0 is an empty slot.
        q_earliest: int32 [B, T], the lowest position that each query attends to (None: any): a query with a
            window of W has its position - W + 1, one that sees everything `mask.ANY`.
        window: only positions less than this apart, for all queries.
        scale: of the scores (None: H ** -0.5).
        kernel: which one (None: the devices').

    Returns:
        out float32 [B, T, N, H] and natural lse float32 [B, N, T]. Where T is a multiple of context x ulysses
        they are spread over these like a block of prefill, otherwise every device has them all.

    Raises:
        UserError: for shapes, types or a mesh that do not fit.
    """
    mesh = resolve_mesh(mesh)
    if q.shape[0] % k.shape[0]:
        raise UserError(
            f"{q.shape[0]} rows of queries and {k.shape[0]} rows of keys: expected as many, or a multiple "
            "of them"
        )
    by_token = jax.eval_shape(attention.heads_first, k), jax.eval_shape(attention.heads_first, v)
    check_heads(jax.eval_shape(lambda: q[: k.shape[0]]), *by_token, mesh)
    check_length("k", k.shape[2], mesh)
    q_tokens = make_tokens("q_", q_positions, q_segment_ids, q.shape[:2], earliest=q_earliest)
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
        together, tokens = _fold_rows(q, q_tokens, k.shape[0])
        out, lse = kernels.forward(kernels.load(kernel, mesh), together, k, v, tokens, k_tokens, mask_spec)
        out = _unfold_rows(out, q.shape[0])
        lse = _unfold_rows(lse, q.shape[0])
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


def _fold_rows(q: jax.Array, q_tokens: Tokens, rows: int) -> tuple[jax.Array, Tokens]:
    """q [B, T, N, H] and its tokens as `rows` rows of B / rows times as many tokens."""
    return q.reshape(rows, -1, *q.shape[2:]), q_tokens.map(lambda x: x.reshape(rows, -1))


def _unfold_rows(x: jax.Array, rows: int) -> jax.Array:
    """The inverse for what a kernel gives: [P, K, G, (B / P) T, ...] -> [B, K, G, T, ...]. Query heads that
    were folded among the tokens stand behind each token and stay there.
    """
    few, kv_heads, groups, _, *rest = x.shape
    if few == rows:
        return x
    by_row = x.reshape(few, kv_heads, groups, rows // few, -1, *rest)  # (P, K, G, B / P, T, ...)
    return jnp.moveaxis(by_row, 3, 1).reshape(rows, kv_heads, groups, -1, *rest)


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
