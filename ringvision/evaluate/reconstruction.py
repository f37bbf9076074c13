"""The reconstruction of one video by a tokenizer: frames -> codes -> frames, measured and shown side by
side.
"""

import os
import time
from typing import Any

from ringvision.data.video import Limits
from ringvision.evaluate.quality import Quality, Tokenizer
from ringvision.evaluate.side_by_side import comparison_writer
from ringvision.evaluate.tokenizer import reconstructed_parts
from ringvision.outputs import check_output

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
    """Writes a video with the sampled frames on the left and their reconstructions on the right, and measures
    the difference.

    Args:
        video: the video to read.
        out: the H.264 mp4 to write; it appears whole or not at all.
        tokenizer: a video tokenizer, or its folder.
        fps: samples a second.
        batch: frames that go through the tokenizer at once.
        limits: what the video may ask for (None: the defaults).

    Returns:
        {"frames", "psnr", "ssim", "code_usage", "perplexity", "seconds", "out"}. PSNR is in dB, over all
        pixels of all frames; `evaluate_tokenizer` calls it psnr_pooled.

    Raises:
        VideoError: the video cannot be read.
        UserError: `out` cannot be written, or is the video itself.
    """
    check_output(out, [video])
    began = time.monotonic()
    loaded = _load(tokenizer)
    quality = Quality(loaded.num_codes)
    with comparison_writer(out, fps) as append:
        for frames, reconstructed, codes in reconstructed_parts(
            video, loaded, fps, batch=batch, limits=limits
        ):
            quality.add(frames, reconstructed, codes)
            append(frames, reconstructed)
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
