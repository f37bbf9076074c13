"""A scene as a real video file: H.264 in MP4, written through PyAV."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from ringvision.data.world.draw import render
from ringvision.data.world.scene import Scene


def write_video(scene: Scene, path: str | os.PathLike[str], *, fps: int = 8, size: int = 128, crf: int = 20) -> None:
    """Renders `scene` at `fps` frames a second and `size` x `size` pixels (even) into an H.264 file at `path`."""
    import av

    times = np.arange(int(round(scene.duration * fps))) / fps
    with av.open(str(Path(path)), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(crf), "preset": "veryfast", "threads": "1"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in render(scene, times, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
