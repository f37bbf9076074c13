"""Where attention goes: how much of the attention of a few queries is on each group of a cache's keys, such
as the frames of a video.

In: queries with the log-sum-exp over *all* that they attend to, as attention computed it; the cache's keys,
spread over the ring, and the group of each. Out: for every head the sum of probabilities by group. All that a
query has is 1; what it gives to keys of no group is missing from the sum.

Keys stay where they are, as in cached.py: queries go to every device, and the sums of the groups, which are
few, are added up. A device makes SCORES scores of each head at a time, so that a long cache takes no more
memory for them than a short one. Forward only.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from ringvision.mesh import RULES, num_shards, partition_spec
from ringvision.ops import attention
from ringvision.ops.inputs import make_mask_spec
from ringvision.ops.mask import MaskSpec, Tokens, attention_mask

SCORES = 1 << 18
"""Of one head, in float32."""


def attended_by_group(
    q: jax.Array,
    k: jax.Array,
    lse: jax.Array,
    weights: jax.Array,
    k_groups: jax.Array,
    num_groups: int,
    *,
    mesh: Mesh | AbstractMesh,
    q_tokens: Tokens,
    k_tokens: Tokens,
    window: int | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Sums of attention probabilities over queries and over the keys of each group.

    Args:
        q: floating-point [B, T, N, H].
        k: [B, K, S, H] in q's type, spread over context x ulysses along S.
        lse: float32 [B, N, T], natural, over all keys that the queries attend to, those elsewhere included.
        weights: float32 [B, W, T], what each query counts in each of W sums.
        k_groups: int32 [B, S], the group of each key; one outside 0 to num_groups - 1 is none.
        num_groups: how many groups there are.
        mesh: the devices.
        q_tokens: int32 [B, T] each.
        k_tokens: int32 [B, S] each.
        window: as in `cached_attention`.
        scale: of the scores (None: H ** -0.5).

    Returns:
        float32 [B, N, W, num_groups], on every device of the ring.
    """
    spec = make_mask_spec(q, True, window, scale)
    # One array travels instead of two: of two exchanges either may begin first, elsewhere the other one.
    by_token = jnp.concatenate(
        [q.astype(jnp.float32), attention.heads_first(lse)[..., None].astype(jnp.float32)], axis=-1
    )  # (B, T, N, H + 1)
    local = partial(_on_device, num_groups=num_groups, spec=spec, mesh=mesh)
    if all(size == 1 for size in mesh.shape.values()):
        return local(by_token, k, weights, k_groups, q_tokens, k_tokens)
    rows = partition_spec(mesh, "batch")
    slots = partition_spec(mesh, "batch", "length")
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(
            partition_spec(mesh, "batch", None, "heads", None),
            partition_spec(mesh, "batch", "kv_heads", "length", None),
            rows,
            slots,
            rows,
            slots,
        ),
        out_specs=partition_spec(mesh, "batch", "heads", None, None),
        check_vma=False,
    )(by_token, k, weights, k_groups, q_tokens, k_tokens)


def _on_device(
    by_token: jax.Array,
    k: jax.Array,
    weights: jax.Array,
    k_groups: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    *,
    num_groups: int,
    spec: MaskSpec,
    mesh: Mesh | AbstractMesh,
) -> jax.Array:
    """One device's part of `attended_by_group`: its share of the keys, then the sum over all devices.
    by_token float32 [B, T, N, H + 1]: queries and the log-sum-exp of each.
    """
    batch, kv_heads, slots, _ = k.shape
    q = attention.group(by_token[..., :-1].astype(k.dtype), kv_heads)  # (B, K, G, T, H)
    lse = attention.finite(attention.group(by_token[..., -1], kv_heads))[..., None]  # (B, K, G, T, 1)
    chunk = min(slots, max(1, SCORES // by_token.shape[1]))
    heads = by_token.shape[2]

    def add(number: jax.Array, sums: jax.Array) -> jax.Array:
        first = number * chunk
        at = jnp.minimum(first, slots - chunk)  # the last chunk overlaps the one before

        def part(x: jax.Array, axis: int) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, at, chunk, axis)

        keys = k_tokens.map(lambda x: part(x, 1))
        mask = attention_mask(q_tokens, keys, spec) & (at + jnp.arange(chunk) >= first)  # (B, T, c)
        scores = jnp.einsum("BKGTH,BKSH->BKGTS", q, part(k, 2), preferred_element_type=jnp.float32)
        seen = jnp.where(mask[:, None, None], jnp.exp(scores * spec.scale - lse), 0)  # (B, K, G, T, c)
        shares = jnp.einsum("BKGTS,BWT->BSKGW", seen, weights).reshape(batch, chunk, heads, -1)
        # what is of no group, before the first one as well, is dropped
        groups = jnp.where(part(k_groups, 1) < 0, num_groups, part(k_groups, 1))
        return sums.at[jnp.arange(batch)[:, None], groups].add(shares, mode="drop")

    sums = jnp.zeros((batch, num_groups, heads, weights.shape[1]), jnp.float32)
    sums = jax.lax.fori_loop(0, -(-slots // chunk), add, sums)
    if num_shards(mesh, "length") > 1:
        sums = jax.lax.psum(sums, tuple(axis for axis in RULES.length if axis in mesh.shape))
    return jnp.moveaxis(sums, 1, 3)  # (B, N, W, groups)
