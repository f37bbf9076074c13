"""A folder that `ringvision tokenize` wrote, as something to train on: what its records say about their
videos becomes questions and answers.

    record (codes, times, caption, qa)
      -> video(index), [("question", "What ...?", "..."), ("caption", caption_question, caption)]
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringvision.checks import Checks
from ringvision.data.sources.base import DataSource, QuestionAnswer, VideoData, VideosInfo
from ringvision.data.tokenized import TokenizedVideo, format_of
from ringvision.errors import UserError

KEPT_BYTES = 1 << 28
CAPTION_QUESTION = "What happens in the video?"


@dataclass(frozen=True)
class TokenizedData(VideoData):
    """A folder that `ringvision tokenize` wrote; see VideoData.

    caption_question: what a caption is the answer to.
    """

    caption_question: str = CAPTION_QUESTION

    def open(self) -> DataSource:
        """The videos of `folder`, their captions and questions. UserError where there are none."""
        return TokenizedSource(self.folder, caption_question=self.caption_question)

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.filled("caption_question")
        return [*super().problems(), *checks.problems]


class TokenizedSource:
    """The videos of a folder in the order of its shards, a DataSource.

    All records are read once when it is opened. Lengths, times and texts stay in memory; codes only where
    all of them together take at most `kept_bytes`, otherwise a video is read again when it is asked for.

    Args:
        folder: one that `ringvision tokenize` wrote.
        caption_question: what a caption is the answer to.
        kept_bytes: how many bytes of codes stay in memory.

    Raises:
        UserError: where the folder is empty, damaged, or holds videos of several tokenizers, grids or rates.
    """

    kinds: tuple[str, ...] = ("question", "caption")
    auxiliary: tuple[str, ...] = ("caption",)

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        caption_question: str = CAPTION_QUESTION,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.name = os.fspath(folder)
        self._format = format_of(folder)
        self._caption_question = caption_question
        num_codes = self._format.num_codes(folder)
        if num_codes is None:
            raise UserError(
                f"{folder} does not say how many codes its tokenizer has; run the command that wrote it again"
            )
        self._records: list[tuple[Path, int]] = []
        self._sources: list[str] = []
        self._questions: list[tuple[QuestionAnswer, ...]] = []
        codes: list[np.ndarray] | None = []
        times = [np.zeros(0, np.float64)]
        size = 0
        first: TokenizedVideo | None = None
        for path, index, video in self._read():
            first = first or video
            self._check(video, first, num_codes)
            self._records.append((path, index))
            self._sources.append(video.source)
            self._questions.append(self._asked(video))
            times.append(video.times)
            size += video.codes.nbytes
            if codes is not None:
                codes.append(video.codes)
            if size > kept_bytes:
                codes = None
        if first is None:
            raise UserError(f"{folder} holds no videos; tokenize some into it")
        self._codes = codes
        self._lengths = np.array([len(some) for some in times[1:]], np.int64)
        self._times = np.concatenate(times)
        self._starts = np.cumsum([0, *self._lengths])
        height, width = first.codes.shape[1:]
        self.info = VideosInfo(first.tokenizer, (height, width), num_codes, first.fps)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each video: int64 [videos]."""
        return self._lengths

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, in seconds, all videos one after another: float64 [sum of lengths]."""
        return self._times

    def __len__(self) -> int:
        return len(self._records)

    def video(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The video of this number -> (codes uint16 or uint32 [T, h, w], times float64 [T])."""
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        if self._codes is not None:
            return self._codes[index], self._times[self._starts[index] : self._starts[index + 1]]
        path, record = self._records[index]
        video = self._format.decode(self._format.read(path, [record])[0])
        return video.codes, video.times

    def questions(self, index: int, first: int, count: int) -> Sequence[QuestionAnswer]:
        """What the record says of the video; nothing is known about a part of it."""
        return self._questions[index] if (first, count) == (0, self._lengths[index]) else ()

    def _read(self) -> Iterator[tuple[Path, int, TokenizedVideo]]:
        for path in self._format.shards(self.name):
            for index, record in enumerate(self._format.stream(path)):
                try:
                    yield path, index, self._format.decode(record)
                except UserError as error:
                    raise UserError(f"{path}, record {index}: {error}") from None

    def _asked(self, video: TokenizedVideo) -> tuple[QuestionAnswer, ...]:
        asked = [QuestionAnswer("question", question, answer) for question, answer in video.qa]
        if video.caption:
            asked.append(QuestionAnswer("caption", self._caption_question, video.caption))
        return tuple(asked)

    def _check(self, video: TokenizedVideo, first: TokenizedVideo, num_codes: int) -> None:
        for name, found, expected in (
            ("tokenizer", video.tokenizer, first.tokenizer),
            ("frames a second", video.fps, first.fps),
            ("grid of codes", video.codes.shape[1:], first.codes.shape[1:]),
        ):
            if found != expected:
                raise UserError(
                    f"{self.name}: {video.source} has the {name} {found}, {first.source} has {expected}; "
                    "train on videos that were tokenized alike"
                )
        if int(video.codes.max()) >= num_codes:
            raise UserError(
                f"{self.name}: {video.source} has code {int(video.codes.max())}, expected below {num_codes}; "
                "tokenize it again"
            )
