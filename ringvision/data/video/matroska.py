"""The few elements of a Matroska or WebM file that must be known before a decoder sees it: the size of its
pictures, whether it names other files that are to be played with it (segment linking), and where it should
end.

Written by hand for security: a general parser builds the whole tree of elements and reads their contents,
however many a crafted file holds. Here only the heads of elements are read, MAX_ELEMENTS of them at most.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_ELEMENTS = 20_000
SEGMENT = 0x18538067
INFO = 0x1549A966
TRACKS = 0x1654AE6B
CHAPTERS = 0x1043A770
NESTING = {
    INFO,
    TRACKS,
    CHAPTERS,
    0xAE,  # TrackEntry
    0xE0,  # Video
    0x45B9,  # EditionEntry
    0xB6,  # ChapterAtom
}
"""Elements whose children are looked at, too."""
PIXEL_WIDTH = 0xB0
PIXEL_HEIGHT = 0xBA
LINKS = {
    0x3CB923: "the file before it",
    0x3C83AB: "the file before it",
    0x3EB923: "the file after it",
    0x3E83BB: "the file after it",
}
LINKS[0x6E67] = "the file of a chapter"
Element = tuple[int, int, int]  # kind, first byte of its content, end


@dataclass(frozen=True)
class MatroskaHeader:
    """width, height: of the largest picture of any track. links: what other file it names, "" for none. ends:
    the byte where its Segment ends (None where the file does not say).
    """

    width: int = 0
    height: int = 0
    links: str = ""
    ends: int | None = None


def matroska_header(path: str | os.PathLike[str]) -> MatroskaHeader:
    """The header of the file at `path`, as far as its elements can be followed."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = next(_elements(file, 0, size), None)
        segment = next(_elements(file, first[2], size), None) if first else None
        if segment is None or segment[0] != SEGMENT:
            return MatroskaHeader()
        _, start, end = segment
        width = height = 0
        links = ""
        for kind, inside, stop in _walk(file, start, min(end, size)):
            if kind in (PIXEL_WIDTH, PIXEL_HEIGHT):
                file.seek(inside)
                value = int.from_bytes(file.read(min(8, stop - inside)), "big")
                if kind == PIXEL_WIDTH:
                    width = max(width, value)
                else:
                    height = max(height, value)
            elif kind in LINKS:
                links = links or LINKS[kind]
        return MatroskaHeader(width, height, links, None if end > 1 << 60 else end)


def _walk(file: BinaryIO, start: int, end: int) -> Iterator[Element]:
    """The elements between two bytes, and those inside elements of NESTING; MAX_ELEMENTS at most."""
    waiting = [(start, end)]
    left = MAX_ELEMENTS
    while waiting:
        for kind, inside, stop in _elements(file, *waiting.pop()):
            left -= 1
            if left < 0:
                return
            yield kind, inside, stop
            if kind in NESTING:
                waiting.append((inside, min(stop, end)))


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[Element]:
    """The elements between two bytes, without their children. An element of unknown size ends at 1 << 62, so
    that it is the last one.
    """
    while start < end:
        file.seek(start)
        head = file.read(12)
        kind_length = 9 - head[0].bit_length() if head and head[0] else 9
        if kind_length > 4 or len(head) <= kind_length or not head[kind_length]:
            return
        length = 9 - head[kind_length].bit_length()
        inside = start + kind_length + length
        if len(head) < kind_length + length:
            return
        value = int.from_bytes(head[kind_length : kind_length + length], "big") & ((1 << 7 * length) - 1)
        stop = 1 << 62 if value == (1 << 7 * length) - 1 else inside + value
        yield int.from_bytes(head[:kind_length], "big"), inside, stop
        start = stop
