"""What the loader asks of everything that can be trained on, and the part of a config that opens it.

VideoData (folder, rows, length, ...)  --open-->  DataSource  --data/loader.py-->  batches
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ringvision.checks import Checks


class QuestionAnswer(NamedTuple):
    """One question about a video, of a `kind` (a word of the source's `kinds`), and its answer."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class VideosInfo:
    """What all videos of a source share. tokenizer: hash of the video tokenizer that made the codes;
    grid: (h, w) of a frame's codes; num_codes: below this is each code; fps: frames a second.
    """

    tokenizer: str
    grid: tuple[int, int]
    num_codes: int
    fps: float


class DataSource(Protocol):
    """Tokenized videos by number, and what is asked about them.

    name: where they are, for messages. kinds: of questions that it asks; those among `auxiliary` give away so
    much of the video that they are asked after all others.
    """

    name: str
    info: VideosInfo
    kinds: tuple[str, ...]
    auxiliary: tuple[str, ...]

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each video: int64 [videos]."""

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, seconds from the beginning of its video, all videos one after another:
        float64 [sum of lengths].
        """

    def __len__(self) -> int:
        """How many videos there are."""

    def video(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The video of this number -> (codes uint16 or uint32 [T, h, w], times float64 [T])."""

    def questions(self, index: int, first: int, count: int) -> Sequence[QuestionAnswer]:
        """All that can be asked about frames `first` to `first + count - 1` of a video; the same whenever
        it is asked for.
        """


@dataclass(frozen=True)
class VideoData(ABC):
    """What a run reads and how it is packed; a subclass for every kind of source.

    folder: holds the tokenized videos.
    text_model: the sentencepiece file.
    tokenizer: the video tokenizer that made the codes: a name under tokenizers/ or a folder.
    length, rows: a batch is `rows` rows of `length` tokens.
    turns_min, turns_max: how many questions about a video are planned; more or fewer are asked where that
        fills a row.
    vision_weight: how much predicting all codes of a video counts beside one answer.
    question_weight: how much predicting each question counts beside its answer.
    favour: kinds of questions that are asked before all others.
    """

    folder: str
    text_model: str
    tokenizer: str
    length: int
    rows: int
    turns_min: int = 1
    turns_max: int = 8
    vision_weight: float = 0.0
    question_weight: float = 0.0
    favour: tuple[str, ...] = ()

    @abstractmethod
    def open(self) -> DataSource:
        """The videos of `folder`. UserError where they are missing, damaged or of another kind."""

    @property
    def growth(self) -> tuple[int, int]:
        """(n, steps): at step 0 at most n frames in a row are shown of a video, and more from step to
        step until after `steps` steps videos are whole. (0, 0): whole from the start, as where questions
        are about whole videos.
        """
        return 0, 0

    @property
    def frame_question(self) -> str:
        """A question whose answer says what a single frame shows, `{seconds}` for its time. By it a model
        chooses among the images that it generated (data/generation_format.py). "": there is none.
        """
        return ""

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.filled("folder", "text_model", "tokenizer")
        checks.at_least(1, "length", "rows", "turns_min")
        checks.that(
            self.turns_max >= self.turns_min,
            f"turns_max is {self.turns_max}, expected at least turns_min: {self.turns_min}",
        )
        checks.at_least(0, "vision_weight", "question_weight")
        return checks.problems
