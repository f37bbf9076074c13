"""Pictures and films from words, or from a video that is to go on: frame by frame, each written before the
next batch is drawn.

    prompt ─weave→ tokens ─prefill→ two rows ─guided draws→ codes of a frame ─video tokenizer→ pixels ─→ file
                                        └──── eof, time stamp ←────┘

Only codes are ever drawn: how many make a frame, and what stands between frames and rows (eof and time
stamps, or markers, sizes and ends of lines, as the model's `StreamFormat` says) is known beforehand and read
by the model as it read it in training. Where the model was trained on texts before vision, the prompt stands
there and guidance is classifier-free; where it was trained to say what it sees, each frame is the one of
several drafts of which it would say the prompt (candidates.py). `GenerationFormat` says which. Any model that
sees can go on from a video, or begin one by itself.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ringvision import shipped
from ringvision.data.generation_format import GenerationFormat, answers, generation_format_of
from ringvision.data.stream import PromptProcessor, StreamFormat
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.settings import OWN_FILE, SENTENCEPIECE_FILE, TOKENIZER_FILE
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.data.video import probe, sample, sample_times
from ringvision.data.video.writer import check_video_output, video_writer
from ringvision.errors import UserError
from ringvision.infer.candidates import Candidates, room_to_weigh
from ringvision.infer.guidance import Guide, Reading
from ringvision.infer.model import Model, load_model
from ringvision.infer.sampler import Sampler
from ringvision.model_folder import read_config
from ringvision.models.vqgan import VQGANConfig
from ringvision.video_tokenizer import BATCH, VideoTokenizer, load_video_tokenizer
from ringvision.vocabulary import Vocabulary

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
DRAWS = Sampler(temperature=1.0)


@dataclass(frozen=True)
class Request:
    """What is to be drawn, and how.

    prompt: what is to be seen; None lets the model draw what it expects. guidance: how strongly the prompt
    steers the first frame (1: as it was learned; None: as the model's form says, mostly 5), video_guidance
    all others (None: as the first, or 1 where the model's form has a text of its own for them, as LWM's
    does). candidates: drafts of which each frame is chosen, where the model's form chooses (None: as many as
    that says). fps: frames that make a second (None: the model's own rate). UserError for a prompt without
    words, and numbers out of their range.
    """

    prompt: str | None = None
    frames: int = 1
    guidance: float | None = None
    video_guidance: float | None = None
    candidates: int | None = None
    fps: float | None = None
    sampler: Sampler = DRAWS

    def __post_init__(self) -> None:
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("the prompt is empty; say what is to be seen")
        if self.frames < 1:
            raise UserError(f"--frames {self.frames} was given; expected at least 1")
        for name, value in (("--guidance", self.guidance), ("--video-guidance", self.video_guidance)):
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(
                    f"{name} {value:g} was given; expected a number from 0 upward (1: no guidance, about "
                    "5: strong)"
                )
        if self.candidates is not None and self.candidates < 1:
            raise UserError(
                f"--candidates {self.candidates} was given; expected at least 1 draft to choose from"
            )
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UserError(
                f"--fps {self.fps:g} was given; expected the frames that are shown in each second, above 0"
            )


class ImageGenerator:
    """A model, its tokenizers and the form of its prompts (None: it knows none), ready to draw.
    `load_image_generator` makes one from a folder.
    """

    def __init__(
        self,
        model: Model,
        text: TextTokenizer,
        tokenizer: VideoTokenizer,
        stream: StreamFormat,
        form: GenerationFormat | None,
    ) -> None:
        vocabulary = model.vocabulary
        if vocabulary is None:
            raise UserError(
                "this is a text model: it cannot see, so it cannot draw; give a model with a video tokenizer"
            )
        _check_parts(vocabulary, text, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.form = form
        self.vocabulary = vocabulary
        self.processor = PromptProcessor(text, vocabulary, stream)
        self.guide = Guide(model, (vocabulary.code_offset, vocabulary.eof))
        self.candidates = Candidates(self.guide)

    @property
    def fps(self) -> float:
        """Frames that the model has learned to make a second."""
        return float(self.model.settings.get("fps") or (self.form.fps if self.form else 1.0))

    def draw(
        self, request: Request, seen: np.ndarray | None = None, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """The codes [h, w] int32 of the frames, one by one, as they are drawn.

        seen: codes [T, h, w] of frames at the request's rate, that they go on from. progress: called with
        "tokens" while much is read, then "codes"; how many are done; of how many. UserError, before anything
        is computed, for a prompt where the model's form has none, and for what does not fit the model.
        """
        return Drawing(self, request, seen).frames(progress)


class Drawing:
    """One request on its way."""

    def __init__(self, generator: ImageGenerator, request: Request, seen: np.ndarray | None) -> None:
        _check_prompt(request.prompt, generator.form, generator.processor.text)
        self.generator = generator
        self.request = request
        self.prompt = request.prompt
        self.form = generator.form or GenerationFormat()
        self.seen = np.zeros((0, *generator.tokenizer.grid), np.int32) if seen is None else seen
        self.fps = request.fps or generator.fps
        self.guidance = self.form.guidance if request.guidance is None else request.guidance
        later = self.guidance if self.form.video is None else 1.0
        self.video_guidance = later if request.video_guidance is None else request.video_guidance
        chooses = request.prompt is not None and self.form.question is not None
        self.rows = (request.candidates or self.form.candidates) if chooses else 0
        self._check_fit()

    def frames(self, progress: Progress | None) -> Iterator[np.ndarray]:
        processor = self.generator.processor
        size = self.generator.tokenizer.codes_per_frame
        grid = self.generator.tokenizer.grid
        seen = self.seen
        drawn = 0
        of = self.request.frames * self.generator.tokenizer.codes_per_frame
        for frames in self._parts():
            scales = [self.video_guidance if len(seen) or index else self.guidance for index in range(frames)]
            reading = self._read(seen, scales, progress)
            for index, scale in enumerate(scales):
                moment = (len(seen) + index) / self.fps
                self._push(reading, processor.before(grid, moment))
                codes = np.empty(size, np.int32)
                for at, token in enumerate(self._draw(reading, moment, scale, first=drawn)):
                    codes[at] = token - self.generator.vocabulary.code_offset
                    drawn += 1
                    if progress is not None:
                        progress("codes", drawn, of)
                frame = codes.reshape(grid)
                yield frame
                if index + 1 < frames:
                    self._push(reading, processor.after(last=False))
            seen = frame[None]
            del reading  # its memory, before the next part takes as much

    def _parts(self) -> list[int]:
        """Frames that are drawn after one reading of the prompt. A first frame that is asked for in other
        words than the rest is read again after these.
        """
        frames = self.request.frames
        if self.form.video is None or self.prompt is None or len(self.seen) or frames == 1:
            return [frames]
        return [1, frames - 1]

    def _read(self, seen: np.ndarray, scales: list[float], progress: Progress | None) -> Reading:
        """Reads the prompt and the frames `seen`, where a scale says so also without the words; where frames
        are chosen, once a draft.
        """
        text = self._text(begun=len(seen) > 0)
        prompts = [self._tokens(text, seen)] * max(1, self.rows)
        if text and any(scale != 1 for scale in scales):
            prompts.append(self._tokens(self.form.without, seen))
        report = None if progress is None else lambda done, of: progress("tokens", done, of)
        return self.generator.guide.read(
            prompts, room=len(scales) * self._period() + self._room_to_weigh(), progress=report
        )

    def _draw(self, reading: Reading, moment: float, scale: float, *, first: int) -> Iterator[int]:
        """The ids of one frame's codes; all rows have read them then, and the ends of lines between them."""
        sampler = self.request.sampler
        candidates = self.generator.candidates
        if not self.rows:
            for at, count in self._lines(first):
                yield from self.generator.guide.draw(reading, count, sampler, scale, first=at)
                self._push(reading, self.generator.processor.row_end)
            return
        lines = []
        for at, count in self._lines(first):
            lines.append(candidates.draw(reading, count, sampler, first=at))
            self._push(reading, self.generator.processor.row_end)
        drafts = np.concatenate(lines, axis=1)
        scores = scale * candidates.weigh(reading, self._question(moment), self._answers()).astype(np.float64)
        weights = np.exp(scores - scores.max())
        random = np.random.default_rng([sampler.seed, first])
        row = int(random.choice(len(scores), p=weights / weights.sum()))
        candidates.keep(reading, row)
        yield from drafts[row].tolist()

    def _lines(self, first: int) -> list[tuple[int, int]]:
        """(number of the first, how many) of the codes of a frame that nothing stands between; `first` is
        that of the frame's first.
        """
        height, width = self.generator.tokenizer.grid
        if not self.generator.processor.row_end:
            return [(first, height * width)]
        return [(first + row * width, width) for row in range(height)]

    def _push(self, reading: Reading, tokens: Sequence[int]) -> None:
        """All rows read what is known beforehand."""
        for token in tokens:
            self.generator.guide.push(reading, int(token))

    def _text(self, *, begun: bool) -> str:
        return "" if self.prompt is None else self.form.before(self.prompt, begun)

    def _tokens(self, text: str, seen: np.ndarray) -> np.ndarray:
        """bos, the text, the video's start and the frames `seen`: int32 [n], all that stands before the next
        frame.
        """
        processor = self.generator.processor
        period = self.generator.model.config.frame_period
        tokens = [self.generator.vocabulary.bos, *processor.text.encode(text)]
        if period:  # spaces let frames begin where they did in training, as PromptProcessor.videos has it
            tokens += processor.text.encode(" ") * ((1 - len(tokens)) % period)
        tokens += processor.start
        for index, codes in enumerate(seen):
            tokens += [
                *processor.before(codes.shape, index / self.fps),
                *processor.rows(codes).tolist(),
                *processor.after(last=False),
            ]
        return np.array(tokens, np.int32)

    def _question(self, moment: float) -> np.ndarray:
        """What ends the video here, and asks what is to be seen at this moment."""
        processor = self.generator.processor
        return np.concatenate(
            [processor.after(last=True), processor.end, processor.question(self.form.question_at(moment))]
        ).astype(np.int32)

    def _answers(self) -> list[np.ndarray]:
        return [self.generator.processor.answer(text) for text in answers(self.prompt or "")]

    def _last(self) -> float:
        """The moment of the last frame."""
        return (len(self.seen) + self.request.frames - 1) / self.fps

    def _period(self) -> int:
        """The most tokens from one frame to the next."""
        return self.generator.processor.period(self.generator.tokenizer.grid, self._last())

    def _room_to_weigh(self) -> int:
        if not self.rows:
            return 0
        question = len(self._question(self._last()))
        answer = max(map(len, self._answers()))
        return room_to_weigh(question, answer, self.generator.model.mesh)

    def _check_fit(self) -> None:
        """UserError where the prompt, or prompt and frames, are longer than the model reads."""
        texts = [self._text(begun=False), self._text(begun=True)]
        if texts[0] and (self.guidance, self.video_guidance) != (1, 1):
            texts.append(self.form.without)
        words = max(len(self._tokens(text, self.seen[:0])) for text in texts) + self._room_to_weigh()
        longest = self.generator.model.config.max_length
        period = self._period()
        fitting = (longest - words) // period
        if fitting < 1:
            raise UserError(
                f"the prompt takes {words} tokens and a frame {period} of the {longest} that the "
                "model reads: shorten the prompt"
            )
        if len(self.seen) + self.request.frames > fitting:
            beside = f" beside the {len(self.seen)} of the video" if len(self.seen) else ""
            raise UserError(
                f"{self.request.frames} frames{beside} do not fit the {longest} tokens that the model reads,"
                f" {max(0, fitting - len(self.seen))} do: ask for fewer frames"
                + (", or give a shorter video" if beside else "")
            )


def generate_images(
    out: PathLike,
    request: Request,
    *,
    video: PathLike | None = None,
    model: PathLike | None = None,
    tokenizer: PathLike | None = None,
    mesh: Mesh | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draws what is requested and writes it to `out`, an .mp4 or a .png (see `ringvision.data.video.writer`),
    as it comes.

    video: a file that the frames go on from; they alone are written. model, tokenizer, mesh, dtype: see
    `load_image_generator`. Memory holds the model, its cache and one batch of frames. -> {"out", "frames",
    "codes", "devices", "fps", "seconds": {"load", "draw", "decode", "total"}}, draw with the reading of
    prompt and video. UserError for anything wrong with the request, before a model is loaded where that is
    possible.
    """
    check_video_output(out, request.frames, request.fps or 1.0)
    if video is not None:
        probe(video)  # a file that is no video is refused before a model is loaded for it
    began = time.perf_counter()
    at_once = min(BATCH, request.frames)
    generator = load_image_generator(
        model, mesh, tokenizer=tokenizer, dtype=dtype, batch=at_once, prompt=request.prompt
    )
    fps = request.fps or generator.fps
    seconds = {"load": time.perf_counter() - began, "draw": 0.0, "decode": 0.0}
    seen = None
    if video is not None:
        expected = len(sample_times(probe(video).duration, fps))
        Drawing(
            generator, request, np.zeros((expected, *generator.tokenizer.grid), np.int32)
        )  # what does not fit is not decoded first
        seen = _codes(video, fps, expected, generator.tokenizer, progress)
    coming = generator.draw(request, seen, progress)
    left = request.frames
    with video_writer(out, request.frames, fps) as append:
        while left:
            since = time.perf_counter()
            batch = np.stack([next(coming) for _ in range(min(left, generator.tokenizer.batch))])
            drawn = time.perf_counter()
            append(generator.tokenizer.decode(batch, np.uint8))
            seconds["draw"] += drawn - since
            seconds["decode"] += time.perf_counter() - drawn
            left -= len(batch)
    codes = request.frames * generator.tokenizer.codes_per_frame
    devices = generator.model.mesh.size
    seconds["total"] = time.perf_counter() - began
    return {
        "out": os.fspath(out),
        "frames": request.frames,
        "codes": codes,
        "devices": devices,
        "fps": fps,
        "seconds": seconds,
    }


def load_image_generator(
    dir: PathLike | None = None,
    mesh: Mesh | None = None,
    *,
    tokenizer: PathLike | None = None,
    dtype: str | None = None,
    batch: int = BATCH,
    prompt: str | None = None,
) -> ImageGenerator:
    """The model in `dir` (the shipped one when None) on `mesh`, with the video tokenizer that its config
    names, or `tokenizer`: a shipped one's name, or a folder. dtype: see `load_model`. batch: frames that are
    decoded at once. prompt: what is to be drawn with it.

    UserError, before the model's weights are loaded, for a model that cannot see, lacks something or cannot
    draw the prompt, and for a video tokenizer that is not the model's or makes no pictures.
    """
    place = shipped.model() if dir is None else Path(dir)
    settings = read_config(place)
    if not settings.get("vocabulary"):
        raise UserError(
            f"{place} is a text model: it cannot see, so it cannot draw; give a model with a video tokenizer"
        )
    own = shipped.tokenizer_of(place, settings, tokenizer)
    text = _text_of(place)
    form = generation_format_of(settings)
    stream = StreamFormat.from_dict(settings.get("stream") or {})
    _check_prompt(prompt, form, text)
    eyes = load_video_tokenizer(own, batch=batch, size=form.size if form else None)
    vocabulary = Vocabulary.from_dict(settings["vocabulary"])
    _check_parts(vocabulary, text, eyes)
    if isinstance(eyes.config, VQGANConfig) and eyes.config.encoder_only:
        raise UserError(
            f"{own} sees and cannot draw: it is an encoder alone, which makes codes of pictures "
            "and no pictures of codes"
        )
    PromptProcessor(text, vocabulary, stream).before(
        eyes.grid, 0.0
    )  # raises where words stand before a frame and there are none
    return ImageGenerator(load_model(place, mesh, dtype=dtype), text, eyes, stream, form)


class Wordless(TextTokenizer):
    """Stands where a model's folder holds no text tokenizer: what can do without words goes on, all else is
    told what to put where.
    """

    def __init__(self, place: Path) -> None:
        super().__init__([], {}, None, None)
        self.place = place

    def _ids(self, text: str, first: bool) -> list[int]:
        raise UserError(
            f"{self.place} holds no text tokenizer, so the model cannot be told {text[:40]!r}; "
            f"put the {SENTENCEPIECE_FILE} or"
            f" {TOKENIZER_FILE} that came with its weights into that folder"
        )


def _text_of(place: Path) -> TextTokenizer:
    there = any((place / name).is_file() for name in (OWN_FILE, TOKENIZER_FILE, SENTENCEPIECE_FILE))
    return load_text_tokenizer(place) if there else Wordless(place)


def _check_prompt(prompt: str | None, form: GenerationFormat | None, text: TextTokenizer) -> None:
    """UserError where the model cannot be asked for this."""
    if prompt is None:
        return
    if form is None:
        raise UserError(
            "this model was not taught to draw what a text says (its config.json has no "
            '"generation"); leave the prompt out and it'
            " draws what it likes, or goes on from a video (--video FILE)"
        )
    text.encode(prompt)


def _check_parts(vocabulary: Vocabulary, text: TextTokenizer, tokenizer: VideoTokenizer) -> None:
    """UserError where the tokenizers are not those that the model was trained with."""
    if tokenizer.num_codes != vocabulary.num_codes:
        raise UserError(
            f"the model knows {vocabulary.num_codes} codes, the video tokenizer "
            f"{tokenizer.num_codes}; give the one that the model was"
            " trained with (--tokenizer)"
        )
    if text.size > vocabulary.text_size:
        raise UserError(
            f"the model knows {vocabulary.text_size} text pieces, the text tokenizer {text.size}; "
            "put the one that the model was trained"
            " with into its folder"
        )


def _codes(
    video: PathLike, fps: float, expected: int, tokenizer: VideoTokenizer, progress: Progress | None
) -> np.ndarray:
    """codes [T, h, w] of a video's frames, `fps` a second, about `expected` of them."""
    codes: list[np.ndarray] = []
    for batch in sample(video, fps=fps, size=tokenizer.size, batch=BATCH):
        codes.extend(tokenizer.encode(batch.frames))
        if progress is not None:
            progress("frames", len(codes), max(expected, len(codes)))
    return np.stack(codes)
