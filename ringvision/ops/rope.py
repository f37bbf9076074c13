"""Rotary position embedding (Su et al., 2021): each pair of a head's channels turns by an angle that grows with the position.

In: queries or keys [B, T, N, H] and the position of every token. Out: the same, turned. The pairs are (i, i + H/2), the "halves"
convention of Hugging Face's Llama; weights made for adjacent pairs are permuted when they are loaded.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.errors import UserError


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of a trained context: turns slower than `low_frequency` per trained context are slowed by `factor`, those
    faster than `high_frequency` are kept, and those between are blended. With both at infinity everything is slowed: linear interpolation.
    """

    factor: float
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    trained_length: int = 8192

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise UserError(f"rope scaling factor={self.factor}: expected at least 1")
        if not 0 < self.low_frequency <= self.high_frequency or self.trained_length < 1:
            raise UserError(
                f"rope scaling low_frequency={self.low_frequency}, high_frequency={self.high_frequency}, "
                f"trained_length={self.trained_length}: expected 0 < low_frequency <= high_frequency and trained_length >= 1"
            )


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """float32 [head_dim / 2]: radians a position, from 1 down to about 1/theta."""
    if head_dim < 2 or head_dim % 2:
        raise UserError(f"head_dim={head_dim}: rotary embedding turns pairs of channels, so it must be even")
    turns = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is not None:
        per_context = scaling.trained_length * turns / (2 * math.pi)
        if math.isinf(scaling.low_frequency):
            kept = np.zeros_like(turns)
        else:
            width = max(scaling.high_frequency - scaling.low_frequency, np.finfo(np.float64).tiny)
            kept = np.clip((per_context - scaling.low_frequency) / width, 0, 1)
        turns = turns * (kept + (1 - kept) / scaling.factor)
    return turns.astype(np.float32)


def rope(x: jax.Array, positions: jax.Array, *, theta: float, scaling: RopeScaling | None = None) -> jax.Array:
    """x [B, T, N, H] (H even), positions int [B, T] -> [B, T, N, H] in x's dtype; angles, sines and products are float32.

    The product of a turned query and a turned key depends on the difference of their positions alone.
    """
    angles = positions.astype(jnp.float32)[:, :, None] * frequencies(x.shape[-1], theta, scaling)
    sine, cosine = jnp.sin(angles)[:, :, None, :], jnp.cos(angles)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)
