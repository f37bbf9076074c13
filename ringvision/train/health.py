"""Which steps are applied: one whose loss or gradient is no finite number, or far above what it lately was,
changes nothing.

    Health, loss, gradient norm  --judge-->  is this step sound?
    Health, …                    --record--> Health after the step

All of it lies in the training state on the devices, so that the judgement costs no wait, is the same on every
mesh and process, and goes on after a resume as if there had been none.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ringvision.config import HealthConfig

FLOORS = (0.05, 0.25)
"""The least deviation that loss and gradient norm are taken to have, as a share of their medians. A loss that
no longer moves would else make a spike of any change; gradients differ more from batch to batch. With 8
deviations nothing below 1.4 times the median loss, and below 3 times the median gradient norm, is a spike."""
MAD_TO_DEVIATION = 1.4826
"""Of normally distributed values: the standard deviation is so many times the median absolute deviation."""


@jax.tree_util.register_dataclass
@dataclass
class Health:
    """What is remembered of the steps that were applied.

    window: float32 [W, 2], loss and gradient norm of the last W of them, the oldest overwritten first; 0
        where there are none yet.
    applied: int32 [], how many were applied in all.
    refused: int32 [], how many in a row were not sound, up to now.
    """

    window: jax.Array
    applied: jax.Array
    refused: jax.Array


def start(config: HealthConfig) -> Health:
    """Before the first step, and at the start of a stage, whose loss need not be like the last one's."""
    window = jnp.zeros((config.window, 2), jnp.float32)
    return Health(window, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def judge(health: Health, loss: jax.Array, gradient_norm: jax.Array, config: HealthConfig) -> jax.Array:
    """Whether a step is sound: both numbers finite and, once a quarter of the window is filled, neither more
    than `deviations` above its median in the window, a deviation being 1.4826 times the median absolute one,
    but not below its share in FLOORS of the median.

    Args:
        health: of the steps before.
        loss: float32 [].
        gradient_norm: float32 [], before the gradients are clipped.
        config: deviations counts.

    Returns:
        bool [].
    """
    values = jnp.stack([loss, gradient_norm])
    size = health.window.shape[0]
    filled = jnp.minimum(health.applied, size)
    median = _median(health.window, filled)  # (2,)
    deviation = MAD_TO_DEVIATION * _median(jnp.abs(health.window - median), filled)
    deviation = jnp.maximum(deviation, jnp.asarray(FLOORS) * median)
    spike = values > median + config.deviations * deviation
    enough = filled >= -(-size // 4)
    return jnp.isfinite(values).all() & ~(enough & spike.any())


def record(
    health: Health, loss: jax.Array, gradient_norm: jax.Array, *, sound: jax.Array, applied: jax.Array
) -> Health:
    """The health after a step.

    Args:
        health: before it.
        loss: float32 [].
        gradient_norm: float32 [].
        sound: bool [], what `judge` says.
        applied: bool [], whether the step changed the parameters. A sound step that did not had nothing to
            learn from: it counts neither as applied nor as refused.

    Returns:
        The window with the two numbers if they were applied, as it was if not; the counters.
    """
    slot = health.applied % health.window.shape[0]
    written = health.window.at[slot].set(jnp.stack([loss, gradient_norm]))
    refused = jnp.where(applied, 0, health.refused + jnp.where(sound, 0, 1))
    return Health(
        jnp.where(applied, written, health.window), health.applied + applied.astype(jnp.int32), refused
    )


def _median(values: jax.Array, filled: jax.Array) -> jax.Array:
    """The medians of the first `filled` rows, float32 [W, 2] -> [2]; infinite where there are none."""
    rows = jnp.arange(values.shape[0])[:, None]
    ordered = jnp.sort(jnp.where(rows < filled, values, jnp.inf), axis=0)
    return (ordered[jnp.maximum(filled - 1, 0) // 2] + ordered[filled // 2 % values.shape[0]]) / 2
