"""The arithmetic of a Llama block whose gradient is written out, so that little is kept for it and little is
laid out anew.

In: activations `[B, L, D]` and the weights of one layer. Out: activations `[B, L, D]`. Derived by jax, a
gated feed-forward keeps six arrays `[B, L, F]` for its gradient, and a norm keeps its input three times over;
a scan over layers writes and reads each of these twice more. What is kept here: the input, and what it would
take a matrix product to make again.

Letters: B batch, L length, D model width, N heads, H head width, F feed-forward width, E: gate, up.
"""

from functools import partial

import jax
import jax.numpy as jnp

Gradients = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def normalised(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps) * scale` over the last axis.

    x float `[..., D]`, scale float `[D]` -> `[..., D]` in x's dtype, computed in float32.
    """
    wide = x.astype(jnp.float32)
    return (wide * _inverse_root(wide, eps) * scale.astype(jnp.float32)).astype(x.dtype)


def _inverse_root(x: jax.Array, eps: float) -> jax.Array:
    """float32 `[..., D]` -> `[..., 1]`: one over the root mean square."""
    return jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


def _normalised_forward(
    x: jax.Array, scale: jax.Array, eps: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return normalised(x, scale, eps), (x, scale)


def _normalised_backward(
    eps: float, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, scale = saved
    wide = x.astype(jnp.float32)
    gradient = gradient.astype(jnp.float32)
    inverse = _inverse_root(wide, eps)  # (..., 1)
    unit = wide * inverse
    scaled = gradient * scale.astype(jnp.float32)
    # the mean square has a gradient of its own, along x
    d_x = inverse * (scaled - unit * jnp.mean(scaled * unit, axis=-1, keepdims=True))
    d_scale = (gradient * unit).sum(axis=tuple(range(x.ndim - 1)))
    return d_x.astype(x.dtype), d_scale.astype(scale.dtype)


normalised.defvjp(_normalised_forward, _normalised_backward)


@jax.custom_vjp
def joined_heads(heads: jax.Array, output: jax.Array) -> jax.Array:
    """heads float `[B, L, N, H]`, output of its dtype `[N, H, D]` -> `[B, L, D]`. What is kept is `heads` as
    they are, which attention keeps too.
    """
    return _joined(heads, output)


def _joined(heads: jax.Array, output: jax.Array) -> jax.Array:
    # (B, L, N H): one axis, since XLA lays out anew what is multiplied over two
    return _flat(heads, 2) @ output.reshape(-1, output.shape[-1])


def _flat(x: jax.Array, kept: int) -> jax.Array:
    """All axes behind the first `kept` as one."""
    return x.reshape(*x.shape[:kept], -1)


def _joined_heads_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    heads, output = saved
    d_heads = gradient @ output.reshape(-1, output.shape[-1]).T  # (B, L, N H)
    d_output = jnp.einsum("BLJ,BLD->JD", _flat(heads, 2), gradient)  # J: N H
    return d_heads.reshape(heads.shape), d_output.reshape(output.shape)


# The product itself, not `joined_heads`, in which remat "dots" would not see it.
joined_heads.defvjp(lambda heads, output: (_joined(heads, output), (heads, output)), _joined_heads_backward)


@jax.custom_vjp
def gated_feed_forward(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """`(silu(x gate) * (x up)) down` (SwiGLU: Shazeer, 2020), with its gradient written out.

    Args:
        x: float `[B, L, D]`.
        gate: of x's dtype, `[D, F]`.
        up: likewise.
        down: likewise, `[F, D]`.

    Returns:
        `[B, L, D]` in x's dtype.
    """
    return _feed_forward(x, gate, up, down)[0]


def gate_and_up(x: jax.Array, gate: jax.Array, up: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x float `[B, L, D]`, gate and up `[D, F]` of its dtype -> their products with x, `[B, L, F]` each."""
    both = _both(x, gate, up)
    return both[:, :, 0], both[:, :, 1]


def _both(x: jax.Array, gate: jax.Array, up: jax.Array) -> jax.Array:
    """One product (E: gate, up) is a tenth less CPU time than two, and F stays spread over `tensor`:
    `[B, L, E, F]`.
    """
    return jnp.einsum("BLD,DEF->BLEF", x, jnp.stack([gate, up], axis=1))


def _feed_forward(
    x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    both = _both(x, gate, up)
    inner = jax.nn.silu(both[:, :, 0]) * both[:, :, 1]  # (B, L, F)
    return jnp.einsum("BLF,FD->BLD", inner, down), (x, gate, up, down, both)


def _feed_forward_backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> Gradients:
    """A gradient of weights is a product over tokens, for which XLA's CPU backend lays out its first factor
    anew: the narrow one, here.
    """
    x, gate, up, down, both = saved
    gates = both[:, :, 0]  # (B, L, F)
    ups = both[:, :, 1]
    sigmoid = jax.nn.sigmoid(gates)
    silu = gates * sigmoid
    d_inner = jnp.einsum("BLD,FD->BLF", gradient, down)
    # without the barrier XLA swaps the factors to spare itself transposing this small result
    d_down = jax.lax.optimization_barrier(jnp.einsum("BLD,BLF->DF", gradient, silu * ups)).T
    d_gates = d_inner * ups * (sigmoid + silu * (1 - sigmoid))
    d_ups = d_inner * silu
    d_x = jnp.einsum("BLF,DF->BLD", d_gates, gate) + jnp.einsum("BLF,DF->BLD", d_ups, up)
    d_gate = jnp.einsum("BLD,BLF->DF", x, d_gates)
    d_up = jnp.einsum("BLD,BLF->DF", x, d_ups)
    return d_x, d_gate, d_up, d_down


gated_feed_forward.defvjp(_feed_forward, _feed_forward_backward)
