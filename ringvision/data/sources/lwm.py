"""LWM's training lines: text, and text with the codes of images and videos, as LWM's own trainer reads them.

    {"text": "..."}                                              bos text eos
    {"fields": "[q],[vision],a", "q": "...", "vision": [codes of all frames], "a": "..."}
        bos q <vision> c c c c eof c c c c eov </vision> a eos

`fields` says what follows what. A field in brackets has no loss, a+b joins two, one with "vision" in its name
is codes, <|bos|> and <|eos|> are tokens; a list of such orders is chosen from by the record's number. Checked
against LWM's data.py (TextProcessor, VisionTextProcessor). Also what `ringvision tokenize --format jsonl`
wrote is read.
"""

import random as standard_random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ringvision.checks import Checks
from ringvision.data.records import Records, open_records
from ringvision.data.sources.base import BadRecord, SourceConfig, VideosInfo
from ringvision.data.sources.text import (
    check_some_good,
    check_text_tokenizer,
    counted_by_token,
    encoded,
    read,
)
from ringvision.data.sources.tokenized import videos_info
from ringvision.data.stream import Example, PromptProcessor

FRAME_TOKENS = 256
VISION = "vision"
MARKS = ("<|bos|>", "<|eos|>")


@dataclass(frozen=True)
class LwmData(SourceConfig):
    """JSON lines that LWM's trainer reads.

    path: a file, a folder or a pattern of .jsonl or .jsonl.gz.
    fields: the order where a record has none of its own.
    fields_key: the field of a record that holds its order; "": all have the same.
    fields_index: where a record has several orders, which is taken, from 0; -1: one by the record's number.
    frame_tokens: codes of a frame; None: as the record's own grid says, and 256 where it has none.
    max_frames: so many frames of a video are taken, evenly spread (0: all).
    subfield_separator: what stands between joined fields.
    prepend: text before the first field.
    add_bos, add_eos: whether there is a bos before all fields and an eos after them.
    counts: "tokens": every token with loss counts token_weight; "halves": the words of a record count half
        together and its codes half, which is LWM's own loss where a record is a row.
    token_weight: how much predicting a token counts.
    """

    path: str
    fields: str = "text"
    fields_key: str = "fields"
    fields_index: int = -1
    frame_tokens: int | None = None
    max_frames: int = 0
    subfield_separator: str = " "
    prepend: str = ""
    add_bos: bool = True
    add_eos: bool = True
    counts: Literal["tokens", "halves"] = "tokens"
    token_weight: float = 1.0

    def open(self, processor: PromptProcessor, length: int) -> "LwmSource":
        """The records. UserError where there are none, or none of the first is good."""
        return LwmSource(open_records(self.path, columns=()), processor, self)

    def vision(self) -> VideosInfo | None:
        """What the videos share where `ringvision tokenize` wrote them; LWM's own lines do not say it."""
        folder = Path(self.path).expanduser()
        return videos_info(folder) if (folder / "tokens.json").is_file() else None

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.filled("path", "fields")
        checks.at_least(1, "frame_tokens")
        checks.at_least(0, "max_frames")
        checks.at_least(-1, "fields_index")
        checks.positive("token_weight")
        checks.that(
            self.counts in ("tokens", "halves"), f"counts is {self.counts!r}, expected tokens or halves"
        )
        return [*super().problems(), *checks.problems]


