"""Names of a tree's leaves, and the tree again from them."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from ringvision.tree import flatten, unflatten


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.query = nnx.Param(jax.random.normal(rngs.params(), (4, 3)))
        self.scale = nnx.Param(jax.numpy.ones(()))


def test_flatten_names_leaves_by_their_path_and_unflatten_is_its_inverse() -> None:
    _, params = nnx.split(Layer(nnx.Rngs(0)))
    state = {"params": params, "opt_state": optax.adamw(1e-3).init(params), "step": 7}
    flat = flatten(state)
    assert {
        "params.query",
        "params.scale",
        "opt_state.0.mu.query",
        "opt_state.0.count",
        "step",
    } <= flat.keys()
    again = unflatten(flat, state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_flatten_refuses_two_leaves_of_one_name() -> None:
    with pytest.raises(ValueError, match=r"'a\.b'"):
        flatten({"a": {"b": 1}, "a.b": 2})
