"""How a run shows its progress: on a terminal a display that is kept up to date, elsewhere a line for each
source that failed.
"""

import sys
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from ringvision.tokenize.manifest import ManifestRow

SMOOTHED = 60.0
"""Seconds over which speeds are taken."""


class Lines:
    """A tokenize.videos.Progress for logs: reports what failed, and why."""

    def start(self, sources: int) -> None: ...

    def encoded(self, frames: int) -> None: ...

    def settled(self, row: ManifestRow, worked: bool) -> None:
        if row.status == "failed" and worked:
            print(f"{row.source}: {row.kind}: {row.message}", file=sys.stderr, flush=True)


class Display:
    """A tokenize.videos.Progress for people; use it in a `with`. Failures are listed above it."""

    def __init__(self, fps: float, console: Console | None = None) -> None:
        self.fps = fps
        self.began = time.monotonic()
        self.turn = threading.Lock()
        self.frames = 0
        self.worked = 0
        self.failed = 0
        self.recent: list[tuple[float, int]] = [(self.began, 0)]
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            BarColumn(24),
            MofNCompleteColumn(),
            _Speeds(self),
            TimeElapsedColumn(),
        ]
        self.progress = Progress(
            *columns, TextColumn("{task.fields[left]}"), console=console or Console(stderr=True)
        )
        self.task = self.progress.add_task("", total=None, left="")

    def start(self, sources: int) -> None:
        self.progress.update(self.task, total=sources)

    def encoded(self, frames: int) -> None:
        with self.turn:
            now = time.monotonic()
            self.frames += frames
            self.recent = [mark for mark in self.recent if now - mark[0] < SMOOTHED] + [(now, self.frames)]

    def settled(self, row: ManifestRow, worked: bool) -> None:
        with self.turn:
            self.worked += worked
            self.failed += row.status == "failed"
        if row.status == "failed" and worked:
            self.progress.console.print(
                Text(f"{Path(row.source).name}: {row.kind}: {row.message}", style="yellow")
            )
        self.progress.advance(self.task)
        task = self.progress.tasks[0]
        if self.worked and task.total:
            seconds = (time.monotonic() - self.began) / self.worked * (task.total - task.completed)
            self.progress.update(self.task, left=f"{_clock(seconds)} left")

    def speed(self) -> float:
        """Frames a second, over the last SMOOTHED seconds."""
        with self.turn:
            first, before = self.recent[0]
            return (self.frames - before) / max(time.monotonic() - first, 1e-3)

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


class _Speeds(ProgressColumn):
    def __init__(self, display: Display) -> None:
        super().__init__()
        self.display = display

    def render(self, task: Task) -> Text:
        speed = self.display.speed()
        display = self.display
        hours = f"{speed / display.fps:.1f} h of video an hour"
        return Text(f"{display.frames:,} frames, {speed:.0f} a second ({hours}), {display.failed} failed")


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
