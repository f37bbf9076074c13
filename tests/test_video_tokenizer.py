"""The tokenizer's folder, opened: shapes, ranges, batches, and what it refuses."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_assistant import VQGAN_CONFIG as CONFIG

import ringvision as rv
from ringvision.errors import UserError
from ringvision.model_folder import save_model
from ringvision.models.vqgan import VQGAN
from ringvision.tree import flatten
from ringvision.video_tokenizer import VideoTokenizer, load_video_tokenizer


def settings(**changes) -> dict:
    return {"kind": "vqgan", "name": "tiny", "size": 16, "vqgan": CONFIG.to_dict(), **changes}


@pytest.fixture(scope="module")
def network() -> VQGAN:
    graph = nnx.split(nnx.eval_shape(lambda: VQGAN(CONFIG, rngs=nnx.Rngs(0))))[0]
    return nnx.merge(graph, jax.jit(lambda: nnx.state(VQGAN(CONFIG, rngs=nnx.Rngs(0))))())


@pytest.fixture(scope="module")
def weights(network) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in flatten(nnx.state(network)).items()}


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("tokenizer"), settings(), weights)


@pytest.fixture(scope="module")
def tokenizer(folder) -> VideoTokenizer:
    return load_video_tokenizer(folder, batch=4)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(7, 16, 16, 3), dtype=np.uint8)


def test_says_what_it_is(tokenizer) -> None:
    assert (tokenizer.size, tokenizer.grid, tokenizer.codes_per_frame, tokenizer.num_codes) == (
        16,
        (4, 4),
        16,
        32,
    )
    assert tokenizer.name == "tiny" and len(tokenizer.hash) == 64


def test_encodes_as_the_network_does(tokenizer, network, folder, frames) -> None:
    codes = tokenizer.encode(frames)
    assert codes.shape == (7, 4, 4) and codes.dtype == np.int32 and len(np.unique(codes)) > 1
    np.testing.assert_array_equal(codes, jax.jit(lambda x: network.encode(x))(frames / np.float32(127.5) - 1))
    np.testing.assert_array_equal(codes, rv.load_video_tokenizer(folder).encode(frames))


def test_uint8_and_float_give_the_same_codes(tokenizer, frames) -> None:
    np.testing.assert_array_equal(tokenizer.encode(frames), tokenizer.encode(frames / np.float32(127.5) - 1))
    np.testing.assert_array_equal(tokenizer.encode(frames), tokenizer.encode(frames / 127.5 - 1.0))


def test_a_frame_does_not_depend_on_its_batch(tokenizer, frames) -> None:
    codes = tokenizer.encode(frames)
    np.testing.assert_array_equal(codes[2:5], tokenizer.encode(frames[2:5]))
    np.testing.assert_array_equal(tokenizer.decode(codes)[6:], tokenizer.decode(codes[6:]))
    assert tokenizer.encode(frames[:0]).shape == (0, 4, 4) and tokenizer.decode(codes[:0]).shape == (
        0,
        16,
        16,
        3,
    )


def test_one_compilation_for_any_number_of_frames(folder, frames) -> None:
    fresh = load_video_tokenizer(folder, batch=4)
    for count in (1, 4, 7):
        fresh.encode(frames[:count])
    assert fresh._encode._cache_size() == 1


def test_embeds_and_decodes(tokenizer, weights, frames) -> None:
    codes = tokenizer.encode(frames[:2])
    np.testing.assert_array_equal(tokenizer.embed(codes), weights["codebook"][codes])
    images = tokenizer.decode(codes)
    pixels = tokenizer.decode(codes, dtype=np.uint8)
    assert images.dtype == np.float32 and pixels.dtype == np.uint8 and pixels.shape == (2, 16, 16, 3)
    assert images.min() >= -1 and images.max() <= 1
    assert np.abs(pixels - (images + 1) * 127.5).max() <= 0.5001


def test_hash_tells_weights_and_config_apart(tokenizer, weights, tmp_path) -> None:
    again = save_model(tmp_path / "again", settings(name="another name"), dict(reversed(weights.items())))
    assert load_video_tokenizer(again).hash == tokenizer.hash
    touched = {**weights, "codebook": weights["codebook"] + np.float32(1e-3)}
    assert load_video_tokenizer(save_model(tmp_path / "touched", settings(), touched)).hash != tokenizer.hash
    unclipped = settings(vqgan={**CONFIG.to_dict(), "clip": False})
    assert load_video_tokenizer(save_model(tmp_path / "unclipped", unclipped, weights)).hash != tokenizer.hash


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 16, 16, 3), np.int64),
        np.zeros((2, 16, 16, 4), np.uint8),
    ],
)
def test_refuses_other_frames(tokenizer, given) -> None:
    with pytest.raises(UserError, match="expected uint8"):
        tokenizer.encode(given)


def test_refuses_other_codes(tokenizer) -> None:
    with pytest.raises(UserError, match="from 0 to 31"):
        tokenizer.decode(np.full((1, 4, 4), 32))
    with pytest.raises(UserError, match="from 0 to 31"):
        tokenizer.embed(np.full((1, 4, 4), -1))
    for codes in (np.zeros((1, 16), int), np.zeros((1, 4, 5), int), np.zeros((1, 4, 4))):
        with pytest.raises(UserError, match="expected integers"):
            tokenizer.decode(codes)


def test_refuses_other_folders(weights, tmp_path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load_video_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UserError, match="kind"):
        load_video_tokenizer(save_model(tmp_path / "kind", settings(kind="assistant"), weights))
    with pytest.raises(UserError, match="resolution 16"):
        load_video_tokenizer(save_model(tmp_path / "size", settings(size=64), weights))
    with pytest.raises(UserError, match="lacks vqgan"):
        values = settings()
        del values["vqgan"]
        load_video_tokenizer(save_model(tmp_path / "lacks", values, weights))
    wrong = {**weights, "codebook": weights["codebook"][:, :2]}
    del wrong["quant_conv.bias"]
    with pytest.raises(
        UserError, match=r"quant_conv.bias is missing.*codebook has shape \[32, 2\], expected \[32, 4\]"
    ):
        load_video_tokenizer(save_model(tmp_path / "wrong", settings(), wrong))
    short = save_model(tmp_path / "short", settings(), weights)
    (short / "model.safetensors").write_bytes((short / "model.safetensors").read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged"):
        load_video_tokenizer(short)
    (short / "config.json").write_text(json.dumps({**settings(), "vqgan": {"resolution": 15}}))
    with pytest.raises(UserError, match="15"):
        load_video_tokenizer(short)
