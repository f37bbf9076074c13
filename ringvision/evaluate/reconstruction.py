"""How much of a video survives the tokenizer: frames -> codes -> frames, measured and shown side by side.

Arrays of frames are uint8 [..., H, W, 3]. PSNR is in dB over all pixels; SSIM is Wang et al. 2004 (a Gaussian window of 11
pixels, sigma 1.5, per channel); perplexity is exp of the entropy of the codes used, at most the codebook's size.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ringvision.data.video import Limits, sample
from ringvision.errors import UserError

WINDOW, SIGMA = 11, 1.5
SHOWN_HEIGHT = 256
GAP = 8


class Tokenizer(Protocol):
    """What is asked of a tokenizer (video_tokenizer.VideoTokenizer is one)."""

    @property
    def size(self) -> int: ...
    @property
    def num_codes(self) -> int: ...
    def encode(self, frames: np.ndarray) -> np.ndarray: ...
    def decode(self, codes: np.ndarray, dtype: Any = ...) -> np.ndarray: ...


def psnr(frames: np.ndarray, others: np.ndarray) -> float:
    """Peak signal to noise in dB between two arrays of frames; inf where they are equal."""
    return _decibels(float(np.mean(_squared_error(frames, others))))


def ssim(frames: np.ndarray, others: np.ndarray) -> float:
    """Structural similarity, 1 for equal frames; frames must be at least 11 pixels a side."""
    return float(np.mean(_similarity(frames, others)))


def code_usage(counts: np.ndarray) -> tuple[float, float]:
    """From how often each code was used (int [K]): the share of codes used at all, and the perplexity."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float((counts > 0).mean()), math.exp(-float((shares * np.log(shares)).sum()))


def reconstruct(
    video: str | os.PathLike[str],
    out: str | os.PathLike[str],
    tokenizer: Tokenizer | str | os.PathLike[str],
    fps: float = 1.0,
    *,
    batch: int = 16,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Writes `out`, an H.264 mp4 with the sampled frames on the left and what came back on the right, and measures the difference.

    Returns {"frames", "psnr", "ssim", "code_usage", "perplexity", "seconds", "out"}. `out` appears whole or not at all.
    Raises VideoError for the video and UserError where `out` cannot be written.
    """
    began = time.monotonic()
    known = _load(tokenizer)
    counts = np.zeros(known.num_codes, np.int64)
    frames, error, similarity = 0, 0.0, 0.0
    blank = np.zeros((known.size, known.size, 3), np.uint8)
    with _aside(Path(out)) as partial, _writer(partial, fps, side_by_side(blank, blank).shape[:2]) as write:
        for part in sample(video, fps=fps, size=known.size, batch=batch, limits=limits):
            codes = np.asarray(known.encode(part.frames))
            again = np.asarray(known.decode(codes, dtype=np.uint8))
            counts += np.bincount(codes.ravel(), minlength=len(counts))
            frames += len(codes)
            error += float(_squared_error(part.frames, again).sum())
            similarity += float(_similarity(part.frames, again).sum())
            for left, right in zip(part.frames, again):
                write(side_by_side(left, right))
    used, perplexity = code_usage(counts)
    return {
        "frames": frames,
        "psnr": _decibels(error / frames),
        "ssim": similarity / frames,
        "code_usage": used,
        "perplexity": perplexity,
        "seconds": time.monotonic() - began,
        "out": os.fspath(out),
    }


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two frames [S, S, 3] enlarged to whole pixels and put beside each other on white, with even sides as H.264 wants."""
    times = max(1, round(SHOWN_HEIGHT / left.shape[0]))
    left, right = (np.repeat(np.repeat(frame, times, 0), times, 1) for frame in (left, right))
    height, width = left.shape[0], 2 * left.shape[1] + GAP
    sheet = np.full((height + height % 2, width + width % 2, 3), 255, np.uint8)
    sheet[:height, : left.shape[1]] = left
    sheet[:height, left.shape[1] + GAP : width] = right
    return sheet


def _squared_error(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean squared difference of each frame, float64 [...]."""
    if frames.shape != others.shape:
        raise ValueError(f"frames {frames.shape} and {others.shape} must have the same shape")
    return ((frames.astype(np.float32) - others) ** 2).mean((-3, -2, -1), dtype=np.float64)


def _decibels(mean_squared_error: float) -> float:
    return math.inf if mean_squared_error == 0 else 10 * math.log10(255.0**2 / mean_squared_error)


def _similarity(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """SSIM of each frame, float64 [...]; windows that do not fit into the picture are left out."""
    if frames.shape != others.shape or min(frames.shape[-3:-1]) < WINDOW:
        raise ValueError(f"frames {frames.shape} and {others.shape} must have the same shape, at least {WINDOW} pixels a side")
    x, y = (np.moveaxis(each.astype(np.float64), -1, -3) for each in (frames, others))
    rows, columns = _blur(x.shape[-2]), _blur(x.shape[-1]).T

    def blurred(each: np.ndarray) -> np.ndarray:
        return rows @ each @ columns

    mean_x, mean_y = blurred(x), blurred(y)
    variance_x, variance_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return alike.mean((-3, -2, -1))


def _blur(length: int) -> np.ndarray:
    """The matrix [length - 10, length] that averages with a Gaussian window."""
    window = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    matrix = np.zeros((length - WINDOW + 1, length))
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW] = window / window.sum()
    return matrix


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
def _writer(path: Path, fps: float, shape: tuple[int, ...]) -> Iterator[Any]:
    """A function that takes frames of `shape` (height, width; even), one by one, for an H.264 mp4 of `fps` frames a second."""
    import av

    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.height, stream.width = shape
        stream.pix_fmt = "yuv420p"

        def write(frame: np.ndarray) -> None:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

        yield write
        container.mux(stream.encode())


def _load(tokenizer: Tokenizer | str | os.PathLike[str]) -> Tokenizer:
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    from ringvision.video_tokenizer import load_video_tokenizer

    return load_video_tokenizer(tokenizer)
