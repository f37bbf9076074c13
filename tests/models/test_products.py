"""The gradients that are written out against those that jax derives in float64; and what is kept for them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringvision.models.products import gated_feed_forward, joined_heads, normalised

SHAPES = {
    "x": (2, 5, 8),
    "gate": (8, 12),
    "up": (8, 12),
    "down": (12, 8),
    "scale": (8,),
    "heads": (2, 5, 3, 4),
    "output": (3, 4, 8),
}
EPS = 1e-5


def arrays(*names: str, dtype: jnp.dtype = jnp.float32) -> list[jax.Array]:
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal(SHAPES[name]), dtype) for name in names]


def plain_feed_forward(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    gates = x @ gate
    return (gates / (1 + jnp.exp(-gates)) * (x @ up)) @ down


def plain_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + EPS) * scale


def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    return normalised(x, scale, EPS)


CASES: dict[str, tuple[Callable[..., jax.Array], Callable[..., jax.Array], tuple[str, ...]]] = {
    "feed-forward": (gated_feed_forward, plain_feed_forward, ("x", "gate", "up", "down")),
    "norm": (norm, plain_norm, ("x", "scale")),
    "heads": (joined_heads, partial(jnp.einsum, "BLNH,NHD->BLD"), ("heads", "output")),
}


def with_gradients(function: Callable[..., jax.Array], given: list[jax.Array]) -> list[np.ndarray]:
    """The result, and the gradient of each array where the result's is no constant."""

    def both(*given: jax.Array) -> list[jax.Array]:
        result, pull = jax.vjp(function, *given)
        return [result, *pull(jnp.cos(jnp.arange(result.size).reshape(result.shape)).astype(result.dtype))]

    return [np.asarray(x, np.float64) for x in jax.jit(both)(*given)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_against_float64(case: str) -> None:
    written, plain, names = CASES[case]
    with jax.enable_x64(True):
        expected = with_gradients(plain, arrays(*names, dtype=jnp.float64))
    for found, wanted in zip(with_gradients(written, arrays(*names)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6 * abs(wanted).max())


@pytest.mark.parametrize("case", CASES)
def test_types_are_those_of_what_was_given(case: str) -> None:
    written, plain, names = CASES[case]
    given = arrays(*names, dtype=jnp.bfloat16)
    result, pull = jax.vjp(written, *given)
    assert [x.dtype for x in (result, *pull(result))] == [jnp.bfloat16] * (1 + len(names))
    expected = with_gradients(plain, arrays(*names))
    for found, wanted in zip(with_gradients(written, given), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.04 * abs(wanted).max())


def test_little_is_kept_for_the_gradients() -> None:
    x, gate, up, down, scale = arrays("x", "gate", "up", "down", "scale")
    kept = jax.tree.leaves(jax.vjp(lambda x: gated_feed_forward(x, gate, up, down), x)[1])
    tokens = x.shape[0] * x.shape[1]
    weights = gate.size + up.size + down.size
    assert sum(array.size for array in kept) <= x.size + 2 * tokens * gate.shape[1] + weights
    kept = jax.tree.leaves(jax.vjp(lambda x: norm(x, scale), x)[1])
    assert sum(array.size for array in kept) <= x.size + scale.size
