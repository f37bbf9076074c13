"""How LWM turns a video into codes, written anew as the baseline of bench_tokenize.py.

Its `vision_chat.py` (class Sampler) opens a video with decord, asks for all the frames that it wants in one
batch, which lies in memory at the video's own size, resizes them one by one with PIL, puts them together, and
calls the jitted VQGAN on one frame after another, waiting for each. This does the same, with two differences,
so that the way of processing alone is compared: frames are the ones at `fps` a second rather than so many in
all, and they are resized by ringvision's `square` rather than by LWM's resize and crop.
"""

import os

import numpy as np

from ringvision.data.video.decode import square
from ringvision.video_tokenizer import VideoTokenizer


def codes_of(path: str | os.PathLike[str], fps: float, tokenizer: VideoTokenizer) -> np.ndarray:
    """codes int32 [T, h, w] of a video with a constant frame rate. `tokenizer` takes one frame at a time (its
    batch is 1).
    """
    import decord

    reader = decord.VideoReader(os.fspath(path), ctx=decord.cpu(0))
    step = reader.get_avg_fps() / fps
    wanted = np.arange(0, len(reader), step).round().astype(int)
    video = reader.get_batch(wanted.tolist()).asnumpy()
    frames = np.stack([square(frame, tokenizer.size) for frame in video])
    return np.concatenate([tokenizer.encode(frames[index : index + 1]) for index in range(len(frames))])
