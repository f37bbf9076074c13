"""From a prompt to a file: the stream that the model reads is the one it was trained on, codes alone are
drawn, and frames are decoded as they come; what cannot be drawn is said in one line beforehand.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import jax
import numpy as np
import pytest
from PIL import Image
from tiny_assistant import write_assistant

from ringvision import model_folder
from ringvision.data.generation_format import GenerationFormat, answers, generation_format_of
from ringvision.errors import UserError
from ringvision.infer import image_generation as module
from ringvision.infer.image_generation import (
    Drawing,
    ImageGenerator,
    Request,
    generate_images,
    load_image_generator,
)
from ringvision.infer.sampler import Sampler
from ringvision.mesh import make_mesh
from ringvision.weights import lwm

CAPTION = "the red circle came first"
ASKED = GenerationFormat(question="What was there at {seconds}?", candidates=6)


def _load(folder: Path, devices: int = 1, **axes: int) -> ImageGenerator:
    return load_image_generator(
        folder, make_mesh(**(axes or {"context": devices}), devices=jax.devices()[:devices]), batch=2
    )


def _with(generator: ImageGenerator, form: GenerationFormat | None, **others: Any) -> ImageGenerator:
    """The same model, asked otherwise."""
    stream = others.pop("stream", generator.processor.prompts.format)
    return ImageGenerator(
        generator.model, generator.processor.prompts.text, generator.tokenizer, stream, form
    )


@pytest.fixture(scope="module")
def blank(folder: Path) -> ImageGenerator:
    """Its config says nothing of prompts."""
    return _load(folder)


@pytest.fixture(scope="module")
def generator(blank: ImageGenerator) -> ImageGenerator:
    return _with(blank, GenerationFormat())


def _codes(generator: ImageGenerator, request: Request, seen: np.ndarray | None = None) -> np.ndarray:
    return np.stack(list(generator.draw(request, seen)))


def _whole(generator: ImageGenerator, rows: list[np.ndarray]) -> list[np.ndarray]:
    """float64 logits [n, V] at every place of each row, by whole forward passes of two rows (one shape, so
    that it is compiled once).
    """
    found = []
    for first in range(0, len(rows), 2):
        tokens, segments = np.zeros((2, 2, 256), np.int32)
        for row, ids in enumerate(rows[first : first + 2]):
            tokens[row, : len(ids)] = ids
            segments[row, : len(ids)] = 1
        logits = np.asarray(generator.model.logits(tokens, None, segments), np.float64)
        found += [logits[row, : len(ids)] for row, ids in enumerate(rows[first : first + 2])]
    return found


def _likeliest(generator: ImageGenerator, rows: list[np.ndarray], scale: float, count: int) -> np.ndarray:
    """Which codes guidance makes the likeliest, where the last `count` frames of the woven rows were drawn
    greedily: [count, codes].
    """
    low = generator.vocabulary.code_offset
    high = generator.vocabulary.eof
    logits = _whole(generator, rows)
    at = [
        np.flatnonzero((ids >= low) & (ids < high))[-count * generator.tokenizer.codes_per_frame :]
        for ids in rows
    ]
    given, without = (one[places - 1, low:high] for one, places in zip(logits, at))
    return np.argmax(without + scale * (given - without), axis=-1).reshape(count, -1)


def test_a_film_is_the_stream_that_training_weaves(generator: ImageGenerator) -> None:
    """A prompt, two frames; each code is the likeliest in the whole streams with the prompt and without,
    which the weaver wrote.
    """
    found = _codes(generator, Request(CAPTION, frames=2, guidance=3.0, sampler=Sampler()))
    woven = generator.processor.prompts.videos([(found, [0.0, 1.0])])
    bos = woven[:1]
    video = woven[1:]
    rows = [
        np.concatenate([bos, generator.processor.prompts.text.encode(CAPTION), video]).astype(np.int32),
        woven,
    ]
    assert found.shape == (2, *generator.tokenizer.grid)
    assert np.array_equal(_likeliest(generator, rows, 3.0, 2), found.reshape(2, -1))
    assert not np.array_equal(
        _codes(generator, Request(CAPTION, frames=2, guidance=1.0, sampler=Sampler())), found
    )


def test_going_on_from_frames(generator: ImageGenerator) -> None:
    """Frames that are given stand before those that are drawn, and the clock goes on."""
    seen = (
        np.random.default_rng(0)
        .integers(0, generator.tokenizer.num_codes, (3, *generator.tokenizer.grid))
        .astype(np.int32)
    )
    found = _codes(generator, Request(frames=2, fps=0.5, sampler=Sampler()), seen)
    whole = np.concatenate([seen, found])
    woven = generator.processor.prompts.videos([(whole, 2.0 * np.arange(5))])
    assert np.array_equal(_likeliest(generator, [woven, woven], 1.0, 2), found.reshape(2, -1))


def test_lwms_film_asks_for_an_image_and_then_for_a_video_that_begins_with_it(
    generator: ImageGenerator,
) -> None:
    drawer = _with(generator, lwm.GENERATION, stream=lwm.STREAM)
    found = _codes(drawer, Request("Fireworks", frames=3, guidance=4.0, sampler=Sampler()))
    encode = drawer.processor.prompts.text.encode
    first = drawer.processor.prompts.video(found[:1], [0.0])
    image = np.concatenate(
        [
            [drawer.vocabulary.bos],
            encode("You are a helpful assistant. USER: Generate an image of Fireworks ASSISTANT:"),
            first,
        ]
    ).astype(np.int32)
    unasked = np.concatenate([image[:1], first])
    assert np.array_equal(_likeliest(drawer, [image, unasked], 4.0, 1), found[:1].reshape(1, -1))
    video = np.concatenate(
        [
            [drawer.vocabulary.bos],
            encode("You are a helpful assistant. USER: Generate a video of Fireworks ASSISTANT:"),
            drawer.processor.prompts.video(found, [0.0, 1.0, 2.0]),
        ]
    ).astype(np.int32)
    assert np.array_equal(_likeliest(drawer, [video, video], 1.0, 2), found[1:].reshape(2, -1))


@pytest.mark.parametrize("hours", [False, True], ids=["clips", "hours"])
def test_the_chosen_draft_is_the_one_that_says_the_prompt(
    generator: ImageGenerator, hours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a strong guidance every frame is, of its drafts, the one after which a whole forward pass finds
    the prompt likeliest; also where time stamps have ids of their own and frames see a window.
    """
    if hours:
        generator = _load(write_assistant(tmp_path, hours=True))
    chooser = _with(generator, ASKED)
    drafts: list[np.ndarray] = []
    draw = Drawing._frame

    def watched(*args: Any) -> np.ndarray:
        frames = draw(*args)
        drafts.append(frames[:6].reshape(6, -1))
        return frames

    monkeypatch.setattr(Drawing, "_frame", watched)
    found = _codes(
        chooser, Request("a red circle", frames=2, guidance=1e4, sampler=Sampler(temperature=2.0, seed=3))
    )
    assert [part.shape for part in drafts] == [(6, chooser.tokenizer.codes_per_frame)] * 2
    assert len(np.unique(drafts[0], axis=0)) == 6
    asked = [
        chooser.processor.prompts.question("What was there at 0 seconds?"),
        chooser.processor.prompts.question("What was there at 1 second?"),
    ]
    for index in range(2):
        codes = [row.reshape(1, *chooser.tokenizer.grid) for row in drafts[index]]
        woven = [
            chooser.processor.prompts.videos([(np.concatenate([found[:index], one]), np.arange(index + 1.0))])
            for one in codes
        ]
        scores = []
        for answer in (
            chooser.processor.prompts.answer("a red circle"),
            chooser.processor.prompts.answer("red circle"),
        ):
            rows = [np.concatenate([one, asked[index], answer]).astype(np.int32) for one in woven]
            places = [np.arange(len(row) - len(answer) - 1, len(row) - 1) for row in rows]
            logits = [one[at] for one, at in zip(_whole(chooser, rows), places)]
            chosen = [one - np.log(np.exp(one).sum(-1, keepdims=True)) for one in logits]
            scores.append([one[np.arange(len(answer)), answer].sum() for one in chosen])
        best = int(np.argmax(np.logaddexp(*np.array(scores))))
        assert np.array_equal(found[index], codes[best][0])


