"""How close reconstructed frames are to the originals: one video at a time, in sums that can be added up.

    quality = Quality(num_codes)
    quality.add(frames, reconstructed, codes)    # part by part
    total.include(quality)                       # video by video
    total.figures()

Frames are uint8 [T, S, S, 3] and codes int [T, h, w], one for each patch of S/h x S/w pixels. All figures are
in the units of 8-bit pixels: PSNR in dB, L1 and flicker in grey levels (0 to 255).

SSIM is a few lines of NumPy here: scikit-image's and others' differ in their windows and borders unless
several options are set, and would bring a package for one function.
"""

import math
from collections import Counter
from typing import Any, Protocol

import numpy as np

WINDOW = 11
SIGMA = 1.5
EXACT = 100.0
"""dB: the PSNR given to a frame without any error."""
STILL = 2.0
"""Grey levels: a patch that changes by no more on average is still. The noise of a codec alone is less."""


class Tokenizer(Protocol):
    """What evaluation needs of a video tokenizer (video_tokenizer.VideoTokenizer is one).

    size: side of a frame in pixels. encode: frames uint8 [T, size, size, 3] -> codes int [T, h, w]. decode:
    the reverse, to frames of `dtype`.
    """

    @property
    def size(self) -> int: ...
    @property
    def num_codes(self) -> int: ...
    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T, size, size, 3] -> int [T, h, w]."""
        ...

    def decode(self, codes: np.ndarray, dtype: Any = ...) -> np.ndarray:
        """int [T, h, w] -> frames [T, size, size, 3] of `dtype`."""
        ...


def l1(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Two of uint8 [..., H, W, 3] -> float64 [...]: the mean absolute difference of each frame, in grey
    levels.
    """
    return np.abs(_difference(frames, others)).mean((-3, -2, -1), dtype=np.float64)


