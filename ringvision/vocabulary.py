"""One id space for everything the transformer reads: text pieces, then codes, then end-of-frame,
end-of-vision.

    0 … text_size-1                      text pieces (bos, eos and the two vision markers are among them)
    text_size … text_size+num_codes-1    codes of the video tokenizer
    text_size+num_codes                  eof, after every frame but the last
    text_size+num_codes+1                eov, after the last frame
    the next `stamps`                    rows of the embedding for time stamps: seconds 0 to 59, then minutes,
                                         then one that is added where words name the time
    … up to size-1                       padding of the vision table, where there is any (LWM: 8448 rows for
                                         8194)
    size …                               time stamps, where they have ids of their own: one for each second of
                                         a video, the sum of its second's row and its minute's; then the same
                                         again for the times that words name

In: the sizes of the two tables and the ids of the special pieces. Out: ids, and the way from codes to tokens
and back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from ringvision.errors import UserError
from ringvision.fields import fitted

Array = TypeVar("Array", np.ndarray, jax.Array)


@dataclass(frozen=True)
class Vocabulary:
    """Which id means what.

    text_size: text pieces. num_codes: codes of the video tokenizer. bos, eos: ids of pieces. vision_start,
    vision_end: ids of the pieces around a video; in LWM a marker is several. vision_size: rows of the vision
    table; None: num_codes + 2 + stamps. stamps: rows for time stamps, 60 and as many minutes as a video may
    have and one more; each second of a video then has an id of its own, by which it belongs to the video, and
    another one among words; 0: stamps are text pieces.
    """

    text_size: int
    num_codes: int
    bos: int
    eos: int
    vision_start: tuple[int, ...]
    vision_end: tuple[int, ...]
    vision_size: int | None = None
    stamps: int = 0

    def __post_init__(self) -> None:
        if self.stamps and not 61 < self.stamps < 2**16:
            raise UserError(
                f"stamps={self.stamps}: expected one for each second of a minute and for each minute and one "
                "for those of questions, at least 62, or 0 for time stamps that are text pieces"
            )
        if self.vision_size is None:
            object.__setattr__(self, "vision_size", self.num_codes + 2 + self.stamps)
        object.__setattr__(self, "vision_start", tuple(int(i) for i in self.vision_start))
        object.__setattr__(self, "vision_end", tuple(int(i) for i in self.vision_end))
        if self.text_alone and self.text_size >= 1:
            self._check_pieces(("bos", (self.bos,)), ("eos", (self.eos,)))
            return
        if self.text_size < 1 or self.num_codes < 1:
            raise UserError(
                f"a vocabulary of {self.text_size} text pieces and {self.num_codes} codes: both must "
                "be at least 1"
            )
        if self._rows < (least := self.num_codes + 2 + self.stamps):
            raise UserError(
                f"vision_size={self.vision_size} is too small for {self.num_codes} codes, "
                f"end-of-frame, end-of-vision and {self.stamps} stamps: expected at least {least}"
            )
        self._check_pieces(
            ("bos", (self.bos,)),
            ("eos", (self.eos,)),
            ("vision_start", self.vision_start),
            ("vision_end", self.vision_end),
        )

    def _check_pieces(self, *named: tuple[str, tuple[int, ...]]) -> None:
        for name, ids in named:
            if not ids:
                raise UserError(f"{name} is empty: expected at least one text piece")
            if any(not 0 <= i < self.text_size for i in ids):
                raise UserError(
                    f"{name}={ids} is outside the {self.text_size} text pieces: expected ids 0 to "
                    f"{self.text_size - 1}"
                )

    @classmethod
    def of_text(cls, text_size: int, bos: int, eos: int) -> "Vocabulary":
        """Of a model that reads text alone: no codes, no markers, no rows for vision."""
        return cls(text_size, 0, bos, eos, (), (), 0)

    @property
    def text_alone(self) -> bool:
        """Whether there are no codes at all."""
        return self.num_codes == 0 and self.vision_size == 0

    @property
    def _rows(self) -> int:
        return self.num_codes + 2 + self.stamps if self.vision_size is None else self.vision_size

    @property
    def size(self) -> int:
        """Rows of the embedding table: text and vision together."""
        return self.text_size + self._rows

    @property
    def code_offset(self) -> int:
        """The token of code 0."""
        return self.text_size

    @property
    def eof(self) -> int:
        """End of frame."""
        return self.text_size + self.num_codes

    @property
    def eov(self) -> int:
        """End of vision: it stands after the last frame instead of `eof`."""
        return self.eof + 1

    @property
    def minutes(self) -> int:
        """How many minutes have a stamp of their own."""
        return max(0, self.stamps - 61)

    def stamp(self, minute: int, second: int, *, asked: bool = False) -> int:
        """The token of a time stamp. asked: of a time that a question names, which sees all of a video; not
        of a frame. UserError where there is none of this minute, or no such second.
        """
        if not (0 <= minute < self.minutes and 0 <= second < 60):
            raise UserError(
                f"a time stamp of minute {minute}, second {second}: expected a minute below {self.minutes}, "
                "the last that this vocabulary has; a longer video is asked about in parts"
            )
        return self.size + 60 * (minute + (self.minutes if asked else 0)) + second

    def codes_to_tokens(self, codes: Array) -> Array:
        """codes int [...] -> tokens int32 [...]. UserError where a code is not in 0 … num_codes-1; under a
        trace there are no values to check.
        """
        _check_range(codes, 0, self.num_codes, "code")
        return codes.astype(np.int32) + self.code_offset

    def tokens_to_codes(self, tokens: Array) -> Array:
        """tokens int [...], all of them codes -> codes int32 [...]. UserError where a token is no code; under
        a trace there are no values to check.
        """
        _check_range(tokens, self.code_offset, self.eof, "token")
        return tokens.astype(np.int32) - self.code_offset

    def is_vision(self, tokens: Array) -> Array:
        """tokens int [...] -> bool [...]: True for codes, eof and eov, not for stamps and the text markers
        around a video.
        """
        return (tokens >= self.code_offset) & (tokens <= self.eov)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """The inverse of `to_dict`. UserError that names the missing or unknown fields, and where there are
        no codes: what reads text alone is saved without a vocabulary.
        """
        vocabulary = cls(**fitted("a vocabulary", cls, values))
        if vocabulary.text_alone:
            raise UserError(f"a vocabulary of {vocabulary.text_size} text pieces and 0 codes: expected some")
        return vocabulary


def _check_range(values: np.ndarray | jax.Array, low: int, high: int, name: str) -> None:
    """Inside a trace there are no values to look at; everywhere else a wrong id must not pass."""
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"{name}s of type {values.dtype}: expected integers")
    if isinstance(values, jax.core.Tracer) or values.size == 0:
        return
    smallest = int(values.min())
    largest = int(values.max())
    if smallest < low or largest >= high:
        raise UserError(
            f"{name}s from {smallest} to {largest}: expected {low} to {high - 1}; was another "
            f"tokenizer's {name} table used?"
        )
