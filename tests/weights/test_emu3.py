"""Emu3, imported from what Hugging Face saved, computes what Hugging Face recorded: codes of images and
videos, what is decoded from them, logits, greedy text; on one device and four.

Fixture: a tiny random model, its codes' ids in no order. `code_margin` is how much nearer the nearest row of
the codebook is than the next.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from continuation import assert_imported_again, imported_folder
from greedy import greedy
from safetensors.numpy import load_file, save_file

from ringvision.data.stream import PromptProcessor
from ringvision.data.text.folder import MissingTextTokenizer
from ringvision.errors import UserError
from ringvision.infer.engine import Engine
from ringvision.infer.model import load_model
from ringvision.mesh import make_mesh
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.weights import emu3
from ringvision.weights.exporting import export_weights
from ringvision.weights.importing import import_weights

FIXTURE = Path(__file__).parent.parent / "fixtures" / "emu3"
CONFIG = json.loads((FIXTURE / "config.json").read_text())
PIECES = CONFIG["vocabulary_map"]
IDS = emu3.find_code_ids(CONFIG, CONFIG["text_config"]["vocab_size"])


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """Channels last, as here."""
    with np.load(FIXTURE / "io.npz") as file:
        arrays = dict(file)
    return {
        name: np.moveaxis(array, -3, -1) if array.ndim > 3 and array.shape[-3] == 3 else array
        for name, array in arrays.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return imported_folder(tmp_path_factory, FIXTURE, "Emu3 (Hugging Face)")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_video_tokenizer(folder / "tokenizer", batch=2)


def test_images(tokenizer, recorded) -> None:
    """They are not square, and of another size than the tokenizer's own: it takes any."""
    codes = tokenizer.encode(recorded["images"])
    sure = recorded["code_margin"] > 1e-3
    assert codes.shape == (2, 8, 12) and sure.mean() > 0.95
    np.testing.assert_array_equal(codes[sure], recorded["codes"][sure])
    np.testing.assert_allclose(
        tokenizer.latents(recorded["images"]), recorded["latents_pre_quant"][:, 0], atol=1e-4
    )
    decoded = tokenizer.decode(np.concatenate([recorded["codes"], recorded["random_codes"]]))
    np.testing.assert_allclose(
        decoded, np.concatenate([recorded["decoded"], recorded["random_decoded"]]), atol=1e-3
    )
    assert np.abs(recorded["random_decoded"]).max() > 1  # it is not clipped


def test_videos(tokenizer, recorded) -> None:
    """Whose frames pass through the network two at a time, and all at once along time."""
    (video,) = recorded["video"]
    (expected,) = recorded["video_codes"]
    sure = recorded["video_code_margin"][0] > 1e-3
    codes = tokenizer.encode_video(video)
    assert tokenizer.temporal_factor == 4 and codes.shape == (2, 8, 8) and sure.mean() > 0.95
    np.testing.assert_array_equal(codes[sure], expected[sure])
    np.testing.assert_allclose(tokenizer.decode_video(expected), recorded["video_decoded"][0], atol=1e-3)
    pixels = tokenizer.decode_video(expected, np.uint8)
    np.testing.assert_allclose(
        pixels / 127.5 - 1, recorded["video_decoded"][0].clip(-1, 1), atol=1 / 255 + 1e-3
    )


def test_a_tokenizer_that_codes_every_frame(tmp_path, recorded) -> None:
    """What the library computes with temporal_downsample_factor 1, which is without the layers that halve and
    double time.
    """
    with np.load(FIXTURE / "every_frame.npz") as file:
        expected = dict(file)
    (tmp_path / "source").mkdir()
    weights = {
        name: array
        for name, array in load_file(FIXTURE / "model.safetensors").items()
        if "time_conv" not in name
    }
    save_file(weights, tmp_path / "source" / "model.safetensors")
    config = {**CONFIG, "vq_config": {**CONFIG["vq_config"], "temporal_downsample_factor": 1}}
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    import_weights(tmp_path / "source", tmp_path / "model")
    tokenizer = load_video_tokenizer(tmp_path / "model" / "tokenizer", batch=2)
    np.testing.assert_allclose(
        tokenizer.latents(recorded["images"]), expected["latents_pre_quant"][:, 0], atol=1e-4
    )
    np.testing.assert_allclose(
        tokenizer.decode(expected["codes"]), np.moveaxis(expected["decoded"], 1, -1), atol=1e-3
    )
    codes = tokenizer.encode_video(recorded["video"][0, :5])
    sure = expected["video_code_margin"][0] > 1e-3
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(codes[sure], expected["video_codes"][0][sure])
    frames = tokenizer.decode_video(expected["video_codes"][0])
    np.testing.assert_allclose(frames, np.moveaxis(expected["video_decoded"][0], 1, -1), atol=1e-3)