class LwmSource:
    """Records of LWM, a DataSource.

    Args:
        records: where they lie.
        processor: makes tokens of words and codes.
        config: how records are read.

    Raises:
        UserError: there is no text tokenizer, or none of the first records can be read.
    """

    def __init__(self, records: Records, processor: PromptProcessor, config: LwmData) -> None:
        self.name = config.path
        self.notices: Sequence[str] = ()
        self.vision = config.vision()
        self._records = records
        self._processor = processor
        self._config = config
        check_text_tokenizer(self.name, processor)
        check_some_good(self, len(records))

    def __len__(self) -> int:
        return len(self._records)

    def example(self, index: int, random: np.random.Generator, step: int) -> Example:
        """The stream that LWM builds of a record. BadRecord where it cannot be read.

        Args:
            index: which record.
            random: is not used: of several orders LWM's own rule takes one by the record's number.
            step: is not used.

        Returns:
            Tokens, and loss on the fields without brackets.
        """
        where = self._records.where(index)
        record = read(self._records, index)
        order = self._order(where, record, index)
        vocabulary = self._processor.vocabulary
        tokens = [np.array([vocabulary.bos] * self._config.add_bos, np.int32)]
        masks = [np.zeros(len(tokens[0]), np.float32)]
        for number, field in enumerate(order.split(",")):
            silent = field.startswith("[") and field.endswith("]")
            part = self._part(where, record, field[1:-1] if silent else field, first=number == 0)
            tokens.append(part)
            masks.append(np.full(len(part), float(not silent), np.float32))
        if self._config.add_eos:
            tokens.append(np.array([vocabulary.eos], np.int32))
            masks.append(np.ones(1, np.float32))
        return self._weighted(Example(np.concatenate(tokens), np.concatenate(masks)))

    def _order(self, where: str, record: Mapping[str, Any], index: int) -> str:
        """What follows what in a record."""
        key = self._config.fields_key
        order = record.get(key, self._config.fields)
        chosen = self._config.fields_index
        if isinstance(order, list) and order and chosen < len(order):
            order = order[chosen] if chosen >= 0 else standard_random.Random(index).choice(order)
        if not isinstance(order, str):
            raise BadRecord(
                f"{where}: {key} is no text, or has no order {chosen}; expected one like [question],answer"
            )
        return order

    def _part(self, where: str, record: Mapping[str, Any], field: str, *, first: bool) -> np.ndarray:
        """The tokens of one field, int32 [n]."""
        vocabulary = self._processor.vocabulary
        if field in MARKS:
            return np.array([vocabulary.bos if field == MARKS[0] else vocabulary.eos], np.int32)
        if VISION in field:
            return self._codes(where, record, field)
        texts = [self._value(where, record, name) for name in field.split("+")]
        for name, text in zip(field.split("+"), texts):
            if not isinstance(text, str):
                raise BadRecord(f"{where}: {name} is a {type(text).__name__}, expected text; correct it")
        text = self._config.prepend * first + self._config.subfield_separator.join(texts)
        return np.array(encoded(self._processor, where, text), np.int32)

    def _codes(self, where: str, record: Mapping[str, Any], field: str) -> np.ndarray:
        """Markers, the codes of each frame, eof after each but the last, eov after that: int32 [n]."""
        vocabulary = self._processor.vocabulary
        codes = self._checked_codes(where, field, self._value(where, record, field))
        size = self._config.frame_tokens or _grid_size(record) or FRAME_TOKENS
        if not len(codes) or len(codes) % size:
            raise BadRecord(
                f"{where}: {field} has {len(codes)} codes, expected frames of {size}; give frame_tokens, or "
                "correct it"
            )
        frames = codes.reshape(-1, size)
        most = self._config.max_frames
        if most and len(frames) > most:
            frames = frames[np.linspace(0, len(frames) - 1, most).astype(int)]
        ends = np.full((len(frames), 1), vocabulary.eof, np.int32)
        ends[-1] = vocabulary.eov
        stream = np.concatenate([vocabulary.codes_to_tokens(frames), ends], axis=1).reshape(-1)
        return np.concatenate(
            [np.array(vocabulary.vision_start, np.int32), stream, np.array(vocabulary.vision_end, np.int32)]
        )

    def _checked_codes(self, where: str, field: str, value: Any) -> np.ndarray:
        """A list of whole numbers as int32 [n], each a code of the vocabulary."""
        num_codes = self._processor.vocabulary.num_codes
        if not num_codes:
            raise BadRecord(
                f"{where}: {field} is codes, and the run has no video tokenizer; give data.tokenizer the one "
                "that made them"
            )
        if not isinstance(value, list) or not {type(code) for code in value} <= {int}:
            raise BadRecord(f"{where}: {field} is no list of whole numbers, which codes are; correct it")
        smallest, largest = (min(value), max(value)) if value else (0, 0)
        if smallest < 0 or largest >= num_codes:
            wrong = smallest if smallest < 0 else largest
            raise BadRecord(
                f"{where}: {field} has the code {wrong}, expected 0 to {num_codes - 1}; was it made by "
                "another video tokenizer?"
            )
        return np.array(value, np.int32)

    def _value(self, where: str, record: Mapping[str, Any], name: str) -> Any:
        if name not in record:
            raise BadRecord(
                f"{where}: it has no {name!r}, only {', '.join(record)[:200]}; name its fields (fields), or "
                "correct it"
            )
        return record[name]

    def _weighted(self, example: Example) -> Example:
        """The example with its weight, and its loss_mask in halves where that is asked for."""
        if self._config.counts == "tokens":
            return counted_by_token(example, self._config.token_weight)
        mask = example.loss_mask.copy()
        mask[:1] = 0.0
        vision = self._processor.vocabulary.is_vision(example.tokens)
        for group in (vision, ~vision):
            total = float(mask[group].sum(dtype=np.float64))
            mask[group] *= 0.5 / total if total else 0.0
        return counted_by_token(Example(example.tokens, mask), self._config.token_weight)


def _grid_size(record: Mapping[str, Any]) -> int:
    """Codes of a frame by the grid that `ringvision tokenize` notes; 0 where a record has none."""
    grid = record.get("grid")
    if not isinstance(grid, list) or len(grid) != 2 or not all(type(side) is int for side in grid):
        return 0
    return max(0, int(grid[0]) * int(grid[1]))
