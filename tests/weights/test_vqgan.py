"""Image tokenizers against what LWM, vqgan-jax and diffusers computed from the same files."""

import json
import pickle
import runpy

import jax
import numpy as np
import pytest
import yaml
from continuation import FIXTURES
from flax import nnx, serialization
from safetensors.numpy import load_file, save_file

from ringvision.errors import UserError
from ringvision.model_folder import load_model, read_config, specs
from ringvision.models.vqgan import VQGAN, VQGANConfig
from ringvision.tree import unflatten
from ringvision.video_tokenizer import VideoTokenizer, load_video_tokenizer
from ringvision.weights.importing import import_weights

LWM, PICKLES, FLAX, AMUSED, ATTENDING = (
    FIXTURES / name
    for name in ("lwm_vqgan", "lwm_vqgan_pickles", "vqgan_jax", "amused_vq", "diffusers_attention")
)
SOURCES = {
    "lwm": LWM / "vqgan_numpy.pkl",
    "lwm-dict-of-jax-arrays": PICKLES / "vqgan_dict_jaxarray.pkl",
    "lwm-frozen-dict-of-jax-arrays": PICKLES / "vqgan_frozendict_jaxarray.pkl",
    "lwm-frozen-dict": PICKLES / "vqgan_frozendict_numpy.pkl",
    "vqgan-jax": FLAX / "flax_model.msgpack",
    "amused": AMUSED,
    "diffusers-attention": ATTENDING,
}


def values_of(source) -> dict[str, np.ndarray]:
    """The fixture's arrays under LWM's names, pictures with channels last."""
    values = dict(np.load((source if source.is_dir() else source.parent) / "io.npz"))
    for theirs, ours in (
        ("indices", "codes"),
        ("reconstruction", "decoded"),
        ("random_indices", "random_codes"),
    ):
        if theirs in values:
            values[ours] = values.pop(theirs)
    if values["images"].shape[1] == 3:
        values = {
            name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in values.items()
        }
    return values


def latents_of(folder, images: np.ndarray) -> np.ndarray:
    config = VQGANConfig.from_dict(read_config(folder, "vqgan")["vqgan"]).resized(images.shape[1])
    graph, like = nnx.split(nnx.eval_shape(lambda: VQGAN(config, rngs=nnx.Rngs(0))))
    params = unflatten(load_model(folder, specs(like)), like)
    return np.asarray(
        jax.jit(lambda params, images: nnx.merge(graph, params).latents(images))(params, images)
    )


@pytest.mark.parametrize("name", SOURCES)
def test_codes_latents_and_pictures(tmp_path, name):
    values = values_of(SOURCES[name])
    import_weights(SOURCES[name], tmp_path / "model")
    size = values["images"].shape[1]
    np.testing.assert_allclose(
        latents_of(tmp_path / "model", values["images"]), values["latents_pre_quant"], atol=1e-4, rtol=0
    )
    tokenizer = load_video_tokenizer(tmp_path / "model", batch=2, size=size)
    codes = tokenizer.encode(values["images"])
    wide = values["code_margin"].reshape(codes.shape) > 1e-3
    np.testing.assert_array_equal(codes[wide], values["codes"].reshape(codes.shape)[wide])
    assert wide.mean() > 0.9 and len(np.unique(codes)) > 8
    pictures = tokenizer.decode(values["codes"].reshape(codes.shape))
    np.testing.assert_allclose(pictures, values["decoded"], atol=1e-3, rtol=0)
    if "random_codes" in values:
        again = tokenizer.decode(values["random_codes"].reshape(-1, *codes.shape[1:]))
        np.testing.assert_allclose(again, values["random_decoded"], atol=1e-3, rtol=0)


def test_frames_of_a_video_are_coded_alone(tmp_path):
    values = values_of(SOURCES["lwm"])
    import_weights(SOURCES["lwm"], tmp_path / "model")
    np.testing.assert_array_equal(
        load_video_tokenizer(tmp_path / "model").encode(values["video"][0]), values["video_codes"][0]
    )


def test_the_range_of_pixels_goes_into_the_config(tmp_path):
    for name, pixel_range, clip in (
        ("amused", (0, 1), False),
        ("lwm", (-1, 1), True),
        ("vqgan-jax", (-1, 1), False),
    ):
        import_weights(SOURCES[name], tmp_path / name)
        config = VQGANConfig.from_dict(read_config(tmp_path / name, "vqgan")["vqgan"])
        assert (config.pixel_range, config.clip) == (pixel_range, clip)


