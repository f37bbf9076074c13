"""What every part of attention has in common: how heads are grouped, and the log-sum-exp by which results
over different keys are merged (the attention mask is in mask.py).

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

from ringvision.ops.mask import Tokens

ATTENDED = "attended"
"""The name (`checkpoint_name`) of what the backward pass of attention needs of its result: out and lse."""


class AttentionInputs(NamedTuple):
    """One block of queries and the block of keys that they attend to, as kernels take them.

    q [B, K, G, T, H], k and v [B, K, S, H], all of one floating-point type; q_tokens int32 [B, T] and
    k_tokens int32 [B, S] each. A kernel that folds groups gets q [B, K, 1, T G, H] and q_tokens [B, T G].
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    q_tokens: Tokens
    k_tokens: Tokens


class OutputGradient(NamedTuple):
    """What the backward pass knows of each query, over *all* keys, of this block and of others.

    lse float32 [B, K, G, T]; d_out [B, K, G, T, H], the gradient of the loss by the output; delta float32
    [B, K, G, T], which is `sum(d_out * out, -1)`.
    """

    lse: jax.Array
    d_out: jax.Array
    delta: jax.Array


Partial = tuple[jax.Array, jax.Array]
"""(out, lse) over some of the keys."""
KernelGradients = tuple[jax.Array, jax.Array, jax.Array]
"""float32 dq [B, K, G, T, H], dk and dv [B, K, S, H]."""


def heads_first(x: jax.Array) -> jax.Array:
    """[B, S, K, H] -> [B, K, S, H], and back."""
    return jnp.swapaxes(x, 1, 2)


def group(x: jax.Array, kv_heads: int, fold: bool = False) -> jax.Array:
    """[B, T, N, ...] -> [B, K, G, T, ...]: the query heads that share a KV head stand together. With `fold`
    they are G rows a token of a single head, [B, K, 1, T G, ...], so that any T G consecutive rows are T
    tokens without a transpose.
    """
    batch, length, heads, *rest = x.shape
    by_kv_head = x.reshape(batch, length, kv_heads, heads // kv_heads, *rest)  # (B, T, K, G, ...)
    by_token = jnp.swapaxes(by_kv_head, 1, 2)  # (B, K, T, G, ...)
    return by_token.reshape(batch, kv_heads, 1, -1, *rest) if fold else jnp.swapaxes(by_token, 2, 3)


def ungroup(x: jax.Array, length: int | None = None) -> jax.Array:
    """The inverse of `group`: [B, K, G, T, ...] -> [B, T, N, ...]. Of what may have been folded, [B, K, 1,
    T G, ...], give the `length` T.
    """
    batch, kv_heads, _, rows, *rest = x.shape
    folded = length is not None and rows != length
    by_token = x.reshape(batch, kv_heads, length, -1, *rest) if folded else jnp.swapaxes(x, 2, 3)
    return jnp.swapaxes(by_token, 1, 2).reshape(batch, by_token.shape[2], -1, *rest)


def repeat_tokens(tokens: Tokens, groups: int, fold: bool) -> Tokens:
    """The tokens of the rows that `group` makes: int32 [B, T] as they are, or with `fold` each repeated for
    its `groups` rows, [B, T G].
    """
    return tokens.map(lambda x: jnp.repeat(x, groups, axis=1)) if fold and groups > 1 else tokens


def merge(a: Partial, b: Partial) -> Partial:
    """Two results over different keys -> the result over both: out float32 [B, T, N, H], lse float32 [B, N,
    T].
    """
    lse, weight_a, weight_b = _weights(a[1], b[1])  # (B, N, T) each
    out_a = a[0] * jnp.swapaxes(weight_a, 1, 2)[..., None]  # (B, T, N, H)
    out_b = b[0] * jnp.swapaxes(weight_b, 1, 2)[..., None]
    return out_a + out_b, lse


def merge_grouped(a: Partial, b: Partial) -> Partial:
    """`merge` for out float32 [B, K, G, T, H] and lse float32 [B, K, G, T]."""
    lse, weight_a, weight_b = _weights(a[1], b[1])
    return a[0] * weight_a[..., None] + b[0] * weight_b[..., None], lse


def _weights(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The lse of both, and the shares of a and b in the sum. Both exponents are at most 0, so neither
    overflows; the larger one is 0 unless both lse are -inf, and then both shares are 0.
    """
    largest = finite(jnp.maximum(a, b))
    part_a = jnp.exp(a - largest)
    part_b = jnp.exp(b - largest)
    total = part_a + part_b
    divisor = jnp.where(total == 0, 1, total)
    return largest + jnp.log(total), part_a / divisor, part_b / divisor


def finite(lse: jax.Array) -> jax.Array:
    """float32 [...] -> [...]: -inf (no key) becomes 0, so that differences to it are never inf - inf."""
    return jnp.where(lse == -jnp.inf, 0, lse)


def empty(q: jax.Array) -> Partial:
    """The result over no keys at all, for grouped queries: out zeros like q [B, K, G, T, H], lse -inf [B, K,
    G, T], float32.
    """
    wide = accumulator(q)
    return jnp.zeros(q.shape, wide), jnp.full(q.shape[:-1], -jnp.inf, wide)


def accumulator(x: jax.Array) -> jnp.dtype:
    """The type in which products of x [...] are summed: float32, or float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)
