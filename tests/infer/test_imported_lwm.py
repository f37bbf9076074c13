"""LWM from its own files to answers and pictures, as a user has it: it is asked in its own words."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import av
import foreign_sentencepiece
import numpy as np
import pytest
import sentencepiece
from imported_models import FIXTURES, PROMPT, greedy, one, seen, sheet

from ringvision import cli
from ringvision.infer.assistant import load
from ringvision.infer.chat import load_chat
from ringvision.infer.image_generation import (
    Drawing,
    Request,
    load_image_generator,
)

LWM_ASKS = "You are a helpful assistant. USER: {} ASSISTANT:"


@pytest.fixture(scope="module")
def lwm_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As in LWM's release: streamed parameters, and Llama's kind of tokenizer.model beside them."""
    place = tmp_path_factory.mktemp("lwm")
    shutil.copyfile(FIXTURES / "lwm_llama" / "streaming_params", place / "streaming_params")
    config = json.loads((FIXTURES / "lwm_llama" / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "max_sequence_length": 512}))
    sentences = [LWM_ASKS.format(f"Generate {what} of a red circle") for what in ("an image", "a video")] + [
        "<vision> </vision>"
    ]
    foreign_sentencepiece.train(place, sentences * 20, vocab_size=312)
    (place / "tokenizer.vocab").unlink()
    return place


@pytest.fixture(scope="module")
def lwm_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LWM's VQGAN with as many codes as its small language model knows: a pickle, imported."""
    place = tmp_path_factory.mktemp("vqgan")
    weights = pickle.loads((FIXTURES / "lwm_vqgan" / "vqgan_numpy.pkl").read_bytes())
    weights["quantize"]["embeddings"] = weights["quantize"]["embeddings"][:64]
    (place / "vqgan").write_bytes(pickle.dumps(weights))
    config = json.loads((FIXTURES / "lwm_vqgan" / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "num_embeddings": 64}))
    assert cli.main(["import", str(place / "vqgan"), str(place / "video_tokenizer")]) == 0
    return place / "video_tokenizer"


