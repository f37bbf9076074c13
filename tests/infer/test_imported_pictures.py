"""Emu3 and Chameleon, whose frames are pictures of their own, from their own files to answers and pictures,
as a user has them: they are asked in their own words.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imported_models import FIXTURES, PROMPT, greedy, one, seen, sheet

from ringvision import cli
from ringvision.data.stream import PictureFormat, PromptProcessor, StreamFormat
from ringvision.data.text.folder import MissingTextTokenizer, load_text_tokenizer
from ringvision.errors import UserError
from ringvision.infer import image_generation as module
from ringvision.infer.assistant import load
from ringvision.infer.decode_batch import DecodeBatch
from ringvision.infer.image_generation import (
    Drawing,
    ImageGenerator,
    Request,
    generate_images,
    load_image_generator,
)
from ringvision.infer.sampler import Sampler
from ringvision.model_folder import read_config
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.vocabulary import Vocabulary
from ringvision.weights import chameleon, emu3
from ringvision.weights.code_ids import CodeIds
from ringvision.weights.importing import import_weights


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the model's weights were loaded before the request was refused")

    monkeypatch.setattr(module, "load_model", fail)


def imported(family: str, place: Path, *, words: bool = True, **changes: Any) -> Path:
    """The fixture's model with a text tokenizer of its ids; changes: to its config."""
    source = place / f"{family}-source"
    source.mkdir()
    shutil.copyfile(FIXTURES / family / "model.safetensors", source / "model.safetensors")
    config = json.loads((FIXTURES / family / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **changes}))
    for name in ("tokenizer.json", "tokenizer_config.json") if words else ():
        shutil.copyfile(FIXTURES / "picture_prompts" / family / name, source / name)
    import_weights(source, place / family)
    return place / family


@pytest.fixture(scope="module")
def emu3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = json.loads((FIXTURES / "emu3" / "config.json").read_text())["text_config"]
    return imported(
        "emu3", tmp_path_factory.mktemp("models"), text_config={**text, "max_position_embeddings": 300}
    )


@pytest.fixture(scope="module")
def painter(emu3_folder: Path) -> ImageGenerator:
    """Emu3, small pictures: three rows of three codes."""
    whole = load_image_generator(emu3_folder, one(), batch=1)
    small = load_video_tokenizer(emu3_folder / "tokenizer", batch=1, size=6)
    return ImageGenerator(
        whole.model, whole.processor.prompts.text, small, whole.processor.prompts.format, whole.form
    )


def test_emu3_is_asked_for_pictures_in_its_processors_tokens(painter: ImageGenerator) -> None:
    ours = ids_of("emu3").ours
    drawing = Drawing(painter, Request(PROMPT), None)
    recorded = np.load(FIXTURES / "picture_prompts" / "emu3" / "ids.npz")
    opened = painter.processor.prompts.before((3, 5), 0.0)
    for name, text in (
        ("wanted", drawing._text(begun=False)),
        ("unwanted", drawing.form.without),
        ("nothing", ""),
    ):
        assert [*drawing._tokens(text, drawing.seen).tolist(), *opened] == ours[recorded[name]].tolist()
    assert drawing.guidance == drawing.video_guidance == 3.0


@pytest.mark.parametrize("family", ["emu3", "chameleon"])
def test_a_question_about_pictures_is_its_processors_prompt(family: str, tmp_path: Path) -> None:
    """The whole of it, id by id, as transformers' processor writes it and its model fills in the codes; one
    picture, or two.
    """
    config = json.loads((FIXTURES / family / "config.json").read_text())
    ends = (
        {} if family == "emu3" else {"vocabulary_map": {**config["vocabulary_map"], "<reserved08706>": 223}}
    )
    place = imported(family, tmp_path, **ends)
    processor = woven_by(place)
    recorded = np.load(FIXTURES / family / "io.npz")
    prompt = np.load(FIXTURES / "picture_prompts" / family / "ids.npz")["asked"]
    codes = recorded["codes"][:1] if family == "emu3" else recorded["codes"].reshape(2, 16, 16)
    found = processor.prompt([(codes, np.arange(len(codes)))], "What colour is the circle?")
    assert np.array_equal(ids_of(family).theirs[found], prompt)


