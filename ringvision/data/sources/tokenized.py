"""A folder that `ringvision tokenize` wrote, as something to train on: what its records say about their
videos becomes questions and answers.

    record (codes, times, caption, qa)
      -> video(index), [("question", "What ...?", "..."), ("caption", caption_question, caption)]

Questions are those of qa, and those whose answers stand in the caption (caption_questions.py).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringvision.checks import Checks
from ringvision.data.sources.base import VideosInfo
from ringvision.data.sources.caption_questions import CaptionQuestion, questions_in
from ringvision.data.sources.videos import QuestionAnswer, Videos, VideoSourceConfig
from ringvision.data.tokenized import Format, TokenizedVideo, format_of
from ringvision.errors import UserError

KEPT_BYTES = 1 << 28
CAPTION_QUESTION = "What happens in the video?"


@dataclass(frozen=True)
class TokenizedData(VideoSourceConfig):
    """A folder that `ringvision tokenize` wrote; see VideoSourceConfig.

    caption_question: what a caption is the answer to.
    caption_questions: what else captions answer. Where a record has a question itself, its own answer counts.
    """

    caption_question: str = CAPTION_QUESTION
    caption_questions: tuple[CaptionQuestion, ...] = ()

    def open_videos(self) -> Videos:
        """The videos of `folder`, their captions and questions. UserError where there are none."""
        return TokenizedVideos(
            self.folder, caption_question=self.caption_question, caption_questions=self.caption_questions
        )

    def vision(self) -> VideosInfo | None:
        """What the videos share, by the first of them that can be read."""
        return videos_info(self.folder)

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.filled("caption_question")
        for number, form in enumerate(self.caption_questions):
            checks.problems += [f"caption_questions.{number}.{problem}" for problem in form.problems()]
        return [*super().problems(), *checks.problems]


def videos_info(folder: str | os.PathLike[str]) -> VideosInfo:
    """What the videos of a folder share, by the first of them that can be read.

    UserError where it holds none, or is no folder that `ringvision tokenize` wrote.
    """
    form = format_of(folder)
    num_codes = _num_codes(form, folder)
    for _, _, found in _records(form, folder):
        if isinstance(found, TokenizedVideo):
            return _info_of(found, num_codes)
    raise _no_videos(folder)


class TokenizedVideos:
    """The videos of a folder in the order of its shards.

    All records are read once when it is opened. Lengths, times and texts stay in memory; codes only where
    all of them together take at most `kept_bytes`, otherwise a video is read again when it is asked for.

    Args:
        folder: one that `ringvision tokenize` wrote.
        caption_question: what a caption is the answer to.
        caption_questions: what else captions answer.
        kept_bytes: how many bytes of codes stay in memory.

    Raises:
        UserError: where the folder is empty or no shard of it can be read, or it holds videos of several
            tokenizers, grids or rates. A single record that cannot be read is kept in mind in `bad`.
    """

    kinds: tuple[str, ...] = ("question", "caption")
    auxiliary: tuple[str, ...] = ("caption",)

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        caption_question: str = CAPTION_QUESTION,
        caption_questions: Sequence[CaptionQuestion] = (),
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.name = os.fspath(folder)
        self.bad: dict[int, str] = {}
        self._format = format_of(folder)
        self._caption_question = caption_question
        self._caption_questions = caption_questions
        num_codes = _num_codes(self._format, folder)
        self._records: list[tuple[Path, int]] = []
        self._sources: list[str] = []
        self._questions: list[tuple[QuestionAnswer, ...]] = []
        codes: list[np.ndarray] | None = []
        times = []
        size = 0
        first: TokenizedVideo | None = None
        for path, index, found in _records(self._format, folder):
            video = None if isinstance(found, str) else found
            if video is None:
                self.bad[len(self._records)] = str(found)
            else:
                first = first or video
                self._check(video, first, num_codes)
            self._records.append((path, index))
            self._sources.append("" if video is None else video.source)
            self._questions.append(() if video is None else self._asked(video))
            times.append(np.zeros(0, np.float64) if video is None else video.times)
            size += 0 if video is None else video.codes.nbytes
            if codes is not None:
                codes.append(np.zeros((0, 0, 0), np.uint16) if video is None else video.codes)
            if size > kept_bytes:
                codes = None
        if first is None:
            raise UserError(next(iter(self.bad.values()))) if self.bad else _no_videos(folder)
        self._codes = codes
        self._lengths = np.array([len(some) for some in times], np.int64)
        self._times = np.concatenate(times)
        self._starts = np.cumsum([0, *self._lengths])
        self.info = _info_of(first, num_codes)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each video: int64 [videos]; 0 of those that cannot be read."""
        return self._lengths

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

    def is_asked(self, index: int) -> bool:
        """Whether the record has a caption or a question."""
        return bool(self._questions[index])

    def _asked(self, video: TokenizedVideo) -> tuple[QuestionAnswer, ...]:
        own = {question for question, _ in video.qa}
        said = questions_in(video.caption, self._caption_questions)
        pairs = [*video.qa, *(pair for pair in said if pair[0] not in own)]
        asked = [QuestionAnswer("question", question, answer) for question, answer in pairs]
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


def _records(
    form: Format, folder: str | os.PathLike[str]
) -> Iterator[tuple[Path, int, TokenizedVideo | str]]:
    """All records of a folder: (shard, number in it, the video or what is wrong with it). UserError where a
    shard cannot be opened.
    """
    for path in form.shards(folder):
        count = form.count(path)
        done = 0
        try:
            for record in form.stream(path):
                yield path, done, _decoded(form, path, done, record)
                done += 1
        except UserError:
            # A record that is damaged ends the stream; those behind it are read one by one.
            for index in range(done, count):
                yield path, index, _read(form, path, index)


def _read(form: Format, path: Path, index: int) -> TokenizedVideo | str:
    try:
        return _decoded(form, path, index, form.read(path, [index])[0])
    except UserError as error:
        return f"{path}, record {index}: {error}"


def _decoded(form: Format, path: Path, index: int, record: bytes) -> TokenizedVideo | str:
    try:
        return form.decode(record)
    except UserError as error:
        return f"{path}, record {index}: {error}"


def _num_codes(form: Format, folder: str | os.PathLike[str]) -> int:
    num_codes = form.num_codes(folder)
    if num_codes is None:
        raise UserError(
            f"{folder} does not say how many codes its tokenizer has; run the command that wrote it again"
        )
    return num_codes


def _info_of(video: TokenizedVideo, num_codes: int) -> VideosInfo:
    height, width = video.codes.shape[1:]
    return VideosInfo(video.tokenizer, (height, width), num_codes, video.fps)


def _no_videos(folder: str | os.PathLike[str]) -> UserError:
    return UserError(f"{folder} holds no videos; tokenize some into it")
