"""The header list of an AVI file: how large its pictures are, and whether a track of it can name other files.

Of an AVI's subtitle tracks FFmpeg takes the content for a file of its own and guesses what it is, so that a
playlist in one would be followed; there is no honest use of them here.
"""

import os

MOST_BYTES = 1 << 16


def avi_header(path: str | os.PathLike[str]) -> tuple[int, int, bool]:
    """Width and height of the largest picture of any track (0, 0 where none is found), and whether there is a
    subtitle track.
    """
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES)
    width = height = 0
    subtitles = False
    kind = b""
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
            kind = body[:4]
            subtitles |= kind == b"txts"
        elif name == b"avih":
            width = max(width, _side(body, 32))
            height = max(height, _side(body, 36))
        elif name == b"strf" and kind == b"vids":
            width = max(width, _side(body, 4))
            height = max(height, _side(body, 8))
        at += 8 + size + size % 2
    return width, height, subtitles


def _side(body: bytes, at: int) -> int:
    """A picture that is stored upside down has a negative height."""
    return abs(int.from_bytes(body[at : at + 4], "little", signed=True))
