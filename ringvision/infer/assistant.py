"""The assistant: a video file and questions in, answers out, piece by piece.

    file ─Processor→ tokens ─Engine.prefill→ prefix ─question→ Scheduler → tokens of the answer → text

A video is read once. Its codes and the prefix that read it are remembered under what they depend on (model,
tokenizer, the bytes of the file, sampling), as many as fit a bound in bytes; any number of questions go on
from there, one after another, from several threads, or several at once as one batch. Of a model that was
trained with the question before the video, as LWM was, a prefix serves that question alone; codes are
remembered for all. With `Sessions` prefixes are kept in a folder as well, and another process begins with
them: it neither decodes the video nor reads it.
"""

import hashlib
import os
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ringvision import shipped
from ringvision.data.stream import StreamFormat
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.data.video import probe, sample_times
from ringvision.errors import UserError
from ringvision.infer.engine import Engine, Prefix
from ringvision.infer.evidence import Viewing
from ringvision.infer.live import LiveSession, Watched
from ringvision.infer.model import Model, load_model
from ringvision.infer.prefix_cache import PrefixCache
from ringvision.infer.processor import Processor
from ringvision.infer.reply import Outcome, Reply, pieces
from ringvision.infer.sampler import Sampler
from ringvision.infer.scheduler import DecodeRequest, Scheduler, TokenStream
from ringvision.infer.scope import warnings
from ringvision.infer.sessions import LIMIT, Sessions
from ringvision.model_folder import Knows, read_config
from ringvision.video_tokenizer import VideoTokenizer, load_video_tokenizer

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]


