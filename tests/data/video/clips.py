"""Little video files for tests, whose frame i is grey of brightness 20 + 2i, so that a decoded picture tells
which frame it is.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 30


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """SVT-AV1 gives the thread that opens it, where it is root's, the highest real-time priority
    (findings/svt_av1_realtime.sh): the tests would have it for good, and all processes that they start.
    """
    policy = os.sched_getscheduler(0)
    priority = os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def write_clip(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 90,
    rate: Fraction | int = FPS,
    milliseconds: list[int] | None = None,
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    size: tuple[int, int] = (96, 64),
    pictures: np.ndarray | None = None,
    pixels: str = "yuv420p",
    container: str | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """`size` is (width, height); `milliseconds` gives every frame a time stamp; `rotation` is for the display
    matrix, counter-clockwise.

    `options` are the encoder's, `muxer` the container's.
    """
    width, height = size
    opened = av.open(str(path), "w", format=container, container_options=muxer or {})
    with usual_scheduling(), opened as file:
        stream = file.add_stream(
            codec, rate=rate, options={"threads": "1", **(options or {"g": "30", "bf": "3"})}
        )
        stream.width = width
        stream.height = height
        stream.pix_fmt = pixels
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i in range(frames):
            picture = np.full((height, width, 3), 20 + 2 * i, np.uint8) if pictures is None else pictures[i]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if milliseconds is not None:
                frame.pts = milliseconds[i]
                frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def frame_numbers(pictures: np.ndarray) -> np.ndarray:
    """Which frames of a clip these are: uint8 [n, H, W, 3] -> int [n]."""
    return np.round((pictures.mean((1, 2, 3)) - 19.5) / 2 - 0.05).astype(int)


def numbered(count: int) -> np.ndarray:
    """Pictures uint8 [count, 64, 64, 3] of 16 black or white fields, the bits of each one's number."""
    bits = np.arange(count)[:, None] >> np.arange(16) & 1
    return np.repeat(
        40 + 160 * bits.reshape(count, 4, 4).repeat(16, 1).repeat(16, 2)[..., None], 3, -1
    ).astype(np.uint8)


def read_numbers(pictures: np.ndarray) -> np.ndarray:
    """What `numbered` wrote: uint8 [n, H, W, 3] -> int [n]."""
    count = pictures.shape[0]
    side = pictures.shape[1] // 4
    fields = pictures.reshape(count, 4, side, 4, side, 3).mean((2, 4, 5)).reshape(count, 16)
    return ((fields > 120) << np.arange(16)).sum(1)


def with_edit_list(clip: Path, path: Path, *, begin: int, milliseconds: int) -> Path:
    """A copy of an mp4 whose one edit shows `milliseconds` from `begin` (in the media's time scale), as
    `ffmpeg -ss -c copy` writes.
    """
    data = bytearray(clip.read_bytes())
    at = data.index(b"elst")
    data[at + 12 : at + 20] = struct.pack(">Ii", milliseconds, begin)
    path.write_bytes(data)
    return path
