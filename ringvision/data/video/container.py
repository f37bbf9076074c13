"""The kind of a video file, told by its first bytes and never by its name.

In: a path. Out: the name of the one FFmpeg demuxer that may read it. Refused are: playlists, session
descriptions and concat scripts, which would make FFmpeg open other files or the network; videos that refer to
other files; and files that are shorter than their own header says. `refuse_large` checks a header against the
limits. All of this reads a few short pieces of the file and starts no process.

Written by hand for security: libraries that guess a file's kind (libmagic, FFmpeg's own probing) name a
plausible kind for almost anything. decord guesses again by itself, so a file must not look like two kinds:
where FFmpeg's test of the first bytes would not be sure, this one refuses.
"""

import os
import stat
from pathlib import Path

from ringvision.data.video.avi import avi_header
from ringvision.data.video.info import Limits, VideoError, VideoInfo
from ringvision.data.video.matroska import matroska_header
from ringvision.data.video.mp4 import find_fault, top_level_end, video_track

QUICKTIME_FIRST = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
PLAYLISTS = (
    b"#EXTM3U",
    b"ffconcat",
    b"<?xml",
    b"<MPD",
    b"<smil",
    b"[playlist]",
    b"v=0",
    b"[Reference]",
    b"RTSPtext",
    b"SMIL",
    b"file ",
)
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
    """-> FFmpeg's name of the demuxer for the video at `path`. VideoError where it is no whole video file."""
    name = Path(path).name or str(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise VideoError(
            f"{path}: {(error.strerror or str(error)).lower()}; give the path of a video file", "missing"
        ) from None
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
        raise VideoError(
            f"{name} cannot be read: {error.strerror}; check its permissions", "missing"
        ) from None
    is_text = all(8 < byte < 127 for byte in head[:188])  # no video, whatever the text begins with
    demuxer = None if is_text else _demuxer(head)
    if demuxer is None:
        raise _refusal(name, head)
    announced = _announced_size(path, name, demuxer, head, status.st_size)
    if announced is not None and announced > status.st_size:
        raise VideoError(
            f"{name} is cut short: its header announces {announced} bytes and it has "
            f"{status.st_size}; copy or download it again",
            "truncated",
        )
    return demuxer


def _demuxer(head: bytes) -> str | None:
    if head[4:8] in QUICKTIME_FIRST and (head[4:8] != b"skip" or head[0] == 0):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3") and (b"webm" in head[:64] or b"matroska" in head[:64]):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"FLV\x01") and head[5:6] == b"\0":
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


def _announced_size(
    path: str | os.PathLike[str], name: str, demuxer: str, head: bytes, size: int
) -> int | None:
    """The size of the file in bytes as its header says; None where it does not say. VideoError where the file
    refers to others, or its tables do not fit into it.
    """
    wrong: tuple[str, str] | None = None
    announced = None
    if demuxer == "mov":
        announced = top_level_end(path, size)
        wrong = find_fault(path, size)
    elif demuxer == "matroska":
        header = matroska_header(path)
        announced = header.ends
        wrong = (f"it is to be played with {header.links}", "refused") if header.links else None
    elif demuxer == "avi":
        announced = 8 + int.from_bytes(head[4:8], "little") if head[12:16] == b"LIST" else None
        wrong = (
            ("it has subtitles, which in an AVI can lead to other files", "refused")
            if avi_header(path)[2]
            else None
        )
    if wrong is not None:
        raise VideoError(
            f"{name} is not read: {wrong[0]}; write it anew as one file (ffmpeg -i IN -map 0:v -c "
            "copy OUT.mkv) first",
            wrong[1],
        )
    return announced


def refuse_large(path: str | os.PathLike[str], demuxer: str, limits: Limits) -> None:
    """VideoError where the header says that the file is over `limits`. demuxer: what `identify` gave."""
    width = height = frames = 0
    duration = 0.0
    if demuxer == "mov" and (track := video_track(path)) is not None:
        width = track.width
        height = track.height
        frames = track.samples
        duration = track.duration
    elif demuxer == "matroska":
        header = matroska_header(path)
        width = header.width
        height = header.height
    elif demuxer == "avi":
        width, height, _ = avi_header(path)
    elif demuxer == "gif":
        with open(path, "rb") as file:
            head = file.read(10)
        width = int.from_bytes(head[6:8], "little")
        height = int.from_bytes(head[8:10], "little")
    limits.check(Path(path).name, VideoInfo(str(path), width, height, frames, duration, 0.0, 0, "", demuxer))


def _refusal(name: str, head: bytes) -> VideoError:
    text = head.replace(b"\0", b"").lstrip(
        b"\xef\xbb\xbf\xff\xfe \t\r\n\v\f"
    )  # UTF-16 is ASCII between zeros
    if text.startswith(PLAYLISTS) or any(
        mark in text for mark in (b"#EXTM3U", b"#EXTINF", b"ffconcat version", b"<MPD", b"c=IN IP")
    ):
        return VideoError(
            f"{name} is a playlist or a stream description, which names other files; give the "
            "video file itself",
            "refused",
        )
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
