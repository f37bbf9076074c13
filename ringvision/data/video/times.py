"""Which frame is on the screen at a sample time: by the clock of the container, never by counting frames.

Sample k is taken at k/fps seconds after the first frame appears, and is the last frame whose time stamp is
not later. Stamps are rounded by containers (Matroska keeps milliseconds), so a frame at most TOLERANCE late
counts as there.
"""

import math

import numpy as np

TOLERANCE = 6e-4


def end_slack(fps: float) -> float:
    """How close to the end, in seconds, a sample may no longer be: durations are rounded too."""
    return min(0.005, 0.5 / fps)


def sample_times(duration: float, fps: float) -> np.ndarray:
    """The times float64 [n] in seconds, 0, 1/fps, 2/fps, ... before `duration`; at least one."""
    return np.arange(max(1, math.ceil((duration - end_slack(fps)) * fps - 1e-9))) / fps


def shown_at(starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The index int64 [n] of the frame shown at each of `times` [n], given when each frame starts (float64
    [m], increasing).
    """
    return np.maximum(np.searchsorted(starts, times + TOLERANCE, side="right") - 1, 0)
