"""A frame of any size -> the square that video tokenizers read."""

import numpy as np
from PIL import Image


def square(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [size, size, 3]: the middle square, reduced (each new pixel is the mean of
    those it covers) or enlarged.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    left = (width - side) // 2
    top = (height - side) // 2
    middle = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    if side % size == 0:  # exact means, rounded once
        return np.asarray(middle.reduce(side // size))
    kind = Image.Resampling.BOX if side >= 2 * size else Image.Resampling.BILINEAR
    return np.asarray(middle.resize((size, size), kind))
