"""The decoding process: `python -m ringvision.data.video.child PARENT RING`, started by process.py and kept
for many videos.

Requests come on stdin, one JSON object a line. Answers go to stdout as records: a KIND (1 byte), a length (4
bytes, little-endian) and that many bytes. The kinds:

    I  the video's header (JSON)        S  stopped, as was requested
    F  one more frame is in the ring    U  decord is unsuited, or the result would not be repeatable (JSON)
    D  the end of the video             E  an error (JSON)

The records are never pickles: a video may be made to take this process over, and unpickling what it sends
would let it take over the parent, too.

Frame n of a request is written (uint8 [size, size, 3]) into slot n mod `slots` of the file behind the
descriptor RING. When all slots are full the child waits until the parent says how many it has copied out
("more").

The process keeps itself within the limits of each request (address space, processor time), gives up network
access where the system allows that, and ends itself when its parent has ended for whatever reason.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import threading
import time
from typing import Any

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def main() -> None:
    out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    _leave_network()
    parent = int(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Requests(0), out, int(sys.argv[2]))


def serve(requests: "Requests", out: int, ring: int) -> None:
    """Answers requests until stdin ends. out: the descriptor of the answers. ring: that of the ring."""
    from ringvision.data.video.info import VideoError

    while (request := requests.wait()) is not None:
        if "path" not in request:  # "more" or "stop" that came after the last record of a video
            if "stop" in request:
                _send(out, b"S")
            continue
        try:
            _answer(request, requests, out, ring)
        except VideoError as error:
            _send(out, b"E", _json({"message": str(error), "kind": error.kind}))
        except MemoryError:
            message = (
                f"{request['name']} needs more than {request['limits']['memory'] >> 20} MB to decode; "
                "scale it down first"
            )
            _send(out, b"E", _json({"message": message, "kind": "limit"}))
        except BrokenPipeError:
            return
        except Exception as error:
            message = (
                f"{request['name']} cannot be decoded ({type(error).__name__}: {error}); it may be "
                "damaged: copy or download it again"
            )
            _send(out, b"E", _json({"message": " ".join(message.split()), "kind": "damaged"}))


def _answer(request: dict[str, Any], requests: "Requests", out: int, ring: int) -> None:
    from ringvision.data.video.decode import Video
    from ringvision.data.video.info import DecordUnsuited, Limits, Unsteady

    limits = Limits(**request["limits"])
    threads = request["threads"]
    _renew_limits(limits, threads)
    video = Video(request["path"], request["name"], request["demuxer"], limits)
    _send(out, b"I", _json(video.info.to_dict()))
    if request["fps"] is None:
        _send(out, b"D")
        return
    decoder = request["decoder"]
    steady = request["steady"]
    if decoder == "auto":
        decoder = "decord" if video.suits_decord() and not steady else "av"
    end = float("inf") if request["end"] is None else request["end"]
    frames = video.frames(
        decoder, request["fps"], request["size"], request["start"], end, request["first"], threads, steady
    )
    free = request["slots"]
    slots = request["slots"]
    try:
        for n, frame in enumerate(frames):
            while free == 0 or requests.ready():
                message = requests.wait()
                if message is None or "stop" in message:
                    _send(out, b"S")
                    return
                free += message["more"]
            os.pwrite(ring, frame.data, n % slots * frame.nbytes)
            _send(out, b"F")
            free -= 1
            _renew_limits(limits, threads)
        _send(out, b"D")
    except (DecordUnsuited, Unsteady) as reason:
        _send(out, b"U", _json({"message": str(reason), "kind": "damaged"}))


class Requests:
    """JSON lines from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.buffer = b""

    def ready(self) -> bool:
        """Whether `wait` would return at once."""
        return b"\n" in self.buffer or bool(select.select([self.descriptor], [], [], 0)[0])

    def wait(self) -> dict[str, Any] | None:
        """The next request; None when there will be no more."""
        while b"\n" not in self.buffer:
            data = os.read(self.descriptor, 1 << 16)
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)


def _send(out: int, kind: bytes, body: bytes = b"") -> None:
    rest = memoryview(kind + struct.pack("<I", len(body)) + body)
    while rest:
        rest = rest[os.write(out, rest) :]


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _renew_limits(limits: Any, threads: int) -> None:
    """Sets the limits anew: of the address space, and of the processor time until the next frame."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
        until = int(time.process_time() + limits.seconds_a_frame * threads) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _leave_network() -> None:
    """Moves to a network namespace of its own, which is empty. Where the system does not allow that, the
    process goes on with the network it has.
    """
    with contextlib.suppress(Exception):
        unshare = ctypes.CDLL(None, use_errno=True).unshare
        if unshare(CLONE_NEWNET) != 0 and os.geteuid() != 0:
            unshare(CLONE_NEWUSER | CLONE_NEWNET)


def _end_with_parent(parent: int) -> None:
    """Watches the parent, and kills this process's group once it is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
