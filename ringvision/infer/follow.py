"""A file that is still being written, read as it grows into a live session.

    file ─sample, from the last frame that was taken on→ frames ─LiveSession.add→ …

The file is looked at every POLL seconds. When it has grown, what is new of it is decoded, in a process of its
own as ever; frames of the last HELD_BACK seconds wait, for whoever writes may not have written all of
them. When it has not grown for a while, or when asked to stop, the rest is taken, and what was read is what
reading the whole file gives. Decoding again takes a third of the time at most: not every container lets a
decoder begin in the middle.
"""

import os
import time
from collections.abc import Callable

import numpy as np

from ringvision.data.video import VideoError, sample
from ringvision.errors import UserError
from ringvision.infer.live import LiveSession
from ringvision.infer.processor import FRAMES_AT_ONCE, PathLike

POLL = 0.5
HELD_BACK = 2.0
"""Seconds of video before the end of what is there, which are not taken while it grows."""
RESTS = 2.0
"""As many times as decoding took, the file is left alone after it."""


def follow(
    session: LiveSession,
    path: PathLike,
    *,
    quiet: float = 5.0,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[float, int], None] | None = None,
) -> str | None:
    """Read a file as it grows, until it has not grown for `quiet` seconds or `stop` says so.

    Args:
        session: that gets the frames, empty so far.
        path: the file.
        quiet: seconds.
        stop: asked every POLL seconds and after each batch of frames.
        report: called with the seconds of video that were read and the bytes of the file, after each reading.

    Returns:
        What is wrong with the end of the file, which then was not read; None where nothing is.

    Raises:
        UserError: for a file that shrinks, is another one suddenly, or does not fit the model.
        VideoError: for one that is no video when it has stopped growing.
    """
    identity, known = _status(path)
    read = -1  # bytes that there were when it was read
    grew = time.monotonic()
    rests_until = grew
    while True:
        known, before = _size(path, identity, known), known
        if known > before:
            grew = time.monotonic()
        ended = stop() or time.monotonic() - grew >= quiet
        fault = None
        if ended or (known > read and time.monotonic() >= rests_until):
            began = time.monotonic()
            read = known
            try:
                _read_on(session, path, 0.0 if ended else HELD_BACK, stop)
            except VideoError as error:  # while it grows half of a header, or of a frame
                if ended and not session.frames:
                    raise
                # where no frame is new, there is none from the next one's time on
                fault = None if error.kind == "limit" else str(error)
            rests_until = time.monotonic() + RESTS * (time.monotonic() - began)
            if report is not None:
                report(session.seconds, read)
        if ended:
            _size(path, identity, known)
            return fault
        time.sleep(POLL)


def _read_on(session: LiveSession, path: PathLike, held_back: float, stop: Callable[[], bool]) -> None:
    """Adds the frames behind those that the session has, but for the last `held_back` seconds."""
    fps = session.fps
    taken = session.frames
    kept = int(np.ceil(held_back * fps))
    size = session.frame_size
    waiting = np.zeros((0, size, size, 3), np.uint8)
    reading = sample(path, fps=fps, size=size, batch=FRAMES_AT_ONCE, start=taken / fps, decoder="av")
    for batch in reading:
        waiting = np.concatenate([waiting, batch.frames])
        ready = max(0, len(waiting) - kept)
        if ready:
            # as whoever reads the whole file counts: of one division each
            session.add(waiting[:ready], np.arange(session.frames, session.frames + ready) / fps)
            waiting = waiting[ready:]
        if held_back and stop():
            reading.close()
            return


def _status(path: PathLike) -> tuple[tuple[int, int], int]:
    """Which file it is (device and number), and its bytes. UserError where it cannot be read."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: {reason.lower()}; give the file that is being written") from None
    return (status.st_dev, status.st_ino), status.st_size


def _size(path: PathLike, identity: tuple[int, int], known: int) -> int:
    """The bytes of the file; UserError where there are fewer than were known, or it is another file."""
    now, size = _status(path)
    if now != identity or size < known:
        what = f"has {size} bytes and had {known}" if now == identity else "is another file now"
        raise UserError(
            f"{path} {what}: it was written anew while it was followed; follow a file that only grows"
        )
    return size
