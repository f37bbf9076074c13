"""The parent's side of the decoding process: started once, lent to one video at a time, killed when it is late.

A started process is kept for the next video (800 short clips cost one start, not 800). It is a fresh interpreter, never a
fork: decord hangs after one. Its stderr goes nowhere, so FFmpeg's chatter reaches nobody. A process that crashed, missed its
deadline or was left in the middle of a record is killed with its whole group, and the next video gets a new one.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ringvision.data.video.info import VideoError

PIPE_BYTES = 1 << 20
KEPT = 4
MOST_VIDEOS = 500
KINDS = b"IFBDSUE"


class Late(Exception):
    """The decoding process sent nothing in time."""


class Gone(Exception):
    """The decoding process ended; the message says how."""


class DecodeProcess:
    """One child; `send` a request, `receive` records (kind, length), then `fill` or `json` for the body."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[3])
        environment = dict(os.environ, MALLOC_ARENA_MAX="2", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self.child = subprocess.Popen(
            [sys.executable, "-P", "-m", "ringvision.data.video.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.videos = 0
        self.requests, self.answers = self.child.stdin.fileno(), self.child.stdout.fileno()
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self.answers, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def send(self, request: dict[str, Any]) -> None:
        rest = json.dumps(request).encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(self.requests, rest) :]
        except BrokenPipeError:
            raise Gone(self._how()) from None

    def receive(self, seconds: float) -> tuple[bytes, int]:
        """The next record's kind and length. Raises Late after `seconds`, Gone where the child has ended."""
        head = bytearray(5)
        self.fill(memoryview(head), seconds)
        kind, length = bytes(head[:1]), struct.unpack("<I", head[1:])[0]
        if kind not in KINDS:
            raise Gone("it sent what was not expected")
        return kind, length

    def fill(self, target: memoryview, seconds: float) -> None:
        """Fills `target` (bytes) from the child's answers."""
        until, poll = time.monotonic() + seconds, select.poll()
        poll.register(self.answers, select.POLLIN)
        at = 0
        while at < len(target):
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise Late
            got = os.readv(self.answers, [target[at:]])
            if got == 0:
                raise Gone(self._how())
            at += got

    def json(self, length: int, seconds: float) -> dict[str, Any]:
        if length > 1 << 20:
            raise Gone("it sent what was not expected")
        body = bytearray(length)
        self.fill(memoryview(body), seconds)
        return json.loads(body)

    def stop(self, seconds: float) -> bool:
        """Ends the video in hand early; whether the child is ready for another one."""
        try:
            self.send({"stop": True})
            until = time.monotonic() + seconds
            while True:
                kind, length = self.receive(max(0.0, until - time.monotonic()))
                if kind == b"S":
                    return True
                self.fill(memoryview(bytearray(length)), max(0.0, until - time.monotonic()))
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


class Pool:
    """Idle children, ready for the next video."""

    def __init__(self) -> None:
        self.idle: list[DecodeProcess] = []
        self.lock, self.owner = threading.Lock(), os.getpid()
        self.others: list[DecodeProcess] = []

    def take(self) -> DecodeProcess:
        with self.lock:
            if self.owner != os.getpid():  # this process is a fork: those children are its parent's
                self.others, self.idle, self.owner = self.idle, [], os.getpid()
            while self.idle:
                process = self.idle.pop()
                if process.alive:
                    return process
                process.kill()
        try:
            return DecodeProcess()
        except OSError as error:
            message = f"the decoding process cannot be started ({error}); free some memory or processes and try again"
            raise VideoError(message, "crash") from None

    def give(self, process: DecodeProcess) -> None:
        """Takes back a child that is ready for another video. decord loses a little memory with each, so a child serves MOST_VIDEOS."""
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
