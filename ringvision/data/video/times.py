"""Which frame is on the screen at a time: told by the container's time stamps, never by counting frames.

Sample k is the frame on the screen k/fps seconds after the first one: the last frame whose time stamp is not
later. Containers round time stamps (Matroska keeps milliseconds), so a frame that is at most TOLERANCE
seconds late counts as shown.
"""

import math

import numpy as np

TOLERANCE = 6e-4


def end_slack(fps: float) -> float:
    """Samples less than this many seconds before the end are left out: containers round durations, too."""
    return min(0.005, 0.5 / fps)


def sample_times(duration: float, fps: float) -> np.ndarray:
    """-> float64 [n]: 0, 1/fps, 2/fps, ... seconds, as far as they come before `duration`; at least one."""
    return np.arange(max(1, math.ceil((duration - end_slack(fps)) * fps - 1e-9))) / fps


def shown_at(starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """starts float64 [m], increasing: when each frame appears; times float64 [n] -> int64 [n]: the index of
    the frame shown at each of the times.
    """
    return np.maximum(np.searchsorted(starts, times + TOLERANCE, side="right") - 1, 0)
