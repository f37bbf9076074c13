"""A text model that vision is added to answers text as before; new rows begin as the mean of the old ones."""

import json

import foreign_sentencepiece
import jax
import numpy as np
import pytest
from continuation import FIXTURES
from flax import nnx
from random_weights import random_weights
from safetensors.numpy import load_file

from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.sentencepiece_tokenizer import train_text_tokenizer
from ringvision.errors import UserError
from ringvision.infer.assistant import load
from ringvision.infer.model import load_model
from ringvision.mesh import make_mesh
from ringvision.model_folder import save_model
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.weights.grow import add_vision
from ringvision.weights.importing import import_weights

LLAMAS = FIXTURES / "hf_llama"
CODES = 128
ROWS = 512


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grow") / "video_tokenizer"
    import_weights(FIXTURES / "vqgan_jax/flax_model.msgpack", folder)
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A folder with a text tokenizer of another's making, smaller than the model's 320 rows."""
    return foreign_sentencepiece.train(
        tmp_path_factory.mktemp("grow"),
        ["what does the square do", "it moves to the left"] * 20,
        vocab_size=300,
    )


def text_model(folder, name, pieces):
    import_weights(LLAMAS / name, folder)
    (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["untied", "tied", "untied/bf16"])
def test_words_and_their_logits_stay(tmp_path, tokenizer, pieces, name):
    before = text_model(tmp_path / "words", name, pieces)
    result = add_vision(before, tokenizer, tmp_path / "grown", seed=1)
    assert result == {
        "rows": ROWS,
        "tied": name == "tied",
        "kind": "transformer",
        "dest": str(tmp_path / "grown"),
    }
    old, new = (load_file(folder / "model.safetensors") for folder in (before, tmp_path / "grown"))
    assert old.keys() == new.keys()
    for key, array in old.items():
        kept = new[key][:, :320] if key == "unembed.kernel" else new[key][: len(array)]
        assert kept.dtype == array.dtype
        np.testing.assert_array_equal(kept.view(np.uint8), array.view(np.uint8))
    mesh = make_mesh(context=1, devices=jax.devices()[:1])
    tokens = np.load(LLAMAS / "untied/io.npz")["input_ids"]
    found = [np.asarray(load_model(folder, mesh).logits(tokens)) for folder in (before, tmp_path / "grown")]
    np.testing.assert_array_equal(found[0], found[1][..., :320])
    assert np.isfinite(found[1]).all() and found[1].shape[-1] == ROWS


def test_new_rows_are_the_mean_with_noise(tmp_path, tokenizer, pieces):
    before = text_model(tmp_path / "words", "untied", pieces)
    add_vision(before, tokenizer, tmp_path / "grown", seed=1)
    new = load_file(tmp_path / "grown/model.safetensors")
    for table in (new["embed.table"], new["unembed.kernel"].T):
        old = table[:320]
        added = table[320:]
        noise = (added - old.mean(axis=0)) / old.std(axis=0)
        assert abs(noise.mean()) < 0.01 and 0.09 < noise.std() < 0.11
        assert len(np.unique(added, axis=0)) == len(added)
    assert not np.array_equal(new["embed.table"][320:], new["unembed.kernel"].T[320:])


def test_the_same_seed_gives_the_same_rows(tmp_path, tokenizer, pieces):
    before = text_model(tmp_path / "words", "untied", pieces)
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        add_vision(before, tokenizer, tmp_path / name, seed=seed)
    one, two, three = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two", "three")
    )
    assert one == two != three


def test_it_knows_its_vocabulary_and_its_eyes(tmp_path, tokenizer, pieces):
    before = text_model(tmp_path / "words", "untied", pieces)
    add_vision(before, tokenizer, tmp_path / "grown")
    model = load_model(tmp_path / "grown", make_mesh(context=1, devices=jax.devices()[:1]))
    text = load_text_tokenizer(tmp_path / "grown")
    words = model.vocabulary
    assert (words.text_size, words.num_codes, words.size, words.bos, words.eos) == (
        320,
        CODES,
        ROWS,
        text.bos,
        text.eos,
    )
    assert (
        text.decode(words.vision_start).strip() == "<vision>"
        and text.decode(words.vision_end).strip() == "</vision>"
    )
    assert model.settings["video_tokenizer"] == "video_tokenizer"
    assert load_video_tokenizer(tmp_path / "grown/video_tokenizer").num_codes == CODES
    assert (tmp_path / "grown/MODEL_CARD.md").read_text() == (before / "MODEL_CARD.md").read_text()


def test_with_our_own_text_tokenizer_it_is_an_assistant(tmp_path, tokenizer):
    config = TransformerConfig(512, 16, 2, 4, 2, 4, 24)
    params = random_weights(lambda: Transformer(config, rngs=nnx.Rngs(0)), 0.02)
    save_model(tmp_path / "words", {"kind": "transformer", "transformer": config.to_dict()}, params)
    train_text_tokenizer(["what is this"] * 9, tmp_path / "words/text.model", 400)
    assert add_vision(tmp_path / "words", tokenizer, tmp_path / "grown")["kind"] == "assistant"
    grown = load(tmp_path / "grown", make_mesh(context=1, devices=jax.devices()[:1]))
    assert (
        grown.model.vocabulary.vision_start == grown.text.vision_start and grown.tokenizer.num_codes == CODES
    )


def test_a_text_tokenizer_that_is_larger_than_the_model(tmp_path, tokenizer):
    import_weights(LLAMAS / "untied", tmp_path / "words")
    train_text_tokenizer(["what is this"] * 9, tmp_path / "words/text.model", 400)
    with pytest.raises(UserError, match="and the model 320 rows"):
        add_vision(tmp_path / "words", tokenizer, tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_weights_of_others_are_imported_on_the_way(tmp_path, tokenizer, pieces):
    source = tmp_path / "source"
    source.mkdir()
    for path in (LLAMAS / "untied/config.json", LLAMAS / "untied/model.safetensors", pieces):
        (source / path.name).write_bytes(path.read_bytes())
    result = add_vision(source, tokenizer, tmp_path / "deep/grown", seed=1, dtype="bfloat16")
    assert (
        result["rows"] == ROWS
        and load_file(tmp_path / "deep/grown/model.safetensors")["embed.table"].dtype.name == "bfloat16"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"source", "deep"}
    with pytest.raises(UserError, match="neither a file nor a folder"):
        add_vision(tmp_path / "nowhere", tokenizer, tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "deep"}


def test_what_cannot_grow(tmp_path, tokenizer, pieces):
    import_weights(LLAMAS / "untied", tmp_path / "words")
    with pytest.raises(UserError, match="holds no text tokenizer"):
        add_vision(tmp_path / "words", tokenizer, tmp_path / "grown")
    with pytest.raises(UserError, match="kind 'vqgan'"):
        add_vision(tokenizer, tokenizer, tmp_path / "grown")
    with pytest.raises(UserError, match="vqgan"):
        add_vision(tmp_path / "words", tmp_path / "words", tmp_path / "grown")
    import_weights(FIXTURES / "lwm_llama/streaming_params", tmp_path / "sees")
    with pytest.raises(UserError, match="has a vision vocabulary already"):
        add_vision(tmp_path / "sees", tokenizer, tmp_path / "grown")
    assert "vocabulary" not in json.loads((tmp_path / "words/config.json").read_text())
    assert not (tmp_path / "grown").exists()
