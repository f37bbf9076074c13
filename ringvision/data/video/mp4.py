"""The few boxes of an MP4 or MOV file that must be known before a decoder sees it: where the file should end
(a download that was cut short lacks its tail), whether it keeps its pictures in other files, whether an edit
list hides frames (decord then gives the wrong ones), and how the picture is rotated.

Written by hand for security: a general parser loads whole tables, however large a crafted file says they are.
Here only headers are read, MAX_BOXES of them at most.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_BOXES = 50_000
MOST_REFERENCES = 4096
NESTING = {
    b"moov",
    b"trak",
    b"mdia",
    b"minf",
    b"dinf",
    b"edts",
    b"stbl",
    b"udta",
    b"tref",
    b"mvex",
    b"sinf",
    b"wave",
}
Box = tuple[bytes, int, int]  # kind, first byte of its content, end


@dataclass(frozen=True)
class Track:
    """The first video track. rotation: in degrees. hides_frames: whether its edit list does more than begin
    at the first picture. samples: its number of frames. duration: in seconds.
    """

    width: int = 0
    height: int = 0
    rotation: int = 0
    hides_frames: bool = False
    samples: int = 0
    duration: float = 0.0


def top_level_end(path: str | os.PathLike[str], size: int) -> int | None:
    """The byte where the last box says that it ends: more than `size`, the length of the file, where the file
    is cut short. None where there is no box.
    """
    end = 0
    with open(path, "rb") as file:
        for _, _, box_end in _boxes(file, 0, size):
            end = box_end
    return end or None


def find_fault(path: str | os.PathLike[str], size: int) -> tuple[str, str] | None:
    """-> (what is wrong, kind of VideoError) for a file that refers to others, or whose tables do not fit
    into it; else None.

    A decoder finds a box by its name wherever it lies, so this looks into every box that may hold others.
    """
    with open(path, "rb") as file:
        known = False
        for count, (kind, start, end) in enumerate(_all_boxes(file, size)):
            known |= kind == b"moov"
            if kind in (b"rmra", b"rmda"):
                return "it refers to other files, where the video is", "refused"
            if kind == b"cmov":
                return "its header is compressed, so that nobody sees what files it refers to", "refused"
            if kind == b"dref" and _leads_outside(_read(file, (start, end), MOST_REFERENCES + 1)):
                return "it keeps its pictures or sound in other files", "refused"
            if kind == b"stsz":
                table = _read(file, (start, end), 12)
                if _number(table, 8, 4) * (_number(table, 4, 4) or 4) > size:
                    return (
                        f"its header tells of {_number(table, 8, 4)} samples, which do not fit into it",
                        "damaged",
                    )
            if count == MAX_BOXES - 1:
                return None if known else (f"its header does not come within {MAX_BOXES} pieces", "damaged")
    return None


def _all_boxes(file: BinaryIO, size: int) -> Iterator[Box]:
    """Every box of the file, each followed by those in it."""
    levels = [_boxes(file, 0, size)]
    while levels:
        box = next(levels[-1], None)
        if box is None:
            levels.pop()
            continue
        yield box
        if box[0] in NESTING:
            levels.append(_boxes(file, box[1], min(box[2], size)))


def _leads_outside(table: bytes) -> bool:
    """Whether an entry of a data reference box names anything: an entry that means the file itself has a flag
    and nothing else.
    """
    if len(table) > MOST_REFERENCES:
        return True
    at = 8
    for _ in range(_number(table, 4, 4)):
        size = _number(table, at, 4)
        if any(table[at + 12 : at + size]):
            return True
        if size < 12 or at + size > len(table):
            return False
        at += size
    return False


def video_track(path: str | os.PathLike[str]) -> Track | None:
    """The header of the first video track; None where there is no `moov` or no video track."""
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
    a, b, _, c, d = (
        int.from_bytes(header[at + 4 * i : at + 4 * i + 4], "big", signed=True) for i in range(5)
    )
    turned = {(0, 1): 90, (-1, 0): 180, (0, -1): 270}
    rotation = turned.get(((a > 0) - (a < 0), (b > 0) - (b < 0)), 0) if a == d and b == -c else 0
    entry = _read(file, _find(file, table, b"stsd"), 64) if table else b""
    samples = _number(_read(file, _find(file, table, b"stsz"), 12) if table else b"", 8, 4)
    scale, length = _media_length(file, track)
    hides = _hides_frames(file, track, table, movie_scale)
    return Track(
        _number(entry, 40, 2),
        _number(entry, 42, 2),
        rotation,
        hides,
        samples,
        length / scale if scale else 0.0,
    )


def _media_length(file: BinaryIO, track: tuple[int, int]) -> tuple[int, int]:
    """-> ticks a second, and how many of them the track lasts (0 where the header says "not known", by all
    ones).
    """
    media = _read(file, _find(file, track, b"mdia", b"mdhd"))
    wide = media[:1] == b"\x01"
    length = _number(media, 24 if wide else 16, 8 if wide else 4)
    return _number(media, 20 if wide else 12, 4), 0 if length == (1 << (64 if wide else 32)) - 1 else length


def _hides_frames(
    file: BinaryIO, track: tuple[int, int], table: tuple[int, int] | None, movie_scale: int
) -> bool:
    """Whether the track's edit list does more than begin at the first frame that is shown."""
    edits = _read(file, _find(file, track, b"edts", b"elst"), 1 << 12)
    if not edits:
        return False
    wide = edits[0] == 1
    if _number(edits, 4, 4) != 1:
        return True
    shown = _number(edits, 8, 8 if wide else 4)
    begin = int.from_bytes(edits[16:24] if wide else edits[12:16], "big", signed=True)
    scale, length = _media_length(file, track)
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
    """The boxes from `start` to `end`, without those inside them. The end of the last one is what it says,
    even beyond `end`.
    """
    for _ in range(MAX_BOXES):
        if end - start < 8:
            return
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size = int.from_bytes(head[:4], "big")
        inside = start + 8
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
            inside = start + 16
        elif size == 0:
            size = end - start
        if size < inside - start:
            return
        yield head[4:8], inside, start + size
        start += size


def _find(file: BinaryIO, within: tuple[int, int] | None, *kinds: bytes) -> tuple[int, int] | None:
    """-> start and end of the content of the first box of kind kinds[0], in that of kinds[1], and so on; None
    where one is not there.
    """
    for kind in kinds:
        if within is None:
            return None
        within = next(((start, end) for found, start, end in _boxes(file, *within) if found == kind), None)
    return within


def _read(file: BinaryIO, box: tuple[int, int] | None, most: int = 128) -> bytes:
    """The first `most` bytes of a box's content."""
    if box is None:
        return b""
    file.seek(box[0])
    return file.read(min(most, box[1] - box[0]))


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
