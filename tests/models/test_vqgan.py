"""The VQGAN against the implementations that it must be able to stand in for, from weights and outputs that
they wrote themselves.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ringvision.errors import UserError
from ringvision.models.convolution import Convolution
from ringvision.models.discriminator import Discriminator, hinge_loss
from ringvision.models.vqgan import VQGAN, VQGANConfig, depth_to_space, nearest, space_to_depth
from ringvision.tree import flatten, unflatten

FIXTURES = Path(__file__).parent.parent / "fixtures"
PATCHED = VQGANConfig(
    32,
    channels=8,
    channel_mults=(1, 2),
    z_channels=8,
    embed_dim=4,
    codebook_size=16,
    patch_size=4,
    norm_groups=4,
)
NORM = {"scale": "scale", "bias": "bias"}
CONV = {"kernel": "kernel", "bias": "bias"}


def lwm_names(config: VQGANConfig) -> dict[str, str]:
    """our name -> LWM's, module by module. Both number the decoder's levels from the lowest resolution."""
    names = {"codebook": "quantize/embeddings"}

    def module(ours: str, theirs: str, leaves: dict[str, str]) -> None:
        names.update({f"{ours}.{leaf}": f"{theirs}/{other}" for leaf, other in leaves.items()})

    def block(ours: str, theirs: str) -> None:
        for number in (1, 2):
            module(f"{ours}.norm{number}", f"{theirs}/GroupNorm_{number - 1}", NORM)
            module(f"{ours}.conv{number}", f"{theirs}/Conv_{number - 1}", CONV)
        module(f"{ours}.shortcut", f"{theirs}/Conv_2", CONV)

    for side, kind, blocks in (
        ("encoder", "Downsampl", config.num_res_blocks),
        ("decoder", "Upsampl", config.num_res_blocks + 1),
    ):
        module(f"{side}.conv_in", f"{side}/Conv_0", CONV)
        module(f"{side}.conv_out", f"{side}/Conv_1", CONV)
        module(f"{side}.norm_out", f"{side}/GroupNorm_0", NORM)
        for number in (1, 2):
            block(f"{side}.middle.block{number}", f"{side}/MidBlock_0/ResnetBlock_{number - 1}")
        for level in range(len(config.channel_mults)):
            for index in range(blocks):
                block(
                    f"{side}.levels.{level}.blocks.{index}",
                    f"{side}/{kind}ingBlock_{level}/ResnetBlock_{index}",
                )
            resample = "Downsample_0" if side == "encoder" else "Upsample_0"
            module(
                f"{side}.levels.{level}.resample.conv",
                f"{side}/{kind}ingBlock_{level}/{resample}/Conv_0",
                CONV,
            )
    module("quant_conv", "quant_conv", CONV)
    module("post_quant_conv", "post_quant_conv", CONV)
    return names


def vqgan_jax_names(config: VQGANConfig) -> dict[str, str]:
    """our name -> vqgan-jax's, which numbers the decoder's levels from the highest resolution."""
    names = {"codebook": "quantize/embedding/embedding"}
    levels = len(config.channel_mults)

    def module(ours: str, theirs: str, leaves: dict[str, str]) -> None:
        names.update({f"{ours}.{leaf}": f"{theirs}/{other}" for leaf, other in leaves.items()})

    def block(ours: str, theirs: str) -> None:
        for number in (1, 2):
            module(f"{ours}.norm{number}", f"{theirs}/norm{number}", NORM)
            module(f"{ours}.conv{number}", f"{theirs}/conv{number}", CONV)
        module(f"{ours}.shortcut", f"{theirs}/nin_shortcut", CONV)

    def attention(ours: str, theirs: str) -> None:
        module(f"{ours}.norm", f"{theirs}/norm", NORM)
        for part, other in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "proj_out")):
            module(f"{ours}.{part}", f"{theirs}/{other}", CONV)

    for side, blocks in (("encoder", config.num_res_blocks), ("decoder", config.num_res_blocks + 1)):
        for name in ("conv_in", "conv_out"):
            module(f"{side}.{name}", f"{side}/{name}", CONV)
        module(f"{side}.norm_out", f"{side}/norm_out", NORM)
        for number in (1, 2):
            block(f"{side}.middle.block{number}", f"{side}/mid/block_{number}")
        attention(f"{side}.middle.attention", f"{side}/mid/attn_1")
        for level in range(levels):
            theirs = f"encoder/down_{level}" if side == "encoder" else f"decoder/up_{levels - 1 - level}"
            for index in range(blocks):
                block(f"{side}.levels.{level}.blocks.{index}", f"{theirs}/block_{index}")
                attention(f"{side}.levels.{level}.attentions.{index}", f"{theirs}/attn_{index}")
            resample = "downsample" if side == "encoder" else "upsample"
            module(f"{side}.levels.{level}.resample.conv", f"{theirs}/{resample}/conv", CONV)
    module("quant_conv", "quant_conv", CONV)
    module("post_quant_conv", "post_quant_conv", CONV)
    return names


def lwm_config(values: dict) -> VQGANConfig:
    return VQGANConfig(
        resolution=values["resolution"],
        channels=values["hidden_channels"],
        channel_mults=values["channel_mult"],
        num_res_blocks=values["num_res_blocks"],
        attention_resolutions=values["attn_resolutions"],
        mid_attention=not values["no_attn_mid_block"],
        z_channels=values["z_channels"],
        embed_dim=values["quantized_embed_dim"],
        codebook_size=values["num_embeddings"],
    )


def vqgan_jax_config(values: dict) -> VQGANConfig:
    return VQGANConfig(
        resolution=values["resolution"],
        channels=values["ch"],
        channel_mults=values["ch_mult"],
        num_res_blocks=values["num_res_blocks"],
        attention_resolutions=values["attn_resolutions"],
        mid_attention=True,
        z_channels=values["z_channels"],
        embed_dim=values["embed_dim"],
        codebook_size=values["n_embed"],
        clip=False,
    )


def loaded(family: str, config_of, names_of) -> tuple[VQGAN, dict[str, np.ndarray]]:
    """The network with the fixture's weights, every one of them used and each exactly once; and the expected
    arrays.
    """
    folder = FIXTURES / family
    config = config_of(json.loads((folder / "config.json").read_text()))
    graph, params = nnx.split(nnx.eval_shape(lambda: VQGAN(config, rngs=nnx.Rngs(0))))
    with np.load(folder / "weights.npz") as file:
        theirs = dict(file)
    ours = flatten(params)
    names = names_of(config)
    assert sorted(names[name] for name in ours) == sorted(theirs)
    assert all(ours[name].shape == theirs[names[name]].shape for name in ours)
    with np.load(folder / "io.npz") as file:
        expected = dict(file)
    return nnx.merge(
        graph, unflatten({name: jnp.asarray(theirs[names[name]]) for name in ours}, params)
    ), expected


def outputs(model: VQGAN, images: np.ndarray, random_codes: np.ndarray, clip: bool | None) -> tuple:
    """Of the images: latents and z_q [N, h, w, C], codes [N, h, w]; then the images decoded from z_q and
    from the random codes, one after another.
    """
    graph, params = nnx.split(model)

    @jax.jit
    def run(params, images, random_codes):
        model = nnx.merge(graph, params)
        z = model.latents(images)
        z_q, codes = model.quantize(z)
        return z, z_q, codes, model.decode(jnp.concatenate([z_q, model.embed(random_codes)]), clip=clip)

    return run(params, images, random_codes)


def test_lwm() -> None:
    model, expected = loaded("lwm_vqgan", lwm_config, lwm_names)
    z, z_q, codes, decoded = outputs(model, expected["images"], expected["random_codes"], clip=False)
    graph, params = nnx.split(model)
    decode = jax.jit(lambda params, z_q: nnx.merge(graph, params).decode(z_q))
    clipped = decode(params, model.embed(expected["random_codes"]))
    np.testing.assert_allclose(z, expected["latents_pre_quant"], atol=1e-4)
    sure = expected["code_margin"] > 1e-3
    assert sure.all() and codes.dtype == np.int32
    np.testing.assert_array_equal(codes, expected["codes"])
    np.testing.assert_allclose(z_q, expected["quantized"], atol=1e-6)
    np.testing.assert_allclose(decoded[:2], expected["decoded_before_clip"], atol=1e-3)
    np.testing.assert_allclose(clipped, expected["random_decoded"], atol=1e-3)
    assert np.abs(decoded).max() > 1 and np.abs(clipped).max() <= 1


def test_vqgan_jax() -> None:
    model, expected = loaded("vqgan_jax", vqgan_jax_config, vqgan_jax_names)
    random_codes = expected["random_indices"].reshape(1, 16, 16)
    z, z_q, codes, decoded = outputs(model, expected["images"], random_codes, clip=None)
    np.testing.assert_allclose(z, expected["latents_pre_quant"], atol=1e-4)
    sure = expected["code_margin"] > 1e-3
    assert sure.all()
    np.testing.assert_array_equal(np.asarray(codes).reshape(2, -1), expected["indices"])
    np.testing.assert_array_equal(z_q, expected["quant_states"])
    assert np.abs(expected["reconstruction"]).max() > 2  # so that a clip would be seen
    np.testing.assert_allclose(decoded[:2], expected["reconstruction"], atol=1e-3)
    np.testing.assert_allclose(decoded[2:], expected["random_decoded"], atol=1e-3)


def test_published_sizes() -> None:
    """The whole networks, without allocating them: LWM's is known to have 146.2 million parameters."""
    lwm = VQGANConfig(
        256,
        channels=128,
        channel_mults=(1, 2, 2, 4, 6),
        num_res_blocks=2,
        z_channels=64,
        embed_dim=64,
        codebook_size=8192,
    )
    shapes = jax.eval_shape(lambda: nnx.split(VQGAN(lwm, rngs=nnx.Rngs(0)))[1])
    assert (
        lwm.grid == (16, 16) and round(sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6, 1) == 146.2
    )
    dalle = dataclasses.replace(
        lwm,
        channel_mults=(1, 1, 2, 2, 4),
        attention_resolutions=(16,),
        mid_attention=True,
        z_channels=256,
        embed_dim=256,
        codebook_size=16384,
        clip=False,
    )
    model = nnx.eval_shape(lambda: VQGAN(dalle, rngs=nnx.Rngs(0)))
    assert [len(level.attentions) for level in model.encoder.levels] == [0, 0, 0, 0, 2]
    assert [len(level.attentions) for level in model.decoder.levels] == [3, 0, 0, 0, 0]


