"""Chameleon, imported from what Hugging Face saved, computes what that recorded: codes, logits, greedy text;
on one device and four.

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
from safetensors.numpy import load_file

from ringvision.errors import UserError
from ringvision.infer.engine import Engine
from ringvision.infer.model import load_model
from ringvision.mesh import make_mesh
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.weights import chameleon
from ringvision.weights.exporting import export_weights
from ringvision.weights.importing import import_weights

FIXTURE = Path(__file__).parent.parent / "fixtures" / "chameleon"
CONFIG = json.loads((FIXTURE / "config.json").read_text())
IDS = chameleon.find_code_ids(CONFIG, CONFIG["vocab_size"])


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FIXTURE / "io.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return imported_folder(tmp_path_factory, FIXTURE, "Chameleon (Hugging Face)")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_video_tokenizer(folder / "tokenizer", batch=2)


def test_codes(tokenizer, recorded) -> None:
    codes = tokenizer.encode(recorded["images"].transpose(0, 2, 3, 1)).reshape(2, -1)
    sure = recorded["code_margin"] > 1e-3
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(codes[sure], recorded["codes"][sure])
    z_q = tokenizer.embed(recorded["codes"].reshape(2, *tokenizer.grid))
    np.testing.assert_allclose(z_q.transpose(0, 3, 1, 2), recorded["quantized"], atol=1e-5)


def test_latents(tokenizer, recorded) -> None:
    z = tokenizer.latents(recorded["images"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(z, recorded["latents_pre_quant"], atol=1e-4)


def test_codes_become_the_ids_that_the_library_gives_them(folder, recorded) -> None:
    words = load_model(folder, make_mesh(context=1, devices=jax.devices()[:1])).vocabulary
    np.testing.assert_array_equal(
        IDS.theirs[words.codes_to_tokens(recorded["codes"])], recorded["image_token_ids"]
    )
    np.testing.assert_array_equal(np.sort(IDS.codes), np.sort(recorded["logits_masked_columns"]))
    start = CONFIG["vocabulary_map"]["<boi>"]
    end = CONFIG["vocabulary_map"]["<eoi>"]
    assert IDS.theirs[[*words.vision_start, *words.vision_end]].tolist() == [start, end]


def test_pixels_enter_as_the_library_hands_them_over(tokenizer) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(tokenizer.encode(pixels), tokenizer.encode(pixels * 0.0078 - 1))


def test_codes_cannot_be_decoded(tokenizer, recorded) -> None:
    with pytest.raises(UserError, match="encoder alone"):
        tokenizer.decode(recorded["codes"].reshape(2, *tokenizer.grid))


@pytest.mark.parametrize("devices", [1, 4])
def test_logits_and_greedy_text(folder, recorded, devices) -> None:
    """What is not text is masked there in every forward; here it stands behind the text, and generating stops
    short of it.
    """
    model = load_model(folder, make_mesh(context=devices, devices=jax.devices()[:devices]))
    logits = np.asarray(model.logits(IDS.ours[recorded["merged_input_ids"]]))
    expected = recorded["logits_unmasked"][..., IDS.theirs]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    masked = np.full(recorded["logits_unmasked"].shape, np.finfo(np.float32).min)
    masked[..., IDS.theirs[: IDS.text_size]] = logits[..., : IDS.text_size]
    theirs = recorded["logits_unmasked"].copy()
    theirs[..., recorded["logits_masked_columns"]] = np.finfo(np.float32).min
    np.testing.assert_allclose(masked, theirs, atol=1e-4)
    assert recorded["greedy_step_margins"].min() > 1e-4
    engine = Engine(model, blocks=(32,))
    for prompt, whole in zip(recorded["greedy_prompt_ids"], recorded["greedy_sequences"]):
        said = greedy(engine, IDS.ours[prompt], 12, ids=(0, model.vocabulary.text_size))
        np.testing.assert_array_equal(IDS.theirs[said], whole[len(prompt) :])


@pytest.mark.parametrize("devices", [1, 4])
def test_norms_behind_attention_and_feed_forward(tmp_path, recorded, devices) -> None:
    """The larger model has them there (swin_norm). Exported it says so again."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copyfile(FIXTURE / "model.safetensors", source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({**CONFIG, "swin_norm": True}))
    import_weights(source, tmp_path / "model")
    with np.load(FIXTURE / "swin_norm.npz") as file:
        expected = dict(file)
    model = load_model(tmp_path / "model", make_mesh(context=devices, devices=jax.devices()[:devices]))
    logits = np.asarray(model.logits(IDS.ours[recorded["merged_input_ids"][:, :24]]))
    np.testing.assert_allclose(logits, expected["logits_unmasked"][..., IDS.theirs], atol=1e-4)
    assert expected["greedy_step_margins"].min() > 1e-3
    engine = Engine(model, blocks=(32,))
    for whole in expected["greedy_sequences"]:
        said = greedy(engine, IDS.ours[whole[:20]], 12, ids=(0, model.vocabulary.text_size))
        np.testing.assert_array_equal(IDS.theirs[said], whole[20:])
    export_weights(tmp_path / "model", tmp_path / "theirs", "hf")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["swin_norm"]


def test_exported_it_is_what_was_imported(folder, tmp_path) -> None:
    """Bit for bit, in the library's ids and under its names; and imported again it is the same folder."""
    export_weights(folder, tmp_path / "theirs", "hf")
    exported = load_file(tmp_path / "theirs" / "model.safetensors")
    original = load_file(FIXTURE / "model.safetensors")
    assert exported.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(exported[name], array, strict=True)
    old = {"rope_theta": 1e4, "rope_scaling": None}  # for transformers 4
    assert json.loads((tmp_path / "theirs" / "config.json").read_text()) == {
        **CONFIG,
        "torch_dtype": "float32",
        **old,
    }
    assert_imported_again(tmp_path / "theirs", folder, tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"swin_norm": "yes"}, "swin_norm is 'yes'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"vq_config": {**CONFIG["vq_config"], "double_latent": True}}, "double_latent is True"),
        ({"vq_config": {**CONFIG["vq_config"], "num_embeddings": 65}}, "quantize.embedding.weight"),
        ({"vq_config": None}, "without vq_config"),
        ({"vocabulary_map": {}}, "0 pieces for codes"),
        (
            {"vocabulary_map": {**CONFIG["vocabulary_map"], "IMGIMGBZ": 67, "IMGIMGAZ": 67}},
            "64 codes with 63 ids",
        ),
        ({"vocab_size": 2**31 - 1}, "vocab_size is 2147483647, and model.embed_tokens.weight has the shape"),
        ({"bos_token_id": 5000}, "0 to 223"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, change, says) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copyfile(FIXTURE / "model.safetensors", source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(UserError, match=says):
        import_weights(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_values_that_a_config_leaves_out_are_the_librarys() -> None:
    """Those of its classes, which are the published 7B model's."""
    published = chameleon.tokenizer_config({"vq_config": {}})
    assert (published.resolution, published.channel_mults, published.codebook_size) == (
        512,
        (1, 1, 2, 2, 4),
        8192,
    )
    assert published.grid == (32, 32) and published.encoder_only and published.mid_attention
    assert not chameleon.tokenizer_config({"vq_config": {"attn_type": None}}).mid_attention
    wide = chameleon.tokenizer_config({"vq_config": {"channel_multiplier": [2, 1]}})
    assert (wide.entry, wide.widths) == (128, (256, 128))
