"""Frames into a file, as they come: an H.264 video (.mp4), or a picture (.png) that shows all of them in
rows.

In: frames uint8 [T, H, W, 3], a few at a time. Out: the file, which appears whole or not at all.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ringvision.errors import UserError

SUFFIXES = (".mp4", ".png")
SHOWN_HEIGHT = 256
"""Pixels: the height to which small frames of a video are enlarged."""
MOST_ON_A_SHEET = 64
ACROSS = 8
"""Frames in a row of a picture."""
GAP = 4
"""Pixels between them."""

Append = Callable[[np.ndarray], None]


def check_video_output(out: str | os.PathLike[str], frames: int, fps: float) -> None:
    """UserError where `video_writer` could not write so many frames to `out`. Called before the frames are
    computed.
    """
    path = Path(out)
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; give the name of an .mp4 or .png file to write")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path} has the suffix {path.suffix!r}; give the name of an .mp4 (a film) or a .png (a picture)"
        )
    if not os.path.isdir(path.absolute().parent):
        raise UserError(f"{path.absolute().parent} is not a folder; make it first, or write elsewhere")
    if path.suffix.lower() == ".png" and frames > MOST_ON_A_SHEET:
        raise UserError(
            f"{frames} frames for the picture {path}; it holds at most {MOST_ON_A_SHEET}: write "
            "an .mp4, or fewer frames"
        )
    if not (math.isfinite(fps) and fps > 0):
        raise UserError(
            f"--fps {fps:g} was given; expected the frames that are shown in each second, above 0"
        )


@contextmanager
def video_writer(out: str | os.PathLike[str], frames: int, fps: float) -> Iterator[Append]:
    """-> a function that appends frames, uint8 [T, H, W, 3]. frames: how many there will be; fps: how many
    are shown each second.

    In a video small frames are enlarged by a whole factor to a height of about 256 pixels, since H.264 halves
    the resolution of colours; in a picture they are not. `out` is renamed into place when the block ends
    without an error, and left as it was otherwise. UserError where it cannot be written.
    """
    check_video_output(out, frames, fps)
    path = Path(out)
    with (
        _aside(path) as partial,
        _video(partial, fps) if path.suffix.lower() == ".mp4" else _sheet(partial, frames) as append,
    ):
        yield append


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A path to write to, renamed to `out` when the block ends without an error and removed otherwise."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        yield partial
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); give another place") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def _video(path: Path, fps: float) -> Iterator[Append]:
    import av

    rate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"

        def append(frames: np.ndarray) -> None:
            """frames uint8 [T, H, W, 3]."""
            for frame in frames:
                times = max(1, round(SHOWN_HEIGHT / len(frame)))
                shown = np.repeat(np.repeat(frame, times, 0), times, 1)
                odd = [side % 2 for side in shown.shape[:2]]  # H.264 wants even sides
                shown = np.pad(shown, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
                if not stream.codec_context.is_open:
                    stream.height, stream.width = shown.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))

        yield append
        container.mux(stream.encode())


@contextmanager
def _sheet(path: Path, frames: int) -> Iterator[Append]:
    sheet = None
    at = 0

    def append(more: np.ndarray) -> None:
        """more uint8 [T, H, W, 3]."""
        nonlocal sheet, at
        height, width = more.shape[1:3]
        if sheet is None:
            rows = -(-frames // ACROSS)
            columns = min(frames, ACROSS)
            sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
        for frame in more:
            top = at // ACROSS * (height + GAP)
            left = at % ACROSS * (width + GAP)
            sheet[top : top + height, left : left + width] = frame
            at += 1

    yield append
    if sheet is not None:
        Image.fromarray(sheet).save(path, "png")
