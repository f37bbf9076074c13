"""A process that handles untrusted files: requests and answers are lines of JSON.

In the parent: `LineProcess(module)`, then `ask(request, seconds)`. In the child: `limit(memory)`, then
`serve(answer)`. Memory and processor time of the child are bounded, and the length of its answers; once it
serves it opens no file and starts no process. It ends when the parent drops the object, or ends.

Written by hand for security: multiprocessing, concurrent.futures and pebble unpickle what a child sends, and
an untrusted file may have taken the child over.
"""

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MOST_ANSWER = 64 << 20
"""Bytes of an answer."""
PROCESSOR_SECONDS = 60
"""Of the child for one request. It matters where the parent was killed and no longer watches the time."""
_PIECE = 1 << 16


class LineProcess:
    """Runs `python -m module`, which serves. It is `alive` until it ends, or is ended because an answer was
    late or was no answer.
    """

    def __init__(self, module: str) -> None:
        root = str(Path(__file__).resolve().parents[4])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, PYTHONPATH=paths, TOKENIZERS_PARALLELISM="false", MALLOC_ARENA_MAX="1"),
            start_new_session=True,  # so that an interrupt from the terminal does not reach it
            bufsize=0,
        )
        self._end = weakref.finalize(self, _end, self._child)

    @property
    def alive(self) -> bool:
        return self._end.alive and self._child.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request. TimeoutError where it is late; EOFError where it is too long or no answer,
        or the process has ended.
        """
        try:
            answer = json.loads(
                self._exchange(json.dumps(request).encode() + b"\n", time.monotonic() + seconds)
            )
        except TimeoutError:
            self._end()
            raise
        except (OSError, ValueError, RecursionError, EOFError) as error:
            self._end()
            raise EOFError(str(error)) from None
        except BaseException:
            self._end()  # interrupted: this answer would be taken for that of the next request
            raise
        if not isinstance(answer, dict):
            raise EOFError("no answer")
        return answer

    def _exchange(self, request: bytes, until: float) -> bytes:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        requests = self._child.stdin.fileno()
        answers = self._child.stdout.fileno()
        os.set_blocking(requests, False)
        rest = memoryview(request)
        answer = bytearray()
        while not answer.endswith(b"\n"):
            left = until - time.monotonic()
            readable, writable, _ = select.select([answers], [requests] if rest else [], [], max(0.0, left))
            if left <= 0:
                raise TimeoutError
            if writable:
                rest = rest[os.write(requests, rest[:_PIECE]) :]
            if readable:
                piece = os.read(answers, _PIECE)
                answer += piece
                if not piece or len(answer) > MOST_ANSWER:
                    raise EOFError("the process ended" if not piece else "the answer is too long")
        return bytes(answer)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for end in (child.stdin, child.stdout):
        if end is not None:
            end.close()


def limit(memory: int) -> None:
    """Bounds the memory of this process, and forbids it core dumps, writing files, and (unless root runs it)
    starting processes.
    """
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def close_files() -> None:
    """Forbids this process to open any further file."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answers each line of stdin with a line on stdout, until stdin ends."""
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(
            resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + PROCESSOR_SECONDS, most)
        )
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(answer(json.loads(line))), flush=True)