@pytest.fixture(scope="module")
def lwm(lwm_source: Path, lwm_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "lwm"
    assert cli.main(["import", str(lwm_source), str(place), "--tokenizer", str(lwm_tokenizer)]) == 0
    return place


def test_lwm_draws_for_a_user(
    lwm_source: Path, lwm_tokenizer: Path, lwm: Path, clips: list[Path], tmp_path: Path
) -> None:
    """Imported with its video tokenizer or given it later, on one device or two, the same pictures; others
    without guidance.
    """
    bare = tmp_path / "bare"
    assert cli.main(["import", str(lwm_source), str(bare)]) == 0

    def drawn(name: str, *options: str, model: Path = lwm) -> Path:
        words = [
            "generate",
            PROMPT,
            "--model",
            str(model),
            "--frames",
            "2",
            "--out",
            str(tmp_path / name),
            "--seed",
            "4",
            *options,
        ]
        assert cli.main(words) == 0
        return tmp_path / name

    first = sheet(drawn("first.png"))
    assert first.shape == (64, 2 * 64 + 4, 3)
    assert np.array_equal(
        sheet(drawn("two.png", "--devices", "2", "--tokenizer", str(lwm_tokenizer), model=bare)), first
    )
    assert not np.array_equal(sheet(drawn("free.png", "--guidance", "1")), first)
    greedy = sheet(drawn("greedy.png", "--temperature", "0"))
    assert np.array_equal(sheet(drawn("likeliest.png", "--top-k", "1")), greedy)
    assert np.array_equal(sheet(drawn("nucleus.png", "--top-p", "1e-6")), greedy)
    with av.open(str(drawn("film.mp4", "--video", str(clips[0]), "--fps", "1"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2


def test_lwm_is_asked_for_pictures_in_its_own_tokens(lwm_source: Path, lwm: Path) -> None:
    """Its script encodes prompt and marker as one text, and compares with the marker alone."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(lwm_source / "tokenizer.model"))
    drawing = Drawing(load_image_generator(lwm, one(), batch=1), Request(PROMPT, frames=3), None)
    none = drawing.seen
    for begun, what in ((False, "an image"), (True, "a video")):
        text = LWM_ASKS.format(f"Generate {what} of a red circle") + " <vision>"
        assert drawing._tokens(drawing._text(begun=begun), none).tolist() == [1, *pieces.EncodeAsIds(text)]
    assert drawing._tokens(drawing.form.without, none).tolist() == [1, *pieces.EncodeAsIds("<vision>")]
    assert (drawing.guidance, drawing.video_guidance, drawing.fps, drawing._parts()) == (
        5.0,
        1.0,
        4.0,
        [1, 2],
    )


def test_lwm_is_asked_about_a_video_in_its_own_tokens(lwm_source: Path, lwm: Path) -> None:
    """Its chat encodes what stands before the vision, the markers and what stands after, each by itself."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(lwm_source / "tokenizer.model"))
    generator = load_image_generator(lwm, one(), batch=1)
    codes = np.random.default_rng(0).integers(0, 64, (2, 4, 4))
    vision = (codes.reshape(2, 16) + 320).tolist()
    expected = [
        1,
        *pieces.EncodeAsIds("You are a helpful assistant. USER: what is there?\n"),
        *pieces.EncodeAsIds("<vision>"),
    ]
    expected += [
        *vision[0],
        320 + 64,
        *vision[1],
        320 + 65,
        *pieces.EncodeAsIds("</vision>"),
        *pieces.EncodeAsIds(" ASSISTANT:"),
    ]
    assert generator.processor.prompts.prompt([(codes, [0.0, 1.0])], "what is there?").tolist() == expected


def test_lwm_chats_in_its_own_words(lwm_source: Path, lwm: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(lwm_source / "tokenizer.model"))
    chat = load_chat(lwm, one(), max_tokens=4)
    first = [1, *pieces.EncodeAsIds(LWM_ASKS.format("hello"))]
    messages = [{"role": "user", "content": "hello"}]
    assert chat._tokens(messages) == first
    messages += [{"role": "assistant", "content": "hi"}, {"role": "user", "content": "and?"}]
    second = pieces.EncodeAsIds(LWM_ASKS.format("hello") + " hi"), pieces.EncodeAsIds("USER: and? ASSISTANT:")
    assert chat._tokens(messages) == [1, *second[0], 2, *second[1]]
    told = [{"role": "system", "content": "Be red."}, {"role": "user", "content": "hello"}]
    assert chat._tokens(told) == [1, *pieces.EncodeAsIds("Be red. USER: hello ASSISTANT:")]
    assert isinstance("".join(chat.say("hello")), str)


def test_without_a_text_tokenizer_it_draws_and_says_what_words_need(
    lwm_source: Path, lwm_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("streaming_params", "config.json"):
        shutil.copyfile(lwm_source / name, source / name)
    model = tmp_path / "model"
    assert cli.main(["import", str(source), str(model), "--tokenizer", str(lwm_tokenizer)]) == 0
    assert cli.main(["generate", "--model", str(model), "--out", str(tmp_path / "any.png")]) == 0
    assert sheet(tmp_path / "any.png").shape == (64, 64, 3)
    capsys.readouterr()
    assert cli.main(["generate", PROMPT, "--model", str(model), "--out", str(tmp_path / "none.png")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "holds no text tokenizer" in said and "put the tokenizer.model or tokenizer.json" in said
    assert not (tmp_path / "none.png").exists()


def test_lwm_answers_a_user(
    lwm_source: Path,
    lwm_tokenizer: Path,
    lwm: Path,
    clips: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What follows its own prompt by whole forward passes, on one device and on two, with its own video
    tokenizer or a given one.
    """
    bare = tmp_path / "bare"
    assert cli.main(["import", str(lwm_source), str(bare)]) == 0

    def said(*options: str, model: Path = lwm) -> list[int]:
        capsys.readouterr()
        words = [
            "ask",
            str(clips[0]),
            "what is there?",
            "--model",
            str(model),
            "--max-tokens",
            "4",
            "--json",
            *options,
        ]
        assert cli.main(words) == 0
        tokens: list[int] = json.loads(capsys.readouterr().out)["tokens"]
        return tokens

    assistant = load(lwm, one())
    expected = greedy(
        assistant, assistant.processor.prompts.prompt(seen(assistant, clips[0], 1.0), "what is there?"), 4
    )
    assert said() == expected
    assert said("--devices", "2", "--tokenizer", str(lwm_tokenizer), model=bare) == expected
    assert cli.main(["ask", str(clips[0]), "what?", "--model", str(bare)]) == 2
    assert "give one with --tokenizer NAME|DIR" in capsys.readouterr().err


def test_a_question_before_the_video_has_it_read_anew_and_its_codes_once(
    lwm: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = load(lwm, one())
    first = assistant.ask(clips[0], "what is there?", max_tokens=4)
    tokens = (first.text, first.tokens)[1]
    assert first.video_tokens == len(assistant.processor.prompts.video(*seen(assistant, clips[0], 1.0)[0]))
    read: list[int] = []
    prefill = assistant.engine.prefill

    def watched(tokens: np.ndarray, **rest: Any) -> Any:
        read.append(len(tokens))
        return prefill(tokens, **rest)

    monkeypatch.setattr(assistant.engine, "prefill", watched)
    monkeypatch.setattr(
        "ringvision.infer.processor.sample", lambda *_, **__: pytest.fail("the video was decoded again")
    )
    again = assistant.ask(clips[0], "what is there?", max_tokens=4)
    assert (again.text, again.tokens)[1] == tokens and not read
    other = assistant.ask(clips[0], "which colour?", max_tokens=4)
    assert isinstance(other.text, str) and len(read) == 1