class Assistant:
    """A model, its text tokenizer and its video tokenizer, ready to be asked; `load` makes one."""

    def __init__(
        self,
        model: Model,
        text: TextTokenizer,
        tokenizer: VideoTokenizer,
        stream: StreamFormat | None = None,
        *,
        remember: int = 1 << 30,
        cache_dtype: str | None = None,
        sessions: Sessions | None = None,
        knows: Knows | None = None,
    ) -> None:
        """
        Args:
            model: with a vocabulary.
            text: the text tokenizer that it was trained with.
            tokenizer: the video tokenizer that it was trained with.
            stream: how things stand in its prompts (None: as in our own models).
            remember: bytes of prefixes (caches, over all devices) kept for further questions; codes are kept
                within an eighth of that.
            cache_dtype: of keys and values (None: the weights'); see `Engine`.
            sessions: where prefixes are kept for other processes (None: nowhere).
            knows: what it was trained for (None: nobody says).

        Raises:
            UserError: where these do not fit together.
        """
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
        self.knows = knows
        fps = model.settings.get("fps")
        self.known_fps = float(fps) if isinstance(fps, int | float) and fps > 0 else None
        self.processor = Processor(
            model.config,
            model.vocabulary,
            text,
            tokenizer,
            stream,
            remember=remember // 8,
            known_fps=None if knows is None else self.known_fps,
        )
        self.eos = model.vocabulary.eos
        self.engine = Engine(model, cache_dtype=cache_dtype)
        self.sessions = sessions
        self.scheduler = Scheduler(self.engine)
        self.prefixes = PrefixCache(remember)

    def ask(
        self,
        videos: PathLike | Sequence[PathLike],
        question: str,
        fps: float = 1.0,
        *,
        sampler: Sampler | None = None,
        max_tokens: int = 128,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Reply:
        """Reads the videos, unless they are remembered, and the question; the answer comes as the reply is
        iterated.

        Args:
            videos: one path or several.
            question: about them.
            fps: frames that are looked at in each second.
            sampler: how tokens are chosen (None: always the likeliest).
            max_tokens: the longest answer.
            stop: strings at which an answer ends, before the first of them.
            progress: called with (what, done, of) while frames and tokens are read.

        Raises:
            UserError: for an empty question, a file that is not a video, a question or a video longer than
                the model can read (decided before anything is decoded), or a max_tokens below 1.
        """
        (reply,) = self.ask_many(
            videos, [question], fps, sampler=sampler, max_tokens=max_tokens, stop=stop, progress=progress
        )
        return reply

    def ask_many(
        self,
        videos: PathLike | Sequence[PathLike],
        questions: Sequence[str],
        fps: float = 1.0,
        *,
        sampler: Sampler | None = None,
        max_tokens: int = 128,
        stop: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Several questions about the same videos as one batch: each is answered as it is alone, in less
        time. Iterating one reply brings the others forward as well.

        Args:
            videos: one path or several.
            questions: about them, at least one.
            fps: frames that are looked at in each second.
            sampler: how tokens are chosen (None: always the likeliest).
            max_tokens: the longest answer.
            stop: strings at which an answer ends, before the first of them.
            progress: called with (what, done, of) while frames and tokens are read.

        Returns:
            A reply for each question.

        Raises:
            UserError: as `ask`, for any of the questions; then none is answered.
        """
        paths = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
        if not questions:
            raise UserError("no question was given; ask something about the video")
        for question in questions:
            self.processor.check_request(len(paths), question, fps, max_tokens)
        timings = {"decode": 0.0, "tokenize": 0.0, "prefill": 0.0}
        prefixes = [self._read(paths, question, fps, timings, progress) for question in questions]

        def times(frames: int) -> tuple[np.ndarray, np.ndarray]:
            return np.arange(frames) / fps, np.arange(1, frames + 1) / fps

        watched = Watched(prefixes[0].frames / fps, fps, times, len(paths))
        return self.answers(
            prefixes, questions, watched, timings, sampler=sampler, max_tokens=max_tokens, stop=stop
        )

    def answers(
        self,
        prefixes: Sequence[Prefix],
        questions: Sequence[str],
        watched: Watched,
        timings: dict[str, float],
        *,
        sampler: Sampler | None = None,
        max_tokens: int = 128,
        stop: Sequence[str] = (),
    ) -> list[Reply]:
        """The answers to questions about videos that were read.

        Args:
            prefixes: for each question what stands before it.
            questions: checked by `Processor.check_request`.
            watched: what the prefixes hold.
            timings: seconds spent so far.
            sampler: how tokens are chosen (None: always the likeliest).
            max_tokens: the longest answer.
            stop: strings at which an answer ends, before the first of them.

        Returns:
            A reply for each question.

        Raises:
            UserError: for a question that leaves no room for its answer.
        """
        requests = []
        for prefix, question in zip(prefixes, questions, strict=True):
            asked = self.processor.prompts.question(question)
            longest = self.processor.answer_tokens(len(prefix), len(asked), max_tokens)
            requests.append(
                DecodeRequest(
                    asked,
                    sampler or Sampler(),
                    longest,
                    stop=frozenset({self.eos}),
                    prefix=prefix,
                    ids=(0, self.text.size),
                    log_probabilities=True,
                )
            )
        began = time.perf_counter()
        streams = self.scheduler.submit(requests)
        timings["prefill"] += time.perf_counter() - began
        return [
            self._reply(stream, question, stop, dict(timings), watched)
            for stream, question in zip(streams, questions)
        ]

    def session(
        self, video: PathLike | None = None, fps: float = 1.0, *, progress: Progress | None = None
    ) -> LiveSession:
        """A video that grows: frames are added as they come, and questions asked in between.

        Args:
            video: a file that it begins with (None: nothing).
            fps: frames that are looked at in each second of that file; those that are added come at their own
                times.
            progress: called with (what, done, of) while the file is read.

        Raises:
            UserError: for a file that is no video or too long, and for a model that is asked before it sees.
        """
        return LiveSession(self.engine, self.processor, self.answers, video, fps, progress=progress)

    def _reply(
        self,
        stream: TokenStream,
        question: str,
        stop: Sequence[str],
        timings: dict[str, float],
        watched: Watched,
    ) -> Reply:
        outcome = Outcome()
        prefix = stream.request.prefix
        assert prefix is not None

        prompts = self.processor.prompts
        asked = stream.request.tokens
        viewing = Viewing(self.engine, prompts, self.tokenizer, prefix, asked, watched.times)
        return Reply(
            pieces(stream, self.text, stop, outcome, timings),
            outcome,
            frames=prefix.frames,
            video_tokens=len(prefix) - len(self.processor.prompts.opening(question)),
            devices=self.model.mesh.size,
            timings=timings,
            viewing=viewing,
            warnings=warnings(
                self.knows,
                question,
                seconds=watched.seconds,
                videos=watched.videos,
                fps=watched.fps,
                known_fps=self.known_fps,
            ),
        )

    def _read(
        self,
        paths: Sequence[PathLike],
        question: str,
        fps: float,
        timings: dict[str, float],
        progress: Progress | None,
    ) -> Prefix:
        """The prefix that has read these videos."""
        opening = self.processor.prompts.opening(question)
        keys = [self.processor.key(path, fps) for path in paths]
        whole = (self.model.hash, *keys, opening.tobytes())
        if (found := self.prefixes.get(whole)) is not None:
            return found
        identity = self._identity(keys, opening)
        if self.sessions is not None and (found := self._recalled(whole, identity, timings)) is not None:
            return found
        durations = [probe(path).duration for path in paths]
        self.processor.check_videos(paths, durations, question, fps)
        read = [
            self.processor.read_video(
                path,
                fps,
                expected=len(sample_times(duration, fps)),
                timings=timings,
                progress=progress,
            )
            for path, duration in zip(paths, durations)
        ]
        frames = sum(len(codes) for codes, _ in read)
        tokens = self.processor.prompts.videos(read, question)
        self.processor.check_read(len(tokens), len(self.processor.prompts.question(question)))
        began = time.perf_counter()
        other, shared = self.prefixes.longest(tokens)
        if other is not None and shared == len(tokens):
            return self._kept(identity, other.first(shared, frames), timings)
        # a prefix of which most is of no use here is not copied for the little that is
        after = other if 2 * shared > len(tokens) else None

        def prefill() -> Prefix:
            report = None if progress is None else lambda done, of: progress("tokens", done, of)
            return replace(self.engine.prefill(tokens, after=after, progress=report), frames=frames)

        found = self.prefixes.get_or_make(whole, prefill)
        timings["prefill"] += time.perf_counter() - began
        return self._kept(identity, found, timings)

    def _identity(self, keys: Sequence[tuple[Any, ...]], opening: np.ndarray) -> dict[str, Any]:
        """All that a prefix depends on; nothing of a video is decoded for it.

        Args:
            keys: of the videos, as the processor gives them.
            opening: int32 [n], the tokens before them.
        """
        return {
            "model": self.model.hash,
            "weights": str(self.model.params["embed"]["table"].dtype),
            "cache": str(self.engine.cache_dtype),
            "videos": [list(key) for key in keys],
            "stream": asdict(self.processor.prompts.format),
            "opening": hashlib.sha256(opening.tobytes()).hexdigest(),
        }

    def _recalled(
        self, whole: Hashable, identity: dict[str, Any], timings: dict[str, float]
    ) -> Prefix | None:
        """The prefix of this identity from the sessions, remembered from now on as `whole`; None where there
        is none.
        """
        assert self.sessions is not None
        began = time.perf_counter()
        found = self.sessions.load(self.engine, identity)
        if found is not None:
            self.prefixes.put(whole, found)
        timings["session"] = timings.get("session", 0.0) + time.perf_counter() - began
        return found

    def _kept(self, identity: dict[str, Any], prefix: Prefix, timings: dict[str, float]) -> Prefix:
        """The prefix, which from now on is among the sessions."""
        if self.sessions is not None:
            began = time.perf_counter()
            self.sessions.save(self.engine, identity, prefix)
            timings["session"] = timings.get("session", 0.0) + time.perf_counter() - began
        return prefix


def load(
    dir: PathLike | None = None,
    mesh: Mesh | None = None,
    *,
    tokenizer: PathLike | None = None,
    dtype: str | None = None,
    cache_dtype: str | None = None,
    sessions: PathLike | None = None,
    sessions_limit: int = LIMIT,
) -> Assistant:
    """The assistant in a model folder.

    Args:
        dir: the folder (None: the shipped one).
        mesh: the devices (None: all of them on the axis `context`).
        tokenizer: a shipped video tokenizer's name, or a folder (None: the one that the config names).
        dtype: see `load_model`.
        cache_dtype: of what is kept of each token, "float32", "bfloat16", "float16" or "int8" (a byte a
            number, and a float32 for each head); None: the weights'.
        sessions: a folder where what was read of videos is kept for other processes; None: nowhere.
        sessions_limit: bytes that it holds at most.

    Raises:
        UserError: for a folder that lacks something, or whose parts do not fit together.
    """
    kept = None if sessions is None else Sessions(sessions, sessions_limit)
    folder = shipped.model() if dir is None else Path(dir)
    settings = read_config(folder)
    if not settings.get("vocabulary"):
        raise UserError(
            f"{folder} lacks vocabulary, so it cannot be asked about a video; give the folder of a "
            "model that sees"
        )
    text = load_text_tokenizer(folder)
    video_tokenizer = load_video_tokenizer(shipped.tokenizer_of(folder, settings, tokenizer))
    stream = StreamFormat.from_dict(settings.get("stream") or {})
    knows = Knows.from_dict(settings["knows"], f"{folder}: knows") if "knows" in settings else None
    model = load_model(folder, mesh, dtype=dtype)
    return Assistant(
        model, text, video_tokenizer, stream, cache_dtype=cache_dtype, sessions=kept, knows=knows
    )
