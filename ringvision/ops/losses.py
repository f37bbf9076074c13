"""Cross-entropy over a large vocabulary, a chunk of positions at a time: the logits [B, L, V] never exist as
a whole.

In: hidden states, the output matrix, targets and weights. Out: three sums, which the caller divides as it
likes.

Letters: B batch, L length, D model width, V vocabulary, C positions of a chunk.

A chunk takes every (L/C)-th position of a row, not neighbours: where L is spread over devices, each device
then works on its part of every chunk. When a gradient is wanted it is made in the same pass, while a chunk's
logits are at hand (a sum of losses has one scalar cotangent, which can be multiplied in later), so the large
product is never computed again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ringvision.errors import UserError

Sums = tuple[jax.Array, jax.Array, jax.Array]


def chunked_cross_entropy(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array, *, chunk: int
) -> Sums:
    """(sum_loss, sum_weights, sum_correct), float32 scalars.

    hidden [B, L, D] and head [D, V] floating point; targets int [B, L] in 0 ... V-1; weights float [B, L], 0
    where nothing is learned. `sum_loss` is the weighted sum of -log p(target) (nats), `sum_correct` the sum
    of the weights whose target has the largest logit (a tie counts as right). `chunk` is how many positions
    of each row have logits at once. Differentiable in hidden, head and weights. UserError where the shapes do
    not fit together.
    """
    if hidden.ndim != 3 or head.ndim != 2 or head.shape[0] != hidden.shape[2]:
        raise UserError(f"hidden {hidden.shape} and head {head.shape}: expected [B, L, D] and [D, V]")
    for name, array in (("targets", targets), ("weights", weights)):
        if array.shape != hidden.shape[:2]:
            raise UserError(
                f"{name} of shape {array.shape}: expected one for every hidden state, {hidden.shape[:2]}"
            )
    if chunk < 1:
        raise UserError(f"chunk={chunk}: expected at least 1 position")
    length = hidden.shape[1]
    pieces = -(-length // chunk)
    padding = -length % pieces

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, pieces, *x.shape[2:]), 2, 0)

    return _sums(split(hidden), head, split(targets), split(weights.astype(jnp.float32)))


class _Chunk(NamedTuple):
    """What one chunk's logits say. logits float32 [B, C, V]; the rest float32 [B, C]."""

    logits: jax.Array
    lse: jax.Array
    loss: jax.Array
    correct: jax.Array


def _read(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> _Chunk:
    logits = jnp.einsum("BCD,DV->BCV", hidden, head, preferred_element_type=jnp.float32)
    largest = logits.max(axis=-1)
    lse = largest + jnp.log(jnp.exp(logits - largest[..., None]).sum(axis=-1))
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return _Chunk(logits, lse, lse - chosen, (chosen >= largest).astype(jnp.float32))


@jax.custom_vjp
def _sums(hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array) -> Sums:
    """All but `head` cut into pieces on a leading axis."""

    def step(sums: Sums, piece: tuple[jax.Array, ...]) -> tuple[Sums, None]:
        hidden, targets, weights = piece
        read = _read(hidden, head, targets)
        return (
            sums[0] + (weights * read.loss).sum(),
            sums[1] + weights.sum(),
            sums[2] + (weights * read.correct).sum(),
        ), None

    return jax.lax.scan(step, (jnp.float32(0),) * 3, (hidden, targets, weights))[0]


def _sums_forward(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[Sums, tuple[jax.Array, ...]]:
    def step(
        carry: tuple[Sums, jax.Array], piece: tuple[jax.Array, ...]
    ) -> tuple[tuple[Sums, jax.Array], tuple[jax.Array, jax.Array]]:
        sums, d_head = carry
        hidden, targets, weights = piece
        read = _read(hidden, head, targets)
        target = targets[..., None] == jnp.arange(head.shape[1], dtype=targets.dtype)
        d_logits = (weights[..., None] * (jnp.exp(read.logits - read.lse[..., None]) - target)).astype(
            hidden.dtype
        )
        d_hidden = jnp.einsum("BCV,DV->BCD", d_logits, head, preferred_element_type=jnp.float32)
        d_head = d_head + jnp.einsum("BCD,BCV->DV", hidden, d_logits, preferred_element_type=jnp.float32)
        sums = (
            sums[0] + (weights * read.loss).sum(),
            sums[1] + weights.sum(),
            sums[2] + (weights * read.correct).sum(),
        )
        return (sums, d_head), (d_hidden.astype(hidden.dtype), read.loss)

    start = ((jnp.float32(0),) * 3, jnp.zeros(head.shape, jnp.float32))
    (sums, d_head), (d_hidden, loss) = jax.lax.scan(step, start, (hidden, targets, weights))
    return sums, (d_hidden, d_head.astype(head.dtype), loss)


def _sums_backward(
    saved: tuple[jax.Array, ...], cotangents: Sums
) -> tuple[jax.Array, jax.Array, None, jax.Array]:
    d_hidden, d_head, loss = saved
    d_loss, d_weights, _ = cotangents
    return (
        (d_hidden * d_loss).astype(d_hidden.dtype),
        (d_head * d_loss).astype(d_head.dtype),
        None,
        d_loss * loss + d_weights,
    )


_sums.defvjp(_sums_forward, _sums_backward)