def test_patches_come_back_in_their_places() -> None:
    images = np.arange(2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
    cells = space_to_depth(jnp.asarray(images), 4)
    assert cells.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(cells[1, 1, 2].reshape(4, 4, 3), images[1, 4:8, 8:12])
    np.testing.assert_array_equal(depth_to_space(cells, 4), images)


def test_patched_network_has_the_grid_it_says() -> None:
    graph, params = nnx.split(nnx.eval_shape(lambda: VQGAN(PATCHED, rngs=nnx.Rngs(0))))
    images = jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32)
    codes = jax.eval_shape(lambda params, images: nnx.merge(graph, params).encode(images), params, images)
    assert PATCHED.pixels_per_code == 8 and codes.shape == (3, *PATCHED.grid) == (3, 4, 4)

    def decode(params, codes):
        model = nnx.merge(graph, params)
        return model.decode(model.embed(codes))

    assert jax.eval_shape(decode, params, codes).shape == images.shape


def test_local_codes_depend_on_their_own_pixels_alone() -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    changed = images.copy()
    changed[:, 8:16, 24:32] *= -1  # the square of code (1, 3)
    for local in (True, False):
        network = dataclasses.replace(PATCHED, local_codes=local)
        latents = jax.jit(lambda images, of=network: VQGAN(of, rngs=nnx.Rngs(0)).latents(images))
        before = np.asarray(latents(images))
        after = np.asarray(latents(changed))
        assert before.shape == (2, 4, 4, 4)
        differs = np.abs(before - after).max(axis=(0, 3)) > 1e-6
        assert differs[1, 3]
        assert differs.sum() == 1 if local else differs.all()


