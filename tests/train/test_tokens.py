"""A run has the tokens of the model that it starts from, of whatever text tokenizer that is, or makes its
own; and what does not fit together is one line.
"""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import foreign_sentencepiece
import numpy as np
import pytest
from flax import nnx
from tiny_run import config, one_device

from ringvision import shipped
from ringvision.config import TrainConfig
from ringvision.data.sources import DataConfig, DataSource, SourceConfig, TokenizedData
from ringvision.data.stream import Example, PromptProcessor
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.errors import UserError
from ringvision.infer.assistant import load
from ringvision.model_folder import read_config, save_model
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.train.inputs import open_data
from ringvision.train.loop import train
from ringvision.train.record import read_metrics
from ringvision.train.tokens import token_recipe
from ringvision.tree import flatten
from ringvision.video_tokenizer import identify, load_video_tokenizer
from ringvision.weights.grow import add_vision

WORDS = ["what does the square do", "it moves to the left", "a circle comes from above"]


@dataclasses.dataclass(frozen=True)
class Sentences(SourceConfig):
    """WORDS as documents."""

    def open(self, processor: PromptProcessor, length: int) -> DataSource:
        return _Sentences(processor)


class _Sentences:
    name = "sentences"
    notices = ()
    vision = None

    def __init__(self, processor: PromptProcessor) -> None:
        self.processor = processor

    def __len__(self) -> int:
        return len(WORDS)

    def example(self, index: int, random: np.random.Generator, step: int) -> Example:
        vocabulary = self.processor.vocabulary
        tokens = [vocabulary.bos, *self.processor.text.encode(WORDS[index]), vocabulary.eos]
        return Example(np.array(tokens, np.int32), np.ones(len(tokens), np.float32))


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model with a text tokenizer of another project's making."""
    folder = tmp_path_factory.mktemp("models") / "words"
    shape = TransformerConfig(320, 32, 2, 2, 1, 16, 48, max_length=256)
    params = flatten(nnx.split(Transformer(shape, rngs=nnx.Rngs(3)))[1])
    save_model(folder, {"kind": "transformer", "transformer": shape.to_dict()}, params)
    pieces = foreign_sentencepiece.train(tmp_path_factory.mktemp("pieces"), WORDS * 20, vocab_size=300)
    (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
    return folder


@pytest.fixture(scope="module")
def seeing(text_model: Path) -> Path:
    """The same with vision added."""
    folder = text_model.with_name("seeing")
    add_vision(text_model, shipped.tokenizer("world-16"), folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the shipped tokenizer's random codes, with questions."""
    folder: Path = tmp_path_factory.mktemp("videos")
    hash, num_codes = identify(shipped.tokenizer("world-16"))
    codes = np.random.default_rng(0).integers(0, num_codes, (6, 3, 4, 4))
    with TokenizedWriter(folder, num_codes=num_codes) as writer:
        writer.add(
            [
                TokenizedVideo(
                    f"{n}.mp4", "", codes[n], np.arange(3), 1.0, 64, hash,
                    qa=((WORDS[0], WORDS[1 + n % 2]),),
                )
                for n in range(6)
            ]
        )  # fmt: skip
    return folder


def run(model: Path, out: Path, *sources: SourceConfig, **changes: Any) -> TrainConfig:
    """Two steps from a model folder."""
    shape = TransformerConfig.from_dict(read_config(model)["transformer"])
    data = DataConfig(sources, 128, 2, **changes.pop("data", {}))
    return TrainConfig(
        "test", str(out), data, model=shape, steps=2, init_from=str(model), loss_chunk=64, log_every=1,
        **changes,
        optimizer=dataclasses.replace(config(out, out).optimizer, warmup_steps=1),
    )  # fmt: skip


def test_a_model_with_another_projects_text_tokenizer_is_trained_on_videos(
    seeing: Path, videos: Path, tmp_path: Path
) -> None:
    setup = run(seeing, tmp_path, TokenizedData(str(videos), weight=2.0), Sentences(), trainable="new_rows")
    recipe, notices = token_recipe(setup)
    assert pickle.loads(pickle.dumps(recipe)) == recipe and not notices
    assert recipe.vocabulary.to_dict() == read_config(seeing)["vocabulary"]
    train(setup, quiet=True, mesh=one_device())
    assert len(read_metrics(tmp_path)) == 2
    folder = tmp_path / "model"
    assert (folder / "tokenizer.model").read_bytes() == (seeing / "tokenizer.model").read_bytes()
    settings = read_config(folder, "transformer")
    assert settings["vocabulary"] == read_config(seeing)["vocabulary"]
    assistant = load(folder, mesh=one_device())
    assert assistant.processor.tokenizer.hash == settings["video_tokenizer_hash"]


def test_text_alone_needs_no_video_tokenizer(text_model: Path, tmp_path: Path) -> None:
    setup = run(text_model, tmp_path, Sentences())
    processor, loader = open_data(setup)
    assert processor.vocabulary.text_alone and loader.vision is None
    assert processor.vocabulary.code_offset == processor.vocabulary.size == 320
    train(setup, quiet=True, mesh=one_device())
    settings = read_config(tmp_path / "model", "transformer")
    assert not {"vocabulary", "stream", "video_tokenizer"} & set(settings)
    assert load_text_tokenizer(tmp_path / "model").encode(WORDS[0]) == processor.text.encode(WORDS[0])


def test_identity_of_a_tokenizer_is_that_of_the_opened_one() -> None:
    opened = load_video_tokenizer(shipped.tokenizer("world-16"))
    assert identify(shipped.tokenizer("world-16")) == (opened.hash, opened.num_codes)


def test_what_does_not_fit_together_is_said(
    text_model: Path, seeing: Path, videos: Path, data: Path, tmp_path: Path
) -> None:
    others = TokenizedData(str(data / "codes"))  # of a tokenizer "0" of 32 codes
    source = TokenizedData(str(videos))

    def says(setup: TrainConfig) -> str:
        with pytest.raises(UserError) as caught:
            open_data(setup)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "was tokenized by another tokenizer (0) than" in says(run(seeing, tmp_path, others))
    assert "has another tokenizer (0) than" in says(run(seeing, tmp_path, source, others))
    assert "no vocabulary for codes and the data has videos; give it one with `ringvision import" in says(
        run(text_model, tmp_path, source, data={"tokenizer": "world-16"})
    )
    assert "name the video tokenizer" in says(run(text_model, tmp_path, source))
    ours = {"text_model": str(data / "text.model")}
    assert "320 text pieces and the text model 560" in says(run(seeing, tmp_path, source, data=ours))
    wider = run(seeing, tmp_path, source)
    wider = dataclasses.replace(wider, model=dataclasses.replace(wider.transformer, vocab_size=4096))
    assert "rows and model.vocab_size is 4096" in says(wider)
    missing = run(seeing, tmp_path, TokenizedData(str(tmp_path / "none")))
    assert "none cannot be read (No such file or directory)" in says(missing)
    fresh = config(data, tmp_path)
    foreign = dataclasses.replace(fresh, data=dataclasses.replace(fresh.data, text_model=str(text_model)))
    assert "no marks for videos; start from a model to which vision was added" in says(foreign)
    unnamed = dataclasses.replace(fresh, data=dataclasses.replace(fresh.data, tokenizer=None))
    assert "data.tokenizer is None and the data has videos" in says(unnamed)


def test_a_tokenizer_that_is_not_at_hand_is_told(data: Path, tmp_path: Path) -> None:
    _, loader = open_data(config(data, tmp_path))
    assert loader.notices == ["no video tokenizer none is at hand: codes are not checked"]


def test_a_run_with_workers_is_the_same(data: Path, tmp_path: Path) -> None:
    plain = config(data, tmp_path / "plain", steps=2)
    train(plain, quiet=True, mesh=one_device())
    train(
        dataclasses.replace(
            plain, out=str(tmp_path / "workers"), data=dataclasses.replace(plain.data, workers=2)
        ),
        quiet=True,
        mesh=one_device(),
    )
    losses = [[one["loss"] for one in read_metrics(tmp_path / name)] for name in ("plain", "workers")]
    assert losses[0] == losses[1]
