"""What Emu3's tokenizer does by construction: time is causal, an image is a still video, and its two steps
each way are the whole. That it computes what Emu3's own does is in tests/weights/test_emu3.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ringvision.errors import UserError
from ringvision.models.convolution import SpatialAttention, SpatialNorm, repeat
from ringvision.models.emu3_tokenizer import BatchNorm, CausalConvolution, Emu3Tokenizer, Emu3TokenizerConfig
from ringvision.models.vqgan import VQGANConfig
from ringvision.tree import flatten, unflatten

FRAMES = VQGANConfig(
    8,
    channels=8,
    channel_mults=(1, 2),
    z_channels=4,
    embed_dim=4,
    codebook_size=16,
    norm_groups=4,
    clip=False,
)
CONFIG = Emu3TokenizerConfig(FRAMES)


def filled(make):
    """The module with numbers in it that are all different from what they begin with; those that must be
    above 0 are.
    """
    graph, params = nnx.split(nnx.eval_shape(make))
    random = np.random.default_rng(0)
    flat = {
        name: random.normal(size=x.shape).astype(np.float32) / (x.size / x.shape[-1]) ** 0.5
        for name, x in flatten(params).items()
    }
    flat = {name: np.abs(x) + 0.1 if name.endswith("variance") else x for name, x in flat.items()}
    return nnx.merge(graph, unflatten(flat, params))


@pytest.fixture(scope="module")
def model() -> Emu3Tokenizer:
    return filled(lambda: Emu3Tokenizer(CONFIG, rngs=nnx.Rngs(0)))


def run(model, method, *arrays):
    graph, params = nnx.split(model)
    return jax.tree.map(
        np.asarray,
        jax.jit(lambda params, *arrays: method(nnx.merge(graph, params), *arrays))(params, *arrays),
    )


def latents_of(model, video):
    return model.encode_time(model.encode_frames(video)[None])[0]


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (8, 8, 12, 3)).astype(np.float32)


def test_no_moment_sees_a_later_one(model, video) -> None:
    changed = video.copy()
    changed[4:] = -changed[4:]
    before, after = (run(model, latents_of, frames) for frames in (video, changed))
    assert before.shape == (2, 4, 6, 4)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).min(axis=-1).max() > 1e-3
    z = np.random.default_rng(2).normal(size=(1, 3, 2, 2, 4)).astype(np.float32)
    other = z.copy()
    other[:, 2] += 1
    for one, two in zip(
        run(model, Emu3Tokenizer.decode_time, z), run(model, Emu3Tokenizer.decode_time, other)
    ):
        assert one.shape == (1, 12, 2, 2, 4)
        np.testing.assert_array_equal(one[:, :8], two[:, :8])
        assert np.abs(one[:, 8:] - two[:, 8:]).max() > 1e-3


def test_an_image_is_a_still_video(model, video) -> None:
    image = video[:1]
    still = np.repeat(image, 4, axis=0)
    z = run(model, Emu3Tokenizer.latents, image)
    np.testing.assert_allclose(z, run(model, latents_of, still), atol=1e-5)
    codes = run(model, Emu3Tokenizer.encode, image)
    assert codes.shape == (1, 4, 6) and codes.dtype == np.int32
    decoded = run(model, lambda model, codes: model.decode(model.embed(codes)), codes)

    def as_video(model, codes):
        z, condition = model.decode_time(model.embed(codes)[None])
        return model.decode_frames(z[0], condition[0])

    frames = run(model, as_video, codes)
    assert frames.shape == (4, 8, 12, 3)
    np.testing.assert_allclose(decoded[0], frames[0], atol=1e-5)
    assert np.abs(frames[0] - frames[3]).max() > 1e-4


def test_a_causal_convolution_against_sums(video) -> None:
    """In float64, cell by cell: output t of stride s sees inputs s*t-2 … of the zeros and the moments
    before.
    """
    convolution = filled(lambda: CausalConvolution(3, 2, (4, 3, 3), stride=2, rngs=nnx.Rngs(3)))
    small = video[:6, :3, :3]
    padded = np.pad(small.astype(np.float64), ((2, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(convolution.kernel[...], np.float64)
    expected = np.empty((3, 3, 3, 2))
    for t, r, c in np.ndindex(3, 3, 3):
        below = padded[2 * t : 2 * t + 4, r : r + 3, c : c + 3]
        expected[t, r, c] = np.einsum("trcx,trcxy->y", below, kernel) + np.asarray(convolution.bias[...])
    np.testing.assert_allclose(
        run(convolution, CausalConvolution.__call__, small[None])[0], expected, atol=1e-5
    )


def test_batch_normalisation_uses_what_is_stored() -> None:
    norm = BatchNorm(2, 1e-5)
    norm.mean[...] = jnp.array([1.0, 2.0])
    norm.variance[...] = jnp.array([4.0, 9.0])
    norm.scale[...] = jnp.array([10.0, 1.0])
    norm.bias[...] = jnp.array([0.0, 5.0])
    np.testing.assert_allclose(norm(jnp.array([[5.0, 8.0]])), [[20.0, 7.0]], rtol=1e-5)


def test_a_spatial_norm_takes_its_factor_and_shift_from_the_cell_below() -> None:
    random = np.random.default_rng(0)
    norm = filled(lambda: SpatialNorm(4, 3, groups=2, eps=1e-6, rngs=nnx.Rngs(0)))
    x = random.normal(size=(1, 4, 4, 4)).astype(np.float32)
    z = random.normal(size=(1, 2, 2, 3)).astype(np.float32)
    y, plain, repeated = run(norm, lambda norm, x, z: (norm(x, z), norm.norm(x), repeat(z, 2)), x, z)
    factors, shifts = (np.asarray(part.kernel[...])[0, 0] for part in (norm.factor, norm.shift))
    for row in range(4):
        for column in range(4):
            place = z[0, row // 2, column // 2]
            factor = place @ factors + np.asarray(norm.factor.bias[...])
            shift = place @ shifts + np.asarray(norm.shift.bias[...])
            np.testing.assert_allclose(y[0, row, column], plain[0, row, column] * factor + shift, atol=1e-5)
    np.testing.assert_array_equal(repeated[0, 3, 1], z[0, 1, 0])


def test_heads_of_an_attention_are_attentions_of_their_own() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 2, 3, 8)).astype(np.float32)
    attention = filled(lambda: SpatialAttention(8, groups=2, eps=1e-6, heads=2, rngs=nnx.Rngs(0)))
    given, y = run(attention, lambda attention, x: (attention(x), attention.norm(x)), x)

    def project(part, values):
        return values @ np.asarray(part.kernel[...], np.float64)[0, 0] + np.asarray(part.bias[...])

    q, k, v = (project(part, y) for part in (attention.query, attention.key, attention.value))
    mixed = np.empty((2, 6, 8))
    for head in (slice(0, 4), slice(4, 8)):
        a, b, c = (part.reshape(2, 6, 8)[..., head] for part in (q, k, v))
        weights = np.exp(a @ b.swapaxes(1, 2) / 2)
        mixed[..., head] = weights / weights.sum(-1, keepdims=True) @ c
    np.testing.assert_allclose(given, x + project(attention.out, mixed).reshape(2, 2, 3, 8), atol=1e-5)


def test_the_config_comes_back_and_takes_other_sizes() -> None:
    assert Emu3TokenizerConfig.from_dict(CONFIG.to_dict()) == CONFIG
    attended = Emu3TokenizerConfig(
        VQGANConfig(32, channels=32, channel_mults=(1, 1, 1), attention_resolutions=(16,), z_channels=16)
    )
    larger = attended.resized(96)
    assert (larger.resolution, larger.grid, larger.frames.attention_resolutions) == (96, (24, 24), (48,))
    assert attended.resized(32) is not None and attended.resized(32) == attended


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Emu3TokenizerConfig(FRAMES, temporal_factor=3), "power of 2"),
        (lambda: Emu3TokenizerConfig(FRAMES, temporal_factor=0), "power of 2"),
        (lambda: Emu3TokenizerConfig(VQGANConfig(encoder_only=True)), "encoder_only"),
        (lambda: Emu3TokenizerConfig.from_dict({"temporal_factor": 4}), "frames"),
        (lambda: Emu3TokenizerConfig.from_dict({"frames": {}, "speed": 4}), "speed"),
        (
            lambda: Emu3Tokenizer(
                Emu3TokenizerConfig(VQGANConfig(z_channels=8, embed_dim=4)), rngs=nnx.Rngs(0)
            ),
            "as many",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, says) -> None:
    with pytest.raises(UserError, match=says):
        make()
