"""What is kept of one tokenized video: the codes, when each frame was shown, and where they come from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenizedVideo:
    """One record of a folder of tokenized videos.

    source: what was tokenized: a file's absolute path, with `#t=START,END` for a part of it; or
        `tfds:NAME/SPLIT#INDEX`; or `world:SEED` for a video that data/world rendered from that seed.
    sha256: of the file's bytes.
    codes: uint16 or uint32 [T, h, w]. times: float64 [T], seconds from the file's beginning.
    fps: frames asked for a second. size: pixels a side of the frames that were encoded.
    tokenizer: hash of the tokenizer that made the codes.
    caption, qa (question, answer): what is known about the video; "" and () where nothing is.
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
