"""What is taken for a spike, against numpy's medians, and what is remembered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringvision.config import HealthConfig
from ringvision.train.health import FLOORS, Health, judge, record, start

SETTINGS = HealthConfig(window=16, deviations=8.0)


def after(values: np.ndarray) -> Health:
    """The health after steps with these losses and gradient norms, float32 [N, 2], all applied."""

    def step(health: Health, pair: jax.Array) -> tuple[Health, None]:
        yes = jnp.bool_(True)
        return record(health, *pair, sound=yes, applied=yes), None

    return jax.lax.scan(step, start(SETTINGS), jnp.asarray(values, jnp.float32))[0]


def ok(health: Health, loss: float, norm: float) -> bool:
    return bool(judge(health, jnp.float32(loss), jnp.float32(norm), SETTINGS))


@pytest.mark.parametrize("count", [4, 5, 15, 16, 40])
def test_the_bound_is_the_median_and_eight_deviations(count: int) -> None:
    """Of the last 16 steps, or of as many as there are."""
    values = np.random.default_rng(count).normal([4.0, 2.0], [0.5, 1.0], (count, 2))
    last = values[-16:]
    median = np.median(last, axis=0)
    deviation = np.maximum(1.4826 * np.median(np.abs(last - median), axis=0), np.array(FLOORS) * median)
    bound = median + 8 * deviation
    health = after(values)
    assert sorted(np.asarray(health.window)[: len(last), 0]) == pytest.approx(sorted(last[:, 0]), rel=1e-6)
    for index in (0, 1):
        just = median.copy()
        just[index] = bound[index]
        assert ok(health, *(just - 1e-4)) and not ok(health, *(just + 1e-4))


def test_a_loss_that_stands_still_is_no_reason_to_refuse_every_other() -> None:
    health = after(np.tile([2.0, 1.0], (16, 1)))
    assert ok(health, 2.7, 2.9)
    assert not ok(health, 2.9, 1.0) and not ok(health, 2.0, 3.1)
    assert ok(health, 0.0, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_from_the_first_step(bad: float) -> None:
    for health in (start(SETTINGS), after(np.ones((16, 2)))):
        assert not ok(health, bad, 1.0) and not ok(health, 1.0, bad)


def test_nothing_is_far_from_what_is_not_yet_known() -> None:
    """Before a quarter of the window is filled any finite number will do."""
    for count in range(6):
        assert ok(after(np.ones((count, 2))), 1e6, 1e6) == (count < 4)


def test_what_was_not_applied_leaves_the_window_as_it_was() -> None:
    health = after(np.ones((3, 2)))
    no = jnp.bool_(False)
    for expected in (1, 2):
        health = record(health, jnp.float32(np.nan), jnp.float32(9), sound=no, applied=no)
        assert int(health.refused) == expected
    health = record(health, jnp.float32(0), jnp.float32(0), sound=~no, applied=no)  # nothing to learn from
    assert (int(health.refused), int(health.applied)) == (2, 3)
    np.testing.assert_array_equal(health.window, after(np.ones((3, 2))).window)
    health = record(health, jnp.float32(1), jnp.float32(1), sound=~no, applied=~no)
    assert (int(health.refused), int(health.applied)) == (0, 4)
    np.testing.assert_array_equal(health.window[:5, 0], [1, 1, 1, 1, 0])
