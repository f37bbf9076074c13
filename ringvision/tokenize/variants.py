"""Altered copies of videos, so that a model that is trained on few of them sees more than one set of codes of
each.

    frames uint8 [n, size, size, 3]  --Alteration-->  the same, moved, zoomed, lit and coloured otherwise

The codes of a thing change wherever its place, its light or what is behind it changes a little. All frames of
a copy are altered alike, but for their noise, so that what a caption says of a video holds of its copies:
nothing is mirrored or turned, nothing leaves the picture, no colour becomes another.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ringvision.data.video import FrameBatch
from ringvision.tokenize.source import VideoSource

ZOOM = 0.05
"""At most so much nearer or farther."""
SHIFT = 0.025
"""At most so far, of a side."""
CONTRAST = 0.08
"""At most so much more or less."""
BRIGHTNESS = 15.0
"""At most so much more or less, of 255; as all below."""
TINT = 10.0
"""At most so much more or less of each of red, green and blue."""
SLOPE = 20.0
"""At most so much brighter on one edge than on the opposite one."""
NOISE = 3.0
"""Standard deviation of every pixel's."""


def with_variants(sources: Iterable[VideoSource], variants: int) -> list[VideoSource]:
    """Each source with so many altered copies behind it, numbered from 1 on."""
    return [
        replace(source, name=f"{source.name}#variant={variant}", variant=variant) if variant else source
        for source in sources
        for variant in range(variants + 1)
    ]


def altered(pieces: Iterable[FrameBatch], source: VideoSource, size: int) -> Iterator[FrameBatch]:
    """The frames of a source as its variant shows them. The same number of the same file name is altered in
    the same way whenever, and wherever, it is read.
    """
    alteration = Alteration.drawn(size, source)
    done = 0
    for piece in pieces:
        yield FrameBatch(alteration.apply(piece.frames, done), piece.times)
        done += len(piece.frames)


@dataclass(frozen=True)
class Alteration:
    """size: pixels on a side. zoom: how much larger things become. shift: (x, y) by which they move, in
    pixels. contrast: the factor of every difference from mid-grey. light: float32 [size, size, 3], what is
    added then. seed: of the noise.
    """

    size: int
    zoom: float
    shift: tuple[float, float]
    contrast: float
    light: np.ndarray
    seed: tuple[int, ...]

    @classmethod
    def drawn(cls, size: int, source: VideoSource) -> "Alteration":
        """That of a source's variant."""
        seed = (source.variant, zlib.crc32(os.path.basename(source.name).encode()))
        random = np.random.default_rng(seed)
        zoom, contrast = (1 + random.uniform(-most, most) for most in (ZOOM, CONTRAST))
        x, y = random.uniform(-SHIFT, SHIFT, 2) * size
        tint = random.uniform(-BRIGHTNESS, BRIGHTNESS) + random.uniform(-TINT, TINT, 3)
        angle = random.uniform(0, 2 * np.pi)
        line = np.linspace(-0.5, 0.5, size)
        slope = random.uniform(0, SLOPE) * (np.cos(angle) * line + np.sin(angle) * line[:, None])
        light = (tint + slope[:, :, None]).astype(np.float32)  # (size, size, 3)
        return cls(size, float(zoom), (float(x), float(y)), float(contrast), light, seed)

    def apply(self, frames: np.ndarray, first: int) -> np.ndarray:
        """uint8 [n, size, size, 3] -> the same. first: the number of the first of these frames in its video,
        which decides their noise.
        """
        down, across = self._moves
        changed = np.empty(frames.shape, np.uint8)
        for number, frame in enumerate(frames):
            moved = np.einsum("yu,uvc,xv->yxc", down, frame.astype(np.float32), across, optimize=True)
            noise = np.random.default_rng((*self.seed, first + number)).standard_normal(
                frame.shape, np.float32
            )
            lit = (moved - 127.5) * self.contrast + 127.5 + self.light + NOISE * noise
            changed[number] = np.clip(lit + 0.5, 0, 255).astype(np.uint8)
        return changed

    @cached_property
    def _moves(self) -> tuple[np.ndarray, np.ndarray]:
        """What a row, and a column, is made of: float32 [size, size] each, by linear interpolation; beyond
        the edge the edge goes on.
        """
        x, y = self.shift
        return self._move(y), self._move(x)

    def _move(self, shift: float) -> np.ndarray:
        middle = (self.size - 1) / 2
        places = np.arange(self.size)
        wanted = np.clip((places - shift - middle) / self.zoom + middle, 0, self.size - 1)  # (size,)
        near = np.clip(1 - np.abs(wanted[:, None] - places), 0, 1)  # (size, size)
        return near.astype(np.float32)