@pytest.mark.parametrize("family", ["emu3", "chameleon"])
def test_a_picture_is_the_part_of_the_recorded_prompt(family: str, tmp_path: Path) -> None:
    """Cropped to what was not padding. The fixture writes no size and no piece behind the last row of
    Emu3's.
    """
    place = imported(family, tmp_path)
    recorded = np.load(FIXTURES / family / "io.npz")
    ids = ids_of(family)
    processor = woven_by(place)
    grids = recorded["codes"] if family == "emu3" else recorded["codes"].reshape(2, 16, 16)
    if family == "emu3":
        grids = [
            codes[: height // 2, : width // 2]
            for codes, (height, width) in zip(grids, recorded["image_sizes"])
        ]
        assert processor.format.picture is not None
        picture = PictureFormat(row_end=processor.format.picture.row_end)
        processor = replace(processor, format=replace(processor.format, picture=picture))
    start, end = (
        ids.theirs[list(marks)][0]
        for marks in (processor.vocabulary.vision_start, processor.vocabulary.vision_end)
    )
    for codes, row in zip(grids, recorded["merged_input_ids"]):
        first = np.flatnonzero(row == start)[0]
        last = np.flatnonzero(row == end)[0]
        assert np.array_equal(ids.theirs[processor.video(codes[None], [0.0])], row[first : last + 1])


def ids_of(family: str) -> CodeIds:
    config = json.loads((FIXTURES / family / "config.json").read_text())
    return emu3.find_code_ids(config, 200) if family == "emu3" else chameleon.find_code_ids(config, 224)


def woven_by(place: Path) -> PromptProcessor:
    settings = read_config(place)
    stream = StreamFormat.from_dict(settings["stream"])
    return PromptProcessor(load_text_tokenizer(place), Vocabulary.from_dict(settings["vocabulary"]), stream)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_emu3_draws_row_by_row(painter: ImageGenerator, scale: float) -> None:
    """Each code is the likeliest after whole forward passes over the woven pictures, whose rows end in the
    piece for that; two pictures.
    """
    form = painter.form
    assert form is not None
    found = np.stack(list(painter.draw(Request(PROMPT, frames=2, guidance=scale, sampler=Sampler()))))
    assert found.shape == (2, 3, 3)
    encode = painter.processor.prompts.text.encode
    woven = painter.processor.prompts.video(found, [0.0, 1.0])
    rows = [
        np.array([painter.vocabulary.bos, *encode(text), *woven])
        for text in (form.before(PROMPT, False), form.without)
    ]
    low = painter.vocabulary.code_offset
    high = painter.vocabulary.eof
    expected = []
    for ids in rows:
        places = np.flatnonzero((ids >= low) & (ids < high))
        expected.append(np.asarray(painter.model.logits(ids[None]), np.float64)[0, places - 1, low:high])
    wanted, without = expected
    assert np.array_equal(np.argmax(without + scale * (wanted - without), axis=-1), found.reshape(-1))


def test_emu3_goes_on_from_pictures_and_draws_for_a_user(
    painter: ImageGenerator, emu3_folder: Path, tmp_path: Path
) -> None:
    seen = np.random.default_rng(0).integers(0, 64, (2, 3, 3)).astype(np.int32)
    found = np.stack(list(painter.draw(Request(frames=1, sampler=Sampler()), seen)))
    woven = painter.processor.prompts.videos([(np.concatenate([seen, found]), [0.0, 1.0, 2.0])])
    opening = len(painter.processor.prompts.opening()) - 1
    ids = np.concatenate([woven[:1], woven[1 + opening :]])  # what stands before a video that is asked about
    low = painter.vocabulary.code_offset
    high = painter.vocabulary.eof
    places = np.flatnonzero((ids >= low) & (ids < high))[-9:]
    assert np.array_equal(
        np.argmax(np.asarray(painter.model.logits(ids[None]))[0, places - 1, low:high], axis=-1),
        found.reshape(-1),
    )
    # by itself a picture is as large as half of the model's context
    assert (
        cli.main(
            [
                "generate",
                PROMPT,
                "--model",
                str(emu3_folder),
                "--out",
                str(tmp_path / "emu3.png"),
                "--guidance",
                "1",
            ]
        )
        == 0
    )
    assert sheet(tmp_path / "emu3.png").shape == (22, 22, 3)


@pytest.mark.usefixtures("unloaded")
def test_emu3_needs_words_to_say_how_large_a_picture_is(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"cannot be told '15\*15'; put the tokenizer\.model or tokenizer\.json"
    ):
        generate_images(
            tmp_path / "any.png", Request(), model=imported("emu3", tmp_path, words=False), mesh=one()
        )


@pytest.mark.usefixtures("unloaded")
def test_chameleon_cannot_draw_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = imported("chameleon", tmp_path)
    assert cli.main(["generate", "--model", str(model), "--out", str(tmp_path / "any.png")]) == 2
    assert "sees and cannot draw: it is an encoder alone" in capsys.readouterr().err
    assert not (tmp_path / "any.png").exists()
    assert "generation" not in read_config(model)


def test_the_frame_grid_is_filled_row_by_row(
    painter: ImageGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first code drawn is the upper left one, and the next stands to its right."""
    steps: list[int] = []
    drawn = property(lambda batch: np.array([painter.vocabulary.code_offset + len(steps)]))
    monkeypatch.setattr(DecodeBatch, "tokens", drawn)
    monkeypatch.setattr(
        DecodeBatch, "step", lambda batch, forced=None: steps.append(0) if forced is None else None
    )
    (frame,) = painter.draw(Request())
    assert frame.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_text_tokenizer_of_another_model_is_refused(painter: ImageGenerator) -> None:
    processor: PromptProcessor = painter.processor.prompts
    large = MissingTextTokenizer(Path("elsewhere"))
    large.size = painter.vocabulary.text_size + 1
    with pytest.raises(UserError, match="the model knows 136 text pieces, the text tokenizer 137"):
        ImageGenerator(painter.model, large, painter.tokenizer, processor.format, None)


def test_what_guidance_compares_with_must_fit_too(painter: ImageGenerator) -> None:
    """Emu3's text for that is longer than most prompts."""
    form = painter.form
    assert form is not None
    words, without = (
        len(painter.processor.prompts.text.encode(text)) for text in (form.before("a", False), form.without)
    )
    period = painter.processor.prompts.period(painter.tokenizer.grid)
    assert without > words + period
    most = [(painter.model.config.max_length - 1 - length) // period for length in (words, without)]
    Drawing(painter, Request("a", frames=most[0], guidance=1.0), None)
    Drawing(painter, Request("a", frames=most[1]), None)
    with pytest.raises(UserError, match=f"{most[1]} do: ask for fewer frames"):
        Drawing(painter, Request("a", frames=most[1] + 1), None)


@pytest.mark.parametrize("family", ["emu3", "chameleon"])
def test_pictures_are_seen_in_their_processors_layout(family: str, clips: list[Path], tmp_path: Path) -> None:
    """Whose tokens tests of the weaver hold against transformers' processors: the answer is what follows them
    by whole forward passes.
    """
    larger = {"max_position_embeddings": 400} if family == "chameleon" else {}
    assistant = load(imported(family, tmp_path, **larger), one())
    reply = assistant.ask(clips[0], "What colour is the circle?", fps=0.05, max_tokens=4)
    prompt = assistant.processor.prompts.prompt(seen(assistant, clips[0], 0.05), "What colour is the circle?")
    assert isinstance(reply.text, str) and reply.frames == 1
    assert reply.tokens == greedy(assistant, prompt, 4)


def test_a_video_that_fits_is_counted_as_it_is_woven(
    emu3_folder: Path, clips: list[Path], tmp_path: Path
) -> None:
    assistant = load(emu3_folder, one())
    grid = assistant.tokenizer.grid
    for frames in (1, 2):
        times = np.arange(float(frames))
        woven = assistant.processor.prompts.videos([(np.zeros((frames, *grid), np.int32), times)], "what?")
        assert assistant.processor.video_tokens([times]) == len(woven) - len(
            assistant.processor.prompts.opening("what?")
        )
    with pytest.raises(UserError, match="about 1 frames do: ask with --fps"):
        assistant.ask(clips[0], "What colour is the circle?", fps=2.0)
    with pytest.raises(
        UserError, match="a video of one frame takes 275 tokens with its answer, and the model reads 256"
    ):
        load(imported("chameleon", tmp_path), one()).ask(clips[0], "What colour is the circle?")
