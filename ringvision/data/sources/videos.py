"""Tokenized videos and what is asked about them -> examples.

    Videos (codes, times, questions)  --VideoExamples-->  bos <vision> ... </vision> question answer eos ...

What kinds of videos have in common; tokenized.py and world.py say where they and their questions come from.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from ringvision.checks import Checks
from ringvision.data.sources.base import BadRecord, SourceConfig, VideosInfo
from ringvision.data.stream import Example, PromptProcessor
from ringvision.errors import UserError

SAMPLED = 64
"""Videos whose questions say how many tokens a question takes at least."""
SPARE = 16
"""How many questions beyond those that were wanted may still be asked about a video where a row has room."""


class QuestionAnswer(NamedTuple):
    """One question about a video, of a `kind` (a word of the videos' `kinds`), and its answer."""

    kind: str
    question: str
    answer: str


class Videos(Protocol):
    """Tokenized videos by number, and what is asked about them.

    name: where they are, for messages. kinds: of questions that are asked; those among `auxiliary` give away
    so much of the video that they are asked after all others.
    """

    name: str
    info: VideosInfo
    kinds: tuple[str, ...]
    auxiliary: tuple[str, ...]

    @property
    def bad(self) -> Mapping[int, str]:
        """What is wrong with videos that cannot be read, by their number."""

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each video: int64 [videos]; 0 of those that cannot be read."""

    def __len__(self) -> int:
        """How many videos there are."""

    def video(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The video of this number -> (codes uint16 or uint32 [T, h, w], times float64 [T]). UserError where
        it cannot be read.
        """

    def questions(self, index: int, first: int, count: int) -> Sequence[QuestionAnswer]:
        """All that can be asked about frames `first` to `first + count - 1` of a video; the same whenever
        it is asked for.
        """

    def is_asked(self, index: int) -> bool:
        """Whether anything can be asked about the whole of a video."""


@dataclass(frozen=True)
class VideoSourceConfig(SourceConfig):
    """Videos of a folder, and what is learned of them; a subclass for every kind of folder.

    folder: holds the tokenized videos.
    turns_min, turns_max: how many questions about a video are asked; more where that fills a row and
        `turns_more` is True. A question and its answer stand before the next one, which may then be answered
        from their words instead of the frames; with 1 and False none stands before another.
    turns_apart: whether a question is left out where all words of its answer stand in earlier questions and
        answers, so that what is asked has to be found in the frames.
    vision_weight: how much predicting all codes of a video counts beside one answer.
    question_weight: how much predicting each question counts beside its answer.
    answer_weight: the most that an answer counts; 1: all count alike (data/stream.py, `weight_of`).
    favour: kinds of questions that are asked before all others.
    """

    folder: str
    turns_min: int = 1
    turns_max: int = 8
    turns_more: bool = True
    turns_apart: bool = False
    vision_weight: float = 0.0
    question_weight: float = 0.0
    answer_weight: float = 1.0
    favour: tuple[str, ...] = ()

    @abstractmethod
    def open_videos(self) -> Videos:
        """The videos of `folder`. UserError where they are missing, damaged or of another kind."""

    def open(self, processor: PromptProcessor, length: int) -> "VideoExamples":
        """The examples of the videos. UserError as `open_videos`, and where there is nothing to learn."""
        return VideoExamples(self.open_videos(), processor, self, length)

    @property
    def growth(self) -> tuple[int, int]:
        """(n, steps): in the first row at most n frames in a row are shown of a video, and more from row to
        row until after `steps` rows videos are whole. (0, 0): whole from the start, as where questions are
        about whole videos.
        """
        return 0, 0

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.filled("folder")
        checks.at_least(1, "turns_min")
        checks.that(
            self.turns_max >= self.turns_min,
            f"turns_max is {self.turns_max}, expected at least turns_min: {self.turns_min}",
        )
        checks.at_least(0, "vision_weight", "question_weight")
        checks.positive("answer_weight")
        return [*super().problems(), *checks.problems]


class Clip(NamedTuple):
    """The frames `first` to `first + frames - 1` of a video."""

    video: int
    first: int
    frames: int


@dataclass(frozen=True)
class Asked:
    """One question and its answer as tokens, int32 [n] each, and the words of both, in small letters."""

    kind: str
    question: np.ndarray
    answer: np.ndarray
    asked: frozenset[str]
    answered: frozenset[str]

    @property
    def size(self) -> int:
        return len(self.question) + len(self.answer)


class VideoExamples:
    """Examples of videos, a DataSource: each is a video, or a part of it, and questions about it.

    Args:
        videos: and what is asked about them.
        processor: makes tokens of them.
        config: how many questions are asked, and what counts.
        length: tokens of a row; where they do not all fit into one, fewer questions are asked about a video.

    Raises:
        UserError: nothing can be learned of any video, or there is no such kind of questions to favour.
    """

    def __init__(
        self, videos: Videos, processor: PromptProcessor, config: VideoSourceConfig, length: int
    ) -> None:
        self.videos = videos
        self.processor = processor
        self.config = config
        self.length = length
        self.name = videos.name
        self.vision: VideosInfo | None = videos.info
        if unknown := [kind for kind in config.favour if kind not in videos.kinds]:
            raise UserError(
                f"no kind of question to favour is called {unknown[0]!r}; there are {', '.join(videos.kinds)}"
            )
        self._turns = lru_cache(maxsize=1 << 12)(self._tokenized)
        self._used = [index for index in range(len(videos)) if self._teaches(index)]
        if not set(self._used) - set(videos.bad):
            raise UserError(
                f"nothing is asked about any video in {self.name}: give captions or questions where they "
                "are tokenized, or let predicting codes count (vision_weight)"
            )
        self.notices = self._notices()

    def __len__(self) -> int:
        return len(self._used)

    def example(self, index: int, random: np.random.Generator, step: int) -> Example:
        """The video of this number among those of which something can be learned; see DataSource.

        At least turns_min questions are asked, and at most turns_max, as chance has it, favoured kinds before
        others. Auxiliary kinds are asked last, so that the other answers must be found in the frames and not
        in an earlier answer.
        """
        video = self._used[index]
        self._check(video)
        clip = self._clip(video, step, random)
        if self.processor.format.asks_first:
            return self._asking_first(clip, random)
        turns = self.turns(clip)
        pool = [turns[place] for place in random.permutation(len(turns))]
        pool.sort(key=lambda turn: turn.kind not in self.config.favour)
        if self.config.turns_apart:
            pool = _apart(pool)
        wanted = int(random.integers(self.config.turns_min, self.config.turns_max + 1))
        if clip != self.whole(video):
            wanted = min(wanted, clip.frames + 1)  # of a short part not much is to be asked
        tokens = self._video_tokens(clip)
        free = self.length - len(tokens)
        count = min(wanted, len(pool))
        while count > 1 and sum(turn.size for turn in pool[:count]) > free:
            count -= 1
        spare = pool[count : count + SPARE] if self.config.turns_more else []
        return self._example(tokens, pool[:count], spare, codes_count=not pool)

    def _example(
        self, tokens: np.ndarray, asked: Sequence[Asked], spare: Sequence[Asked], *, codes_count: bool
    ) -> Example:
        auxiliary = self.videos.auxiliary
        first = [turn for turn in asked if turn.kind not in auxiliary]
        last = [turn for turn in asked if turn.kind in auxiliary]
        question_weight = self.config.question_weight
        made = self.processor.continued(
            tokens,
            [(turn.question, turn.answer) for turn in (*first, *last)],
            vision_weight=self.config.vision_weight if asked or codes_count else 0.0,
            question_weight=question_weight,
            answer_weight=self.config.answer_weight,
        )
        further = tuple(
            self.processor.spare_turn(
                turn.question,
                turn.answer,
                question_weight=question_weight,
                answer_weight=self.config.answer_weight,
                last=turn.kind in auxiliary,
            )
            for turn in spare
        )
        tail = sum(turn.size for turn in last)
        return Example(made.tokens, made.loss_mask, made.weight, made.answers, further, tail)

    def _asking_first(self, clip: Clip, random: np.random.Generator) -> Example:
        """The example of a model that reads the question before the video: one question alone."""
        asked = list(self.videos.questions(*clip))
        favoured = [one for one in asked if one.kind in self.config.favour] or asked
        turns = [favoured[int(random.integers(len(favoured)))][1:]] if favoured else []
        return self.processor.example(
            [self._frames(clip)],
            turns,
            vision_weight=self.config.vision_weight,
            question_weight=self.config.question_weight,
        )

    # ------------------------------------------------------------------------------------ what is asked

    def turns(self, clip: Clip) -> tuple[Asked, ...]:
        """All questions about a clip, as tokens."""
        return self._turns(clip)

    def asking(self, clip: Clip, turn: Asked) -> Example:
        """The example of a clip with one question about it; codes do not count."""
        if self.processor.format.asks_first:
            (found,) = [
                one for one, tokens in zip(self.videos.questions(*clip), self.turns(clip), strict=True)
                if tokens is turn
            ]  # fmt: skip
            return self.processor.example([self._frames(clip)], [(found.question, found.answer)])
        return self.processor.continued(self._video_tokens(clip), [(turn.question, turn.answer)])

    def _tokenized(self, clip: Clip) -> tuple[Asked, ...]:
        return tuple(
            Asked(
                kind,
                self.processor.question(question),
                self.processor.answer(answer),
                _words(question),
                _words(answer),
            )
            for kind, question, answer in self.videos.questions(*clip)
        )

    # ------------------------------------------------------------------------------------ what is shown

    def whole(self, video: int) -> Clip:
        """All frames of the video of this number."""
        return Clip(video, 0, int(self.videos.lengths[video]))

    def _clip(self, video: int, step: int, random: np.random.Generator) -> Clip:
        """The whole video where it is not too long for this step, otherwise a random part of it."""
        start, steps = self.config.growth
        length = int(self.videos.lengths[video])
        if not start or step >= steps:
            return self.whole(video)
        most = int(start + (int(self.videos.lengths.max()) - start) * step / steps)
        if length <= most:
            return self.whole(video)
        count = int(random.integers(1, most + 1))
        return Clip(video, int(random.integers(length - count + 1)), count)

    def _frames(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        try:
            codes, times = self.videos.video(clip.video)
        except UserError as error:
            raise BadRecord(str(error)) from None
        seen = slice(clip.first, clip.first + clip.frames)
        return codes[seen], times[seen]

    def _video_tokens(self, clip: Clip) -> np.ndarray:
        return self.processor.videos([self._frames(clip)])

    def _check(self, video: int) -> None:
        if video in self.videos.bad:
            raise BadRecord(self.videos.bad[video])

    # ------------------------------------------------------------------------------------- what is said

    def _teaches(self, index: int) -> bool:
        return index in self.videos.bad or self.config.vision_weight > 0 or self.videos.is_asked(index)

    def _notices(self) -> list[str]:
        notices = []
        if left_out := len(self.videos) - len(self._used):
            notices.append(
                f"{left_out} of {len(self.videos)} videos in {self.name} have neither a caption nor a "
                "question and are left out (vision_weight is 0)"
            )
        readable = [index for index in self._used if index not in self.videos.bad]
        sizes = [turn.size for index in readable[:SAMPLED] for turn in self.turns(self.whole(index))]
        frames = self.videos.lengths[readable]
        around = len(self.processor.opening()) + len(self.processor.start) + len(self.processor.end)
        longest = around + int(frames.max()) * self.processor.period(self.vision_grid)
        too_long = int(
            (
                around + frames * self.processor.period(self.vision_grid) + min(sizes, default=0)
                > self.length
            ).sum()
        )
        if too_long:
            notices.append(
                f"{too_long} of {len(self.videos)} videos in {self.name} (the longest of about {longest} "
                f"tokens) do not fit into rows of {self.length} with a question and are cut: questions about "
                "them see their last piece alone; longer rows show them whole"
            )
        return notices

    @property
    def vision_grid(self) -> tuple[int, int]:
        """(h, w) of a frame's codes."""
        return self.videos.info.grid


def _apart(turns: Sequence[Asked]) -> list[Asked]:
    """Those of the turns, in order, whose answers were not said, word for word, by those before."""
    kept = []
    said: set[str] = set()
    for turn in turns:
        if not turn.answered <= said:
            kept.append(turn)
            said |= turn.asked | turn.answered
    return kept


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))
