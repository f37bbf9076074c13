"""What kind of file this is, told by its first bytes and never by its name.

A path goes in; the name of the one FFmpeg demuxer that may read it comes out. Playlists, session descriptions and concat
scripts (which would make FFmpeg open other files or the network) have none, and are refused here, as are files whose own
header says that they end later than they do.
"""

import os
import stat
from pathlib import Path

from ringvision.data.video.info import VideoError
from ringvision.data.video.mp4 import top_level_end

QUICKTIME_FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"<smil", b"[playlist]", b"v=0", b"[Reference]", b"RTSPtext", b"SMIL")
OTHERS = {
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"ID3": "sound (MP3)",
    b"fLaC": "sound (FLAC)",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"#!": "a script",
}
ACCEPTED = "MP4, MOV, MKV, WebM, AVI, MPEG-TS, MPEG, FLV, Ogg, ASF/WMV or GIF"


def identify(path: str | os.PathLike[str]) -> str:
    """FFmpeg's name of the demuxer for the video at `path`; VideoError where it is no whole video file."""
    name = Path(path).name or str(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise VideoError(f"{path}: {(error.strerror or str(error)).lower()}; give the path of a video file", "missing") from None
    except ValueError:
        raise VideoError(f"{path!r} is not a path; give the path of a video file", "missing") from None
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{name} is a folder; give a video file", "not-video")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{name} is not an ordinary file; copy the video to a file first", "not-video")
    if status.st_size == 0:
        raise VideoError(f"{name} is empty (0 bytes); copy or download it again", "empty")
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise VideoError(f"{name} cannot be read: {error.strerror}; check its permissions", "missing") from None
    demuxer = _demuxer(head)
    if demuxer is None:
        raise _refusal(name, head)
    if demuxer == "mov":
        announced = top_level_end(path, status.st_size)
    else:
        announced = _announced(demuxer, head)
    if announced is not None and announced > status.st_size:
        raise VideoError(
            f"{name} is cut short: its header announces {announced} bytes and it has {status.st_size}; copy or download it again",
            "truncated",
        )
    return demuxer


def _demuxer(head: bytes) -> str | None:
    if head[4:8] in QUICKTIME_FIRST:
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(ASF):
        return "asf"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    for start, packet in ((0, 188), (4, 192)):
        sync = head[start::packet]
        if len(sync) >= 2 and set(sync) == {0x47}:
            return "mpegts"
    return None


def _announced(demuxer: str, head: bytes) -> int | None:
    """Where the header says the file ends, in bytes; None where it does not say."""
    if demuxer == "avi":
        return 8 + int.from_bytes(head[4:8], "little") if head[12:16] == b"LIST" else None
    if demuxer == "matroska":
        return _segment_end(head)
    return None


def _segment_end(head: bytes) -> int | None:
    """The end of Matroska's one Segment, which follows the EBML header; None when its size is unknown (a live recording)."""
    at, size = _ebml_size(head, 4)
    if size is None or head[at + size : at + size + 4] != b"\x18S\x80g":
        return None
    start, size = _ebml_size(head, at + size + 4)
    return None if size is None else start + size


def _ebml_size(head: bytes, at: int) -> tuple[int, int | None]:
    """A variable-length size at `at`: the offset after it, and its value (None for 'unknown')."""
    if at >= len(head) or head[at] == 0:
        return at, None
    length = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    return at + length, None if value == (1 << 7 * length) - 1 else value


def _refusal(name: str, head: bytes) -> VideoError:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(PLAYLISTS) or b"#EXTM3U" in text[:64]:
        return VideoError(f"{name} is a playlist or a stream description, which names other files; give the video file itself", "refused")
    found = next((what for magic, what in OTHERS.items() if head.startswith(magic)), None)
    if found is None and head[:4] == b"RIFF":
        found = "sound (WAV)" if head[8:12] == b"WAVE" else None
    if found is None and not any(head):
        found = "zeros"
    if found is None:
        try:
            head[:512].decode("ascii")
            found = "text"
        except UnicodeDecodeError:
            pass
    what = f"it holds {found}" if found else "its first bytes belong to no video format that is read here"
    return VideoError(f"{name} is not a video: {what}; give {ACCEPTED}", "not-video")