def taming(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """vqgan-jax's parameters, which came from Taming Transformers, under the names and in the layout that
    they had there.
    """
    renamed = {}
    for name, array in tensors.items():
        for there, here in (
            ("/down_", "/down/"),
            ("/up_", "/up/"),
            ("/attn_", "/attn/"),
            ("/block_", "/block/"),
        ):
            name = name if "/mid/" in name else name.replace(there, here)
        name = (
            name.replace("/", ".")
            .replace(".kernel", ".weight")
            .replace(".scale", ".weight")
            .replace("embedding.embedding", "embedding.weight")
        )
        renamed[name] = np.ascontiguousarray(array.transpose(3, 2, 0, 1)) if array.ndim == 4 else array
    return renamed


@pytest.mark.parametrize("prefix", ["", "state_dict."])
def test_taming_transformers(tmp_path, prefix):
    import_weights(SOURCES["vqgan-jax"], tmp_path / "flax")
    tensors = {prefix + name: array for name, array in taming(flat_weights()).items()}
    extras = {
        f"{prefix}loss.discriminator.main.0.weight": np.zeros((2, 2), np.float32),
        f"{prefix}loss.perceptual_loss.lin0.weight": np.ones(3),
    }
    (tmp_path / "source").mkdir()
    save_file(tensors | extras, tmp_path / "source/model.safetensors")
    settings = json.loads((FLAX / "config.json").read_text())
    sizes = {
        name: settings[name]
        for name in (
            "ch",
            "ch_mult",
            "num_res_blocks",
            "attn_resolutions",
            "z_channels",
            "resolution",
            "in_channels",
        )
    }
    params = {"embed_dim": settings["embed_dim"], "n_embed": settings["n_embed"], "ddconfig": sizes}
    (tmp_path / "source/config.json").write_text(json.dumps({"model": {"params": params}}))
    result = import_weights(tmp_path / "source", tmp_path / "taming")
    assert "taming" in result["family"]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("flax", "taming"))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    assert read_config(tmp_path / "flax")["vqgan"] == read_config(tmp_path / "taming")["vqgan"]


TAMING = FIXTURES / "taming_vqgan"
formula = runpy.run_path(str(TAMING / "formula.py"))["formula"]
"""The weights that the fixture was computed with."""


def taming_weights() -> dict[str, np.ndarray]:
    """The network of the fixture, as taming-transformers names it."""
    shapes = json.loads((TAMING / "shapes.json").read_text())
    return {
        name: formula(number, tuple(shape)) + np.float32("norm" in name and name.endswith("weight"))
        for number, (name, shape) in enumerate(shapes.items())
    }


def assert_computes(tokenizer: VideoTokenizer, values: dict[str, np.ndarray]) -> None:
    """That the tokenizer gives the latents, codes and pictures that were recorded."""
    np.testing.assert_allclose(
        tokenizer.latents(values["images"]), values["latents_pre_quant"], atol=1e-4, rtol=0
    )
    codes = tokenizer.encode(values["images"])
    wide = values["code_margin"] > 1e-3
    assert wide.mean() > 0.7 and len(np.unique(codes[wide])) > 8
    np.testing.assert_array_equal(codes[wide], values["codes"][wide])
    np.testing.assert_allclose(tokenizer.decode(values["codes"]), values["decoded"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("said", ["json", "yaml", None])
def test_a_first_level_wider_than_the_first_convolution(tmp_path, said):
    """As taming-transformers computes it with ch_mult 2, 1: the convolution gives `ch` channels, the level
    twice as many.
    """
    tensors = taming_weights()
    save_file(
        {f"state_dict.{name}": array for name, array in tensors.items()}, tmp_path / "model.safetensors"
    )
    config = {"json": TAMING / "config.json", "yaml": tmp_path / "model.yaml", None: None}[said]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(json.loads((TAMING / "config.json").read_text())))
    result = import_weights(tmp_path / "model.safetensors", tmp_path / "model", config=config)
    assert bool(result["assumed"]) == (said is None)
    values = values_of(TAMING)
    tokenizer = load_video_tokenizer(tmp_path / "model", batch=2, size=16)
    assert tokenizer.config.entry_channels == 32 and tokenizer.config.widths == (64, 32)
    assert_computes(tokenizer, values)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &x [1, 2]\nb: *x", "aliases"),
        ("- 1", "holds a list"),
        ("a: 2001-01-01", "not JSON serializable"),
        ("a: .nan", "JSON compliant"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("[" * 5000, "more than 256 lists"),
        ("[" * 250, "cannot be read as YAML"),
        ("a: " + "x" * 300_000, "more than 65536 bytes"),
        ("a: b: c", "mapping values are not allowed"),
    ],
)
def test_a_yaml_that_is_no_settings(tmp_path, text, word):
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(UserError, match=word) as error:
        import_weights(AMUSED, tmp_path / "model", config=tmp_path / "model.yaml")
    assert "\n" not in str(error.value)


