"""Originals and reconstructions as one film: pairs of frames in, an H.264 mp4 out that appears whole or not at all."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.errors import UserError

SHOWN_HEIGHT = 256
GAP = 8


@contextmanager
def film(out: str | os.PathLike[str], size: int, fps: float) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """A function that appends frames and what came back, both uint8 [T, size, size, 3], left and right, at `fps` frames a second.

    `out` is renamed into place when the block ends well, and left as it was when not. UserError where it cannot be written.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"--fps is {fps}; give the frames to read from each second of video, above 0")
    blank = np.zeros((size, size, 3), np.uint8)
    with _aside(Path(out)) as partial, _writer(partial, fps, side_by_side(blank, blank).shape[:2]) as write:

        def append(frames: np.ndarray, again: np.ndarray) -> None:
            for left, right in zip(frames, again):
                write(side_by_side(left, right))

        yield append


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two frames [S, S, 3] enlarged to whole pixels and put beside each other on white, with even sides as H.264 wants."""
    times = max(1, round(SHOWN_HEIGHT / left.shape[0]))
    left, right = (np.repeat(np.repeat(frame, times, 0), times, 1) for frame in (left, right))
    height, width = left.shape[0], 2 * left.shape[1] + GAP
    sheet = np.full((height + height % 2, width + width % 2, 3), 255, np.uint8)
    sheet[:height, : left.shape[1]] = left
    sheet[:height, left.shape[1] + GAP : width] = right
    return sheet


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A path to write to, renamed to `out` when all went well and removed when not."""
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of an .mp4 file to write")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out.absolute().parent} is not a folder; make it first, or write elsewhere")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        yield partial
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); give another place") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writer(path: Path, fps: float, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes frames of `shape` (height, width; even), one by one, for an H.264 mp4 of `fps` frames a second."""
    import av

    rate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.height, stream.width = shape
        stream.pix_fmt = "yuv420p"

        def write(frame: np.ndarray) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield write
        container.mux(stream.encode())
