"""A tokenizer that one can follow by hand, and clips to try it on."""

import av
import numpy as np


class MeanColour:
    """4x4 codes a frame of 32x32: each a patch's mean colour in 512 steps."""

    size = 32
    num_codes = 512

    def encode(self, frames):
        patches = frames.reshape(-1, 4, 8, 4, 8, 3).mean((2, 4)).astype(np.int32) >> 5
        return patches @ np.array([64, 8, 1], np.int32)

    def decode(self, codes, dtype=np.float32):
        assert dtype is np.uint8
        colours = np.stack([codes >> 6, codes >> 3 & 7, codes & 7], -1) * 32 + 16
        return colours.repeat(8, 1).repeat(8, 2).astype(np.uint8)


def write_clip(path, colours, rate=8):
    """An H.264 clip of 64x64 pixels; colours uint8 [T, 4, 4, 3], one for each patch."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"threads": "1", "preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in colours.repeat(16, 1).repeat(16, 2):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


def colours(seed, frames):
    return np.random.default_rng(seed).integers(0, 256, (frames, 4, 4, 3), np.uint8)
