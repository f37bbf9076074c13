"""What can be trained on, as a config names it and as a run reads it: documents by number, and nothing more.

    DataConfig (sources, length, rows, ...)   SourceConfig --open--> DataSource --example(n)--> Example

A run reads a mixture of sources. How examples become rows of tokens is no concern of a source: data/lane.py
chooses whose turn it is, cuts what is longer than a row and packs the rest.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ringvision.checks import Checks
from ringvision.data.stream import Example, PromptProcessor
from ringvision.errors import UserError


class BadRecord(UserError):
    """A record that cannot be read. Its message names it and what is wrong; the run goes on without it until
    they are too many (DataConfig.bad_records).
    """


class VideosInfo(NamedTuple):
    """What all videos of a source share. tokenizer: hash of the video tokenizer that made the codes;
    grid: (h, w) of a frame's codes; num_codes: below this is each code; fps: frames a second.
    """

    tokenizer: str
    grid: tuple[int, int]
    num_codes: int
    fps: float


class DataSource(Protocol):
    """Documents by number."""

    @property
    def name(self) -> str:
        """Where they are, for messages."""

    @property
    def notices(self) -> Sequence[str]:
        """What a user should know of them, a sentence each."""

    @property
    def vision(self) -> VideosInfo | None:
        """What its videos share; None where it has none."""

    def __len__(self) -> int:
        """How many documents there are; at least one."""

    def example(self, index: int, random: np.random.Generator, step: int) -> Example:
        """The document of a number from 0 on, as tokens.

        Args:
            index: which one.
            random: decides whatever is left to chance, such as which questions are asked.
            step: how many rows were filled before, for what changes in the course of a run.

        Returns:
            The same for the same arguments, wherever and whenever it is asked for. An example whose loss_mask
            is 0 everywhere is left out.

        Raises:
            BadRecord: it cannot be read.
        """


@dataclass(frozen=True)
class SourceConfig(ABC):
    """A source as a config names it; a subclass for every kind.

    weight: how much of the mixture it is, beside the weights of the others; 0: it is not read.
    """

    weight: float = field(default=1.0, kw_only=True)

    @abstractmethod
    def open(self, processor: PromptProcessor, length: int) -> DataSource:
        """The documents. UserError where there are none, or they do not fit the processor.

        processor: makes tokens of words and codes. length: tokens of a row, beyond which examples are cut.
        """

    def vision(self) -> VideosInfo | None:
        """What its videos share, told before anything is opened; None where it has none. UserError where the
        source is not there.
        """
        return None

    @property
    def frame_question(self) -> str:
        """A question whose answer says what a single frame shows, `{seconds}` for its time. By it a model
        chooses among the images that it generated (data/generation_format.py). "": there is none.
        """
        return ""

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each that begins with the field's name."""
        checks = Checks(self)
        checks.that(
            isinstance(self.weight, int | float) and math.isfinite(self.weight) and self.weight >= 0,
            f"weight is {self.weight}, expected a number of at least 0",
        )
        return checks.problems


@dataclass(frozen=True)
class DataConfig:
    """What a run reads, and how it is packed into rows.

    sources: the mixture.
    length, rows: a batch of the whole run is `rows` rows of `length` tokens.
    text_model: makes tokens of words: a sentencepiece file of ours, or a model folder, whose text tokenizer
        is taken; None: that of the run's init_from.
    tokenizer: the video tokenizer that made the codes: a name under tokenizers/ or a folder; None: that of
        init_from. Text alone needs none.
    weights_by: what the weights of the sources count.
    workers: how many processes prepare rows; 0: a thread does.
    bad_records: what share of the records may be unreadable before the run stops.
    """

    sources: tuple[SourceConfig, ...]
    length: int
    rows: int
    text_model: str | None = None
    tokenizer: str | None = None
    weights_by: Literal["tokens", "examples"] = "tokens"
    workers: int = 0
    bad_records: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.sources, list):
            object.__setattr__(self, "sources", tuple(self.sources))

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each that begins with the field's name."""
        checks = Checks(self)
        if not isinstance(self.sources, tuple) or not all(
            isinstance(source, SourceConfig) for source in self.sources
        ):
            found = self.sources if isinstance(self.sources, tuple) else (self.sources,)
            kinds = ", ".join(type(source).__name__ for source in found)
            return [f"sources holds {kinds}, expected a tuple of sources: (WorldData(...), TextData(...))"]
        checks.that(bool(self.sources), "sources is empty, expected at least one")
        checks.at_least(1, "length", "rows")
        checks.at_least(0, "workers")
        checks.that(self.text_model != "", "text_model is '', expected some text or None")
        checks.that(self.tokenizer != "", "tokenizer is '', expected some text or None")
        checks.that(
            self.weights_by in ("tokens", "examples"),
            f"weights_by is {self.weights_by!r}, expected tokens or examples",
        )
        checks.that(
            0 <= self.bad_records <= 1, f"bad_records is {self.bad_records}, expected a share from 0 to 1"
        )
        for number, source in enumerate(self.sources):
            checks.problems += [f"sources.{number}.{problem}" for problem in source.problems()]
        weights = [source.weight for source in self.sources]
        checks.that(
            not weights or sum(weights) > 0,
            f"the weights of the sources are {', '.join(f'{weight:g}' for weight in weights)}, expected at "
            "least one above 0",
        )
        return checks.problems