def psnr(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Two of uint8 [..., H, W, 3] -> float64 [...]: the peak signal-to-noise ratio of each frame in dB, at
    most 100, which is that of a frame without any error.
    """
    return _decibels(_squared_error(frames, others))


def ssim(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Two of uint8 [..., H, W, 3], at least 11 pixels a side -> float64 [...]: the structural similarity of
    each frame, 1 for equal ones. ValueError for other shapes.

    Wang et al. 2004: a Gaussian window of 11 pixels with sigma 1.5, per channel. Windows that reach beyond
    the border are left out.
    """
    if frames.shape != others.shape or min(frames.shape[-3:-1]) < WINDOW:
        raise ValueError(
            f"frames {frames.shape} and {others.shape} must have the same shape, at least "
            f"{WINDOW} pixels a side"
        )
    rows = _blur(frames.shape[-3])
    columns = _blur(frames.shape[-2]).T
    # One frame at a time, since float64 takes eight times the memory.
    flat = zip(frames.reshape(-1, *frames.shape[-3:]), others.reshape(-1, *frames.shape[-3:]))
    return np.array([_similarity(frame, other, rows, columns) for frame, other in flat]).reshape(
        frames.shape[:-3]
    )


def code_usage(counts: np.ndarray) -> tuple[float, float]:
    """counts int [K]: how often each code was used -> the share of codes that were used at all, and the
    perplexity, which is exp of the entropy.
    """
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float((counts > 0).mean()), math.exp(-float((shares * np.log(shares)).sum()))


class Quality:
    """The sums of one video, or of many. `add` takes the frames of a video in order; `include` adds another's
    sums to these.

    Two successive frames make a pair, and flicker is measured on pairs. O are the original's frames, R the
    reconstruction's.

    flicker: dtSSD (Erofeev et al., "Perceptually motivated benchmark for video matting", BMVC 2015), the root
    of the mean over pixels of ((R[t] - R[t-1]) - (O[t] - O[t-1]))**2, then the mean over pairs. It is 0 where
    the reconstruction changes just as the original does, however wrong its frames are.

    still_flicker: the same in each still patch, then the mean over still patches. A patch is still in a pair
    where the mean of |O[t] - O[t-1]| over its pixels is at most 2 grey levels. Viewers notice flicker where
    nothing moves (Fan et al., "Flickering reduction in all intra frame coding", JVT-E070, 2002, measure
    codecs so).

    codes_changed: the share of codes that differ from the code of the same patch one frame before.

    still_codes_changed: the same share among still patches; `still` is the share of patches that are still. A
    code depends on more than its own patch, so movement beside a still patch may rightly change its code.
    """

    def __init__(self, num_codes: int) -> None:
        self.counts = np.zeros(num_codes, np.int64)
        self.sums: Counter[str] = Counter()
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def frames(self) -> int:
        return int(self.sums["frames"])

    def add(
        self, frames: np.ndarray, reconstructed: np.ndarray, codes: np.ndarray, **more: np.ndarray
    ) -> None:
        """Adds the next frames of a video.

        Args:
            frames: the originals, uint8 [T, S, S, 3].
            reconstructed: what came back, uint8 [T, S, S, 3].
            codes: their codes, int [T, h, w].
            more: further figures of each frame, float [T], by name.
        """
        self.counts += np.bincount(codes.ravel(), minlength=len(self.counts))
        error = _squared_error(frames, reconstructed)
        each = {
            "psnr": _decibels(error),
            "psnr_pooled": error,
            "ssim": ssim(frames, reconstructed),
            "l1": l1(frames, reconstructed),
            **more,
        }
        self.sums.update({name: float(values.sum(dtype=np.float64)) for name, values in each.items()})
        self.sums["frames"] += len(frames)
        for now in zip(frames, reconstructed, codes):
            if self._before is not None:
                self._add_pair(self._before, now)
            self._before = now

    def _add_pair(self, before: tuple[np.ndarray, ...], now: tuple[np.ndarray, ...]) -> None:
        """Two successive frames: original [S, S, 3], reconstruction [S, S, 3] and codes [h, w] of each."""
        original, reconstructed = (_difference(new, old) for new, old in zip(now[:2], before[:2]))
        grid = now[2].shape
        squares = _by_patch((reconstructed - original) ** 2, grid)  # (h, w)
        still = _by_patch(np.abs(original), grid) <= STILL
        changed = now[2] != before[2]
        self.sums.update(
            {
                "pairs": 1,
                "flicker": float(np.sqrt(squares.mean())),
                "patches": still.size,
                "codes_changed": int(changed.sum()),
                "still": int(still.sum()),
                "still_flicker": float(np.sqrt(squares[still]).sum()),
                "still_codes_changed": int(changed[still].sum()),
            }
        )

    def include(self, other: "Quality") -> None:
        """Adds all that was added to `other`."""
        self.counts += other.counts
        self.sums.update(other.sums)

    def figures(self) -> dict[str, Any]:
        """-> means over frames, pairs or patches, by name; None where there is nothing to take the mean of.
        At least one frame must have been added.

        "psnr" is the mean of the PSNR of each frame. "psnr_pooled" is the PSNR of the squared error averaged
        over all pixels of all frames, on which the worst frames weigh most: it is never the larger one.
        """
        sums = self.sums
        used = code_usage(self.counts)
        divisors = {
            "flicker": "pairs",
            "codes_changed": "patches",
            "still_flicker": "still",
            "still_codes_changed": "still",
            "still": "patches",
        }
        figures: dict[str, Any] = {"frames": self.frames}
        figures |= {
            name: sums[name] / sums["frames"]
            for name in sums
            if name not in {"frames", "pairs", "patches", *divisors}
        }
        figures["psnr_pooled"] = float(_decibels(np.asarray(figures["psnr_pooled"])))
        figures |= {"codes_used": int((self.counts > 0).sum()), "code_usage": used[0], "perplexity": used[1]}
        return figures | {
            name: sums[name] / sums[count] if sums[count] else None for name, count in divisors.items()
        }


def _difference(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float32, of the shape of both; ValueError where they differ."""
    if frames.shape != others.shape:
        raise ValueError(f"frames {frames.shape} and {others.shape} must have the same shape")
    return frames.astype(np.float32) - others


def _squared_error(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The mean squared difference of each frame, float64 [...]."""
    return (_difference(frames, others) ** 2).mean((-3, -2, -1), dtype=np.float64)


def _decibels(mean_squared_error: np.ndarray) -> np.ndarray:
    return np.minimum(EXACT, 10 * np.log10(255.0**2 / np.maximum(mean_squared_error, 1e-9)))


def _by_patch(pixels: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """[S, S, 3] -> float64 [h, w]: the mean of each patch."""
    rows, columns = grid
    height, width, channels = pixels.shape
    return pixels.reshape(rows, height // rows, columns, width // columns, channels).mean(
        (1, 3, 4), dtype=np.float64
    )


def _similarity(frame: np.ndarray, other: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> float:
    """The SSIM of two frames uint8 [H, W, 3]. rows [H - 10, H] and columns [W, W - 10] apply the window."""
    x, y = (np.moveaxis(each.astype(np.float64), -1, 0) for each in (frame, other))  # (3, H, W)

    def blurred(each: np.ndarray) -> np.ndarray:
        """float64 [3, H, W] -> float64 [3, H - 10, W - 10]: means by the Gaussian window."""
        return rows @ each @ columns

    mean_x = blurred(x)
    mean_y = blurred(y)
    variance_x = blurred(x * x) - mean_x**2
    variance_y = blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    c1 = (0.01 * 255) ** 2
    c2 = (0.03 * 255) ** 2
    alike = (
        (2 * mean_x * mean_y + c1)
        * (2 * covariance + c2)
        / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    )
    return float(alike.mean())


def _blur(length: int) -> np.ndarray:
    """-> float64 [length - 10, length], the matrix that takes means by a Gaussian window."""
    window = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    matrix = np.zeros((length - WINDOW + 1, length))
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW] = window / window.sum()
    return matrix
