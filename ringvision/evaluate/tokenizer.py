"""What a tokenizer keeps of a library of videos: every video through it and back, measured in bounded memory.

In: paths of videos, a tokenizer; weights of Inception and LPIPS where they are at hand. Out: one dict of
figures over all frames and for each video. quality.py says what the figures are, frechet.py what rFID is,
lpips.py what LPIPS is, side_by_side.py what the film shows.
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
    """Sends the frames of `videos`, `fps` a second at the tokenizer's size, through it and back, and measures
    what is lost.

    limit: look at the first so many videos alone. out: an mp4 to write, originals left, reconstructions
    right, one video after another. inception, lpips: weights as inception.py and lpips.py describe them.
    progress: where a line is printed after each video.

    Returns {"videos", "frames", "psnr" and "psnr_pooled" (dB), "ssim", "l1" (grey levels), "codes_used",
    "code_usage", "perplexity", "flicker" and "still_flicker" (grey levels), "codes_changed", "still",
    "still_codes_changed", "seconds", "out", "per_video", "failed"}, with "lpips" and "rfid" where weights
    were given; Quality says what each one is. Means are over all frames, so that a long video weighs more;
    "per_video" has the same figures but "rfid" for each, with its "source". rFID is that of these frames and
    these alone: below some thousand of them it is too high, and is to be compared with that of as many
    frames. A video that cannot be read to its end is in "failed" as {"source", "kind", "message"} and in no
    figure; the film shows it up to where it broke off.

    UserError where no video can be read, the tokenizer's frames are below 16 pixels a side, a file of weights
    does not fit, or `out` cannot be written.
    """
    began = time.monotonic()
    chosen = _chosen(videos, limit)
    if tokenizer.size < LEAST:
        raise UserError(
            f"the tokenizer's frames are {tokenizer.size} pixels a side; at least {LEAST} are "
            "needed to measure them"
        )
    distance = Lpips(lpips) if lpips is not None else None
    features = Inception(inception) if inception is not None else None
    total = Quality(tokenizer.num_codes)
    overall = _gaussians(features)
    per_video: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with comparison_writer(out, tokenizer.size, fps) if out is not None else nullcontext() as show:
        for number, video in enumerate(chosen, start=1):
            quality = Quality(tokenizer.num_codes)
            gaussians = _gaussians(features)
            try:
                for frames, again, codes in there_and_back(video, tokenizer, fps, batch=BATCH, limits=limits):
                    quality.add(
                        frames, again, codes, **({"lpips": distance(frames, again)} if distance else {})
                    )
                    if features is not None:
                        for gaussian, seen in zip(
                            gaussians, np.split(features(np.concatenate([frames, again])), 2)
                        ):
                            gaussian.add(seen)
                    if show is not None:
                        show(frames, again)
            except VideoError as error:
                failed.append({"source": os.fspath(video), "kind": error.kind, "message": str(error)})
            else:
                total.include(quality)
                for gaussian, of_video in zip(overall, gaussians):
                    gaussian.include(of_video)
                per_video.append({"source": os.fspath(video), **quality.figures()})
            _report(progress, number, len(chosen), total, failed)
        if not per_video:
            raise UserError(
                f"none of the {len(chosen)} videos could be read; the first: {failed[0]['message']}"
            )
        result = {"videos": len(per_video), **total.figures()} | (
            {"rfid": frechet_distance(*overall)} if features else {}
        )
    shown = os.fspath(out) if out is not None else None
    return result | {
        "seconds": time.monotonic() - began,
        "out": shown,
        "per_video": per_video,
        "failed": failed,
    }


def there_and_back(
    video: str | os.PathLike[str], tokenizer: Tokenizer, fps: float, *, batch: int, limits: Limits | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(frames, what came back, the codes between) of a video, `batch` frames at a time. Raises VideoError as
    `sample` does.
    """
    for part in sample(video, fps=fps, size=tokenizer.size, batch=batch, limits=limits):
        codes = np.asarray(tokenizer.encode(part.frames))
        yield part.frames, np.asarray(tokenizer.decode(codes, dtype=np.uint8)), codes


def _chosen(videos: Sequence[str | os.PathLike[str]], limit: int | None) -> Sequence[str | os.PathLike[str]]:
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} videos was given; give at least 1")
    if not videos:
        raise UserError("no video was given; name a folder that holds some")
    return videos[:limit]


def _gaussians(features: Inception | None) -> list[Gaussian]:
    """Of the originals and of the reconstructions; none where no rFID is asked for."""
    return [Gaussian(WIDTH), Gaussian(WIDTH)] if features else []


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
