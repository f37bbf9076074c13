"""Video files in, square frames out: `probe` tells what a file is, `sample` reads it by the clock in batches.

container.py                what the file is, by its bytes, and what it may not be    info.py    VideoInfo, Limits, VideoError
mp4.py, matroska.py, avi.py what its header says before a decoder sees it             times.py   which frame is shown when
process.py, child.py        the decoding process, both ends                           decode.py  what runs in it: decord, PyAV
sample.py                   the public functions                                      reel.py    PyAV's frames, with jumps
"""

from ringvision.data.video.info import Limits, Unsteady, VideoError, VideoInfo
from ringvision.data.video.sample import FrameBatch, probe, sample
from ringvision.data.video.times import sample_times

__all__ = ["FrameBatch", "Limits", "Unsteady", "VideoError", "VideoInfo", "probe", "sample", "sample_times"]