def test_nearest_row_by_brute_force() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(5, 7, 3)).astype(np.float32)
    codebook = random.normal(size=(11, 3)).astype(np.float32)
    distances = ((z[..., None, :] - codebook) ** 2).sum(-1)
    np.testing.assert_array_equal(nearest(jnp.asarray(z), jnp.asarray(codebook)), distances.argmin(-1))


def test_config_round_trip_and_refusals() -> None:
    config = VQGANConfig(64, channel_mults=(1, 2), attention_resolutions=(32,), norm_groups=16)
    assert VQGANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(UserError, match="pixels"):
        VQGANConfig(60, patch_size=4)
    with pytest.raises(UserError, match="norm_groups"):
        VQGANConfig(64, channels=40)
    with pytest.raises(UserError, match="channel_mults"):
        VQGANConfig(64, channel_mults=())
    with pytest.raises(UserError, match="codebook_size is 0"):
        VQGANConfig(64, codebook_size=0)
    with pytest.raises(UserError, match="'codebok_size' is unknown"):
        VQGANConfig.from_dict({"codebok_size": 3})
    with pytest.raises(UserError, match="channel_mults"):
        VQGANConfig(64, channel_mults=(1, 0))
    with pytest.raises(UserError, match="attention_heads=3"):
        VQGANConfig(64, attention_heads=3)
    with pytest.raises(UserError, match="pixel_range"):
        VQGANConfig(64, pixel_range=(1, -1))