def test_what_a_video_must_be(tokenizer, recorded) -> None:
    with pytest.raises(
        UserError, match="a video of 7 frames; 4 make one grid of codes: leave out its last 3"
    ):
        tokenizer.encode_video(recorded["video"][0, :7])
    with pytest.raises(UserError, match="multiples of 2"):
        tokenizer.encode_video(recorded["video"][0, :, :15])
    with pytest.raises(UserError, match="from 0 to 63"):
        tokenizer.decode_video(np.full((1, 4, 4), 64))


def test_codes_become_the_ids_that_the_library_gives_them(folder, recorded) -> None:
    """Cropped to what was not padding, a piece at the end of each row."""
    words = load_model(folder, make_mesh(context=1, devices=jax.devices()[:1])).vocabulary
    stream = emu3.stream_format(CONFIG, IDS)
    grids = [
        codes[: height // 2, : width // 2]
        for codes, (height, width) in zip(recorded["codes"], recorded["image_sizes"])
    ]
    tokens = np.concatenate(
        [PromptProcessor(MissingTextTokenizer(folder), words, stream).rows(codes) for codes in grids]
    )
    np.testing.assert_array_equal(IDS.theirs[tokens], recorded["image_token_ids_flat"])
    around = IDS.theirs[[*words.vision_start, *words.vision_end, words.eof, words.eov]].tolist()
    assert around == [
        PIECES[name] for name in ("<|image start|>", "<|image end|>", "<|extra_201|>", "<|extra_201|>")
    ]


@pytest.mark.parametrize("devices", [1, 4])
def test_logits_and_greedy_text(folder, recorded, devices) -> None:
    model = load_model(folder, make_mesh(context=devices, devices=jax.devices()[:devices]))
    logits = np.asarray(model.logits(IDS.ours[recorded["merged_input_ids"]]))
    np.testing.assert_allclose(logits, recorded["logits"][..., IDS.theirs], atol=1e-4)
    assert recorded["greedy_step_margins"].min() > 1e-4
    engine = Engine(model, blocks=(32,))
    for prompt, whole in zip(recorded["greedy_prompt_ids"], recorded["greedy_sequences"]):
        said = greedy(engine, IDS.ours[prompt], 12)
        np.testing.assert_array_equal(IDS.theirs[said], whole[len(prompt) :])


def test_exported_it_is_what_was_imported(folder, tmp_path) -> None:
    """Bit for bit, in the library's ids and under its names, the counts of batches apart; and imported again
    it is the same folder.
    """
    export_weights(folder, tmp_path / "theirs", "hf")
    exported = load_file(tmp_path / "theirs" / "model.safetensors")
    original = load_file(FIXTURE / "model.safetensors")
    assert exported.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(
            exported[name], 0 if name.endswith("num_batches_tracked") else array, strict=array.ndim > 0
        )
    old = {"rope_theta": 1e6, "rope_scaling": None}  # for transformers 4
    expected = {**CONFIG, "torch_dtype": "float32", "text_config": {**CONFIG["text_config"], **old}}
    assert json.loads((tmp_path / "theirs" / "config.json").read_text()) == expected
    assert_imported_again(tmp_path / "theirs", folder, tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vq_config": {**CONFIG["vq_config"], "double_latent": True}}, "double_latent is True"),
        ({"vq_config": {**CONFIG["vq_config"], "hidden_size": 64}}, "hidden_size is 64"),
        ({"vq_config": {**CONFIG["vq_config"], "out_channels": 4}}, "out_channels is 4"),
        ({"vq_config": {**CONFIG["vq_config"], "temporal_downsample_factor": 6}}, "power of 2"),
        ({"vq_config": {**CONFIG["vq_config"], "temporal_downsample_factor": 8}}, "time_conv"),
        ({"vq_config": {**CONFIG["vq_config"], "channel_multiplier": []}}, "channel_mult"),
        ({"text_config": None}, "without text_config"),
        ({"vocabulary_map": {}}, "0 pieces for codes"),
        ({"vocabulary_map": {**PIECES, "<|extra_201|>": None}}, "without an id for <|extra_201|>"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, change, says) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copyfile(FIXTURE / "model.safetensors", source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(UserError, match=says.replace("|", r"\|")):
        import_weights(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_values_that_a_config_leaves_out_are_the_librarys() -> None:
    """Those of its classes, which are the published model's."""
    published = emu3.tokenizer_config({"vq_config": {}})
    assert (published.resolution, published.grid, published.temporal_factor) == (512, (64, 64), 4)
    assert (published.frames.channels, published.frames.attention_resolutions, published.codebook_size) == (
        256,
        (64,),
        32768,
    )
    assert emu3.tokenizer_config({"vq_config": {"attn_resolutions": None}}).frames.attention_resolutions == ()
