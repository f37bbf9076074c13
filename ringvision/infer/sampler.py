"""From logits to the next token: greedy, or drawn at a temperature from the top k, the top p, or both.

In: logits float32 `[B, V]` and a key of jax.random. Out: ids int32 `[B]`. The knobs are traced, so turning
one compiles nothing anew.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ringvision.errors import UserError


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen.

    temperature: 0 takes the likeliest token and never draws. top_k: draw from the k likeliest only, 0 for
    all. top_p: draw from the fewest tokens whose probabilities (at the temperature, after top_k) reach p.
    seed: of the draws.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"temperature {self.temperature} was given; expected a number from 0 (always the "
                "likeliest token) upward"
            )
        if self.top_k < 0:
            raise UserError(
                f"top_k {self.top_k} was given; expected a whole number of tokens, or 0 for all of them"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p} was given; expected a probability above 0 and at most 1")

    def knobs(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(temperature float32, top_k int32, top_p float32), as `choose` takes them."""
        return jnp.float32(self.temperature), jnp.int32(self.top_k), jnp.float32(self.top_p)

    def key(self) -> jax.Array:
        return jax.random.key(self.seed)


def keep_top_k(logits: jax.Array, top_k: jax.Array | int) -> jax.Array:
    """-inf for all but the `top_k` largest of each row (equal ones at the edge all stay); 0 keeps every
    one.
    """
    largest_first = jnp.sort(logits, axis=-1, descending=True)
    index = jnp.clip(jnp.where(top_k > 0, top_k, logits.shape[-1]) - 1, 0, logits.shape[-1] - 1)
    edge = jnp.take_along_axis(largest_first, jnp.broadcast_to(index, (*logits.shape[:-1], 1)), axis=-1)
    return jnp.where(logits >= edge, logits, -jnp.inf)


def keep_top_p(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """-inf for all but the fewest largest whose probabilities reach `top_p`; the largest always stays."""
    largest_first = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(largest_first, axis=-1)
    # A token stays while what came before it has not yet reached p; at p = 1 rounding must not drop the tail.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    stays = ((before < top_p) | (top_p >= 1)).at[..., 0].set(True)
    edge = jnp.min(jnp.where(stays, largest_first, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= edge, logits, -jnp.inf)


def choose(
    logits: jax.Array, key: jax.Array, temperature: jax.Array, top_k: jax.Array, top_p: jax.Array
) -> jax.Array:
    """The next ids int32 `[B]` for logits `[B, V]`."""

    def draw() -> jax.Array:
        kept = keep_top_p(keep_top_k(logits / jnp.maximum(temperature, 1e-6), top_k), top_p)
        return jax.random.categorical(key, kept, axis=-1).astype(jnp.int32)

    return jax.lax.cond(temperature > 0, draw, lambda: jnp.argmax(logits, axis=-1).astype(jnp.int32))
