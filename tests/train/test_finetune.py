"""Imported models are trained further, by all parameters, new rows or pairs: what the run leaves is a model
of the same kind that goes back where it came from, and what was not to change has not.
"""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import foreign_sentencepiece
import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import NO_EVALUATION, one_device

from ringvision import shipped
from ringvision.config import CheckpointConfig, LoraConfig, OptimizerConfig, TrainConfig
from ringvision.data.sources import DataConfig, SourceConfig, TextData, TokenizedData, WorldData
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.errors import UserError
from ringvision.infer.assistant import load
from ringvision.infer.chat import load_chat
from ringvision.infer.model import load_model as open_model
from ringvision.model_folder import load_model, read_config, save_model
from ringvision.train.export import exported
from ringvision.train.initial_state import completed
from ringvision.train.inputs import open_data
from ringvision.train.loop import train
from ringvision.train.part import Part
from ringvision.tree import flatten
from ringvision.video_tokenizer import identify
from ringvision.weights.exporting import export_weights
from ringvision.weights.grow import add_vision
from ringvision.weights.importing import import_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"
TALK = [
    {"role": "user", "content": "what does the square do"},
    {"role": "assistant", "content": "it moves to the left"},
]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant:{% endif %}"
ROWS = 320
"""Of the fixtures' embeddings."""


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text tokenizer of another project's making, and a conversation."""
    folder = tmp_path_factory.mktemp("pieces")
    foreign_sentencepiece.train(folder, [turn["content"] for turn in TALK] * 20, vocab_size=290)
    (folder / "chat.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    return folder


def imported(pieces: Path, source: str, dest: Path) -> Path:
    """A fixture as `ringvision import` writes it, a tokenizer, a chat template and a licence beside it."""
    shutil.copytree((FIXTURES / source).parent, dest.with_name("theirs"))
    theirs = dest.with_name("theirs") / Path(source).name
    beside = theirs if theirs.is_dir() else theirs.parent
    shutil.copyfile(pieces / "tokenizer.model", beside / "tokenizer.model")
    (beside / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "chat_template": TEMPLATE})
    )
    import_weights(theirs, dest)
    (dest / "LICENSE").write_text("yours")
    return dest


def run(model: Path, out: Path, trainable: Any, *sources: SourceConfig, **data: Any) -> TrainConfig:
    """Two steps of one row from a model folder."""
    return TrainConfig(
        name="tuned",
        out=str(out),
        data=DataConfig(sources, **{"length": 64, "rows": 1, **data}),
        steps=2,
        init_from=str(model),
        trainable=trainable,
        lora=LoraConfig(3),
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=1),
        checkpoints=CheckpointConfig(every=2),
        evaluation=NO_EVALUATION,
        loss_chunk=64,
        log_every=1,
    )


def talk(pieces: Path) -> TextData:
    return TextData(str(pieces / "chat.jsonl"), "messages", chat_template="init_from")


def videos(folder: Path, hash: str, num_codes: int) -> TokenizedData:
    """Two videos of random codes, of two frames each, with a question."""
    codes = np.random.default_rng(0).integers(0, num_codes, (2, 2, 3, 3))
    turn = TALK[0]["content"], TALK[1]["content"]
    with TokenizedWriter(folder, num_codes=num_codes) as writer:
        writer.add(
            [TokenizedVideo(f"{n}", "", codes[n], np.arange(2), 1.0, 48, hash, qa=(turn,)) for n in range(2)]
        )
    return TokenizedData(str(folder))


def assert_comes_back(model: Path, format: Any, aside: Path) -> None:
    """What is exported and imported again is the model, bit for bit."""
    export_weights(model, aside / "exported", format)
    import_weights(aside / "exported", aside / "again")
    one = load_model(model)
    other = load_model(aside / "again")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    settings = read_config(model)
    again = read_config(aside / "again")
    for name in ("transformer", "text", "vocabulary", "stream", "generation"):
        assert settings.get(name) == again.get(name), name


@pytest.mark.parametrize(("source", "trainable"), [("hf_llama/tied", "all"), ("hf_llama/llama3", "lora")])
def test_a_chat_model_stays_one(pieces: Path, tmp_path: Path, source: str, trainable: str) -> None:
    """Its template, text tokenizer, licence and the form of its positions are what they were, what it was
    trained for is no longer said; its weights go back to transformers and return.
    """
    model = imported(pieces, source, tmp_path / "model")
    knows = {"about": "talk", "questions": {"greeting": ["How are you?"]}, "seconds": 1}
    (model / "config.json").write_text(json.dumps({**read_config(model), "knows": knows}))
    setup = run(model, tmp_path / "run", trainable, talk(pieces))
    state = train(setup, quiet=True, mesh=one_device())
    tuned = tmp_path / "run/model"
    for name in ("tokenizer.model", "tokenizer_config.json", "LICENSE"):
        assert (tuned / name).read_bytes() == (model / name).read_bytes()
    before = read_config(model)
    settings = read_config(tuned)
    assert settings["transformer"] == before["transformer"] and settings["text"] == before["text"]
    assert settings["base"] == {"name": "model", "license": None} and "source" not in settings
    assert "knows" not in settings
    assert_comes_back(tuned, "hf", tmp_path)
    stored = load_model(tuned)
    given = load_model(model)
    changed = {name for name, array in given.items() if not np.array_equal(stored[name], array)}
    matrices = {name for name in given if name.startswith("layers.") and not name.endswith("scale")}
    assert changed == matrices if trainable == "lora" else changed > matrices | {"embed.table", "norm.scale"}
    chat = load_chat(tuned, one_device(), max_tokens=2)
    assert "".join(chat.say("what does the square do")) == chat.messages[-1]["content"]
    if trainable == "lora":
        assert_pairs_are_in_the_matrices(completed(setup), state, tuned)


