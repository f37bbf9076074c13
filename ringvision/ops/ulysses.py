"""Ulysses (Jacobs et al., 2023): sharing out heads instead of tokens, inside the ring, over the mesh axis
`ulysses`.

The length is spread over (context, ulysses). Before attention the devices of one `ulysses` group exchange:
each gives away the other heads of its tokens and gets the other tokens of its heads, so that the ring, which
is over `context` alone, has fewer hops of longer chunks. After attention they exchange back. In and out: a
device's share before and after; where the axis is of size 1 it passes through.

Where there are fewer KV heads than devices in a group each is given to several of them, and its gradients are
added up on the way back.

Letters: b batch, t a device's tokens, n its heads, K KV heads, H head width, U devices of a group.
"""

import jax
import jax.numpy as jnp

from ringvision.ops.mask import Tokens

AXIS = "ulysses"


def to_heads(x: jax.Array, size: int, *, length: int, heads: int) -> jax.Array:
    """All tokens of some heads, from all heads of some tokens.

    Args:
        x: this device's share, with t tokens along one axis and n heads along another: [..., t, ..., n, ...]
            in any order and of any dtype.
        size: U, the devices of the group.
        length: which axis has the tokens.
        heads: which axis has the heads.

    Returns:
        [..., t U, ..., n / U, ...] in x's dtype.
    """
    return x if size == 1 else jax.lax.all_to_all(x, AXIS, split_axis=heads, concat_axis=length, tiled=True)


def to_length(x: jax.Array, size: int, *, length: int, heads: int) -> jax.Array:
    """The inverse of `to_heads`.

    Args:
        x: [..., t U, ..., n / U, ...], of any dtype.
        size: U, the devices of the group.
        length: which axis has the tokens.
        heads: which axis has the heads.

    Returns:
        [..., t, ..., n, ...] in x's dtype.
    """
    return x if size == 1 else jax.lax.all_to_all(x, AXIS, split_axis=length, concat_axis=heads, tiled=True)


def keys_to_heads(x: jax.Array, size: int) -> jax.Array:
    """[b, t, K, H] -> [b, t U, max(K / U, 1), H] with U = `size`; KV heads that are too few are repeated."""
    copies = max(size // x.shape[2], 1)
    return to_heads(jnp.repeat(x, copies, axis=2) if copies > 1 else x, size, length=1, heads=2)


def keys_to_length(x: jax.Array, size: int, kv_heads: int) -> jax.Array:
    """The transpose of `keys_to_heads`, for gradients: [b, t U, max(K / U, 1), H] -> [b, t, K, H] with U =
    `size` and K = `kv_heads`.
    """
    x = to_length(x, size, length=1, heads=2)
    if x.shape[2] == kv_heads:
        return x
    return x.reshape(*x.shape[:2], kv_heads, -1, x.shape[3]).sum(3)  # over the copies of a head


def whole(tokens: Tokens, size: int) -> Tokens:
    """int32 [b, t] -> [b, t U] with U = `size`, every device's tokens: a few bytes each."""
    if size == 1:
        return tokens
    return tokens.map(lambda x: jax.lax.all_gather(x, AXIS, axis=1, tiled=True))
