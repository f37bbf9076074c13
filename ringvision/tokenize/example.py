"""What is kept of one tokenized source: the codes, when each frame was shown, and where they come from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Example:
    """codes int [T, h, w]; times float64 [T], seconds from the file's beginning. source: Source.name; sha256:
    of the file's bytes; fps: frames asked for a second; size: pixels a side of the frames that were encoded;
    tokenizer: its hash.
    """

    source: str
    sha256: str
    codes: np.ndarray
    times: np.ndarray
    fps: float
    size: int
    tokenizer: str
    caption: str = ""
    qa: tuple[tuple[str, str], ...] = ()
