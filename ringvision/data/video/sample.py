"""Video files to batches of square frames, a fixed number at a time, so that an hour never sits in memory.

    for batch in sample("clip.mp4", fps=1.0, size=64):
        batch.frames   # uint8 [n <= 16, 64, 64, 3]
        batch.times    # float64 [n], seconds after the first frame

Decoding happens in another process (process.py, child.py), one or two batches ahead of whoever uses them.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.video.container import identify
from ringvision.data.video.info import Limits, VideoError, VideoInfo
from ringvision.data.video.process import POOL, DecodeProcess, Gone, Late
from ringvision.errors import UserError

AHEAD = 2
MOST_THREADS = 8
DECODERS = ("auto", "decord", "av")


@dataclass(frozen=True)
class FrameBatch:
    """`frames` uint8 [n, size, size, 3] and when each is sampled, `times` float64 [n] in seconds after the first frame."""

    frames: np.ndarray
    times: np.ndarray


def probe(path: str | os.PathLike[str], limits: Limits | None = None) -> VideoInfo:
    """What the header of the video at `path` says. Raises VideoError where it is no video, damaged, or over `limits`."""
    limits = limits or Limits()
    request = _request(path, limits, fps=None, first=0, decoder="auto")
    process, clean = POOL.take(), False
    try:
        process.send(request)
        info = _header(process, limits)
        clean = process.receive(limits.seconds_a_frame)[0] == b"D"
        return info
    except VideoError:
        clean = True
        raise
    except (Late, Gone) as failure:
        raise _lost(request["name"], failure, limits) from None
    finally:
        POOL.give(process) if clean else process.kill()


def sample(
    path: str | os.PathLike[str],
    *,
    fps: float = 1.0,
    size: int = 64,
    batch: int = 16,
    limits: Limits | None = None,
    start: float = 0.0,
    end: float | None = None,
    decoder: str = "auto",
) -> Iterator[FrameBatch]:
    """The frames shown at start, start + 1/fps, start + 2/fps, ... seconds, before `end`, `batch` at a time (the last may be fewer).

    The frame of a time is the last one whose time stamp is not later. Pictures are turned as the file says, the middle square
    is kept and averaged down to `size` x `size` pixels. Raises UserError at once for arguments that make no sense and
    VideoError for the file, at once or while it is read. `decoder`: auto, decord or av; auto prefers decord, and goes on
    with PyAV where decord cannot read the file.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"--fps is {fps}; give the frames to read from each second of video, above 0")
    if size < 1 or batch < 1:
        raise UserError(f"size {size} and batch {batch} must both be at least 1")
    if not (math.isfinite(start) and start >= 0) or (end is not None and not end > start):
        raise UserError(f"the part from {start} to {end} seconds is empty; give 0 <= start < end")
    if decoder not in DECODERS:
        raise UserError(f"decoder {decoder!r} is not known; choose one of {', '.join(DECODERS)}")
    limits = limits or Limits()
    request = _request(path, limits, fps=fps, size=size, batch=batch, start=start, end=end, decoder=decoder, granted=AHEAD, first=0)
    return _batches(request, limits)


def _batches(request: dict[str, Any], limits: Limits) -> Iterator[FrameBatch]:
    """Runs the request; where decord gave up, crashed or hung, once more with PyAV from the sample it had come to."""
    size, batch = request["size"], request["batch"]
    frames, times = np.empty((batch, size, size, 3), np.uint8), np.empty(batch)
    filled = 0
    while True:
        process, clean = POOL.take(), False
        try:
            process.send(request | {"batch": batch, "granted": AHEAD})
            _header(process, limits)
            while True:
                kind, length = process.receive(limits.seconds_a_frame)
                if kind == b"F" and length == 8 + frames[0].nbytes:
                    process.fill(times[filled : filled + 1].data.cast("B"), limits.seconds_a_frame)
                    process.fill(frames[filled].data.cast("B"), limits.seconds_a_frame)
                    filled += 1
                    request["first"] += 1
                    if filled == batch:
                        whole = FrameBatch(frames, times)
                        frames, times, filled = np.empty_like(frames), np.empty_like(times), 0
                        yield whole
                elif kind == b"B":
                    process.send({"more": 1})
                elif kind == b"D":
                    clean = True
                    break
                elif kind == b"E":
                    raise _told(process.json(length, limits.seconds_a_frame))
                elif kind == b"U" and request["decoder"] == "auto":
                    process.json(length, limits.seconds_a_frame)
                    clean = True
                    raise Late
                elif kind == b"U":
                    clean = True
                    reason = process.json(length, limits.seconds_a_frame)["message"]
                    raise VideoError(f"{request['name']} cannot be read by decord ({reason}); use decoder 'av' or 'auto'")
                else:
                    raise Gone("it sent what was not expected")
        except GeneratorExit:
            clean = process.stop(limits.seconds_a_frame)
            raise
        except VideoError:
            clean = True
            raise
        except (Late, Gone) as failure:
            if request["decoder"] != "auto":
                raise _lost(request["name"], failure, limits) from None
            request = request | {"decoder": "av"}
            continue
        finally:
            POOL.give(process) if clean else process.kill()
        break
    if filled:
        yield FrameBatch(frames[:filled], times[:filled])
    elif request["first"] == 0:
        raise VideoError(f"{request['name']} has no frame from {request['start']} seconds on; start earlier", "limit")


def _request(path: str | os.PathLike[str], limits: Limits, **more: Any) -> dict[str, Any]:
    demuxer = identify(path)
    whole, threads = os.path.abspath(os.fspath(path)), min(MOST_THREADS, os.cpu_count() or 1)
    return {"path": whole, "name": Path(path).name, "demuxer": demuxer, "limits": asdict(limits), "threads": threads, **more}


def _header(process: DecodeProcess, limits: Limits) -> VideoInfo:
    kind, length = process.receive(limits.seconds_a_frame)
    answer = process.json(length, limits.seconds_a_frame)
    if kind == b"I":
        return VideoInfo(**answer)
    raise _told(answer) if kind == b"E" else Gone("it sent what was not expected")


def _told(answer: dict[str, Any]) -> VideoError:
    return VideoError(answer["message"], answer["kind"])


def _lost(name: str, failure: Exception, limits: Limits) -> VideoError:
    advice = "it is probably damaged: re-encode it (ffmpeg -i IN -c:v libx264 OUT.mp4) or copy it again"
    if isinstance(failure, Late):
        return VideoError(f"{name}: no frame in {limits.seconds_a_frame:g} seconds, decoding stopped; {advice}", "deadline")
    return VideoError(f"{name}: the decoder died on it ({failure}); {advice}", "crash")
