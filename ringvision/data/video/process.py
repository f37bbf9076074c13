"""The parent's side of the decoding process, which serves one video at a time and is killed when it is late.

A process is kept for the next video, so that 800 short clips cost one start. It is a fresh interpreter, never
a fork, after which decord hangs. Its stderr, with FFmpeg's messages, goes to /dev/null. A process that
crashed, missed its deadline or stopped in the middle of a record is killed with its whole group, and the next
video gets a new one.

Frames come through a file in memory that both processes hold (the ring); the pipe carries only short records
that say that one more is there. The child is not trusted, since a video may have taken it over: records have
a greatest length, the ring can neither shrink nor grow, and it is read by `pread`, never mapped, so that
nothing done to it can end this process. That is why this is written by hand: multiprocessing and the
libraries built on it (concurrent.futures, pebble, loky) unpickle what a child sends.
"""

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.video.info import VideoError

RING_BYTES = 128 << 20
RECORD_BYTES = 1 << 16
KEPT = 4
MOST_VIDEOS = 500
KINDS = b"IFDSUE"
UNEXPECTED = "it sent what was not expected"


class DecodeTimeout(Exception):
    """The decoding process sent nothing in time."""


class DecodeProcessDied(Exception):
    """The decoding process ended; the message says how."""


class DecodeProcess:
    """One child: `send` it a request, `receive` its records, `copy` frames out of the ring."""

    def __init__(self, module: str = "ringvision.data.video.child") -> None:
        root = str(Path(__file__).resolve().parents[3])
        environment = dict(
            os.environ,
            MALLOC_ARENA_MAX="2",
            OPENBLAS_NUM_THREADS="1",
            OMP_NUM_THREADS="1",
            MKL_NUM_THREADS="1",
        )
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self.ring = _ring()
        try:
            self.child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(os.getpid()), str(self.ring)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=(self.ring,),
                start_new_session=True,
                bufsize=0,
            )
        except BaseException:
            os.close(self.ring)
            raise
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.videos = 0
        self.buffer = b""
        self.requests = self.child.stdin.fileno()
        self.answers = self.child.stdout.fileno()
        os.set_blocking(self.requests, False)
        self.waiting = select.poll()
        self.waiting.register(self.answers, select.POLLIN)

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def send(self, request: dict[str, Any]) -> None:
        """DecodeProcessDied where the child has ended, or leaves requests unread."""
        rest = json.dumps(request).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self.requests, rest) :]
        except BrokenPipeError:
            raise DecodeProcessDied(self._end_reason()) from None
        except BlockingIOError:
            raise DecodeProcessDied("it stopped listening") from None

    def receive(self, seconds: float) -> tuple[bytes, bytes]:
        """-> kind and body of the next record. DecodeTimeout after `seconds`; DecodeProcessDied where the
        child has ended or sends anything else.
        """
        until = time.monotonic() + seconds
        head = self._take(5, until)
        kind = head[:1]
        length = struct.unpack("<I", head[1:])[0]
        if kind not in KINDS or length > RECORD_BYTES:
            raise DecodeProcessDied(UNEXPECTED)
        return kind, self._take(length, until)

    def copy(self, slot: int, frame: np.ndarray) -> None:
        """Fills `frame`, uint8 [size, size, 3] and contiguous, from a slot of the ring. Slots are as large as
        the frame.
        """
        if os.preadv(self.ring, [frame.data.cast("B")], slot * frame.nbytes) != frame.nbytes:
            raise DecodeProcessDied(UNEXPECTED)

    def _take(self, count: int, until: float) -> bytes:
        while len(self.buffer) < count:
            if not self.waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                raise DecodeTimeout
            data = os.read(self.answers, RECORD_BYTES)
            if not data:
                raise DecodeProcessDied(self._end_reason())
            self.buffer += data
        taken = self.buffer[:count]
        self.buffer = self.buffer[count:]
        return taken

    def stop(self, seconds: float) -> bool:
        """Ends the current video early. -> whether the child is ready for another one."""
        until = time.monotonic() + seconds
        try:
            self.send({"stop": True})
            while self.receive(until - time.monotonic())[0] != b"S":
                pass
            return True
        except (DecodeTimeout, DecodeProcessDied):
            return False

    def kill(self) -> None:
        """Ends the child and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        for end in (self.child.stdin, self.child.stdout):
            if end is not None:
                end.close()
        if self.ring >= 0:
            os.close(self.ring)
            self.ring = -1

    def _end_reason(self) -> str:
        try:
            status = self.child.wait(5)
        except subprocess.TimeoutExpired:
            return "it stopped answering"
        if status == -signal.SIGXCPU:
            return "it used too much processor time"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}"


def _ring() -> int:
    """-> the descriptor of a file of RING_BYTES, which takes memory only where it was written; in memory
    where the system has such files, else in the folder for temporary ones.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(RING_BYTES)
            return os.dup(file.fileno())
    ring = os.memfd_create("ringvision-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(ring, RING_BYTES)
    fcntl.fcntl(ring, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return ring


class Pool:
    """Idle decoding processes, ready for the next video."""

    def __init__(self) -> None:
        self.idle: list[DecodeProcess] = []
        self.lock = threading.Lock()
        self.owner = os.getpid()
        self.others: list[DecodeProcess] = []  # those of the process that this one was forked from

    def take(self) -> DecodeProcess:
        """An idle process, or a new one. VideoError where none can be started."""
        with self.lock:
            if self.owner != os.getpid():  # this process is a fork, and the children are its parent's
                self.others = self.idle
                self.idle = []
                self.owner = os.getpid()
            while self.idle:
                process = self.idle.pop()
                if process.alive:
                    return process
                process.kill()
        try:
            return DecodeProcess()
        except OSError as error:
            message = (
                f"the decoding process cannot be started ({error}); free some memory or processes and "
                "try again"
            )
            raise VideoError(message, "crash") from None

    def give(self, process: DecodeProcess) -> None:
        """Takes back a process that is ready for another video, until it has served MOST_VIDEOS: decord leaks
        a little memory with each.
        """
        process.videos += 1
        with self.lock:
            if len(self.idle) < KEPT and process.videos < MOST_VIDEOS and self.owner == os.getpid():
                self.idle.append(process)
                return
        process.kill()

    def close(self) -> None:
        """Ends every idle process."""
        with self.lock:
            idle, self.idle = (self.idle, []) if self.owner == os.getpid() else ([], [])
        for process in idle:
            process.kill()


POOL = Pool()
atexit.register(POOL.close)
