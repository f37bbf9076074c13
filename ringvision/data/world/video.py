"""A scene as a real video: H.264 in MP4, written through PyAV, to a file or to memory and back."""

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
    """Renders `scene` at `fps` frames a second and `size` x `size` pixels (even) into an H.264 file at
    `path`.
    """
    _encode(scene, str(Path(path)), fps, size, crf)


def encoded_frames(scene: Scene, *, size: int = 64, film_size: int = 128, crf: int = 20) -> np.ndarray:
    """What a reader of the scene's video sees once a second: uint8 [int(duration), size, size, 3].

    The frames go through H.264 in memory at `film_size` (a multiple of `size`) and are averaged down, as
    `data/video` would read them from a file; training sets are made this way, without a file for each video.
    """
    import av

    held = io.BytesIO()
    _encode(scene, held, 1, film_size, crf)
    held.seek(0)
    step = film_size // size
    with av.open(held, "r") as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    means = pictures.reshape(len(pictures), size, step, size, step, 3).mean((2, 4), dtype=np.float32)
    return (means + 0.5).astype(np.uint8)


def _encode(scene: Scene, target: Any, fps: int, size: int, crf: int) -> None:
    import av

    times = np.arange(round(scene.duration * fps)) / fps
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps), options={"crf": str(crf), "preset": "veryfast", "threads": "1"}
        )
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in render(scene, times, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
