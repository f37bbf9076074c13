"""What every format of records gives: fields by the record's number.

Records: len(records), records.read(index) -> {"text": "..."}, records.where(index) -> "a.jsonl, record 3"
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

MOST_BYTES = 64 << 20
"""Of one record."""
ASKED = 8
"""Files that are asked which fields there are."""


class Records(Protocol):
    """Records by number. name: where they are, for messages. fields: those that a record may have."""

    name: str

    @property
    def fields(self) -> tuple[str, ...]: ...

    def __len__(self) -> int:
        """How many records there are."""

    def read(self, index: int) -> Mapping[str, Any]:
        """The record of this number, from 0. UserError that names file and record where it is damaged."""

    def where(self, index: int) -> str:
        """Its file and its number there, from 1."""


class Several:
    """The records of several files, one file after another.

    Args:
        name: what they are called together.
        parts: the records of each file.
    """

    def __init__(self, name: str, parts: Sequence[Records]) -> None:
        self.name = name
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of the first files."""
        return tuple(dict.fromkeys(field for part in self._parts[:ASKED] for field in part.fields))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> Mapping[str, Any]:
        """The record of this number, from 0."""
        part, inside = self._find(index)
        return part.read(inside)

    def where(self, index: int) -> str:
        """Its file and its number there, from 1."""
        part, inside = self._find(index)
        return part.where(inside)

    def _find(self, index: int) -> tuple[Records, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0)
