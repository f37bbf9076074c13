"""The parent's side of the decoding process: started once, lent to one video at a time, killed when it is
late.

A started process is kept for the next video (800 short clips cost one start, not 800). It is a fresh
interpreter, never a fork: decord hangs after one. Its stderr goes nowhere, so FFmpeg's chatter reaches
nobody. A process that crashed, missed its deadline or was left in the middle of a record is killed with its
whole group, and the next video gets a new one.

Pictures come through a file in memory that both ends hold (the ring); the pipe carries only short records
that say that one more is there. What the child says is not trusted, since a video may have taken it over:
records have a greatest length, the ring can neither shrink nor grow, and it is read by `pread`, never mapped,
so that nothing done to it can end this process.
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


class Late(Exception):
    """The decoding process sent nothing in time."""


class Gone(Exception):
    """The decoding process ended; the message says how."""


class DecodeProcess:
    """One child: `send` it a request, `receive` its records, `copy` pictures out of the ring."""

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
        self.requests, self.answers = self.child.stdin.fileno(), self.child.stdout.fileno()
        os.set_blocking(self.requests, False)
        self.waiting = select.poll()
        self.waiting.register(self.answers, select.POLLIN)

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def send(self, request: dict[str, Any]) -> None:
        """Raises Gone where the child has ended, or leaves requests unread."""
        rest = json.dumps(request).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self.requests, rest) :]
        except BrokenPipeError:
            raise Gone(self._how()) from None
        except BlockingIOError:
            raise Gone("it stopped listening") from None

    def receive(self, seconds: float) -> tuple[bytes, bytes]:
        """The next record's kind and body. Raises Late after `seconds`, Gone where the child has ended or
        says nonsense.
        """
        until = time.monotonic() + seconds
        head = self._take(5, until)
        kind = head[:1]
        length = struct.unpack("<I", head[1:])[0]
        if kind not in KINDS or length > RECORD_BYTES:
            raise Gone(UNEXPECTED)
        return kind, self._take(length, until)

    def copy(self, slot: int, picture: np.ndarray) -> None:
        """Fills `picture` (contiguous uint8) with the one in `slot` of the ring, whose slots are as large as
        it.
        """
        if os.preadv(self.ring, [picture.data.cast("B")], slot * picture.nbytes) != picture.nbytes:
            raise Gone(UNEXPECTED)

    def _take(self, count: int, until: float) -> bytes:
        while len(self.buffer) < count:
            if not self.waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                raise Late
            data = os.read(self.answers, RECORD_BYTES)
            if not data:
                raise Gone(self._how())
            self.buffer += data
        taken = self.buffer[:count]
        self.buffer = self.buffer[count:]
        return taken

    def stop(self, seconds: float) -> bool:
        """Ends the video in hand early; whether the child is ready for another one."""
        until = time.monotonic() + seconds
        try:
            self.send({"stop": True})
            while self.receive(until - time.monotonic())[0] != b"S":
                pass
            return True
        except (Late, Gone):
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

    def _how(self) -> str:
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
    """A file of RING_BYTES that takes memory only where it was written: in memory where the system has such
    files.
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
    """Idle children, ready for the next video."""

    def __init__(self) -> None:
        self.idle: list[DecodeProcess] = []
        self.lock = threading.Lock()
        self.owner = os.getpid()
        self.others: list[DecodeProcess] = []

    def take(self) -> DecodeProcess:
        with self.lock:
            if self.owner != os.getpid():  # this process is a fork: those children are its parent's
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
        """Takes back a child that is ready for another video. decord loses a little memory with each, so a
        child serves MOST_VIDEOS.
        """
        process.videos += 1
        with self.lock:
            if len(self.idle) < KEPT and process.videos < MOST_VIDEOS and self.owner == os.getpid():
                self.idle.append(process)
                return
        process.kill()

    def close(self) -> None:
        """Ends every idle child."""
        with self.lock:
            idle, self.idle = (self.idle, []) if self.owner == os.getpid() else ([], [])
        for process in idle:
            process.kill()


POOL = Pool()
atexit.register(POOL.close)
