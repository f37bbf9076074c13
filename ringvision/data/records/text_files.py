"""Records in files of text: a record a file, a record between separators, or a line of JSON.

book.txt                        {"text": "..."}
books.txt, separator "\\n---\\n"  {"text": "..."}, {"text": "..."}, ...
lines.jsonl, lines.jsonl.gz     the object on each line
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ringvision.data.records.base import MOST_BYTES
from ringvision.data.records.byte_files import unreadable
from ringvision.data.records.pieces import PieceIndex, pieces_of
from ringvision.errors import UserError
from ringvision.untrusted_files import parse_object

TEXT = "text"
MOST_PARTS = 1 << 23
"""Values in a line of JSON: a video of a million codes has so many."""
LOOKED_AT = 64
"""Records of a file whose fields say which there are."""


class WholeFiles:
    """Files of text, each of which is a record. UserError where one is too large for that."""

    fields = (TEXT,)

    def __init__(self, name: str, paths: Sequence[str]) -> None:
        self.name = name
        self._paths = paths
        for path in paths:
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise unreadable(path, error) from None
            if size > MOST_BYTES:
                raise UserError(
                    f"{path} has {size >> 20} MB, and a document at most {MOST_BYTES >> 20}; say what stands "
                    "between its documents (separator), or split it"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Mapping[str, Any]:
        """{"text": what is in the file}."""
        path = self._paths[index]
        try:
            with open(path, "rb") as file:
                return {TEXT: decoded(self.where(index), file.read(MOST_BYTES))}
        except OSError as error:
            raise unreadable(path, error) from None

    def where(self, index: int) -> str:
        """The file."""
        return self._paths[index]


class SeparatedText:
    """A file of text in which a separator stands between records. files: how many are opened like it."""

    fields = (TEXT,)

    def __init__(self, path: str, separator: str, files: int = 1) -> None:
        self.name = path
        self._pieces = pieces_of(path, separator.encode(), files)

    def __len__(self) -> int:
        return len(self._pieces)

    def read(self, index: int) -> Mapping[str, Any]:
        """{"text": what is between two separators}."""
        return {TEXT: decoded(self.where(index), _piece(self, self._pieces, index))}

    def where(self, index: int) -> str:
        """Its file and its number there, from 1."""
        return f"{self.name}, document {index + 1}"


class JsonLines:
    """A file of JSON, an object a line. files: how many are opened like it."""

    def __init__(self, path: str, files: int = 1) -> None:
        self.name = path
        self._lines = pieces_of(path, b"\n", files)

    @property
    def fields(self) -> tuple[str, ...]:
        """Those of the first records."""
        found = dict[str, None]()
        for index in range(min(len(self), LOOKED_AT)):
            try:
                found.update(dict.fromkeys(self.read(index)))
            except UserError:
                continue  # it will be named when it is its turn
        return tuple(found)

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int) -> Mapping[str, Any]:
        """The object on a line."""
        line = _piece(self, self._lines, index)
        try:
            return parse_object(line.removeprefix(b"\xef\xbb\xbf"), most_parts=MOST_PARTS)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{self.where(index)}: malformed JSON ({error.msg}, character {error.pos + 1}); write one "
                "object on one line"
            ) from None
        except UnicodeDecodeError as error:
            raise _not_utf8(self.where(index), error) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.where(index)}: {error}; write one object on one line") from None

    def where(self, index: int) -> str:
        """Its file and its number there, from 1; lines of white space do not count."""
        return f"{self.name}, record {index + 1}"


def decoded(where: str, data: bytes) -> str:
    """UTF-8 as text. UserError where it is none."""
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> UserError:
    return UserError(f"{where}: byte {error.start + 1} of it is not UTF-8; save the file as UTF-8")


def _piece(records: "SeparatedText | JsonLines", pieces: PieceIndex, index: int) -> bytes:
    try:
        return pieces.read(index)
    except UserError as error:
        raise UserError(f"{records.where(index)}: {error}") from None
