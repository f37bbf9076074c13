"""What a video tokenizer keeps of a library of videos: every video is encoded and decoded, and the difference
measured, in bounded memory.

In: paths of videos, a tokenizer; the weights of Inception and LPIPS where they are available. Out: a dict.

    "videos", "frames"          how many were read
    "psnr", "psnr_pooled"       in dB
    "ssim", "l1"                L1 in grey levels
    "codes_used", "code_usage", "perplexity"
    "flicker", "still_flicker"  in grey levels
    "codes_changed", "still", "still_codes_changed"
    "lpips", "rfid"             where weights were given
    "seconds", "out"            of this evaluation, and the video it wrote
    "per_video"                 the same figures, without "rfid", of each video, with its "source"
    "failed"                    {"source", "kind", "message"} of each video that could not be read to its end

quality.py defines the figures, frechet.py rFID and lpips.py LPIPS; side_by_side.py writes the video. Means
are over all frames, so a long video weighs more. A video that failed is in no figure; `out` shows it as far
as it was read. rFID is that of these frames only: for fewer than some thousand frames it is too high, and can
only be compared with that of as many frames.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TextIO

import numpy as np

from ringvision.data.video import Limits, VideoError, sample
from ringvision.errors import UserError
from ringvision.evaluate.frechet import Gaussian, frechet_distance
from ringvision.evaluate.inception import WIDTH, Inception
from ringvision.evaluate.lpips import LEAST, Lpips
from ringvision.evaluate.quality import Quality, Tokenizer
from ringvision.evaluate.side_by_side import comparison_writer

BATCH = 16


def evaluate_tokenizer(
    videos: Sequence[str | os.PathLike[str]],
    *,
    tokenizer: Tokenizer,
    fps: float = 1.0,
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
    inception: str | os.PathLike[str] | None = None,
    lpips: str | os.PathLike[str] | None = None,
    progress: TextIO | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Reconstructs the frames of `videos`, and measures what is lost.

    Args:
        videos: paths, at least one.
        tokenizer: the video tokenizer to measure; frames are read at its size.
        fps: samples a second.
        limit: how many of the videos to read (None: all).
        out: an mp4 to write, originals left, reconstructions right, one video after another (None: none).
        inception, lpips: files of weights, which inception.py and lpips.py describe (None: not measured).
        progress: where a line is printed after each video.
        limits: what a video may ask for (None: the defaults).

    Returns:
        The dict that the head of this file describes.

    Raises:
        UserError: no video can be read, the tokenizer's frames are below 16 pixels a side, a file of weights
            does not fit, or `out` cannot be written.
    """
    began = time.monotonic()
    chosen = _chosen(videos, limit)
    _check_size(tokenizer)
    networks = _Networks(lpips, inception)
    total = _Sums(tokenizer.num_codes)
    per_video: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with comparison_writer(out, fps) if out is not None else nullcontext() as append:
        for number, video in enumerate(chosen, start=1):
            sums = _Sums(tokenizer.num_codes)
            try:
                for part in reconstructed_parts(video, tokenizer, fps, batch=BATCH, limits=limits):
                    sums.add(*part, networks)
                    if append is not None:
                        append(*part[:2])
            except VideoError as error:
                failed.append({"source": os.fspath(video), "kind": error.kind, "message": str(error)})
            else:
                total.include(sums)
                per_video.append({"source": os.fspath(video), **sums.quality.figures()})
            _report(progress, number, len(chosen), total.quality, failed)
        if not per_video:
            raise UserError(
                f"none of the {len(chosen)} videos could be read; the first: {failed[0]['message']}"
            )
        figures = total.figures(networks)
    shown = os.fspath(out) if out is not None else None
    results = {"out": shown, "per_video": per_video, "failed": failed}
    return {"videos": len(per_video), **figures, "seconds": time.monotonic() - began, **results}


def reconstructed_parts(
    video: str | os.PathLike[str], tokenizer: Tokenizer, fps: float, *, batch: int, limits: Limits | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Reads a video and sends its frames through the tokenizer and back.

    Args:
        video: the video.
        tokenizer: the tokenizer; frames are read at its size S.
        fps: samples a second.
        batch: T, how many frames to take at once; the last part may have fewer.
        limits: what the video may ask for (None: the defaults).

    Returns:
        For each part: the frames uint8 [T, S, S, 3], their reconstructions uint8 [T, S, S, 3], and their
        codes int [T, h, w].

    Raises:
        VideoError: the video cannot be read; see `sample`.
    """
    for part in sample(video, fps=fps, size=tokenizer.size, batch=batch, limits=limits):
        codes = np.asarray(tokenizer.encode(part.frames))
        yield part.frames, np.asarray(tokenizer.decode(codes, dtype=np.uint8)), codes


class _Networks:
    """LPIPS and Inception, where their weights were given."""

    def __init__(
        self, lpips: str | os.PathLike[str] | None, inception: str | os.PathLike[str] | None
    ) -> None:
        self.lpips = Lpips(lpips) if lpips is not None else None
        self.inception = Inception(inception) if inception is not None else None


class _Sums:
    """What was measured on one video, or on many."""

    def __init__(self, num_codes: int) -> None:
        self.quality = Quality(num_codes)
        self.originals = Gaussian(WIDTH)
        self.reconstructions = Gaussian(WIDTH)

    def add(
        self, frames: np.ndarray, reconstructed: np.ndarray, codes: np.ndarray, networks: _Networks
    ) -> None:
        """The next part of a video: frames and reconstructions uint8 [T, S, S, 3], codes int [T, h, w]."""
        distances = {"lpips": networks.lpips(frames, reconstructed)} if networks.lpips else {}
        self.quality.add(frames, reconstructed, codes, **distances)
        if networks.inception is not None:
            features = networks.inception(np.concatenate([frames, reconstructed]))  # (2 T, WIDTH)
            self.originals.add(features[: len(frames)])
            self.reconstructions.add(features[len(frames) :])

    def include(self, other: "_Sums") -> None:
        self.quality.include(other.quality)
        self.originals.include(other.originals)
        self.reconstructions.include(other.reconstructions)

    def figures(self, networks: _Networks) -> dict[str, Any]:
        figures = self.quality.figures()
        if networks.inception is not None:
            figures["rfid"] = frechet_distance(self.originals, self.reconstructions)
        return figures


def _chosen(videos: Sequence[str | os.PathLike[str]], limit: int | None) -> Sequence[str | os.PathLike[str]]:
    """The first `limit` videos. UserError where that is none."""
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} videos was given; give at least 1")
    if not videos:
        raise UserError("no video was given; name a folder that holds some")
    return videos[:limit]


def _check_size(tokenizer: Tokenizer) -> None:
    if tokenizer.size < LEAST:
        raise UserError(
            f"the tokenizer's frames are {tokenizer.size} pixels a side; at least {LEAST} are "
            "needed to measure them"
        )


def _report(
    progress: TextIO | None, number: int, of: int, total: Quality, failed: Sequence[dict[str, str]]
) -> None:
    if progress is None:
        return
    figures = total.figures() if total.frames else {}
    so_far = f"{total.frames} frames" + (f", {figures['psnr']:.1f} dB so far" if figures else "")
    print(
        f"{number} of {of} videos, {so_far}" + (f", {len(failed)} failed" if failed else ""),
        file=progress,
        flush=True,
    )
