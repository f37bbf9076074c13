"""A command as a benchmark sees it: how long it takes, and what memory it and all that it started hold
meanwhile.

Every run carries a mark in its environment, which whatever it starts inherits: `left(mark)` finds what
outlives it. Memory is the sum of the resident memory of the command and its descendants (Linux, /proc); pages
that several of them share count for each.
"""

import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MARK = "RINGVISION_BENCH_RUN"
COUNT = itertools.count()
PAGE = os.sysconf("SC_PAGE_SIZE")


class Watched:
    """Starts a command; watch it to its end. samples: [seconds since the start, bytes]. status: as in
    subprocess, None till the end.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        environment: Mapping[str, str] | None = None,
        every: float = 0.2,
    ) -> None:
        self.mark = f"{os.getpid()}-{time.time_ns()}-{next(COUNT)}"
        self.every = every
        self.samples: list[tuple[float, int]] = []
        # closed when the command has ended
        self.files = [tempfile.TemporaryFile("w+") for _ in ("stdout", "stderr")]  # noqa: SIM115
        self.texts = ["", ""]
        self.began = time.perf_counter()
        whole = {**os.environ, **(environment or {}), MARK: self.mark}
        self.child = subprocess.Popen(
            [os.fspath(part) for part in command], stdout=self.files[0], stderr=self.files[1], env=whole
        )
        self.seconds = 0.0
        self.processor_seconds = 0.0
        self.status: int | None = None

    def going(self) -> bool:
        """Takes a sample; whether the command still runs."""
        if self.status is not None:
            return False
        pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
        self.seconds = time.perf_counter() - self.began
        if pid:
            self.status = self.child.returncode = os.waitstatus_to_exitcode(status)
            self.processor_seconds = usage.ru_utime + usage.ru_stime
            self.texts = [self._read(file) for file in self.files]
            return False
        self.samples.append((self.seconds, resident(self.child.pid)))
        return True

    def watch(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Samples until the command ends or `until` says so; whether it still runs."""
        while self.going():
            if until():
                return True
            time.sleep(self.every)
        return False

    def kill(self) -> None:
        """SIGKILL, for the command's own process alone."""
        os.kill(self.child.pid, signal.SIGKILL)
        self.watch()

    def peak(self) -> int:
        return max((size for _, size in self.samples), default=0)

    def read(self) -> tuple[str, str]:
        """All that it wrote, once it has ended: stdout, stderr."""
        return self.texts[0], self.texts[1]

    @staticmethod
    def _read(file: Any) -> str:
        with file:
            file.seek(0)
            return file.read()

    def thinned(self, most: int = 200) -> list[tuple[float, int]]:
        """The samples, maxima of neighbours, for a report."""
        every = 1 + len(self.samples) // most
        parts = [self.samples[first : first + every] for first in range(0, len(self.samples), every)]
        return [(round(part[0][0], 2), max(size for _, size in part)) for part in parts]


def resident(root: int) -> int:
    """Bytes resident of a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (stat := _read(folder / "stat")):
            parents.setdefault(int(stat.rpartition(b")")[2].split()[1]), []).append(int(folder.name))
    total = 0
    waiting = [root]
    while waiting:
        process = waiting.pop()
        waiting += parents.get(process, [])
        pages = _read(Path(f"/proc/{process}/statm")).split()
        total += int(pages[1]) * PAGE if pages else 0
    return total


def left(mark: str) -> list[str]:
    """Command lines of all processes that came from the run of this mark and live."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and needle in _read(folder / "environ").split(b"\0"):
            command = _read(folder / "cmdline").replace(bytes(1), b" ").decode(errors="replace")
            found.append(f"{folder.name} {command.strip()}")
    return found


def median(values: Sequence[float]) -> float:
    """Of an even number, the mean of the middle two."""
    ordered: Any = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""
