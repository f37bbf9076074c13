"""What every part of attention has in common: who sees whom, and the log-sum-exp by which results over
different keys are merged.

In: queries, keys, values, and for every token its position and segment id (0 is padding): nothing is inferred
from an index. Out: the output and `lse`, the natural logarithm of the sum of exponentiated scores, float32.
Two results over different keys merge exactly:

    lse = log(exp(lse_1) + exp(lse_2))        out = out_1 exp(lse_1 - lse) + out_2 exp(lse_2 - lse)

The backward pass is written out too (Dao et al., 2022): it takes the lse and out over *all* keys, and then
the gradients of any blocks of keys simply add up. A query with nothing to attend to has out 0, lse -inf, and
gives and gets zero gradient.

Letters: B batch, T queries, S keys and values, N query heads, K KV heads, G = N/K, H head width; Q and R
tiles of queries and of keys. Inside, heads come first: queries [B, K, G, T, H], keys and values [B, K, S, H],
lse [B, K, G, T].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tokens(NamedTuple):
    """What decides who sees whom: int32 [B, T] each. Segment 0 is padding."""

    positions: jax.Array
    segment_ids: jax.Array


class MaskSpec(NamedTuple):
    """Who sees whom and how scores are scaled; fixed when compiling. `window`: only positions less than this
    apart.
    """

    causal: bool
    window: int | None
    scale: float


Partial = tuple[jax.Array, jax.Array]
"""(out, lse) over some of the keys."""


def attention_mask(q_tokens: Tokens, k_tokens: Tokens, mask_spec: MaskSpec) -> jax.Array:
    """bool [B, T, S]. Causal, positions 0 1 0 1 2 0, segments 1 1 2 2 2 0 (two documents and padding), window
    2:

    1 0 0 0 0 0
    1 1 0 0 0 0
    0 0 1 0 0 0
    0 0 1 1 0 0
    0 0 0 1 1 0
    0 0 0 0 0 0
    """
    q_segments = q_tokens.segment_ids[:, :, None]
    k_segments = k_tokens.segment_ids[:, None, :]
    mask = (q_segments == k_segments) & (k_segments != 0)
    distance = q_tokens.positions[:, :, None] - k_tokens.positions[:, None, :]
    if mask_spec.causal:
        mask &= distance >= 0
    if mask_spec.window is not None:
        mask &= jnp.abs(distance) < mask_spec.window
    return mask


def heads_first(x: jax.Array) -> jax.Array:
    """[B, S, K, H] -> [B, K, S, H]."""
    return jnp.swapaxes(x, 1, 2)


def group(x: jax.Array, kv_heads: int, fold: bool = False) -> jax.Array:
    """[B, T, N, ...] -> [B, K, G, T, ...]: the query heads that share a KV head stand together. With `fold`
    they are G rows a token of a single head, [B, K, 1, T G, ...], so that any T G consecutive rows are T
    tokens without a transpose.
    """
    batch, length, heads, *rest = x.shape
    by_token = jnp.swapaxes(x.reshape(batch, length, kv_heads, heads // kv_heads, *rest), 1, 2)
    return by_token.reshape(batch, kv_heads, 1, -1, *rest) if fold else jnp.swapaxes(by_token, 2, 3)


def ungroup(x: jax.Array, length: int | None = None) -> jax.Array:
    """The inverse of `group`; of what may have been folded, say the `length` T."""
    batch, kv_heads, _, rows, *rest = x.shape
    folded = length is not None and rows != length
    by_token = x.reshape(batch, kv_heads, length, -1, *rest) if folded else jnp.swapaxes(x, 2, 3)
    return jnp.swapaxes(by_token, 1, 2).reshape(batch, by_token.shape[2], -1, *rest)


def rows_of(tokens: Tokens, groups: int, fold: bool) -> Tokens:
    """Whose the rows of grouped queries are."""
    return Tokens(*(jnp.repeat(x, groups, axis=1) for x in tokens)) if fold and groups > 1 else tokens


def merge(a: Partial, b: Partial) -> Partial:
    """Two results over different keys -> the result over both. out [B, T, N, H], lse [B, N, T]."""
    lse, weight_a, weight_b = _weights(a[1], b[1])
    return a[0] * jnp.swapaxes(weight_a, 1, 2)[..., None] + b[0] * jnp.swapaxes(weight_b, 1, 2)[
        ..., None
    ], lse


def merge_grouped(a: Partial, b: Partial) -> Partial:
    """`merge` for out [B, K, G, T, H] and lse [B, K, G, T]."""
    lse, weight_a, weight_b = _weights(a[1], b[1])
    return a[0] * weight_a[..., None] + b[0] * weight_b[..., None], lse


def _weights(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    largest = finite(jnp.maximum(a, b))
    part_a = jnp.exp(a - largest)
    part_b = jnp.exp(b - largest)
    total = part_a + part_b
    divisor = jnp.where(total == 0, 1, total)
    return largest + jnp.log(total), part_a / divisor, part_b / divisor


def finite(lse: jax.Array) -> jax.Array:
    """-inf (nothing seen) becomes 0, so that differences to it are never inf - inf."""
    return jnp.where(lse == -jnp.inf, 0, lse)


def empty(q: jax.Array) -> Partial:
    """The result over no keys at all, for grouped queries."""
    wide = accumulator(q)
    return jnp.zeros(q.shape, wide), jnp.full(q.shape[:-1], -jnp.inf, wide)


def accumulator(x: jax.Array) -> jnp.dtype:
    """float32, or float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)
