"""Rotary positions against their definition in float64, and scaled ones against Hugging Face's."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.ops.rope import RopeScaling, frequencies, scaling_from
from ringvision.ops.rope import rope as plain_rope

rope = jax.jit(plain_rope, static_argnames="theta")


def definition(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """Channel i and channel i + H/2 as one complex number, turned by position * theta^(-2i/H)."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(
        1j * positions[..., None, None] * theta ** (-np.arange(half) / half)
    )
    return np.concatenate([turned.real, turned.imag], axis=-1)


@pytest.mark.parametrize("theta", [1e4, 5e7])
def test_definition(theta):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 16, 3, 8)).astype(np.float32)
    positions = random.integers(0, 2000, size=(2, 16))
    turned = rope(jnp.asarray(x), positions, theta=theta)
    assert turned.dtype == jnp.float32
    assert (
        np.abs(turned - definition(x.astype(np.float64), positions, theta)).max() < 5e-4
    )  # float32 angles: 2000 radians to 1e-4


def test_products_depend_on_the_difference_of_positions():
    random = np.random.default_rng(1)
    q, k = (random.normal(size=(1, 1, 1, 16)).astype(np.float32) for _ in range(2))
    products = [
        float((rope(q, np.array([[at]]), theta=1e4) * rope(k, np.array([[at - 7]]), theta=1e4)).sum())
        for at in (7, 50, 600)
    ]
    assert products == pytest.approx([products[0]] * 3, abs=1e-3)
    assert np.array_equal(rope(q, np.array([[0]]), theta=1e4), q)


def test_half_precision_keeps_its_type_and_float32_angles():
    x = np.ones((1, 1, 1, 8), jnp.bfloat16)
    turned = rope(x, np.array([[1001]]), theta=1e4)
    assert turned.dtype == jnp.bfloat16
    assert (
        np.abs(turned.astype(np.float32) - definition(np.ones((1, 1, 1, 8)), np.array([[1001]]), 1e4)).max()
        < 1e-2
    )


def test_scaling_slows_the_slow_and_keeps_the_fast():
    plain = frequencies(64, 5e5)
    scaled = frequencies(
        64, 5e5, RopeScaling(factor=8, low_frequency=1, high_frequency=4, trained_length=8192)
    )
    turns = 8192 * plain / (2 * np.pi)
    assert np.array_equal(scaled[turns > 4], plain[turns > 4])
    assert np.allclose(scaled[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    smooth = (turns[between] - 1) / 3
    assert between.any()
    assert np.allclose(
        scaled[between], (1 - smooth) * plain[between] / 8 + smooth * plain[between], rtol=1e-5
    )


def test_linear_interpolation():
    assert np.allclose(
        frequencies(16, 1e4, RopeScaling(4, kind="linear")), frequencies(16, 1e4) / 4, rtol=1e-6
    )


FIXTURES = Path(__file__).parents[1] / "fixtures/hf_variants"
SCALED = json.loads((FIXTURES / "scaled_positions.json").read_text())


@pytest.mark.parametrize("number", range(len(SCALED)))
def test_scaled_positions_against_hugging_face(number):
    head_dim = SCALED[number]["head_dim"]
    theta = SCALED[number]["theta"]
    scaling = scaling_from(SCALED[number]["config"] | {"rope_theta": theta}, SCALED[number]["max_length"])
    expected = np.load(FIXTURES / "frequencies.npz")
    np.testing.assert_allclose(
        frequencies(head_dim, theta, scaling), expected[f"{number}/radians"], rtol=2e-6
    )
    assert scaling.amplitude == pytest.approx(float(expected[f"{number}/amplitude"]), rel=1e-6)
    assert not np.allclose(frequencies(head_dim, theta), expected[f"{number}/radians"], rtol=1e-2)
    unturned = plain_rope(
        jnp.ones((1, 1, 1, head_dim)), np.zeros((1, 1), np.int32), theta=theta, scaling=scaling
    )
    np.testing.assert_allclose(unturned, scaling.amplitude, rtol=1e-6)


def test_folded_turns_look_alike_after_each_trained_length():
    folded = RopeScaling(1, trained_length=512, kind="folded")
    plain = frequencies(32, 1e4)
    turns = frequencies(32, 1e4, folded).astype(np.float64) * 512 / (2 * np.pi)
    assert np.abs(turns - np.round(turns)).max() < 1e-4  # float32 of up to 81 turns
    assert np.abs(turns - plain * 512 / (2 * np.pi)).max() <= 0.5 + 1e-4
    assert turns[0] == pytest.approx(81) and turns[-1] == 0
    x = np.random.default_rng(2).normal(size=(1, 6, 2, 32)).astype(np.float32)
    positions = np.array([[0, 1, 17, 200, 400, 511]])
    near = plain_rope(x, positions, theta=1e4, scaling=folded)
    far = plain_rope(x, positions + 512 * 100_000, theta=1e4, scaling=folded)
    np.testing.assert_array_equal(near, far)  # exact, at positions that float32 does not hold
    assert np.abs(near - plain_rope(x, positions + 256, theta=1e4, scaling=folded)).max() > 1


def test_the_slow_part_of_the_channels_need_not_turn():
    """p-RoPE: what is compared in those is the same at any distance."""
    some = RopeScaling(1, trained_length=512, kind="folded", turning=0.5)
    turns = frequencies(32, 1e4, some)
    np.testing.assert_array_equal(turns[:8], frequencies(32, 1e4, replace(some, turning=1.0))[:8])
    assert (turns[:8] > 0).all() and not turns[8:].any()
    assert (frequencies(32, 1e4, RopeScaling(2, kind="linear", turning=0.3)) > 0).sum() == 5  # rounded up
    x = np.random.default_rng(2).normal(size=(1, 2, 1, 32)).astype(np.float32)
    turned = np.asarray(plain_rope(x, np.array([[7, 300]]), theta=1e4, scaling=some))
    still = [*range(8, 16), *range(24, 32)]
    np.testing.assert_array_equal(turned[..., still], x[..., still])
    assert np.abs(turned - x).max() > 0.1


def test_what_is_not_scaled_and_what_is_not_supported():
    assert scaling_from(None, 4096) is None
    assert scaling_from({"rope_type": "default", "rope_theta": 1e4}, 4096) is None
    for values, said in (
        ({"type": "dynamic", "factor": 2.0}, "'dynamic' is not supported"),
        ({"rope_type": "longrope"}, "'longrope' is not supported"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": False}, "truncate"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_type": "linear"}, "cannot be read"),
        ({"rope_type": "llama3", "factor": 2.0}, "cannot be read"),
        ({"rope_type": "linear", "factor": "twice"}, "cannot be read"),
    ):
        with pytest.raises(UserError, match=said):
            scaling_from(values, 4096)


def test_bad_input_is_named():
    with pytest.raises(UserError, match="head_dim=7"):
        rope(np.zeros((1, 1, 1, 7), np.float32), np.zeros((1, 1), np.int32), theta=1e4)
    with pytest.raises(UserError, match=r"factor=0\.5"):
        RopeScaling(factor=0.5)
    with pytest.raises(UserError, match="kind='ntk': expected one of llama3, linear, yarn, folded"):
        RopeScaling(factor=2, kind="ntk")
    with pytest.raises(UserError, match="turning=0: expected more than 0 and at most 1"):
        RopeScaling(factor=1, turning=0)
    with pytest.raises(UserError, match="low_frequency=5"):
        RopeScaling(factor=2, low_frequency=5, high_frequency=4)
