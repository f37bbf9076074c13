"""The assistant: a video file and a question in, an answer out, piece by piece.

    file ─sample→ frames ─video tokenizer→ codes ─weave→ tokens ─prefill→ session ─question→ decode → text

A video is read once. Its codes and the session that read it are remembered under what they depend on (model,
tokenizer, the bytes of the file, sampling), as many as fit a bound in bytes; the next question starts from
there. Of a model that was trained with the question before the video, as LWM was, the session serves that
question alone; codes are remembered for all.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ringvision import shipped
from ringvision.data.stream import PromptProcessor, StreamFormat, Video
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.data.video import probe, sample, sample_times
from ringvision.errors import UserError
from ringvision.infer.generate import Generator, Session
from ringvision.infer.memory import Memory
from ringvision.infer.model import Model, load_model
from ringvision.infer.sampler import Sampler
from ringvision.model_folder import read_config
from ringvision.video_tokenizer import VideoTokenizer, load_video_tokenizer

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
FRAMES_AT_ONCE = 16
LEAST_ANSWER = 16
"""Tokens of the context that a video and a question must leave for the answer."""
HEADROOM = 256
"""Tokens for question and answer that a session has room for at least, so that a longer second question need
not read the video again.
"""


class Reply:
    """An answer on its way: iterate for pieces of text as they are generated, or take `.text`, which waits
    for the last.

    frames, video_tokens, devices: what was read, known from the start. tokens: ids generated so far, the
    closing eos included. timings: seconds spent in decode, tokenize, prefill and, when the answer is
    complete, generate.
    """

    def __init__(
        self,
        coming: Iterator[str],
        tokens: list[int],
        *,
        frames: int,
        video_tokens: int,
        devices: int,
        timings: dict[str, float],
    ) -> None:
        self.tokens = tokens
        self.frames = frames
        self.video_tokens = video_tokens
        self.devices = devices
        self.timings = timings
        self._coming = coming
        self._said = ""

    def __iter__(self) -> Iterator[str]:
        """The pieces that are still to come."""
        for piece in self._coming:
            if not self._said:
                piece = piece.lstrip()  # the answer stands after a space
            self._said += piece
            if piece:
                yield piece

    @property
    def text(self) -> str:
        """The whole answer; generates what is still missing of it."""
        for _ in self:
            pass
        return self._said.strip()


class Assistant:
    """A model, its text tokenizer and its video tokenizer, ready to be asked. `load` makes one from a folder.

    remember: bytes of sessions (caches, over all devices) kept for further questions; codes are kept within
    an eighth of that.
    """

    def __init__(
        self,
        model: Model,
        text: TextTokenizer,
        tokenizer: VideoTokenizer,
        stream: StreamFormat | None = None,
        *,
        remember: int = 1 << 30,
    ) -> None:
        if model.vocabulary is None:
            raise UserError(
                "this model has no vocabulary, so it cannot be asked; give a folder of kind assistant"
            )
        if tokenizer.num_codes != model.vocabulary.num_codes or text.size > model.vocabulary.text_size:
            raise UserError(
                f"the model knows {model.vocabulary.text_size} text pieces and "
                f"{model.vocabulary.num_codes} codes, its tokenizers give "
                f"{text.size} and {tokenizer.num_codes}; give the tokenizers that it was trained with"
            )
        self.model = model
        self.text = text
        self.tokenizer = tokenizer
        self.processor = PromptProcessor(text, model.vocabulary, stream or StreamFormat())
        self.eos = model.vocabulary.eos
        self.generator = Generator(model, limit=text.size)
        self._sessions: Memory[tuple[Session, int]] = Memory(remember)
        self._codes: Memory[Video] = Memory(remember // 8)

    def ask(
        self,
        videos: PathLike | Sequence[PathLike],
        question: str,
        fps: float = 1.0,
        *,
        sampler: Sampler | None = None,
        max_tokens: int = 128,
        progress: Progress | None = None,
    ) -> Reply:
        """Reads the videos (one path or several), unless they are remembered, and the question; the answer
        comes as the reply is iterated.

        progress: called with (what, done, of) while frames and tokens are read. UserError for an empty
        question, a file that is not a video, a question or a video longer than the model can read (decided
        before anything is decoded), or a max_tokens below 1.
        """
        paths = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
        self._check_request(paths, question, fps, max_tokens)
        opening = self.processor.opening(question)
        asked = self.processor.question(question)
        keys = [self._key(path, fps) for path in paths]
        whole = (*keys, opening.tobytes())
        timings = {"decode": 0.0, "tokenize": 0.0, "prefill": 0.0}
        session, frames = self._take_session(whole, len(asked), max_tokens) or (None, 0)
        if session is None:
            durations = [probe(path).duration for path in paths]
            self._check_fit(paths, durations, question, fps)
            read = [
                self._read_video(path, key, fps, len(sample_times(duration, fps)), timings, progress)
                for path, key, duration in zip(paths, keys, durations)
            ]
            frames = sum(len(codes) for codes, _ in read)
            session = self._prefill(
                self.processor.videos(read, question), len(asked), max_tokens, timings, progress
            )
        before = session.length
        room = self.model.config.max_length - before - len(asked)
        if room < 1:
            self._remember(whole, session, before, frames)
            raise UserError(
                f"the question has {len(asked)} tokens, beside this video there is room for "
                f"{room + len(asked) - 1}: shorten it"
            )
        tokens: list[int] = []
        back = partial(self._remember, whole, session, before, frames)
        coming = self._answer(
            session, asked, sampler or Sampler(), min(max_tokens, room), tokens, timings, back
        )
        next(coming)
        video_tokens = before - len(opening)
        devices = self.model.mesh.size
        return Reply(
            coming, tokens, frames=frames, video_tokens=video_tokens, devices=devices, timings=timings
        )

    def _answer(
        self,
        session: Session,
        asked: np.ndarray,
        sampler: Sampler,
        max_tokens: int,
        tokens: list[int],
        timings: dict[str, float],
        back: Callable[[], None],
    ) -> Iterator[str]:
        """First "" when the question is read, then pieces of text, and their ids into `tokens`. However it
        ends, `back` is called.

        It must not know the reply: an answer that nobody waits for any more ends when its reply is dropped,
        which a circle would delay.
        """
        stream = self.text.stream()
        began = time.perf_counter()
        try:
            self.generator.read(session, asked)
            assert session.logits is not None
            session.logits.block_until_ready()
            timings["prefill"] += time.perf_counter() - began
            yield ""
            began = time.perf_counter()
            for token in self.generator.generate(session, sampler, max_tokens, {self.eos}):
                tokens.append(token)
                yield stream.push(token)
            timings["generate"] = time.perf_counter() - began
            yield stream.finish()
        finally:
            back()

    def _remember(self, whole: tuple[Any, ...], session: Session, length: int, frames: int) -> None:
        """Takes the session back to where the video ended, and keeps it."""
        if session.cache.k.is_deleted():
            return  # interrupted while the cache was being handed on
        self.generator.rewind(session, length)
        self._sessions.keep(whole, (session, frames), session.nbytes)

    def _take_session(
        self, whole: tuple[Any, ...], asked: int, max_tokens: int
    ) -> tuple[Session, int] | None:
        """A session that has read these videos after this opening and has room for what follows."""
        found = self._sessions.take(whole)
        if found is None or found[0].cache.room < self.generator.room_for(asked, generate=max_tokens):
            return None
        return found

    def _read_video(
        self,
        path: PathLike,
        key: Any,
        fps: float,
        expected: int,
        timings: dict[str, float],
        progress: Progress | None,
    ) -> Video:
        """codes [T, h, w] and times [T] of the sampled frames, about `expected` of them."""
        video = self._codes.take(key)
        if video is None:
            codes = []
            times = []
            began = time.perf_counter()
            for batch in sample(path, fps=fps, size=self.tokenizer.size, batch=FRAMES_AT_ONCE):
                decoded = time.perf_counter()
                codes.append(self.tokenizer.encode(batch.frames))
                times.append(batch.times)
                timings["decode"] += decoded - began
                timings["tokenize"] += time.perf_counter() - decoded
                if progress is not None:
                    progress("frames", sum(map(len, times)), expected)
                began = time.perf_counter()
            timings["decode"] += time.perf_counter() - began
            video = np.concatenate(codes), np.concatenate(times)
        self._codes.keep(key, video, video[0].nbytes)
        return video

    def _prefill(
        self,
        tokens: np.ndarray,
        asked: int,
        max_tokens: int,
        timings: dict[str, float],
        progress: Progress | None,
    ) -> Session:
        """A session that has read bos and the videos."""
        if len(tokens) + asked >= self.model.config.max_length:
            raise UserError(
                f"the video became {len(tokens)} tokens, more than its header said and than the model "
                "reads: lower --fps"
            )
        began = time.perf_counter()
        after = max(HEADROOM, self.generator.room_for(asked, generate=max_tokens))
        session = self.generator.begin(self.generator.room_for(len(tokens)) + after)
        step = self.generator.blocks[0] * 4
        for start in range(0, len(tokens), step):
            self.generator.read(session, tokens[start : start + step])
            if progress is not None:
                progress("tokens", session.length, len(tokens))
        assert session.logits is not None
        session.logits.block_until_ready()
        timings["prefill"] += time.perf_counter() - began
        return session

    def _check_request(self, paths: list[PathLike], question: str, fps: float, max_tokens: int) -> None:
        if not paths:
            raise UserError("no video was given; give the path of at least one video file")
        if not question.strip():
            raise UserError("the question is empty; ask something about the video")
        if not 0 < fps < float("inf"):
            raise UserError(
                f"--fps {fps:g} was given; expected the frames to look at in each second, above 0"
            )
        if max_tokens < 1:
            raise UserError(f"max_tokens {max_tokens} was given; expected at least 1")
        limit = self.model.config.max_length
        asked = len(self.processor.opening(question)) + len(self.processor.question(question)) - 1
        # The shortest video is one frame; there is a bos.
        least = self._video_tokens([np.zeros(1)]) + 1 + min(LEAST_ANSWER, max_tokens)
        if least >= limit:
            raise UserError(
                f"a video of one frame takes {least} tokens with its answer, and the model reads "
                f"{limit}: it cannot be asked"
            )
        if asked + least > limit:
            raise UserError(
                f"the question has {asked} tokens; of the {limit} that the model reads it may have "
                f"{limit - least}: shorten it"
            )

    def _check_fit(self, paths: list[PathLike], durations: list[float], question: str, fps: float) -> None:
        """UserError where the videos, sampled at `fps`, leave no room for question and answer: how many
        frames fit, which fps would.
        """
        fixed = len(self.processor.opening(question)) + len(self.processor.question(question)) + LEAST_ANSWER
        longest = self.model.config.max_length

        def need(rate: float) -> int:
            return fixed + self._video_tokens([sample_times(duration, rate) for duration in durations])

        if need(fps) <= longest:
            return
        frames = sum(len(sample_times(duration, fps)) for duration in durations)
        names = ", ".join(Path(path).name for path in paths)
        fitting = self.processor.frames_that_fit(
            longest, question, grid=self.tokenizer.grid, fps=fps, answer_tokens=LEAST_ANSWER
        )
        line = (
            f"{names}: {frames} frames at {fps:g} a second do not fit the {longest} tokens that "
            f"the model reads; about {fitting} frames do"
        )
        rate = fps * fitting / frames
        for _ in range(200):
            rounded = _round_down(rate)
            if need(rounded) <= longest:
                raise UserError(f"{line}: ask with --fps {rounded:g} or less")
            if all(len(sample_times(duration, rounded)) == 1 for duration in durations):
                break
            rate = rounded * 0.97
        raise UserError(f"{line}: give fewer videos at once")

    def _video_tokens(self, times: list[np.ndarray]) -> int:
        """How many tokens videos with frames at these times are."""
        first = [(np.zeros((1, *self.tokenizer.grid), np.int32), one[:1]) for one in times]
        further = (
            self.processor.period(self.tokenizer.grid, float(moment)) for one in times for moment in one[1:]
        )
        return len(self.processor.videos(first)) - len(self.processor.opening()) + sum(further)

    def _key(self, path: PathLike, fps: float) -> tuple[Any, ...]:
        try:
            stat = os.stat(path)
            content = _sha256(os.fspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        except OSError as error:
            probe(path)  # says what is wrong with it, as for any other file
            raise UserError(
                f"{path} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        return self.model.hash, self.tokenizer.hash, content, float(fps)


def load(
    dir: PathLike | None = None,
    mesh: Mesh | None = None,
    *,
    tokenizer: PathLike | None = None,
    dtype: str | None = None,
) -> Assistant:
    """The assistant in a model folder (the shipped one when None), on `mesh` (all devices on the axis
    `context` when None), with the video tokenizer that its config names, or `tokenizer`: a shipped one's
    name, or a folder. dtype: see `load_model`.

    UserError for a folder that lacks something, or whose parts do not fit together.
    """
    place = shipped.model() if dir is None else Path(dir)
    settings = read_config(place)
    if not settings.get("vocabulary"):
        raise UserError(
            f"{place} lacks vocabulary, so it cannot be asked about a video; give the folder of a "
            "model that sees"
        )
    text = load_text_tokenizer(place)
    eyes = load_video_tokenizer(shipped.tokenizer_of(place, settings, tokenizer))
    return Assistant(
        load_model(place, mesh, dtype=dtype), text, eyes, StreamFormat.from_dict(settings.get("stream") or {})
    )


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified: int, inode: int) -> str:
    """SHA-256 of a file's bytes; read again when size, time or place on the disk changed."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _round_down(rate: float) -> float:
    """To two significant digits."""
    digits = 1 - int(np.floor(np.log10(rate)))
    return float(np.floor(rate * 10**digits + 1e-9) / 10**digits)