def test_pictures_that_are_not_square(tmp_path):
    """As taming-transformers computes them; attention stays on its level. A tokenizer is opened for their
    size.
    """
    tensors = taming_weights()
    save_file(tensors, tmp_path / "model.safetensors")
    import_weights(tmp_path / "model.safetensors", tmp_path / "model", config=TAMING / "config.json")
    values = {
        name.removeprefix("wide_"): array
        for name, array in values_of(TAMING).items()
        if name.startswith("wide_")
    }
    tokenizer = load_video_tokenizer(tmp_path / "model", batch=2, size=(12, 20))
    assert tokenizer.grid == (6, 10) and tokenizer.codes_per_frame == 60
    assert_computes(tokenizer, values)
    with pytest.raises(UserError, match="multiples of 2"):
        load_video_tokenizer(tmp_path / "model", size=(12, 19))
    with pytest.raises(UserError, match="12, 20"):
        tokenizer.encode(values["images"][:, :, :12])


def flat_weights() -> dict[str, np.ndarray]:
    return dict(np.load(FLAX / "weights.npz"))


@pytest.mark.parametrize("name", ["lwm", "vqgan-jax", "amused"])
def test_without_a_config_what_the_shapes_say(tmp_path, name):
    source = SOURCES[name]
    (tmp_path / "source").mkdir()
    path = next(source.glob("*.safetensors")) if source.is_dir() else source
    (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
    result = import_weights(tmp_path / "source", tmp_path / "guessed")
    assert any("resolution 256" in line for line in result["assumed"])
    import_weights(source, tmp_path / "said")
    said, guessed = (
        VQGANConfig.from_dict(read_config(tmp_path / which)["vqgan"]) for which in ("said", "guessed")
    )
    assert guessed.resized(said.resolution) == said


def test_what_is_missing_misshaped_and_too_much_is_said_at_once(tmp_path):
    with (LWM / "vqgan_numpy.pkl").open("rb") as file:
        tree = pickle.load(file)
    del tree["encoder"]["Conv_1"]["bias"]
    tree["quantize"]["embeddings"] = tree["quantize"]["embeddings"][:100]
    tree["decoder"]["Extra_0"] = {"kernel": np.zeros(3, np.float32)}
    (tmp_path / "source.pkl").write_bytes(pickle.dumps(tree))
    with pytest.raises(UserError) as error:
        import_weights(tmp_path / "source.pkl", tmp_path / "model", config=LWM / "config.json")
    for word in (
        "encoder/Conv_1/bias is missing",
        "[100, 16], expected [128, 16]",
        "decoder/Extra_0/kernel is unexpected",
    ):
        assert word in str(error.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"norm_type": "spatial"}, "norm_type"),
        ({"_class_name": "AutoencoderKL"}, "_class_name is 'AutoencoderKL'"),
        ({"down_block_types": ["CrossAttnDownBlock2D"]}, "CrossAttnDownBlock2D"),
        (
            {"up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 4},
            "attention at other resolutions than down_block_types",
        ),
        ({"block_out_channels": [16] * 40}, "40 levels"),
        ({"sample_size": 65}, "multiple of 16"),
        ({"num_vq_embeddings": -1}, "num_vq_embeddings"),
        ({"layers_per_block": 10**9}, "layers_per_block"),
    ],
)
def test_a_config_that_asks_for_something_else(tmp_path, settings, word):
    given = tmp_path / "config.json"
    given.write_text(json.dumps(json.loads((AMUSED / "config.json").read_text()) | settings))
    with pytest.raises(UserError, match=word):
        import_weights(AMUSED, tmp_path / "model", config=given)


def test_resampling_without_weights(tmp_path):
    """Halving by means and doubling by repetition are convolutions of certain kernels: vqgan-jax's network
    says the same with either.
    """
    values = values_of(SOURCES["vqgan-jax"])
    config = json.loads((FLAX / "config.json").read_text())
    tree = serialization.msgpack_restore((FLAX / "flax_model.msgpack").read_bytes())
    for half, name, places in (
        ("encoder", "downsample", np.s_[:2, :2]),
        ("decoder", "upsample", np.s_[1:2, 1:2]),
    ):
        for level in tree[half].values():
            if name in level:
                kernel = np.zeros_like(level[name]["conv"]["kernel"])
                kernel[places] = np.eye(kernel.shape[-1]) / kernel[places][..., 0, 0].size
                level[name] = {"conv": {"kernel": kernel, "bias": np.zeros(kernel.shape[-1], np.float32)}}
    found = {}
    for learned in (True, False):
        place = tmp_path / str(learned)
        place.mkdir()
        (place / "config.json").write_text(json.dumps(config | {"resamp_with_conv": learned}))
        (place / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
        import_weights(place, place / "model")
        tokenizer = load_video_tokenizer(place / "model", batch=2)
        found[learned] = (
            tokenizer.latents(values["images"]),
            tokenizer.decode(values["random_codes"].reshape(-1, *tokenizer.grid)),
        )
        for half, name in (("encoder", "downsample"), ("decoder", "upsample")):
            for level in tree[half].values():
                level.pop(name, None)
    assert read_config(tmp_path / "False/model", "vqgan")["vqgan"]["learned_resampling"] is False
    for one, other in zip(found[True], found[False]):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)
        assert one.std() > 0.1
