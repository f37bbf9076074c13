"""From videos, pictures and words to tokens, and whether they fit: once, for whoever asks or generates.

    file ─sample→ frames ─video tokenizer→ codes ─PromptProcessor→ tokens

In: paths and texts. Out: int32 tokens, and one line of what to change where a model reads fewer. Codes are
remembered under what they depend on (tokenizer, the bytes of the file, sampling), as many as fit a bound in
bytes; whether something fits is decided before anything is decoded.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.stream import PromptProcessor, StreamFormat, Video
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.data.video import probe, sample, sample_times
from ringvision.errors import UserError
from ringvision.infer.prefix_cache import ContentCache
from ringvision.models.transformer import TransformerConfig
from ringvision.video_tokenizer import VideoTokenizer
from ringvision.vocabulary import Vocabulary

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
FRAMES_AT_ONCE = 16
LEAST_ANSWER = 16
"""Tokens of the context that a video and a question must leave for the answer."""


class Processor:
    """The tokenizers of one model and the form of its prompts.

    prompts: how codes and words become tokens. codes: of the videos that were read last.
    """

    def __init__(
        self,
        config: TransformerConfig,
        vocabulary: Vocabulary,
        text: TextTokenizer,
        tokenizer: VideoTokenizer,
        stream: StreamFormat | None = None,
        *,
        remember: int = 1 << 27,
        known_fps: float | None = None,
    ) -> None:
        """
        Args:
            config: the model's, for how much it reads.
            vocabulary: its ids.
            text: its text tokenizer.
            tokenizer: its video tokenizer.
            stream: how things stand in its prompts.
            remember: bytes of codes that are kept.
            known_fps: frames a second that it was trained on, the only ones to be asked for (None: any).
        """
        self.max_length = config.max_length
        self.frame_period = config.frame_period
        self.known_fps = known_fps
        self.text = text
        self.tokenizer = tokenizer
        self.prompts = PromptProcessor(text, vocabulary, stream or StreamFormat())
        self.codes: ContentCache[Video] = ContentCache(remember, lambda video: video[0].nbytes)

    # ------------------------------------------------------------------------------------------- videos

    def key(self, path: PathLike, fps: float) -> tuple[Any, ...]:
        """What the codes of a video depend on. UserError where the file cannot be read."""
        try:
            stat = os.stat(path)
            content = _sha256(os.fspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        except OSError as error:
            probe(path)  # says what is wrong with it, as for any other file
            raise UserError(
                f"{path} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        return self.tokenizer.hash, content, float(fps)

    def read_video(
        self,
        path: PathLike,
        fps: float,
        *,
        expected: int | None = None,
        timings: dict[str, float] | None = None,
        progress: Progress | None = None,
    ) -> Video:
        """The codes of a video's frames, from memory where they are known.

        Args:
            path: the file.
            fps: frames that are sampled from each second.
            expected: about how many there are (None: as many as are done), for progress.
            timings: the seconds spent are added to its "decode" and "tokenize".
            progress: called with "frames", how many are done, of how many.

        Returns:
            codes int32 [T, h, w] and times float [T] in seconds.

        Raises:
            UserError: where the file is no video.
        """
        spent = {"decode": 0.0, "tokenize": 0.0} if timings is None else timings

        def make() -> Video:
            codes = []
            times = []
            began = time.perf_counter()
            for batch in sample(path, fps=fps, size=self.tokenizer.size, batch=FRAMES_AT_ONCE):
                decoded = time.perf_counter()
                codes.append(self.tokenizer.encode(batch.frames))
                times.append(batch.times)
                spent["decode"] += decoded - began
                spent["tokenize"] += time.perf_counter() - decoded
                if progress is not None:
                    done = sum(map(len, times))
                    progress("frames", done, max(done, expected or 0))
                began = time.perf_counter()
            spent["decode"] += time.perf_counter() - began
            return np.concatenate(codes), np.concatenate(times)

        return self.codes.get_or_make(self.key(path, fps), make)

    def video_tokens(self, times: Sequence[np.ndarray]) -> int:
        """How many tokens videos with frames at these times (float [T] each, in seconds) are."""
        first = [(np.zeros((1, *self.tokenizer.grid), np.int32), one[:1]) for one in times]
        further = (
            self.prompts.period(self.tokenizer.grid, float(moment)) for one in times for moment in one[1:]
        )
        return len(self.prompts.videos(first)) - len(self.prompts.opening()) + sum(further)

    # -------------------------------------------------------------------------------- questions that fit

    def check_request(self, videos: int, question: str, fps: float, max_tokens: int) -> None:
        """What is wrong with a question whatever the videos are.

        Args:
            videos: how many.
            question: about them.
            fps: frames that are sampled from each second.
            max_tokens: the longest answer.

        Raises:
            UserError: for no video, an empty or too long question, and numbers out of their range.
        """
        if not videos:
            raise UserError("no video was given; give the path of at least one video file")
        if not question.strip():
            raise UserError("the question is empty; ask something about the video")
        if not 0 < fps < float("inf"):
            raise UserError(
                f"--fps {fps:g} was given; expected the frames to look at in each second, above 0"
            )
        if max_tokens < 1:
            raise UserError(f"max_tokens {max_tokens} was given; expected at least 1")
        asked = len(self.prompts.opening(question)) + len(self.prompts.question(question)) - 1
        # The shortest video is one frame; there is a bos.
        least = self.video_tokens([np.zeros(1)]) + 1 + min(LEAST_ANSWER, max_tokens)
        if least >= self.max_length:
            raise UserError(
                f"a video of one frame takes {least} tokens with its answer, and the model reads "
                f"{self.max_length}: it cannot be asked"
            )
        if asked + least > self.max_length:
            raise UserError(
                f"the question has {asked} tokens; of the {self.max_length} that the model reads it may have "
                f"{self.max_length - least}: shorten it"
            )

    def check_videos(
        self, paths: Sequence[PathLike], durations: Sequence[float], question: str, fps: float
    ) -> None:
        """Whether videos leave what a question and its answer take.

        Args:
            paths: of the videos, for their names.
            durations: of each, in seconds.
            question: about them.
            fps: frames that are sampled from each second.

        Raises:
            UserError: where they don't: how many frames do, and which fps would; and where one is longer than
                the model has time stamps for.
        """
        limit = self.prompts.seconds
        for path, duration in zip(paths, durations):
            if limit is not None and sample_times(duration, fps)[-1] >= limit:
                raise UserError(
                    f"{Path(path).name}: {duration:.0f} seconds are longer than the {limit} for which the "
                    "model has time stamps: give a part of it"
                )
        fixed = len(self.prompts.opening(question)) + len(self.prompts.question(question)) + LEAST_ANSWER

        def need(rate: float) -> int:
            return fixed + self.video_tokens([sample_times(duration, rate) for duration in durations])

        if need(fps) <= self.max_length:
            return
        frames = sum(len(sample_times(duration, fps)) for duration in durations)
        names = ", ".join(Path(path).name for path in paths)
        fitting = self.prompts.frames_that_fit(
            self.max_length, question, grid=self.tokenizer.grid, fps=fps, answer_tokens=LEAST_ANSWER
        )
        line = (
            f"{names}: {frames} frames at {fps:g} a second do not fit the {self.max_length} tokens that "
            f"the model reads; about {fitting} frames do"
        )
        if self.known_fps is not None and need(self.known_fps) <= self.max_length:
            raise UserError(f"{line}: ask with --fps {self.known_fps:g}")
        if self.known_fps is not None:
            raise UserError(
                f"{line}: give a shorter video, for this model was trained on {self.known_fps:g} a second"
            )
        rate = fps * fitting / frames
        for _ in range(200):
            rounded = _round_down(rate)
            if need(rounded) <= self.max_length:
                raise UserError(f"{line}: ask with --fps {rounded:g} or less")
            if all(len(sample_times(duration, rounded)) == 1 for duration in durations):
                break
            rate = rounded * 0.97
        raise UserError(f"{line}: give fewer videos at once")

    def check_read(self, tokens: int, asked: int) -> None:
        """UserError where `tokens` of a video that was decoded leave nothing for the question's `asked`."""
        if tokens + asked >= self.max_length:
            raise UserError(
                f"the video became {tokens} tokens, more than its header said and than the model "
                "reads: lower --fps"
            )

    def answer_tokens(self, read: int, asked: int, max_tokens: int) -> int:
        """How long the answer to a question of `asked` tokens after `read` ones may become, at most
        `max_tokens`. UserError where nothing is left for it.
        """
        left = self.max_length - read - asked
        if left < 1:
            raise UserError(
                f"the question has {asked} tokens, beside this video there is room for "
                f"{left + asked - 1}: shorten it"
            )
        return min(max_tokens, left)

    # ----------------------------------------------------------------------------- frames to be generated

    def frames_prompt(self, text: str, seen: np.ndarray, fps: float) -> np.ndarray:
        """What stands before the next frame: bos, the text, the video's start and the frames so far.

        Args:
            text: before the vision; "" for none.
            seen: codes int32 [T, h, w] of the frames so far.
            fps: frames a second.

        Returns:
            int32 [n].
        """
        prompts = self.prompts
        tokens = [prompts.vocabulary.bos, *prompts.text.encode(text)]
        if self.frame_period:  # spaces let frames begin where they did in training, as for videos
            tokens += prompts.text.encode(" ") * ((1 - len(tokens)) % self.frame_period)
        tokens += prompts.start
        for index, codes in enumerate(seen):
            tokens += self.frame(codes, index / fps)
        return np.array(tokens, np.int32)

    def frame(self, codes: np.ndarray, seconds: float) -> list[int]:
        """The tokens of a frame that another follows: codes int32 [h, w], seen at this time."""
        return [
            *self.prompts.before(codes.shape, seconds),
            *self.prompts.rows(codes).tolist(),
            *self.prompts.after(seconds, last=False),
        ]

    def check_frames(self, words: int, seen: int, frames: int, last: float) -> None:
        """Whether frames that are to be generated fit.

        Args:
            words: tokens of the longest prompt without frames, and of what is asked after one.
            seen: frames that there are already.
            frames: to be generated.
            last: the time of the last one, in seconds.

        Raises:
            UserError: where the prompt, or prompt and frames, are longer than the model reads.
        """
        period = self.prompts.period(self.tokenizer.grid, last)  # the most tokens from one to the next
        fitting = (self.max_length - words) // period
        if fitting < 1:
            raise UserError(
                f"the prompt takes {words} tokens and a frame {period} of the {self.max_length} that the "
                "model reads: shorten the prompt"
            )
        if seen + frames > fitting:
            beside = f" beside the {seen} of the video" if seen else ""
            raise UserError(
                f"{frames} frames{beside} do not fit the {self.max_length} tokens that the model reads,"
                f" {max(0, fitting - seen)} do: ask for fewer frames"
                + (", or give a shorter video" if beside else "")
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