@pytest.mark.parametrize("form", [GenerationFormat(), ASKED], ids=["before", "asked"])
def test_a_ring_draws_the_same(folder: Path, blank: ImageGenerator, form: GenerationFormat) -> None:
    spread = _with(_load(folder, 4, context=2, data=2), form)
    request = Request(CAPTION, frames=2, sampler=Sampler(temperature=1.0, top_k=20, top_p=0.9, seed=5))
    assert np.array_equal(_codes(spread, request), _codes(_with(blank, form), request))


@pytest.mark.parametrize("form", [GenerationFormat(), ASKED], ids=["before", "asked"])
def test_a_seed_decides(blank: ImageGenerator, form: GenerationFormat) -> None:
    drawn = [
        _codes(
            _with(blank, form), Request(CAPTION, guidance=2.0, sampler=Sampler(temperature=2.0, seed=seed))
        )
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_frames_begin_where_training_let_them_begin(generator: ImageGenerator) -> None:
    """A model that knows a code's place within its frame by its position: spaces before the vision keep
    it.
    """
    processor = generator.processor.prompts
    period = generator.processor.prompts.period(generator.tokenizer.grid)
    drawing = Drawing(generator, Request(CAPTION), None)
    drawing.generator = _with(generator, GenerationFormat())
    drawing.generator.processor.frame_period = period
    tokens = drawing._tokens(CAPTION, np.zeros((0, *generator.tokenizer.grid), np.int32))
    assert len(tokens) % period == 2  # bos, <vision>, and a whole number of frames
    assert (
        processor.text.decode(tokens.tolist()).rstrip()
        == f"{CAPTION}{' ' * (len(tokens) - 2 - len(processor.text.encode(CAPTION)))}<vision>"
    )


@pytest.fixture
def able(folder: Path, tmp_path: Path) -> Path:
    """A folder whose config says that prompts stand before the vision."""
    place = tmp_path / "able"
    shutil.copytree(folder, place)
    _change(place, generation={"fps": 2.0})
    return place


def _change(place: Path, **settings: Any) -> None:
    config = place / "config.json"
    known = {**json.loads(config.read_text()), **settings}
    config.write_text(json.dumps({name: value for name, value in known.items() if value is not None}))


def test_a_film_is_written_as_it_is_drawn(
    able: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five frames by a tokenizer of two at a time: it decodes while drawing goes on, never more than two."""
    events: list[str] = []
    load = module.load_image_generator

    def watched(*args: Any, **settings: Any) -> ImageGenerator:
        generator = load(*args, **{**settings, "batch": 2})
        decode = generator.tokenizer.decode

        def decoding(codes: np.ndarray, dtype: Any) -> np.ndarray:
            events.append(f"decode {len(codes)}")
            return decode(codes, dtype)

        monkeypatch.setattr(generator.tokenizer, "decode", decoding)
        return generator

    monkeypatch.setattr(module, "load_image_generator", watched)

    def note(what: str, done: int, of: int) -> None:
        if done % 16 == 0:
            events.append(f"{what} {done} of {of}")

    result = generate_images(
        tmp_path / "film.mp4", Request(CAPTION, frames=5), model=able, mesh=_one(), progress=note
    )
    assert [event for event in events if event.startswith("codes")] == [
        f"codes {done} of 80" for done in range(16, 81, 16)
    ]
    assert [(index, event) for index, event in enumerate(events) if event.startswith("decode")] == [
        (2, "decode 2"),
        (5, "decode 2"),
        (7, "decode 1"),
    ]
    assert set(result.pop("seconds")) == {"load", "draw", "decode", "total"}
    assert result == {"out": str(tmp_path / "film.mp4"), "frames": 5, "codes": 80, "devices": 1, "fps": 2.0}
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].average_rate == 2
        assert sum(1 for _ in container.decode(video=0)) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["able", "film.mp4"]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_picture_is_what_its_codes_decode_to(able: Path, tmp_path: Path, dtype: str | None) -> None:
    request = Request(CAPTION, sampler=Sampler(temperature=1.0, seed=4))
    generate_images(tmp_path / "one.png", request, model=able, mesh=_one(), dtype=dtype)
    generator = load_image_generator(able, _one(), batch=1, dtype=dtype)
    assert generator.model.params["embed"]["table"].dtype == (dtype or "float32")
    expected = generator.tokenizer.decode(_codes(generator, request), np.uint8)[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), expected)


def test_a_video_goes_on(able: Path, clips: list[Path], tmp_path: Path) -> None:
    request = Request(frames=2, fps=1.0, sampler=Sampler())
    seen = []
    generate_images(
        tmp_path / "more.png",
        request,
        model=able,
        video=clips[0],
        mesh=_one(),
        progress=lambda what, *_: seen.append(what),
    )
    assert seen[0] == "frames"
    assert seen[-1] == "codes"
    generator = load_image_generator(able, _one(), batch=2)
    codes, _ = generator.processor.read_video(clips[0], 1.0)
    frames = generator.tokenizer.decode(_codes(generator, request, codes), np.uint8)
    size = generator.tokenizer.size
    sheet = np.asarray(Image.open(tmp_path / "more.png"))
    assert np.array_equal(np.stack([sheet[:, :size], sheet[:, -size:]]), frames)


def _one() -> jax.sharding.Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"frames": 0}, "--frames 0 was given"),
        ({"guidance": -1.0}, "--guidance -1 was given; expected a number from 0"),
        ({"guidance": float("nan")}, "--guidance nan"),
        ({"video_guidance": -0.5}, "--video-guidance -0.5"),
        ({"candidates": 0}, "--candidates 0"),
        ({"fps": 0.0}, "--fps 0"),
    ],
)
def test_requests_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Request(**settings)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets the test fail where weights are loaded."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded before the request was refused")

    with monkeypatch.context() as patched:
        patched.setattr(module, "load_model", fail)
        patched.setattr(module, "load_video_tokenizer", fail)
        yield


@pytest.mark.usefixtures("unloaded")
def test_what_cannot_be_is_said_before_a_model_is_loaded(able: Path, tmp_path: Path) -> None:
    def refused(said: str, out: str = "one.png", request: Request | None = None, **others: Any) -> None:
        with pytest.raises(UserError, match=said):
            generate_images(
                tmp_path / out, request or Request(CAPTION), **{"model": able, "mesh": _one(), **others}
            )

    refused("suffix '.gif'", out="one.gif")
    refused("at most 64", request=Request(CAPTION, frames=65))
    refused("absent.mp4", video=tmp_path / "absent.mp4")
    refused("none-such", tokenizer="none-such")
    _change(able, video_tokenizer=None)
    refused("names no video_tokenizer.*--tokenizer")
    _change(able, vocabulary=None)
    refused("it cannot see, so it cannot draw")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["able"]


def test_a_model_that_knows_no_prompts_says_so_and_draws_without(blank: ImageGenerator) -> None:
    with pytest.raises(UserError, match="not taught to draw what a text says"):
        blank.draw(Request(CAPTION))
    assert _codes(blank, Request(sampler=Sampler(temperature=1.0))).shape == (1, *blank.tokenizer.grid)


def test_what_does_not_fit_the_model_says_how_much_does(generator: ImageGenerator) -> None:
    period = generator.processor.prompts.period(generator.tokenizer.grid)
    words = 2 + len(generator.processor.prompts.text.encode(CAPTION))
    fitting = (generator.model.config.max_length - words) // period
    with pytest.raises(
        UserError, match=f"{fitting + 1} frames do not fit the 640 tokens that the model reads, {fitting} do"
    ):
        generator.draw(Request(CAPTION, frames=fitting + 1))
    assert len(list(generator.draw(Request(CAPTION, frames=fitting, guidance=1.0)))) == fitting
    with pytest.raises(UserError, match="shorten the prompt"):
        generator.draw(Request("red circle " * 600))
    seen = np.zeros((fitting, *generator.tokenizer.grid), np.int32)
    with pytest.raises(
        UserError, match=f"2 frames beside the {fitting} of the video do not fit.* or give a shorter video"
    ):
        generator.draw(Request(CAPTION, frames=2), seen)


def test_forms_of_prompts() -> None:
    assert generation_format_of({}) is None
    assert generation_format_of({"source": {"family": "LWM"}, "generation": ASKED.to_dict()}) == ASKED
    assert generation_format_of({"generation": lwm.GENERATION.to_dict()}) == lwm.GENERATION
    for moment, said in ((0, "0 seconds"), (1.5, "1 second"), (75, "1 minute 15 seconds")):
        assert ASKED.question_at(moment) == f"What was there at {said}?"
    assert answers(" A red circle ") == ("A red circle", "red circle")
    assert answers("an") == ("an",)
    for values, said in (
        ({"image": "no place for it"}, "must hold {prompt} once"),
        ({"candidates": 0}, "0 candidates"),
        ({"colour": 1}, "'colour' is unknown"),
    ):
        with pytest.raises(UserError, match=said):
            GenerationFormat.from_dict(values)


def test_another_tokenizer_is_refused(generator: ImageGenerator, folder: Path) -> None:
    settings = model_folder.read_config(folder)
    assert settings["vocabulary"]["num_codes"] == generator.tokenizer.num_codes
    with pytest.raises(UserError, match="the model knows 32 codes, the video tokenizer 1024"):
        load_image_generator(folder, _one(), tokenizer="world-16")
