"""A video that grows: frames are read as they come, and questions are asked in between.

    frames, times ─add→ codes ─→ tokens, in the rows of a cache that only this session writes
    question ─ask→ a copy of the cache ─the video's end→ Prefix ─→ Reply

The tokens are those of the whole video read at once, and so are the answers: what ends a video stands in the
copy alone, and where a frame follows in its place what goes between two frames. Tokens wait until there are
READ_AT_ONCE of them or a question comes. A question leaves nothing behind in the session; its copy of the
cache is kept for further questions until frames are added.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ringvision.data.video.square import square
from ringvision.errors import UserError
from ringvision.infer.engine import Engine, Prefix, Rows
from ringvision.infer.processor import FRAMES_AT_ONCE, LEAST_ANSWER, PathLike, Processor, Progress
from ringvision.infer.reply import Reply
from ringvision.infer.sampler import Sampler

READ_AT_ONCE = 256
"""Tokens that wait before they are read together."""


@dataclass(frozen=True)
class Watched:
    """What a question is about. seconds: how long the videos are together. fps: frames that were read of each
    second. times: see `Viewing`. videos: how many.
    """

    seconds: float
    fps: float
    times: Callable[[int], tuple[np.ndarray, np.ndarray]]
    videos: int = 1


class LiveSession:
    """A video that grows; `Assistant.session` makes one. Safe to use from several threads."""

    def __init__(
        self,
        engine: Engine,
        processor: Processor,
        answers: Callable[..., list[Reply]],
        video: PathLike | None,
        fps: float,
        *,
        progress: Progress | None = None,
    ) -> None:
        """
        Args:
            engine: that reads.
            processor: by which frames become tokens.
            answers: `Assistant.answers`.
            video: a file that it begins with (None: nothing).
            fps: frames of a second of that file.
            progress: see `Assistant.session`.

        Raises:
            UserError: see `Assistant.session`.
        """
        prompts = processor.prompts
        if prompts.format.asks_first:
            raise UserError(
                "this model gets the question before the video, so that a video cannot grow; ask about a file"
            )
        if not 0 < fps < float("inf"):
            raise UserError(f"fps {fps:g} was given; expected the frames of a second, above 0")
        self.fps = fps
        self._engine = engine
        self._processor = processor
        self._answers = answers
        self._lock = threading.RLock()
        self._times: list[float] = []
        opening = prompts.opening()
        head = [*opening.tolist(), *prompts.gap(len(opening), processor.tokenizer.grid), *prompts.start]
        self._tokens = np.array(head, np.int32)  # up to the last frame's codes
        self._rows: Rows | None = None
        self._read = 0  # of the tokens, in the rows
        self._whole: Prefix | None = None  # the last copy, until frames are added
        self.timings = {"decode": 0.0, "tokenize": 0.0, "prefill": 0.0}
        if video is not None:
            codes, times = processor.read_video(video, fps, timings=self.timings, progress=progress)
            self._add_codes(codes, np.asarray(times))

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self._times)

    @property
    def seconds(self) -> float:
        """When the last frame ends to be shown; 0 where there is none."""
        return self._times[-1] + 1 / self.fps if self._times else 0.0

    @property
    def frame_size(self) -> int:
        """The side of a frame as the model sees it, in pixels."""
        return self._processor.tokenizer.size

    def add(self, frames: np.ndarray, times: Sequence[float] | np.ndarray) -> None:
        """Reads frames behind those that are there.

        Args:
            frames: uint8 [T, H, W, 3] of any size; the middle square of each is looked at.
            times: float [T], when each is shown, in seconds; increasing, and behind those that are there.

        Raises:
            UserError: for other arrays, and where the model reads fewer; then nothing is added.
        """
        frames, moments = _checked(frames, times)
        with self._lock:
            self._check_times(moments)
            self._check_room(moments)
            began = time.perf_counter()
            size = self._processor.tokenizer.size
            codes = []
            for first in range(0, len(frames), FRAMES_AT_ONCE):
                part = frames[first : first + FRAMES_AT_ONCE]
                codes.append(self._processor.tokenizer.encode(np.stack([square(x, size) for x in part])))
            self.timings["tokenize"] += time.perf_counter() - began
            self._add_codes(np.concatenate(codes), moments)

    def ask(
        self,
        question: str,
        *,
        sampler: Sampler | None = None,
        max_tokens: int = 128,
        stop: Sequence[str] = (),
    ) -> Reply:
        """The answer as of now; it does not change when frames are added while it comes.

        Args:
            question: about the video so far.
            sampler: how tokens are chosen (None: always the likeliest).
            max_tokens: the longest answer.
            stop: strings at which an answer ends, before the first of them.

        Raises:
            UserError: for an empty or too long question, and where there is no frame yet.
        """
        self._processor.check_request(1, question, self.fps, max_tokens)
        with self._lock:
            if not self._times:
                raise UserError("there is no frame yet to ask about; add some first")
            prefix = self._closed()
            start = np.array(self._times)
            end = np.append(start[1:], self.seconds)
            watched = Watched(self.seconds, self.fps, lambda _: (start, end))
            timings = dict(self.timings)
        options: dict[str, Any] = {"sampler": sampler, "max_tokens": max_tokens, "stop": stop}
        (reply,) = self._answers([prefix], [question], watched, timings, **options)
        return reply

    def _add_codes(self, codes: np.ndarray, moments: np.ndarray) -> None:
        """codes int32 [T, h, w], moments float [T], both checked."""
        self._check_room(moments)
        prompts = self._processor.prompts
        new: list[Any] = []
        last = self._times[-1] if self._times else None
        for frame, moment in zip(codes, moments.tolist(), strict=True):
            between = [] if last is None else prompts.after(last, last=False)
            new += [between, prompts.before(frame.shape, moment), prompts.rows(frame)]
            last = moment
        self._tokens = np.concatenate([self._tokens, *(np.asarray(part, np.int32) for part in new)])
        self._times += moments.tolist()
        self._whole = None
        if len(self._tokens) - self._read >= READ_AT_ONCE:
            self._read_on()

    def _read_on(self) -> None:
        """Reads the tokens that wait into the rows."""
        part = self._tokens[self._read :]
        if not len(part):
            return
        began = time.perf_counter()
        engine = self._engine
        if self._rows is None:
            self._rows = Rows(
                engine, engine.shares, engine.slots_for(len(part), blocks=engine.blocks), blocks=engine.blocks
            )
        step = engine.blocks[0]
        for first in range(0, len(part), step):
            block = part[first : first + step]
            self._rows.reserve(engine.slots_for(len(block), blocks=engine.blocks))
            self._rows.read(dict.fromkeys(range(self._rows.count), block))
            self._read += len(block)
        self.timings["prefill"] += time.perf_counter() - began

    def _closed(self) -> Prefix:
        """The video so far with its end, in a cache of its own."""
        if self._whole is None:
            self._read_on()
            assert self._rows is not None
            prompts = self._processor.prompts
            end = np.array([*prompts.after(self._times[-1], last=True), *prompts.end], np.int32)
            read = Prefix(self._rows.cache, self._tokens)
            whole = self._engine.prefill(np.concatenate([self._tokens, end]), after=read)
            self._whole = replace(whole, frames=self.frames)
        return self._whole

    def _check_times(self, moments: np.ndarray) -> None:
        """UserError where these are not behind the times that are there."""
        last = self._times[-1] if self._times else -1.0
        if moments[0] <= last:
            raise UserError(
                f"a frame of second {moments[0]:g} was added behind one of second {last:g}; times increase"
            )

    def _check_room(self, moments: np.ndarray) -> None:
        """UserError where frames at these times leave no room for a question and its answer."""
        prompts = self._processor.prompts
        grid = self._processor.tokenizer.grid
        more = sum(prompts.period(grid, float(moment)) for moment in moments)
        limit = self._processor.max_length
        words = (
            len(prompts.question("")) + LEAST_ANSWER + len(prompts.after(0.0, last=True)) + len(prompts.end)
        )
        if len(self._tokens) + more + words > limit:
            raise UserError(
                f"{self.frames} frames are there and {len(moments)} more do not fit the {limit} "
                "tokens that the model reads: begin another session"
            )


def _checked(frames: Any, times: Any) -> tuple[np.ndarray, np.ndarray]:
    """See `LiveSession.add`."""
    frames = np.asarray(frames)
    moments = np.asarray(times, np.float64)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise UserError(
            f"frames of {frames.dtype} {list(frames.shape)} were added; expected uint8 [T, H, W, 3], T, H "
            "and W of at least 1"
        )
    if moments.shape != (len(frames),):
        raise UserError(
            f"{len(frames)} frames were added with times {list(moments.shape)}; give one for each"
        )
    if not (np.isfinite(moments).all() and moments[0] >= 0 and (np.diff(moments) > 0).all()):
        raise UserError("the times of frames must be seconds from 0 on, and increase")
    return frames, moments
