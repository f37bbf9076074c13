"""Images and videos from a text, or the continuation of a video: frame by frame, each batch written before
the next is sampled.

    prompt ─Processor→ tokens ─read→ rows of a DecodeBatch → codes of a frame ─video tokenizer→ pixels → file
                                        └──── eof, time stamp ←────┘

Only codes are sampled. What stands between frames and rows (eof and time stamps, or markers, sizes and ends
of lines, as the model's `StreamFormat` says) is inserted as in training. `GenerationFormat` says which of two
ways a prompt steers.

A model that was trained on texts before images reads the prompt first. Guidance is classifier-free (Ho and
Salimans, 2022): a pair of rows, the second without the prompt, whose logits are extrapolated.

For a model that was trained to answer questions about what it sees, each frame is chosen among candidates:

    p(frame | prompt)  ~  p(frame) * p(prompt | frame) ** guidance

These are rows over one prefix, each sampled without a prompt and weighed by the probability of the prompt as
the answer to what is there; the chosen one is read into the prefix of the next frame: a particle filter
(Gordon, Salmond and Smith, 1993) with the weights of classifier guidance. Without a prompt, either kind of
model can continue a video or begin one.
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
from ringvision.data.text.folder import text_tokenizer_or_missing
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.data.video import probe, sample_times
from ringvision.data.video.writer import check_video_output, video_writer
from ringvision.errors import UserError
from ringvision.infer.decode_batch import DecodeBatch, slots_to_score
from ringvision.infer.engine import Engine, Prefix
from ringvision.infer.model import Model, load_model
from ringvision.infer.processor import Processor
from ringvision.infer.sampler import Sampler
from ringvision.model_folder import read_config
from ringvision.models.vqgan import VQGANConfig
from ringvision.outputs import check_output
from ringvision.video_tokenizer import BATCH, VideoTokenizer, load_video_tokenizer
from ringvision.vocabulary import Vocabulary

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
DRAWS = Sampler(temperature=1.0)
CANNOT_SEE = "a text model: it cannot see, so it cannot draw; give a model with a video tokenizer"
SHORTEST_CANDIDATES = 64
"""Slots of a candidate's row at least: a frame, and a question with its answer."""


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
    """A model and its tokenizers, ready to generate. `load_image_generator` makes one from a folder."""

    def __init__(
        self,
        model: Model,
        text: TextTokenizer,
        tokenizer: VideoTokenizer,
        stream: StreamFormat,
        form: GenerationFormat | None,
    ) -> None:
        """
        Args:
            model: with a vocabulary.
            text: the text tokenizer that it was trained with.
            tokenizer: the video tokenizer that it was trained with.
            stream: how things stand in its prompts.
            form: how a text asks it for images (None: no text does).

        Raises:
            UserError: where these do not fit together.
        """
        vocabulary = model.vocabulary
        if vocabulary is None:
            raise UserError(f"this is {CANNOT_SEE}")
        _check_parts(vocabulary, text, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.form = form
        self.vocabulary = vocabulary
        self.processor = Processor(model.config, vocabulary, text, tokenizer, stream)
        self.engine = Engine(model)
        self.ids = (vocabulary.code_offset, vocabulary.eof)

    @property
    def fps(self) -> float:
        """Frames that the model has learned to make a second."""
        return float(self.model.settings.get("fps") or (self.form.fps if self.form else 1.0))

    def draw(
        self, request: Request, seen: np.ndarray | None = None, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """The codes int32 [h, w] of each frame as it is drawn. seen: codes [T, h, w] of frames at the
        request's rate that they continue. progress: called with "tokens" while much is read, then "codes";
        how many are done; of how many. UserError, before anything is computed, for a prompt that the model
        cannot take, and for what does not fit the model.
        """
        return Drawing(self, request, seen).frames(progress)


class Drawing:
    """One request on its way."""

    def __init__(self, generator: ImageGenerator, request: Request, seen: np.ndarray | None) -> None:
        """seen: codes int32 [T, h, w] of frames that it continues (None: no frames). UserError where the
        request does not fit the model.
        """
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
        self.drawn = 0
        self._check_fit()

    def frames(self, progress: Progress | None) -> Iterator[np.ndarray]:
        """The codes int32 [h, w] of each frame as it is drawn."""
        report = progress or _unreported
        seen = self.seen
        done = 0
        for frames in self._parts():
            scales = [self.video_guidance if len(seen) or index else self.guidance for index in range(frames)]
            coming = (
                self._candidates(seen, scales, report) if self.rows else self._guided(seen, scales, report)
            )
            for codes in coming:
                done += 1
                yield codes
            # What follows this part's frames begins with the last of them.
            seen = codes[None]
            self.drawn = done * codes.size

    def _parts(self) -> list[int]:
        """Frames that are drawn after one reading of the prompt. A first frame that is asked for in other
        words than the rest is read again after these.
        """
        frames = self.request.frames
        if self.form.video is None or self.prompt is None or len(self.seen) or frames == 1:
            return [frames]
        return [1, frames - 1]

    # ------------------------------------------------------------------------------------------- guidance

    def _guided(self, seen: np.ndarray, scales: list[float], report: Progress) -> Iterator[np.ndarray]:
        """Frames after the prompt and the frames `seen`; where a scale says so, also without the prompt."""
        generator = self.generator
        text = self._text(begun=len(seen) > 0)
        prompts = [self._tokens(text, seen)]
        guided = bool(text) and any(scale != 1 for scale in scales)
        if guided:
            prompts.append(self._tokens(self.form.without, seen))
        slots = generator.engine.slots_for(max(map(len, prompts)), generate=len(scales) * self._period())
        batch = DecodeBatch(generator.engine, len(prompts), slots, ids=generator.ids)
        batch.read(dict(enumerate(prompts)), lambda done, of: report("tokens", done, of))
        for index, scale in enumerate(scales):
            first = self.drawn + index * generator.tokenizer.codes_per_frame
            batch.sample(0, self.request.sampler, first=first, without=1 if guided else None, scale=scale)
            moment = self._moment(seen, index)
            self._force(batch, generator.processor.prompts.before(generator.tokenizer.grid, moment))
            yield self._frame(batch, first, report)[0]
            if index + 1 < len(scales):
                self._force(batch, generator.processor.prompts.after(moment, last=False))

    def _frame(self, batch: DecodeBatch, first: int, report: Progress | None) -> np.ndarray:
        """Draws and reads a frame in every row: codes int32 [R, h, w]. first: the number of its first
        draw.
        """
        height, width = self.generator.tokenizer.grid
        drawn = []
        for _ in range(height):
            for _ in range(width):
                tokens = batch.tokens
                batch.step()  # the devices are at work on what follows while these are looked at
                drawn.append(np.asarray(tokens) - self.generator.ids[0])  # (R,)
                if report is not None:
                    report("codes", first + len(drawn), self._codes_in_all())
            self._force(batch, self.generator.processor.prompts.row_end)
        return np.stack(drawn, axis=1).reshape(batch.count, height, width)

    def _force(self, batch: DecodeBatch, tokens: Sequence[int]) -> None:
        """All rows read what is known beforehand."""
        for token in tokens:
            batch.step(int(token))

    # ----------------------------------------------------------------------------------------- candidates

    def _candidates(self, seen: np.ndarray, scales: list[float], report: Progress) -> Iterator[np.ndarray]:
        """Frames after the frames `seen`, each the one of several of which the model would say the prompt."""
        generator = self.generator
        prompts = generator.processor.prompts
        read = self._tokens(self._text(begun=len(seen) > 0), seen)
        prefix: Prefix | None = None
        for index, scale in enumerate(scales):
            moment = self._moment(seen, index)
            first = self.drawn + index * generator.tokenizer.codes_per_frame
            before = np.concatenate([read, prompts.before(generator.tokenizer.grid, moment)]).astype(np.int32)
            prefix = generator.engine.prefill(
                before[:-1], after=prefix, progress=lambda done, of: report("tokens", done, of)
            )
            frames = self._drafts(prefix, int(before[-1]), first, moment, scale)
            report("codes", first + frames.size, self._codes_in_all())
            yield frames
            read = np.concatenate([before, prompts.rows(frames), prompts.after(moment, last=False)]).astype(
                np.int32
            )

    def _drafts(self, prefix: Prefix, token: int, first: int, moment: float, scale: float) -> np.ndarray:
        """Draws several frames after the prefix and `token`, and chooses: codes int32 [h, w]."""
        generator = self.generator
        slots = generator.engine.slots_for(generate=1 + self._period() + self._slots_to_score())
        batch = DecodeBatch(
            generator.engine,
            self.rows,
            slots,
            prefix=prefix,
            ids=generator.ids,
            one_draw=True,
            shortest=SHORTEST_CANDIDATES,
        )
        batch.begin(range(self.rows))
        for row in range(batch.count):
            batch.sample(row, self.request.sampler, first=first)
        self._force(batch, [token])
        frames = self._frame(batch, first, None)[: self.rows]
        return frames[self._choose(batch, first, moment, scale)]

    def _choose(self, batch: DecodeBatch, first: int, moment: float, scale: float) -> int:
        """The row that is chosen, by how much it expects one of the answers."""
        question = self._question(moment)
        scores = np.logaddexp.reduce([batch.score(question, answer) for answer in self._answers()], axis=0)
        scores = scale * scores[: self.rows].astype(np.float64)
        weights = np.exp(scores - scores.max())
        random = np.random.default_rng([self.request.sampler.seed, first])
        return int(random.choice(len(scores), p=weights / weights.sum()))

    # -------------------------------------------------------------------------------------------- prompts

    def _codes_in_all(self) -> int:
        return self.request.frames * self.generator.tokenizer.codes_per_frame

    def _moment(self, seen: np.ndarray, index: int) -> float:
        """The time of the frame of this number after those that were seen."""
        return (len(seen) + index) / self.fps

    def _text(self, *, begun: bool) -> str:
        return "" if self.prompt is None else self.form.before(self.prompt, begun)

    def _tokens(self, text: str, seen: np.ndarray) -> np.ndarray:
        """bos, the text, the video's start and the frames `seen`: int32 [n], all that stands before the next
        frame.
        """
        return self.generator.processor.frames_prompt(text, seen, self.fps)

    def _question(self, moment: float) -> np.ndarray:
        """What ends the video here, and asks what is to be seen at this moment."""
        prompts = self.generator.processor.prompts
        return np.concatenate(
            [prompts.after(moment, last=True), prompts.end, prompts.question(self.form.question_at(moment))]
        ).astype(np.int32)

    def _answers(self) -> list[np.ndarray]:
        return [self.generator.processor.prompts.answer(text) for text in answers(self.prompt or "")]

    def _last(self) -> float:
        """The moment of the last frame."""
        return self._moment(self.seen, self.request.frames - 1)

    def _period(self) -> int:
        """The most tokens from one frame to the next."""
        return self.generator.processor.prompts.period(self.generator.tokenizer.grid, self._last())

    def _slots_to_score(self) -> int:
        if not self.rows:
            return 0
        question = len(self._question(self._last()))
        answer = max(map(len, self._answers()))
        return slots_to_score(self.generator.engine, question + answer)

    def _check_fit(self) -> None:
        """UserError where the prompt, or prompt and frames, are longer than the model reads."""
        texts = [self._text(begun=False), self._text(begun=True)]
        if texts[0] and (self.guidance, self.video_guidance) != (1, 1):
            texts.append(self.form.without)
        words = max(len(self._tokens(text, self.seen[:0])) for text in texts) + self._slots_to_score()
        self.generator.processor.check_frames(words, len(self.seen), self.request.frames, self._last())


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
    """Generates what is requested, written as it comes; memory holds model, cache and one batch of frames.

    Args:
        out: the file, an .mp4 or a .png (see `ringvision.data.video.writer`).
        request: what is generated.
        video: a file that the frames continue; only the new frames are written.
        model: the model folder (None: the shipped one).
        tokenizer: a shipped video tokenizer's name, or a folder (None: the one that the config names).
        mesh: the devices (None: all of them on the axis `context`).
        dtype: see `load_model`.
        progress: called with what, how many are done, of how many.

    Returns:
        {"out", "frames", "codes", "devices", "fps", "seconds": {"load", "draw", "decode", "total"}}; "draw"
        includes reading the prompt and the video.

    Raises:
        UserError: for anything wrong with the request, before a model is loaded where that is possible.
    """
    check_video_output(out, request.frames, request.fps or 1.0)
    if video is not None:
        check_output(out, [video])
        probe(video)  # a file that is no video is refused before a model is loaded for it
    began = time.perf_counter()
    generator = load_image_generator(
        model, mesh, tokenizer=tokenizer, dtype=dtype, batch=min(BATCH, request.frames), prompt=request.prompt
    )
    fps = request.fps or generator.fps
    seconds = {"load": time.perf_counter() - began, "draw": 0.0, "decode": 0.0}
    seen = None
    if video is not None:
        expected = len(sample_times(probe(video).duration, fps))
        # raises for what does not fit, before the video is decoded
        Drawing(generator, request, np.zeros((expected, *generator.tokenizer.grid), np.int32))
        seen, _ = generator.processor.read_video(video, fps, expected=expected, progress=progress)
    coming = generator.draw(request, seen, progress)
    with video_writer(out, request.frames, fps) as append:
        _append_decoded(append, generator.tokenizer, coming, request.frames, seconds)
    seconds["total"] = time.perf_counter() - began
    return {
        "out": os.fspath(out),
        "frames": request.frames,
        "codes": request.frames * generator.tokenizer.codes_per_frame,
        "devices": generator.model.mesh.size,
        "fps": fps,
        "seconds": seconds,
    }


def _append_decoded(
    append: Callable[[np.ndarray], None],
    tokenizer: VideoTokenizer,
    coming: Iterator[np.ndarray],
    left: int,
    seconds: dict[str, float],
) -> None:
    """Decodes `left` frames, codes [h, w] each, in batches, appends them, and adds up the seconds."""
    while left:
        since = time.perf_counter()
        batch = np.stack([next(coming) for _ in range(min(left, tokenizer.batch))])
        drawn = time.perf_counter()
        append(tokenizer.decode(batch, np.uint8))
        seconds["draw"] += drawn - since
        seconds["decode"] += time.perf_counter() - drawn
        left -= len(batch)


def load_image_generator(
    dir: PathLike | None = None,
    mesh: Mesh | None = None,
    *,
    tokenizer: PathLike | None = None,
    dtype: str | None = None,
    batch: int = BATCH,
    prompt: str | None = None,
) -> ImageGenerator:
    """The image generator in a model folder.

    Args:
        dir: the folder (None: the shipped one).
        mesh: the devices (None: all of them on the axis `context`).
        tokenizer: a shipped video tokenizer's name, or a folder (None: the one that the config names).
        dtype: see `load_model`.
        batch: frames that are decoded at once.
        prompt: what will be generated, checked before the weights are loaded.

    Returns:
        The model and its tokenizers, loaded.

    Raises:
        UserError: before the model's weights are loaded, for a model that has no vision, lacks something or
            cannot generate from the prompt, and for a video tokenizer that is not the model's or cannot
            decode.
    """
    folder = shipped.model() if dir is None else Path(dir)
    settings = read_config(folder)
    if not settings.get("vocabulary"):
        raise UserError(f"{folder} is {CANNOT_SEE}")
    own = shipped.tokenizer_of(folder, settings, tokenizer)
    text = text_tokenizer_or_missing(folder)
    form = generation_format_of(settings)
    stream = StreamFormat.from_dict(settings.get("stream") or {})
    _check_prompt(prompt, form, text)
    video_tokenizer = load_video_tokenizer(own, batch=batch, size=form.size if form else None)
    vocabulary = Vocabulary.from_dict(settings["vocabulary"])
    _check_parts(vocabulary, text, video_tokenizer)
    if isinstance(video_tokenizer.config, VQGANConfig) and video_tokenizer.config.encoder_only:
        raise UserError(
            f"{own} sees and cannot draw: it is an encoder alone, which makes codes of pictures "
            "and no pictures of codes"
        )
    # raises where text stands before a frame and there is no text tokenizer
    PromptProcessor(text, vocabulary, stream).before(video_tokenizer.grid, 0.0)
    return ImageGenerator(load_model(folder, mesh, dtype=dtype), text, video_tokenizer, stream, form)


def _check_prompt(prompt: str | None, form: GenerationFormat | None, text: TextTokenizer) -> None:
    """UserError where the model cannot be asked for this."""
    if prompt is None:
        return
    if form is None:
        raise UserError(
            'this model was not taught to draw what a text says (its config.json has no "generation"); leave '
            "the prompt out and it draws what it likes, or goes on from a video (--video FILE)"
        )
    text.encode(prompt)


def _check_parts(vocabulary: Vocabulary, text: TextTokenizer, tokenizer: VideoTokenizer) -> None:
    """UserError where the tokenizers are not those that the model was trained with."""
    if tokenizer.num_codes != vocabulary.num_codes:
        raise UserError(
            f"the model knows {vocabulary.num_codes} codes, the video tokenizer {tokenizer.num_codes}; give "
            "the one that the model was trained with (--tokenizer)"
        )
    if text.size > vocabulary.text_size:
        raise UserError(
            f"the model knows {vocabulary.text_size} text pieces, the text tokenizer {text.size}; "
            "put the one that the model was trained with into its folder"
        )


def _unreported(what: str, done: int, of: int) -> None:
    pass
