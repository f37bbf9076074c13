"""Video files -> batches of square frames, a fixed number at a time, so that an hour of video never fills the
memory.

    for batch in sample("clip.mp4", fps=1.0, size=64):
        batch.frames   # uint8 [n <= 16, 64, 64, 3]
        batch.times    # float64 [n], seconds after the first frame

Decoding happens in another process (process.py, child.py), up to AHEAD batches before they are read. A batch
belongs to the caller: it was copied out of the memory that is shared with that process.
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
from ringvision.data.video.info import DecordUnsuited, Limits, Unsteady, VideoError, VideoInfo
from ringvision.data.video.process import POOL, UNEXPECTED, DecodeProcess, DecodeProcessDied, DecodeTimeout
from ringvision.errors import UserError

AHEAD = 2
"""Batches."""
AHEAD_BYTES = 32 << 20
"""Of frames, which bounds large ones."""
MOST_SIZE = 4096
MOST_THREADS = 8
DECODERS = ("auto", "decord", "av")


@dataclass(frozen=True)
class FrameBatch:
    """frames: uint8 [n, size, size, 3]. times: float64 [n], when each is sampled, in seconds after the
    video's first frame.
    """

    frames: np.ndarray
    times: np.ndarray


def probe(path: str | os.PathLike[str], limits: Limits | None = None) -> VideoInfo:
    """The header of the video at `path`. VideoError where it is no video, damaged, or over `limits`."""
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
    except (DecodeTimeout, DecodeProcessDied) as failure:
        raise _decoder_failure(request["name"], failure, limits) from None
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
    """The frames shown at start, start + 1/fps, start + 2/fps, ... seconds.

    The frame of a time is the last one whose time stamp is not later. It is rotated as the file says, and its
    middle square is reduced to `size` x `size` pixels. Calling `close()` on the result ends the reading
    early.

    Args:
        path: the video.
        fps: samples a second.
        size: side of a frame, in pixels.
        batch: frames in a batch; the last one may have fewer.
        limits: what the video may ask for (None: the defaults).
        start, end: the part to read, in seconds (end None: all).
        decoder: "auto", "decord" or "av". auto takes decord for short videos, and PyAV for those that are
            long (Video.suits_decord says why) or that decord cannot read.
        threads: of the decoder (None: one for each processor, MOST_THREADS at most).
        steady: to get the same frames every time, also from a damaged video. auto then means PyAV, and
            Unsteady is raised where several threads met a fault. One thread, from the beginning, always gives
            the same frames.

    Returns:
        FrameBatch, one after another.

    Raises:
        UserError: at once, for arguments that make no sense.
        VideoError: at once or later, where the video cannot be read.
        Unsteady: the frames might not be the same another time; see `steady`.
    """
    _check_arguments(fps, size, batch, start, end, decoder)
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


def _check_arguments(
    fps: float, size: int, batch: int, start: float, end: float | None, decoder: str
) -> None:
    """UserError for arguments of `sample` that make no sense."""
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


def _batches(request: dict[str, Any], batch: int, limits: Limits) -> Generator[FrameBatch, None, None]:
    """Carries out the request. Where decord gives up, crashes or hangs, PyAV goes on from the sample that
    decord had come to.
    """
    fps = request["fps"]
    size = request["size"]
    frames = np.empty((batch, size, size, 3), np.uint8)
    filled = 0

    def filled_batch() -> FrameBatch:
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
                    whole = filled_batch()
                    frames = np.empty_like(frames)
                    filled = 0
                    yield whole
            clean = True
        except GeneratorExit:
            clean = process.stop(limits.seconds_a_frame)
            raise
        except (VideoError, Unsteady):
            clean = True
            raise
        except DecordUnsuited:
            clean = True
            request = request | {"decoder": "av"}
            continue
        except (DecodeTimeout, DecodeProcessDied) as failure:
            if request["steady"] and request["threads"] > 1 and request["decoder"] != "decord":
                raise Unsteady from None
            if request["decoder"] != "auto":
                raise _decoder_failure(request["name"], failure, limits) from None
            request = request | {"decoder": "av"}
            continue
        finally:
            POOL.give(process) if clean else process.kill()
        break
    if filled:
        yield filled_batch()
    elif request["first"] == 0:
        raise VideoError(
            f"{request['name']} has no frame from {request['start']} seconds on; start earlier", "limit"
        )


def _slots(process: DecodeProcess, request: dict[str, Any], limits: Limits) -> Iterator[int]:
    """The slot of each frame as it comes, until the video ends. A slot is free again once the next one is
    requested.
    """
    slots = request["slots"]
    most = limits.max_duration * request["fps"] + 2
    together = max(1, slots // 4)  # slots that are reported as free at once
    for n in itertools.count():
        kind, body = process.receive(limits.seconds_a_frame)
        if kind == b"F" and request["first"] <= most:
            yield n % slots
            if n % together == together - 1:
                process.send({"more": together})
        elif kind == b"D":
            return
        elif kind == b"E":
            raise _video_error(body)
        elif kind == b"U" and request["steady"] and request["decoder"] != "decord":
            raise Unsteady
        elif kind == b"U" and request["decoder"] == "auto":
            raise DecordUnsuited
        elif kind == b"U":
            reason = _video_error(body)
            raise VideoError(
                f"{request['name']} cannot be read by decord ({reason}); use decoder 'av' or 'auto'"
            )
        else:
            raise DecodeProcessDied(UNEXPECTED)


def _request(path: str | os.PathLike[str], limits: Limits, **more: Any) -> dict[str, Any]:
    """What child.py is sent, after the first look at the file. VideoError where that refuses it."""
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
    """Receives the video's header. VideoError where there is none."""
    kind, body = process.receive(limits.seconds_a_frame)
    if kind == b"E":
        raise _video_error(body)
    try:
        return VideoInfo.from_dict(_json(body))
    except ValueError:
        raise DecodeProcessDied(UNEXPECTED) from None


def _video_error(body: bytes) -> VideoError:
    """The error in a record of the child's."""
    answer = _json(body)
    try:
        return VideoError(answer["message"], answer["kind"])
    except (KeyError, ValueError):
        raise DecodeProcessDied(UNEXPECTED) from None


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise DecodeProcessDied(UNEXPECTED)
    return answer


def _decoder_failure(name: str, failure: Exception, limits: Limits) -> VideoError:
    advice = "it is probably damaged: re-encode it (ffmpeg -i IN -c:v libx264 OUT.mp4) or copy it again"
    if isinstance(failure, DecodeTimeout):
        return VideoError(
            f"{name}: no frame in {limits.seconds_a_frame:g} seconds, decoding stopped; {advice}", "deadline"
        )
    return VideoError(f"{name}: the decoder died on it ({failure}); {advice}", "crash")
