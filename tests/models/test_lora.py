"""A model with pairs beside its matrices against one whose matrices have the pairs in them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ringvision.mesh import make_mesh
from ringvision.models import lora
from ringvision.tree import flatten, unflatten

from .test_transformer import SMALL, Transformer, logits, make, packed_rows

RANK = 3
ALPHA = 6.0


def with_pairs(model: Transformer, std: float) -> Transformer:
    """The model with pairs whose second halves are random, where they would be zero."""
    lora.attach(model, rank=RANK, alpha=ALPHA, rngs=nnx.Rngs(3))
    graphdef, params = nnx.split(model)
    random = np.random.default_rng(0)
    flat = {
        name: std * random.standard_normal(x.shape).astype(x.dtype) if lora.is_pair(name) else x
        for name, x in flatten(params).items()
    }
    return nnx.merge(graphdef, unflatten(flat, params))


@pytest.mark.parametrize("change", [{}, {"qkv_bias": True, "qk_norm": "rms"}])
def test_pairs_beside_the_matrices_equal_pairs_in_them(change):
    config = replace(SMALL, **change)
    rows = packed_rows()
    plain = make(config)
    before = logits(plain, *rows)
    model = with_pairs(make(config), 0.1)
    graphdef, params = nnx.split(plain)
    whole = lora.merged(flatten(nnx.state(model)), rank=RANK, alpha=ALPHA)
    merged = nnx.merge(graphdef, unflatten(whole, params))
    expected = logits(merged, *rows)
    np.testing.assert_allclose(logits(model, *rows), expected, atol=3e-5)
    assert np.abs(expected - before).max() > 0.3
    mesh = make_mesh(context=2, tensor=2, devices=jax.devices()[:4])
    np.testing.assert_allclose(logits(model, *rows, mesh=mesh), expected, atol=5e-5)


def test_by_hand_in_float64():
    model = with_pairs(make(), 0.1)
    flat = {name: np.asarray(x, np.float64) for name, x in flatten(nnx.state(model)).items()}
    whole = lora.merged(flatten(nnx.state(model)), rank=RANK, alpha=ALPHA)
    for name, letters in (
        ("attention.query", "ldr,lrnh->ldnh"),
        ("attention.output", "lnhr,lrd->lnhd"),
        ("feed_forward.down", "lfr,lrd->lfd"),
    ):
        down, up = (flat[f"layers.{name}_lora.{half}"] for half in ("down", "up"))
        expected = flat[f"layers.{name}"] + ALPHA / RANK * np.einsum(letters, down, up)
        np.testing.assert_allclose(whole[f"layers.{name}"], expected, atol=1e-6)
    assert len(flat) - len(whole) == 14


def test_new_pairs_change_nothing_and_have_a_gradient():
    rows = packed_rows()
    model = make()
    before = logits(model, *rows)
    lora.attach(model, rank=RANK, alpha=ALPHA, rngs=nnx.Rngs(3))
    np.testing.assert_array_equal(logits(model, *rows), before)
    graphdef, params = nnx.split(model)
    loss = jax.jit(jax.grad(lambda params: jnp.mean(nnx.merge(graphdef, params).logits(*rows) ** 2)))
    gradient = flatten(loss(params))
    for name in gradient:
        if lora.is_pair(name):
            assert bool(jnp.any(gradient[name] != 0)) == name.endswith(".up"), name
