"""How a training run shows where it is: a bar with the time left on a terminal, plain lines elsewhere.

Step, scalars  ->  stderr. `ProgressBar`, `PlainLines` and `Silence` are forms of one `RunDisplay`.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

PACE = 600
"""Marks, taken at most once a second, over which the speed of steps is taken: the last ten minutes."""
ON_THE_BAR = {"loss": "loss", "tokens_per_second": "tokens/s", "mfu": "MFU"}


class RunDisplay(Protocol):
    """What a run tells: `write` the scalars of a step, `advance` of the steps between, `say` a line."""

    def write(self, step: int, values: Mapping[str, float], line: str | None) -> None: ...

    def advance(self, step: int) -> None: ...

    def say(self, line: str) -> None: ...

    def close(self) -> None: ...


class Pace:
    """How fast steps follow each other, from the times at which they were done."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """now: gives seconds."""
        self._now = now
        self._newest = 0
        self.marks: deque[tuple[int, float]] = deque(maxlen=PACE)

    def mark(self, step: int) -> None:
        """`step` is done. The first one marked is the start, so that compiling does not count; a step back
        starts anew.
        """
        now = self._now()
        self._newest = step
        if self.marks and step < self.marks[-1][0]:
            self.marks.clear()
        elif self.marks and now - self.marks[-1][1] < 1:
            return
        self.marks.append((step, now))

    def left(self, steps: int) -> str:
        """`1:02:03 left`; "" where it cannot be said, and at the end."""
        seconds = seconds_left(self.marks, steps) if self._newest < steps else None
        return "" if seconds is None else f"{clock(seconds)} left"


def seconds_left(marks: Sequence[tuple[int, float]], steps: int) -> float | None:
    """Seconds until `steps` are done, at the speed between the first mark (step, seconds) and the last; None
    where they show none.
    """
    if len(marks) < 2 or marks[-1][0] <= marks[0][0]:
        return None
    first, began = marks[0]
    last, ended = marks[-1]
    return max(0.0, (ended - began) / (last - first) * (steps - last))


class PlainLines:
    """One plain line for each step that is written, for logs."""

    def __init__(self, steps: int | None = None) -> None:
        """steps: how many the run has in all; None: unknown."""
        self._steps = steps
        self._pace = Pace()

    def write(self, step: int, values: Mapping[str, float], line: str | None) -> None:
        self._pace.mark(step)
        said = line or "  ".join(f"{name} {short(value)}" for name, value in values.items())
        if self._steps is None:
            self.say(f"step {step}  {said}")
        else:
            self.say(f"step {step} of {self._steps}  {said}  {self._pace.left(self._steps)}".rstrip())

    def advance(self, step: int) -> None:
        self._pace.mark(step)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None: ...


class Silence:
    """Nothing is shown."""

    def write(self, step: int, values: Mapping[str, float], line: str | None) -> None: ...

    def advance(self, step: int) -> None: ...

    def say(self, line: str) -> None: ...

    def close(self) -> None: ...


class ProgressBar:
    """A bar on a terminal: steps done and to do, loss, tokens a second, what the run is doing, the time left.
    Lines that are said stand above it.
    """

    def __init__(
        self,
        step: int,
        steps: int,
        doing: Callable[[], str],
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Draw it.

        Args:
            step: the run begins there.
            steps: it ends there.
            doing: gives the kind of work of this moment (Ledger.doing); "" where that is unknown.
            console: None: stderr.
            now: gives seconds.
        """
        self._steps = steps
        self._pace = Pace(now)
        self._shown: dict[str, float] = {}
        self._bar = Progress(
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            _Doing(doing),
            console=console or Console(stderr=True),
            refresh_per_second=2,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=steps, completed=step, numbers="", left="")
        self._bar.start()

    def write(self, step: int, values: Mapping[str, float], line: str | None) -> None:
        self._shown |= {name: values[name] for name in ON_THE_BAR if name in values}
        numbers = "  ".join(f"{ON_THE_BAR[name]} {short(value)}" for name, value in self._shown.items())
        self._bar.update(self._task, numbers=numbers)
        self.advance(step)
        if line:
            self.say(f"step {step}  {line}")

    def advance(self, step: int) -> None:
        self._pace.mark(step)
        self._bar.update(self._task, completed=step, left=self._pace.left(self._steps))

    def say(self, line: str) -> None:
        self._bar.console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


class _Doing(ProgressColumn):
    """The work of this moment, where it is not stepping itself."""

    def __init__(self, doing: Callable[[], str]) -> None:
        super().__init__()
        self._doing = doing

    def render(self, task: Task) -> Text:
        doing = self._doing()
        return Text("" if doing in ("stepping", "other") else doing, style="dim")


def short(value: float) -> str:
    """A number for people: four digits, or, below ten million, all before the point."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """`1:02:03`."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
