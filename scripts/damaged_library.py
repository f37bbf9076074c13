"""A folder of small videos in several containers and codecs, one in five of them damaged, to try out what
reads videos.

    python scripts/damaged_library.py FOLDER --videos 300

The kinds of damage: cut short, bytes changed, empty, a text named like a video, frames of 8192x8192 (by a
changed header, or really encoded), and false counts of frames or durations. The same number of videos and
seed give the same bytes.
"""

import argparse
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from drawn_videos import write_clip

FAST = {"preset": "ultrafast", "crf": "28"}
LIVE = {"deadline": "realtime", "cpu-used": "-8", "b:v": "200k"}
"""Below 0: above it VP8 chooses its speed by the clock, so that a busy machine writes other bytes."""


@dataclass(frozen=True)
class Kind:
    suffix: str
    container: str
    codec: str
    options: dict[str, str]


MP4 = Kind("mp4", "mp4", "libx264", {**FAST, "bf": "2", "g": "30"})
MKV = Kind("mkv", "matroska", "libx264", {**FAST, "g": "250"})
WEBM = Kind("webm", "webm", "libvpx", LIVE)
AVI = Kind("avi", "avi", "mpeg4", {"bf": "0"})
KINDS = [
    MP4,
    MKV,
    WEBM,
    AVI,
    Kind("mov", "mov", "mpeg4", {"bf": "2"}),
    Kind("webm", "webm", "libvpx-vp9", LIVE),
    Kind(
        "mp4",
        "mp4",
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"},
    ),
    Kind("mkv", "matroska", "libsvtav1", {"preset": "12"}),
    Kind("ts", "mpegts", "mpeg2video", {}),
    Kind("avi", "avi", "mjpeg", {}),
]
"""The kinds of the whole videos, in turn."""
FORGED = [MP4, MP4, MKV, AVI]
"""The kinds of videos with a changed header, in turn."""
Random = np.random.Generator
SIDE = 8192
HUGE = 0x7FFFFFFF
os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 says errors only


def clip(kind: Kind, random: Random, size: tuple[int, int] | None = None) -> bytes:
    """A whole video of 1 to 10 seconds."""
    rate = int(random.choice([10, 12, 15]))
    seconds = float(random.uniform(1, 10))
    size = size or (int(random.integers(6, 12)) * 16, int(random.integers(4, 9)) * 16)
    encoded = BytesIO()
    settings = {
        "frames": max(1, round(seconds * rate)),
        "rate": rate,
        "size": size,
        "seed": int(random.integers(1 << 31)),
    }
    write_clip(encoded, kind.codec, options=kind.options, container=kind.container, **settings)
    return encoded.getvalue()


# Damages: the number of the video among those with this damage, a random generator -> suffix, bytes.


def cut_short(number: int, random: Random) -> tuple[str, bytes]:
    kind = KINDS[number % len(KINDS)]
    content = clip(kind, random)
    return kind.suffix, content[: int(len(content) * random.uniform(0.1, 0.9))]


def bytes_changed(number: int, random: Random) -> tuple[str, bytes]:
    kind = KINDS[number % len(KINDS)]
    content = np.frombuffer(clip(kind, random), np.uint8).copy()
    positions = random.integers(0, len(content), int(random.integers(1, 100)))
    content[positions] ^= random.integers(1, 256, len(positions), np.uint8)
    return kind.suffix, content.tobytes()


def empty(number: int, random: Random) -> tuple[str, bytes]:
    return "mp4", b""


def text(number: int, random: Random) -> tuple[str, bytes]:
    return "mp4", f"These are the minutes of meeting {number}.\n".encode() * int(random.integers(1, 1000))


def huge(number: int, random: Random) -> tuple[str, bytes]:
    """Frames of 8192x8192: really so in every third video, only by the header in the others."""
    if number % 3 == 0:
        encoded = BytesIO()
        frames = 1 + number // 3
        kind = [MP4, MKV][number // 3 % 2]
        options = {**FAST, "crf": "51"}
        write_clip(
            encoded,
            "libx264",
            frames=frames,
            rate=1,
            size=(SIDE, SIDE),
            seed=number,
            options=options,
            container=kind.container,
        )
        return kind.suffix, encoded.getvalue()
    kind = FORGED[number % len(FORGED)]
    content = clip(kind, random, size=(256, 256))
    if kind is MP4:
        return kind.suffix, changed(content, b"stsd", 44, struct.pack(">HH", SIDE, SIDE))  # of its one entry
    if kind is AVI:
        return kind.suffix, changed(content, b"strf", 12, struct.pack("<II", SIDE, SIDE))
    for name in (b"\xb0\x82\x01\x00", b"\xba\x82\x01\x00"):  # PixelWidth and PixelHeight, two bytes each
        content = changed(content, name, 2, struct.pack(">H", SIDE))
    return kind.suffix, content


def forged(number: int, random: Random) -> tuple[str, bytes]:
    """Headers that claim more frames, or a longer video, than there is."""
    kind = FORGED[number % len(FORGED)]
    content = clip(kind, random)
    if kind is MKV:
        return kind.suffix, changed(content, b"\x44\x89\x88", 3, struct.pack(">d", 1e12))
    if kind is AVI:
        return kind.suffix, changed(content, b"avih", 24, struct.pack("<I", HUGE))
    fields = [(b"stsz", 12), (b"mvhd", 20), (b"mdhd", 20)]
    name, behind = fields[number // 2 % len(fields)]
    return kind.suffix, changed(content, name, behind, struct.pack(">I", HUGE))


DAMAGES: dict[str, Callable[[int, Random], tuple[str, bytes]]] = {
    "cut short": cut_short,
    "bytes changed": bytes_changed,
    "empty": empty,
    "text": text,
    "8192x8192": huge,
    "forged counts": forged,
}


def changed(content: bytes, name: bytes, behind: int, value: bytes) -> bytes:
    """Overwrites some bytes of a file.

    Args:
        content: the file.
        name: bytes to look for.
        behind: how many bytes after the beginning of the first `name` to write.
        value: what to write.

    Returns:
        The changed file.
    """
    at = content.index(name) + behind
    return content[:at] + value + content[at + len(value) :]


def make_library(folder: Path, videos: int, seed: int = 0) -> dict[str, str]:
    """Writes the videos, unless they were written before. -> {name of a file: its damage, "" where it is
    whole}.
    """
    index = folder.with_name(f"{folder.name}.json")
    if index.exists():
        return json.loads(index.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    names = list(DAMAGES)
    library: dict[str, str] = {}
    for number in range(videos):
        random = np.random.default_rng([seed, number])
        damaged = int(np.random.default_rng([seed, number // 5]).integers(5))
        if number % 5 == damaged:
            turn = number // 5
            damage = names[turn % len(names)]
            suffix, content = DAMAGES[damage](turn // len(names), random)
        else:
            kind = KINDS[number % len(KINDS)]
            damage = ""
            suffix = kind.suffix
            content = clip(kind, random)
        name = f"video-{number:03d}.{suffix}"
        (folder / name).write_bytes(content)
        library[name] = damage
    partial = index.with_suffix(".part")
    partial.write_text(json.dumps(library, indent=1) + "\n")
    os.replace(partial, index)
    return library


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    library = make_library(options.folder, options.videos, options.seed)
    print(
        f"{len(library)} videos, {sum(damage != '' for damage in library.values())} of them "
        f"damaged, in {options.folder}"
    )


if __name__ == "__main__":
    main()
