"""A scene -> H.264 in MP4, written by PyAV to a file, or to memory and read back."""

import io
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.world.draw import render
from ringvision.data.world.scene import Scene


def write_video(
    scene: Scene, path: str | os.PathLike[str], *, fps: int = 8, size: int = 128, crf: int = 20
) -> None:
    """Renders a scene into an H.264 file.

    Args:
        scene: the scene.
        path: the file to write.
        fps: frames a second.
        size: side of a frame in pixels, even.
        crf: x264's constant rate factor; larger means smaller files of lower quality.
    """
    _encode(scene, str(Path(path)), fps, size, crf)


def encoded_frames(scene: Scene, *, size: int = 64, video_size: int = 128, crf: int = 20) -> np.ndarray:
    """The frames that `data/video` would read from the scene's H.264 file, one a second. Nothing is written
    to disk; training sets are made this way.

    Args:
        scene: the scene.
        size: side of a frame of the result, in pixels.
        video_size: side of a frame of the video, in pixels; a multiple of `size`. Frames are averaged down.
        crf: x264's constant rate factor.

    Returns:
        uint8 [int(scene.duration), size, size, 3].
    """
    import av

    encoded = io.BytesIO()
    _encode(scene, encoded, 1, video_size, crf)
    encoded.seek(0)
    step = video_size // size
    frames = []
    with av.open(encoded, "r") as container:
        for decoded in container.decode(video=0):
            frames.append(_averaged(decoded.to_ndarray(format="rgb24"), step))
    return np.stack(frames)


def _averaged(pixels: np.ndarray, step: int) -> np.ndarray:
    """uint8 [S, S, 3] -> uint8 [S/step, S/step, 3]: the means of squares of `step` by `step`, rounded, halves
    up.
    """
    total = np.zeros((len(pixels) // step, len(pixels) // step, 3), np.uint32)
    for row in range(step):
        for column in range(step):
            total += pixels[row::step, column::step]
    count = step * step
    return ((2 * total + count) // (2 * count)).astype(np.uint8)


def _encode(scene: Scene, target: Any, fps: int, size: int, crf: int) -> None:
    import av

    times = np.arange(round(scene.duration * fps)) / fps
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps), options={"crf": str(crf), "preset": "veryfast", "threads": "1"}
        )
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for time in times:
            (picture,) = render(scene, [time], size)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
