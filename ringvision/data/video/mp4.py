"""The few boxes of an MP4 or MOV file that must be known before a decoder sees it.

Where the file should end (a download cut short lacks its tail), whether an edit list hides frames (decord then gives the
wrong ones), and how the picture is turned. Only headers are read; a crafted file costs at most MAX_BOXES short reads.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_BOXES = 50_000
Box = tuple[bytes, int, int]


@dataclass(frozen=True)
class Track:
    """The first video track: `hides_frames` when its edit list does more than start at the first picture."""

    width: int = 0
    height: int = 0
    rotation: int = 0
    hides_frames: bool = False


def top_level_end(path: str | os.PathLike[str], size: int) -> int | None:
    """The byte where the last box ends, by its own word (more than `size` where the file is cut short); None if unclear."""
    end = 0
    with open(path, "rb") as file:
        for _, _, box_end in _boxes(file, 0, size):
            end = box_end
    return end or None


def video_track(path: str | os.PathLike[str]) -> Track | None:
    """What the first video track says; None where there is no `moov` or no video track."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        movie = _find(file, (0, size), b"moov")
        if movie is None:
            return None
        header = _read(file, _find(file, movie, b"mvhd"))
        movie_scale = _number(header, 20 if header[:1] == b"\x01" else 12, 4)
        for kind, start, end in _boxes(file, *movie):
            if kind == b"trak" and _is_video(file, (start, end)):
                return _track(file, (start, end), movie_scale)
    return None


def _is_video(file: BinaryIO, track: tuple[int, int]) -> bool:
    return _read(file, _find(file, track, b"mdia", b"hdlr"))[8:12] == b"vide"


def _track(file: BinaryIO, track: tuple[int, int], movie_scale: int) -> Track:
    table = _find(file, track, b"mdia", b"minf", b"stbl")
    header = _read(file, _find(file, track, b"tkhd"))
    at = 52 if header[:1] == b"\x01" else 40
    a, b, _, c, d = (int.from_bytes(header[at + 4 * i : at + 4 * i + 4], "big", signed=True) for i in range(5))
    turned = {(0, 1): 90, (-1, 0): 180, (0, -1): 270}
    rotation = turned.get(((a > 0) - (a < 0), (b > 0) - (b < 0)), 0) if a == d and b == -c else 0
    entry = _read(file, _find(file, table, b"stsd"), 64) if table else b""
    return Track(_number(entry, 40, 2), _number(entry, 42, 2), rotation, _hides_frames(file, track, table, movie_scale))


def _hides_frames(file: BinaryIO, track: tuple[int, int], table: tuple[int, int] | None, movie_scale: int) -> bool:
    edits = _read(file, _find(file, track, b"edts", b"elst"), 1 << 12)
    if not edits:
        return False
    wide = edits[0] == 1
    if _number(edits, 4, 4) != 1:
        return True
    shown = _number(edits, 8, 8 if wide else 4)
    begin = int.from_bytes(edits[16:24] if wide else edits[12:16], "big", signed=True)
    media = _read(file, _find(file, track, b"mdia", b"mdhd"))
    at = 20 if media[:1] == b"\x01" else 12
    scale, length = _number(media, at, 4), _number(media, at + 4, 8 if media[:1] == b"\x01" else 4)
    offsets = _read(file, _find(file, table, b"ctts"), 16) if table else b""
    first_shown = int.from_bytes(offsets[12:16], "big", signed=True) if offsets else 0
    samples = _number(_read(file, _find(file, table, b"stsz"), 12) if table else b"", 8, 4)
    if begin < 0 or begin > max(first_shown, 0):
        return True
    if not (shown and scale and movie_scale and samples):
        return False
    lost = (length - begin) / scale - shown / movie_scale
    return lost > 1.5 * length / scale / samples


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """(kind, start of what is inside, end) of the boxes from `start` to `end`, the last one's end as it says, however far."""
    for _ in range(MAX_BOXES):
        if end - start < 8:
            return
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size, inside = int.from_bytes(head[:4], "big"), start + 8
        if size == 1 and len(head) == 16:
            size, inside = int.from_bytes(head[8:], "big"), start + 16
        elif size == 0:
            size = end - start
        if size < inside - start:
            return
        yield head[4:8], inside, start + size
        start += size


def _find(file: BinaryIO, within: tuple[int, int] | None, *kinds: bytes) -> tuple[int, int] | None:
    """Start and end of the first box of kinds[0], in it kinds[1], and so on."""
    for kind in kinds:
        if within is None:
            return None
        within = next(((start, end) for found, start, end in _boxes(file, *within) if found == kind), None)
    return within


def _read(file: BinaryIO, box: tuple[int, int] | None, most: int = 128) -> bytes:
    if box is None:
        return b""
    file.seek(box[0])
    return file.read(min(most, box[1] - box[0]))


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
