"""Video files in, square frames out: `probe` reads what a file is, `sample` reads its frames in batches.

sample.py          the public functions
info.py            VideoInfo, Limits and the errors
container.py       the kind of a file, told by its bytes, and the refusal of what is unsafe or damaged
mp4.py, matroska.py, avi.py   the header of a file, read before any decoder sees it
process.py, child.py          the decoding process: the parent's side and the child's
decode.py          what runs in the child: decord and PyAV
frame_stream.py    PyAV's frames; those that no sample needs are skipped
times.py           which frame is on the screen at which time
writer.py          frames into a file
"""

from ringvision.data.video.info import Limits, Unsteady, VideoError, VideoInfo
from ringvision.data.video.sample import FrameBatch, probe, sample
from ringvision.data.video.times import sample_times

__all__ = ["FrameBatch", "Limits", "Unsteady", "VideoError", "VideoInfo", "probe", "sample", "sample_times"]
