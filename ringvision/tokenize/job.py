"""What a library and an engine exchange: a job for every source that has to be worked on, and its outcome.

Library  --Job-->  engine (local.py, cluster.py), which asks a FrameEncoder  --Outcome-->  Library
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ringvision.data.video import VideoError
from ringvision.tokenize.manifest import ManifestRow
from ringvision.tokenize.source import VideoSource


class FrameEncoder(Protocol):
    """What is asked of a tokenizer (video_tokenizer.VideoTokenizer is one)."""

    @property
    def size(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def num_codes(self) -> int: ...
    @property
    def hash(self) -> str: ...
    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [T, size, size, 3] -> codes, int32 [T, *grid], each below num_codes."""
        ...


@dataclass(frozen=True)
class Job:
    """One source to be decoded and encoded."""

    row: ManifestRow
    source: VideoSource


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a job: codes int [T, h, w] and times float64 [T], or why there are none."""

    job: Job
    codes: np.ndarray | None = None
    times: np.ndarray | None = None
    error: VideoError | None = None
