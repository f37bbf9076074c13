"""How much of a video survives the tokenizer: frames -> codes -> frames, measured and shown side by side."""

import os
import time
from typing import Any

from ringvision.data.video import Limits
from ringvision.evaluate.quality import Quality, Tokenizer
from ringvision.evaluate.side_by_side import comparison_writer
from ringvision.evaluate.tokenizer import there_and_back

SHOWN = {
    "frames": "frames",
    "psnr": "psnr_pooled",
    "ssim": "ssim",
    "code_usage": "code_usage",
    "perplexity": "perplexity",
}


def reconstruct(
    video: str | os.PathLike[str],
    out: str | os.PathLike[str],
    tokenizer: Tokenizer | str | os.PathLike[str],
    fps: float = 1.0,
    *,
    batch: int = 16,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Writes `out`, an H.264 mp4 with the sampled frames on the left and what came back on the right, and
    measures the difference.

    Returns {"frames", "psnr", "ssim", "code_usage", "perplexity", "seconds", "out"}; PSNR is in dB over all
    pixels of all frames, what `evaluate_tokenizer` calls psnr_pooled. `out` appears whole or not at all.
    Raises VideoError for the video and UserError where `out` cannot be written.
    """
    began = time.monotonic()
    known = _load(tokenizer)
    quality = Quality(known.num_codes)
    with comparison_writer(out, known.size, fps) as show:
        for frames, again, codes in there_and_back(video, known, fps, batch=batch, limits=limits):
            quality.add(frames, again, codes)
            show(frames, again)
    figures = quality.figures()
    return {name: figures[figure] for name, figure in SHOWN.items()} | {
        "seconds": time.monotonic() - began,
        "out": os.fspath(out),
    }


def _load(tokenizer: Tokenizer | str | os.PathLike[str]) -> Tokenizer:
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    from ringvision.video_tokenizer import load_video_tokenizer

    return load_video_tokenizer(tokenizer)
