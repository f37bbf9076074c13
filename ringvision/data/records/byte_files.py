"""A file's bytes from any place on, in blocks: of a plain file, and of what a gzip file unpacks to.

    PlainFile(path).blocks(offset), GzipFile(path).blocks(offset)  ->  bytes, bytes, ... up to the end

gzip can only be unpacked from its beginning. GzipFile keeps copies of the unpacker, 40 KB each, at places
that lie some way apart, and goes on from the last one before `offset`. No unpacked copy is needed.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ringvision.errors import UserError

FIRST_BLOCK = 1 << 14
LARGEST_BLOCK = 1 << 22
APART = 1 << 19
"""Bytes of the unpacked file between two marks, doubled whenever there are too many of them."""
MOST_MARKS = 1 << 13
"""Of all files of a source together."""
LEAST_MARKS = 16


class ByteFile(Protocol):
    """A file that can be read from any place on."""

    path: str

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """Its bytes from `offset` on, in blocks that become larger; UserError where it cannot be read."""


class PlainFile:
    """A file as it is."""

    def __init__(self, path: str) -> None:
        self.path = path

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """Its bytes from `offset` on."""
        size = FIRST_BLOCK
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                while block := file.read(size):
                    yield block
                    size = min(2 * size, LARGEST_BLOCK)
        except OSError as error:
            raise unreadable(self.path, error) from None


@dataclass(frozen=True)
class _Mark:
    """A place to go on from: `start` of the unpacked file, `packed` of the file, and the unpacker there."""

    start: int
    packed: int
    unpacker: Any


class GzipFile:
    """What a gzip file, of one member or several, unpacks to."""

    def __init__(self, path: str, most_marks: int = MOST_MARKS) -> None:
        self.path = path
        self._most_marks = most_marks
        self._marks = [_Mark(0, 0, _unpacker())]
        self._apart = APART

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """The unpacked bytes from `offset` on. UserError where the file is damaged or cut short."""
        mark = next(mark for mark in reversed(self._marks) if mark.start <= offset)
        skip = offset - mark.start
        try:
            with open(self.path, "rb", buffering=0) as file:
                for block in self._unpacked(file, mark):
                    if skip < len(block):
                        yield block[skip:] if skip else block
                    skip = max(0, skip - len(block))
        except zlib.error as error:
            raise UserError(f"{self.path} is no gzip file, or damaged ({error}); write it again") from None
        except OSError as error:
            raise unreadable(self.path, error) from None

    def _unpacked(self, file: Any, mark: _Mark) -> Iterator[bytes]:
        unpacker = mark.unpacker.copy()
        start = mark.start
        packed = mark.packed
        begun = packed > 0
        file.seek(packed)
        while block := file.read(FIRST_BLOCK):
            packed += len(block)
            while block:
                if unpacker.eof:
                    block = block.lstrip(b"\0")  # padding is allowed after a member
                    if not block:
                        break
                    unpacker = _unpacker()
                begun = True
                unpacked = unpacker.decompress(block, LARGEST_BLOCK)
                block = unpacker.unconsumed_tail or unpacker.unused_data
                start += len(unpacked)
                if unpacked:
                    yield unpacked
            self._mark(start, packed, unpacker)
        if begun and not unpacker.eof:
            raise UserError(f"{self.path} is cut short: a gzip member has no end; write it again")

    def _mark(self, start: int, packed: int, unpacker: Any) -> None:
        """Remember this place where it is far enough beyond the last one."""
        if start < self._marks[-1].start + self._apart or unpacker.eof:
            return
        self._marks.append(_Mark(start, packed, unpacker.copy()))
        if len(self._marks) > self._most_marks:
            self._marks = self._marks[::2]
            self._apart *= 2


def open_bytes(path: str, files: int = 1) -> ByteFile:
    """A file by the ending of its name. files: how many there are that are open like this one."""
    if not path.lower().endswith(".gz"):
        return PlainFile(path)
    return GzipFile(path, max(LEAST_MARKS, MOST_MARKS // files))


def unreadable(path: str, error: OSError) -> UserError:
    """What is said of a file that cannot be read."""
    reason = (error.strerror or str(error)).lower()
    hint = "check its name and its permissions" if os.path.exists(path) else "check its name"
    return UserError(f"{path} cannot be read ({reason}); {hint}")


def _unpacker() -> Any:
    return zlib.decompressobj(wbits=31)  # 31: with gzip's header and checksum
