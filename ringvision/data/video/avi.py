"""The header list of an AVI file: the size of its pictures, and whether it has a subtitle track.

FFmpeg opens the content of an AVI's subtitle track as a file of its own and guesses its format, so that it
would follow a playlist hidden there. Files with such tracks are therefore refused (container.py).

Written by hand for security: it runs before any decoder sees the file, reads MOST_BYTES of it at most, and
follows no offset that the file names.
"""

import os

MOST_BYTES = 1 << 16


def avi_header(path: str | os.PathLike[str]) -> tuple[int, int, bool]:
    """-> width and height of the largest picture of any track (0, 0 where none is found), and whether there
    is a subtitle track.
    """
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES)
    width = height = 0
    subtitles = False
    track_type = b""
    at = 12
    while at + 8 <= len(data):
        name = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + size]
        if name == b"LIST":
            if body[:4] == b"movi":
                break
            at += 12
            continue
        if name == b"strh":
            track_type = body[:4]
            subtitles |= track_type == b"txts"
        elif name == b"avih":
            width = max(width, _side(body, 32))
            height = max(height, _side(body, 36))
        elif name == b"strf" and track_type == b"vids":
            width = max(width, _side(body, 4))
            height = max(height, _side(body, 8))
        at += 8 + size + size % 2
    return width, height, subtitles


def _side(body: bytes, at: int) -> int:
    """A width or height; the height is negative where the picture is stored upside down."""
    return abs(int.from_bytes(body[at : at + 4], "little", signed=True))
