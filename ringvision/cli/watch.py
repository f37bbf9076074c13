"""`ringvision watch RUN`: how far a training run is, its curves in the terminal or as a picture.

It reads the run's folder alone, so it works while the run goes on, from another machine that sees the folder,
and after its end.
"""

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from ringvision.cli.output import print_result, say
from ringvision.cli.parsing import Command, Json, option
from ringvision.errors import UserError
from ringvision.options import closest
from ringvision.train.curves import Curve, curves_of, draw_picture, selected, terminal_curve
from ringvision.train.ledger import table
from ringvision.train.metrics_file import METRICS, read_metrics
from ringvision.train.progress import clock, seconds_left, short
from ringvision.train.run_status import STATUS, RunStatus, read_ledger, read_status

LOOKED_AT_EVERY = 2.0
"""Seconds."""
MOST_BYTES = 1 << 28
RECENT = 20
"""Lines of metrics from which the time left is taken."""


@dataclasses.dataclass(frozen=True)
class Watch(Command):
    run_folder: Annotated[str, Positional, option("a run's folder, its config's `out`", "RUN")]
    out: Annotated[str | None, option("draw the curves into this file, .png or .svg", "FILE")] = None
    metrics: Annotated[
        str | None, option("which, such as loss,eval/all", "NAMES", default="the first six that matter")
    ] = None
    follow: Annotated[bool, option("keep up with the run until it ends, or until Ctrl-C")] = False
    json: Json = False

    def run(self) -> int:
        folder = Path(self.run_folder)
        if self.follow:
            self._follow(folder)
        view = self._look(folder)
        print_result(view.report(), _encodable(view.text()), as_json=self.json)
        return 0

    def _look(self, folder: Path) -> "View":
        view = look(folder, self.metrics.split(",") if self.metrics else None)
        if self.out and view.curves:
            draw_picture(self.out, view.curves)
        return view

    def _follow(self, folder: Path) -> None:
        """Until the run is no longer under way. On a terminal the view is drawn over itself, elsewhere each
        change is a line.
        """
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True)
        if not console.is_terminal:
            for view in self._views(folder):
                say(view.headline())
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for view in self._views(folder):
                live.update(Text(view.text(height=console.height), no_wrap=True), refresh=True)

    def _views(self, folder: Path) -> Iterator["View"]:
        """One whenever the run has written something, until it is no longer under way."""
        before = None
        while True:
            now = _stamp(folder)
            if now != before:
                before = now
                view = self._look(folder)
                if not view.under_way:
                    return
                yield view
            time.sleep(LOOKED_AT_EVERY)


@dataclasses.dataclass(frozen=True)
class View:
    """What a run's folder says at one moment.

    curves: those to be shown. missing: those that the run, under way, has not recorded yet. last: the newest
    value of every metric. left: seconds.
    """

    folder: Path
    status: RunStatus | None
    curves: dict[str, Curve]
    missing: list[str]
    last: dict[str, float]
    ledger: dict[str, float]
    left: float | None

    @property
    def under_way(self) -> bool:
        return self.status is not None and self.status.state == "running"

    def report(self) -> dict[str, Any]:
        """What --json prints."""
        status = self.status
        return {
            "run": self.folder,
            "state": status.state if status else None,
            "step": status.step if status else None,
            "steps": status.steps if status else None,
            "seconds_left": self.left,
            "metrics": self.last,
            "ledger": self.ledger,
        }

    def headline(self) -> str:
        """`runs/demo: running, step 150 of 500, 0:12:33 left, written 0:00:03 ago`."""
        status = self.status
        if status is None:
            return f"{self.folder}: a run of before runs left word of how far they are"
        of = "" if status.steps is None else f" of {status.steps}"
        parts = [status.state, f"step {status.step}{of}"]
        if self.under_way:
            parts += [f"{clock(self.left)} left"] if self.left is not None else []
            parts += [f"written {clock(max(0.0, time.time() - status.time))} ago"]
        return f"{self.folder}: {', '.join(parts)}"

    def text(self, *, height: int | None = None) -> str:
        """Headline, curves side by side where the terminal is wide enough, where the time went.

        height: lines to be had; as many rows of curves are left out as it takes, but one. None: any number.
        """
        width = shutil.get_terminal_size().columns
        across = max(1, min(3, width // 44))
        each = width // across - 2
        drawn = [terminal_curve(_printable(name), curve, width=each) for name, curve in self.curves.items()]
        rows = [_side_by_side(drawn[start : start + across], each) for start in range(0, len(drawn), across)]
        below = []
        rest = {name: value for name, value in self.last.items() if name not in self.curves}
        if rest:
            named = "  ".join(f"{_printable(name)} {short(value)}" for name, value in rest.items())
            below += ["", f"at the last step: {named}"]
        if self.missing or not self.last:
            of = f" of {', '.join(map(_printable, self.missing))}" if self.missing else ""
            below += ["", f"nothing is recorded yet{of}"]
        if self.ledger:
            below += ["", *table(self.ledger).split("\n")]
        while height and len(rows) > 1 and 1 + sum(map(len, rows)) + len(below) > height:
            rows.pop()
        return "\n".join([self.headline(), *(line for row in rows for line in row), *below])


def look(folder: Path, names: list[str] | None) -> View:
    """Read a run's folder.

    Args:
        folder: the run's.
        names: the metrics whose curves are shown; None: those that matter most.

    Raises:
        UserError: it is not the folder of a run, or a name is of no metric of a run that has ended.
    """
    path = folder / METRICS
    if not path.is_file():
        what = "no such folder" if not folder.is_dir() else f"no {METRICS} in it"
        raise UserError(f"{folder} is not a run's folder ({what}); give the `out` of a run's config")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise UserError(f"{path} has {size} bytes, expected at most {MOST_BYTES}; is it what its name says?")
    records = read_metrics(folder)
    curves = curves_of(records)
    status = read_status(folder)
    under_way = status is not None and status.state == "running"
    missing = [name for name in names or () if name not in curves]
    if missing and not under_way:
        hint = (
            closest(missing[0], list(curves)) or f"there are {', '.join(map(_printable, curves)) or 'none'}"
        )
        raise UserError(f"{path} has no metric {missing[0]!r}: {hint}")
    clock_name = "elapsed" if any("elapsed" in record for record in records) else "time"
    marks = [(int(record["step"]), record[clock_name]) for record in records if clock_name in record]
    left = None
    if status is not None and status.steps is not None and status.state != "done":
        left = seconds_left(marks[-RECENT:], status.steps)
    return View(
        folder,
        status,
        {name: curves[name] for name in names or selected(curves) if name in curves},
        missing,
        {name: values[-1] for name, (_, values) in curves.items()},
        read_ledger(folder),
        left,
    )


def _stamp(folder: Path) -> list[tuple[int, int]]:
    """Changes when the run writes something."""
    found = [os.stat(path) for path in (folder / METRICS, folder / STATUS) if path.is_file()]
    return [(stat.st_mtime_ns, stat.st_size) for stat in found]


def _side_by_side(blocks: list[list[str]], width: int) -> list[str]:
    """The lines of one row of curves, an empty one above them."""
    height = max(map(len, blocks))
    padded = [[*block, *[""] * (height - len(block))] for block in blocks]
    return ["", *("  ".join(f"{line:{width}}" for line in row).rstrip() for row in zip(*padded))]


def _printable(name: str) -> str:
    """A metric's name from a file that may come from anybody: nothing that moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])


def _encodable(text: str) -> str:
    """What stdout can show: question marks for Braille where it takes no Unicode."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