def test_what_came_later_changes_no_older_config() -> None:
    """The hash of a tokenizer is over its config: options that it does not use must not be in it."""
    older = """resolution in_channels channels channel_mults num_res_blocks attention_resolutions
        mid_attention z_channels embed_dim codebook_size patch_size norm_groups norm_eps clip local_codes"""
    assert set(VQGANConfig().to_dict()) == set(older.split())
    later = VQGANConfig(attention_heads=2, pixel_range=(0, 1), encoder_only=True)
    assert later.to_dict()["pixel_range"] == [0, 1] and VQGANConfig.from_dict(later.to_dict()) == later


def test_attention_stays_on_its_levels_at_another_resolution() -> None:
    config = VQGANConfig(64, channel_mults=(1, 2, 2), attention_resolutions=(32, 16))
    larger = config.resized(96)
    assert (larger.resolution, larger.attention_resolutions, larger.grid) == (96, (48, 24), (24, 24))
    names = [
        set(flatten(nnx.eval_shape(lambda of=of: nnx.state(VQGAN(of, rngs=nnx.Rngs(0))))))
        for of in (config, larger)
    ]
    assert names[0] == names[1] and any("attentions" in name for name in names[0])


def test_without_a_decoder_codes_stay_codes() -> None:
    model = nnx.eval_shape(lambda: VQGAN(VQGANConfig(encoder_only=True), rngs=nnx.Rngs(0)))
    assert not any(name.startswith("decoder") for name in flatten(nnx.state(model)))
    with pytest.raises(UserError, match="an encoder alone"):
        model.decode(jnp.zeros((1, 16, 16, 16)))


def test_images_are_clipped_to_the_range_of_pixels() -> None:
    config = dataclasses.replace(
        PATCHED, resolution=8, channel_mults=(1,), codebook_size=8, patch_size=1, pixel_range=(0, 1)
    )
    graph, like = nnx.split(nnx.eval_shape(lambda: VQGAN(config, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), like)

    @jax.jit
    def decode(params, z_q):
        model = nnx.merge(graph, params)
        return model.decode(z_q), model.decode(z_q, clip=False)

    clipped, free = decode(params, random.normal(size=(4, 8, 8, 4)).astype(np.float32))
    assert free.min() < -0.1 and free.max() > 1.1
    np.testing.assert_array_equal(clipped, np.clip(free, 0, 1))


def test_discriminator_judges_patches() -> None:
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    painted_over = images.copy()
    painted_over[:, :8, :8] = 0
    judge = jax.jit(lambda images: Discriminator(channels=8, rngs=nnx.Rngs(0))(images))
    logits = np.asarray(judge(images))
    assert logits.shape == (2, 8, 8)
    changed = np.asarray(judge(painted_over))
    # By GroupNorm all logits depend on the mean of the whole image: far patches change too, but less than
    # the patch that was painted over.
    assert abs(changed - logits)[:, 0, 0].min() > abs(changed - logits)[:, 4:, 4:].max()
    assert (
        hinge_loss(jnp.array([2.0]), jnp.array([-2.0])) == 0
        and hinge_loss(jnp.array([0.0]), jnp.array([0.0])) == 1
    )


def test_a_single_cell_is_convolved_as_any_other() -> None:
    """Round a single cell there are zeros, so the short way must give what a larger map of zeros gives
    there.
    """
    convolution = Convolution(5, 7, 3, rngs=nnx.Rngs(3))
    cell = np.random.default_rng(3).standard_normal((4, 1, 1, 5)).astype(np.float32)
    wide = np.pad(cell, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_allclose(convolution(cell), convolution(wide)[:, 1:2, 1:2], rtol=1e-5, atol=1e-6)
