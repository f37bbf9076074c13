"""Originals and reconstructions as one video: pairs of frames in, an H.264 mp4 out, which appears whole or
not at all.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ringvision.data.video.writer import video_writer
from ringvision.errors import UserError

SHOWN_HEIGHT = 256
GAP = 8


@contextmanager
def comparison_writer(
    out: str | os.PathLike[str], fps: float
) -> Iterator[Callable[[np.ndarray, np.ndarray], None]]:
    """A context manager that gives a function append(frames, reconstructed): frames are shown on the left,
    their reconstructions on the right, both uint8 [T, S, S, 3].

    Args:
        out: the .mp4 file. It is renamed into place when the block ends without an error, and left as it was
            otherwise.
        fps: how many frames are shown each second.

    Raises:
        UserError: `out` is no .mp4 file, or cannot be written.
    """
    if Path(out).suffix.lower() != ".mp4" and not os.path.isdir(out):
        raise UserError(f"{out} has the suffix {Path(out).suffix!r}; give the name of an .mp4 file to write")
    with video_writer(out, 1, fps) as append_frames:

        def append(frames: np.ndarray, reconstructed: np.ndarray) -> None:
            """Both uint8 [T, S, S, 3]."""
            append_frames(np.stack([side_by_side(left, right) for left, right in zip(frames, reconstructed)]))

        yield append


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two frames uint8 [S, S, 3] -> uint8 [H, W, 3]: enlarged by a whole factor, next to each other on white.
    H and W are even, as H.264 requires.
    """
    times = max(1, round(SHOWN_HEIGHT / left.shape[0]))
    left, right = (np.repeat(np.repeat(frame, times, 0), times, 1) for frame in (left, right))
    height = left.shape[0]
    width = 2 * left.shape[1] + GAP
    sheet = np.full((height + height % 2, width + width % 2, 3), 255, np.uint8)
    sheet[:height, : left.shape[1]] = left
    sheet[:height, left.shape[1] + GAP : width] = right
    return sheet
