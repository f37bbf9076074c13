"""Synthetic videos for benchmarks and trials: a textured background that slides, with squares moving over it.

    python scripts/drawn_videos.py hour.mp4 --minutes 60

encodes one minute of 640x360 at 30 frames a second in H.264 and repeats its packets, with later time stamps,
for each minute. Decoding the file takes as long as for any hour of video; making it takes as long as for a
minute.
"""

import argparse
import os
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

SIZE = (640, 360)
RATE = 30
SPARE = 64
LONG = {"preset": "veryfast", "crf": "26", "threads": "2"}
"""x264's own default for key frames: one in 250."""


def pictures(frames: int, rate: int, size: tuple[int, int], seed: int) -> Iterator[np.ndarray]:
    """Renders the frames of a video.

    Args:
        frames: how many.
        rate: frames a second.
        size: width and height, in pixels.
        seed: of textures, colours and speeds.

    Returns:
        uint8 [height, width, 3], one after another.
    """
    from PIL import Image

    width, height = size
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, ((height + SPARE) // 8, (width + SPARE) // 8, 3), np.uint8)
    ground = np.asarray(
        Image.fromarray(coarse).resize((width + SPARE, height + SPARE), Image.Resampling.BICUBIC)
    )
    side = height // 5
    colours = random.integers(0, 256, (4, 3), np.uint8)
    speeds = random.uniform(0.3, 1.5, (5, 2))
    for index in range(frames):
        places = 0.5 + 0.5 * np.sin(speeds * (index / rate) + np.arange(5)[:, None])
        left, top = (places[4] * SPARE).astype(int)
        picture = ground[top : top + height, left : left + width].copy()
        for (x, y), colour in zip((places[:4] * (width - side, height - side)).astype(int), colours):
            picture[y : y + side, x : x + side] = colour
        yield picture


def write_clip(
    target: Path | BytesIO,
    codec: str,
    *,
    frames: int,
    rate: int,
    size: tuple[int, int],
    seed: int,
    options: dict[str, str] | None = None,
    container: str | None = None,
) -> None:
    """Encodes the frames of `pictures`.

    Args:
        target: a file, or a buffer in memory.
        codec: FFmpeg's name of the encoder.
        frames, rate, size, seed: see `pictures`.
        options: of the encoder.
        container: FFmpeg's name of the format, where the name of the file does not tell it.
    """
    import av

    output: Any = str(target) if isinstance(target, Path) else target
    scheduling = os.sched_getscheduler(0), os.sched_getparam(0)
    with av.open(output, "w", format=container, container_options={"fflags": "+bitexact"}) as file:
        stream: Any = file.add_stream(codec, rate=Fraction(rate), options={"threads": "1", **(options or {})})
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for picture in pictures(frames, rate, size, seed):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    os.sched_setscheduler(0, *scheduling)  # SVT-AV1 changes it: findings/svt_av1_realtime.sh


def write_long(path: Path, minutes: int, size: tuple[int, int] = SIZE, seconds: int = 60) -> None:
    """Writes an mp4 that repeats the same video. It is written to another name and then renamed.

    Args:
        path: the file.
        minutes: how often to repeat it.
        size: width and height, in pixels.
        seconds: the length of what is repeated.
    """
    import av

    encoded = BytesIO()
    write_clip(
        encoded, "libx264", frames=seconds * RATE, rate=RATE, size=size, seed=0, options=LONG, container="mp4"
    )
    encoded.seek(0)
    partial = path.with_suffix(".part.mp4")
    with av.open(encoded) as source, av.open(str(partial), "w", format="mp4") as file:
        stream = source.streams.video[0]
        copied = file.add_stream_from_template(stream)
        packets = [
            (bytes(p), p.pts, p.dts, p.duration, p.is_keyframe, p.time_base)
            for p in source.demux(stream)
            if p.size
        ]
        for turn in range(minutes):
            for content, shown, decoded, duration, key, base in packets:
                later = turn * round(seconds / base)
                packet = av.Packet(content)
                packet.pts = shown + later
                packet.dts = decoded + later
                packet.duration = duration
                packet.time_base = base
                packet.is_keyframe = key
                packet.stream = copied
                file.mux(packet)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=int, default=60)
    options = parser.parse_args()
    write_long(options.out, options.minutes)


if __name__ == "__main__":
    main()
