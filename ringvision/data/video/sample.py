"""Video files to batches of square frames, a fixed number at a time, so that an hour never sits in memory.

    for batch in sample("clip.mp4", fps=1.0, size=64):
        batch.frames   # uint8 [n <= 16, 64, 64, 3]
        batch.times    # float64 [n], seconds after the first frame

Decoding happens in another process (process.py, child.py), up to two batches ahead of whoever uses them. A
batch is the caller's own: it was copied out of what is shared with that process.
"""

import itertools
import json
import math
import os
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.video.container import identify, refuse_large
from ringvision.data.video.info import Limits, Unsteady, VideoError, VideoInfo
from ringvision.data.video.process import POOL, UNEXPECTED, DecodeProcess, Gone, Late
from ringvision.errors import UserError

AHEAD = 2
AHEAD_BYTES = 32 << 20
MOST_SIZE = 4096
MOST_THREADS = 8
DECODERS = ("auto", "decord", "av")


@dataclass(frozen=True)
class FrameBatch:
    """`frames` uint8 [n, size, size, 3] and when each is sampled, `times` float64 [n] in seconds after the
    first frame.
    """

    frames: np.ndarray
    times: np.ndarray


def probe(path: str | os.PathLike[str], limits: Limits | None = None) -> VideoInfo:
    """What the header of the video at `path` says. Raises VideoError where it is no video, damaged, or over
    `limits`.
    """
    limits = limits or Limits()
    request = _request(path, limits, fps=None, first=0, decoder="auto", steady=False)
    process = POOL.take()
    clean = False
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
    threads: int | None = None,
    steady: bool = False,
) -> Generator[FrameBatch, None, None]:
    """The frames shown at start, start + 1/fps, start + 2/fps, ... seconds, before `end`, `batch` at a time
    (the last may be fewer).

    The frame of a time is the last one whose time stamp is not later. Pictures are turned as the file says,
    the middle square is kept and averaged down to `size` x `size` pixels. Raises UserError at once for
    arguments that make no sense and VideoError for the file, at once or while it is read; `close()` ends the
    reading early. `decoder`: auto, decord or av; auto takes decord for short videos, and PyAV for those that
    are long (decode.py says why) or that decord cannot read. `threads`: of the decoder (None: a few).
    `steady`: to give the same pictures every time, also of a damaged video: auto is then PyAV, and Unsteady
    is raised where more than one thread met a fault; one thread, from the beginning, always gives the same.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise UserError(f"--fps is {fps}; give the frames to read from each second of video, above 0")
    if not 1 <= size <= MOST_SIZE or batch < 1:
        raise UserError(
            f"size {size} and batch {batch} must both be at least 1, and size at most {MOST_SIZE}"
        )
    if not (math.isfinite(start) and start >= 0) or (end is not None and not end > start):
        raise UserError(f"the part from {start} to {end} seconds is empty; give 0 <= start < end")
    if decoder not in DECODERS:
        raise UserError(f"decoder {decoder!r} is not known; choose one of {', '.join(DECODERS)}")
    limits = limits or Limits()
    slots = max(2, min(AHEAD * batch, AHEAD_BYTES // (3 * size * size)))
    request = _request(
        path,
        limits,
        fps=fps,
        size=size,
        slots=slots,
        start=start,
        end=end,
        decoder=decoder,
        first=0,
        steady=steady,
    )
    request["threads"] = threads or request["threads"]
    return _batches(request, batch, limits)


def _batches(request: dict[str, Any], batch: int, limits: Limits) -> Generator[FrameBatch, None, None]:
    """Runs the request; where decord gave up, crashed or hung, once more with PyAV from the sample it had
    come to.
    """
    fps = request["fps"]
    size = request["size"]
    frames = np.empty((batch, size, size, 3), np.uint8)
    filled = 0

    def taken() -> FrameBatch:
        return FrameBatch(
            frames[:filled], request["start"] + np.arange(request["first"] - filled, request["first"]) / fps
        )

    while True:
        process = POOL.take()
        clean = False
        try:
            process.send(request)
            _header(process, limits)
            for slot in _slots(process, request, limits):
                process.copy(slot, frames[filled])
                filled += 1
                request["first"] += 1
                if filled == batch:
                    whole = taken()
                    frames = np.empty_like(frames)
                    filled = 0
                    yield whole
            clean = True
        except GeneratorExit:
            clean = process.stop(limits.seconds_a_frame)
            raise
        except VideoError:
            clean = True
            raise
        except Unsteady:
            clean = True
            raise
        except Unsuited:
            clean = True
            request = request | {"decoder": "av"}
            continue
        except (Late, Gone) as failure:
            if request["steady"] and request["threads"] > 1 and request["decoder"] != "decord":
                raise Unsteady from None
            if request["decoder"] != "auto":
                raise _lost(request["name"], failure, limits) from None
            request = request | {"decoder": "av"}
            continue
        finally:
            POOL.give(process) if clean else process.kill()
        break
    if filled:
        yield taken()
    elif request["first"] == 0:
        raise VideoError(
            f"{request['name']} has no frame from {request['start']} seconds on; start earlier", "limit"
        )


class Unsuited(Exception):
    """decord cannot be trusted with this video."""


def _slots(process: DecodeProcess, request: dict[str, Any], limits: Limits) -> Iterator[int]:
    """The slot of each picture as it comes, which is free again once the next one is asked for; ends with the
    video.
    """
    slots = request["slots"]
    most = limits.max_duration * request["fps"] + 2
    together = max(1, slots // 4)
    for n in itertools.count():
        kind, body = process.receive(limits.seconds_a_frame)
        if kind == b"F" and request["first"] <= most:
            yield n % slots
            if n % together == together - 1:
                process.send({"more": together})
        elif kind == b"D":
            return
        elif kind == b"E":
            raise _told(body)
        elif kind == b"U" and request["steady"] and request["decoder"] != "decord":
            raise Unsteady
        elif kind == b"U" and request["decoder"] == "auto":
            raise Unsuited
        elif kind == b"U":
            reason = _told(body)
            raise VideoError(
                f"{request['name']} cannot be read by decord ({reason}); use decoder 'av' or 'auto'"
            )
        else:
            raise Gone(UNEXPECTED)


def _request(path: str | os.PathLike[str], limits: Limits, **more: Any) -> dict[str, Any]:
    demuxer = identify(path)
    refuse_large(path, demuxer, limits)
    whole = os.path.abspath(os.fspath(path))
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    return {
        "path": whole,
        "name": Path(path).name,
        "demuxer": demuxer,
        "limits": asdict(limits),
        "threads": threads,
        **more,
    }


def _header(process: DecodeProcess, limits: Limits) -> VideoInfo:
    kind, body = process.receive(limits.seconds_a_frame)
    if kind == b"E":
        raise _told(body)
    try:
        return VideoInfo.from_dict(_json(body))
    except ValueError:
        raise Gone(UNEXPECTED) from None


def _told(body: bytes) -> VideoError:
    answer = _json(body)
    try:
        return VideoError(answer["message"], answer["kind"])
    except (KeyError, ValueError):
        raise Gone(UNEXPECTED) from None


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise Gone(UNEXPECTED)
    return answer


def _lost(name: str, failure: Exception, limits: Limits) -> VideoError:
    advice = "it is probably damaged: re-encode it (ffmpeg -i IN -c:v libx264 OUT.mp4) or copy it again"
    if isinstance(failure, Late):
        return VideoError(
            f"{name}: no frame in {limits.seconds_a_frame:g} seconds, decoding stopped; {advice}", "deadline"
        )
    return VideoError(f"{name}: the decoder died on it ({failure}); {advice}", "crash")