@partial(jax.jit, static_argnames="graphdef")
def _logits(graphdef: Any, params: Any, rows: tuple[np.ndarray, ...]) -> jax.Array:
    return nnx.merge(graphdef, params).logits(*rows, mesh=one_device())


def assert_pairs_are_in_the_matrices(config: TrainConfig, state: Any, tuned: Path) -> None:
    """The model with its pairs beside the matrices computes what the folder's does."""
    processor, loader = open_data(config)
    part = Part.of(config, processor.vocabulary)
    found = flatten(exported(state, part))
    stored = load_model(tuned)
    assert all(np.array_equal(np.asarray(found[name]), stored[name]) for name in stored)
    batch = next(loader.batches(None)).batch
    rows = batch.tokens, batch.positions, batch.segment_ids
    beside = nnx.merge(part.describe()[0], part.join(state.params, state.frozen))
    expected = open_model(tuned, one_device()).logits(*rows)
    seen = batch.segment_ids > 0
    logits = np.asarray(_logits(*nnx.split(beside), rows))
    assert np.abs(logits - np.asarray(expected))[seen].max() < 2e-5 * np.abs(logits[seen]).max()


def test_new_rows_of_a_grown_model_leave_all_else_as_it_was(pieces: Path, tmp_path: Path) -> None:
    """Text's rows and the layers bit for bit. The model folder has its video tokenizer in it: it can be
    moved.
    """
    text_model = imported(pieces, "hf_llama/untied", tmp_path / "text")
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(shipped.tokenizer("world-16"), tokenizer)
    model = tmp_path / "model"
    add_vision(text_model, tokenizer, model)
    source = videos(tmp_path / "videos", *identify(tokenizer))
    unread = WorldData(str(tmp_path / "none"), weight=0.0)
    train(run(model, tmp_path / "run", "new_rows", source, unread, length=128), quiet=True, mesh=one_device())
    before = load_model(model)
    after = load_model(tmp_path / "run/model")
    for name, array in before.items():
        axis = {"embed.table": 0, "unembed.kernel": 1}.get(name)
        text = slice(None) if axis is None else (slice(None),) * axis + (slice(ROWS),)
        np.testing.assert_array_equal(after[name][text], array[text])
    assert not np.array_equal(after["embed.table"], before["embed.table"])
    shutil.move(tmp_path / "run/model", tmp_path / "moved")
    for gone in (tokenizer, model, tmp_path / "run"):
        shutil.rmtree(gone)
    settings = read_config(tmp_path / "moved")
    assert settings["video_tokenizer"] == "video_tokenizer"
    assistant = load(tmp_path / "moved", mesh=one_device())
    assert assistant.processor.tokenizer.hash == settings["video_tokenizer_hash"]
    assert_comes_back(tmp_path / "moved", "hf", tmp_path)


def test_a_model_of_lwms_goes_back_to_lwm(pieces: Path, tmp_path: Path) -> None:
    """How it is asked, and for what it generates, is as LWM has it, also where other videos are a source."""
    model = imported(pieces, "lwm_llama/streaming_params", tmp_path / "model")
    source = videos(tmp_path / "videos", "0", 64)
    train(
        run(model, tmp_path / "run", "lora", source, tokenizer="none"),
        quiet=True,
        mesh=one_device(),
    )
    before = read_config(model)
    settings = read_config(tmp_path / "run/model")
    for name in ("kind", "transformer", "text", "stream", "generation", "vocabulary"):
        assert settings[name] == before[name], name
    assert settings["video_tokenizer"] == "none" and settings["video_tokenizer_hash"] == "0"
    assert (tmp_path / "run/model/chat_template.jinja").exists() == (model / "chat_template.jinja").exists()
    assert_comes_back(tmp_path / "run/model", "lwm", tmp_path)


def test_what_cannot_be_is_one_line(pieces: Path, tmp_path: Path) -> None:
    model = imported(pieces, "hf_llama/tied", tmp_path / "model")

    def says(setup: TrainConfig) -> str:
        with pytest.raises(UserError) as caught:
            open_data(completed(setup))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "has no rows for codes; say lora or all, or add them with `ringvision import" in says(
        run(model, tmp_path / "run", "new_rows", talk(pieces))
    )
    long = run(model, tmp_path / "run", "lora", talk(pieces))
    long = dataclasses.replace(long, data=dataclasses.replace(long.data, length=512))
    assert "data.length is 512, expected at most the model's max_length, which is" in says(long)
    assert "is not a folder" in says(run(tmp_path / "nowhere", tmp_path / "run", "all", talk(pieces)))
    save_model(tmp_path / "other", {"kind": "vqgan"}, {"a": np.zeros(2, np.float32)})
    assert "describes no transformer" in says(run(tmp_path / "other", tmp_path / "run", "all", talk(pieces)))
    (model / "tokenizer_config.json").unlink()
    assert "is no model to chat with; add the template" in says(
        run(model, tmp_path / "run", "lora", talk(pieces))
    )
    assert load_text_tokenizer(model).size == 290
