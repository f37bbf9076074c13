"""What a training run writes down as it goes: scalars by step, how far it is, and where its time went.

In: `{name: float}` at a step. Out, in the run's folder: metrics.jsonl, TensorBoard's events, status.json and
ledger.json; on stderr a bar or plain lines; and Weights & Biases where a project is named. A run that goes
back, by a resume or after a bad batch, forgets what was written after that step: the record of a run that was
stopped ten times reads like that of one that never was.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ringvision.errors import UserError
from ringvision.train.curves import curves_of, draw_picture
from ringvision.train.event_file import EventFile
from ringvision.train.ledger import Ledger, table
from ringvision.train.metrics_file import METRICS, MetricsFile, read_metrics
from ringvision.train.progress import PlainLines, ProgressBar, RunDisplay, Silence
from ringvision.train.run_status import LEDGER, RunStatus, State, replace_json, write_status
from ringvision.train.wandb_run import WandbRun

__all__ = ["METRICS", "Record", "read_metrics"]


class Record:
    """Scalars of one run, kept in `directory`. Of several processes all make one, and the first alone writes
    and shows anything.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        step: int = 0,
        steps: int | None = None,
        quiet: bool = False,
        main: bool = True,
        ledger: Ledger | None = None,
        wandb: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the record.

        Args:
            directory: the run's folder, created where it is missing.
            step: the step that the run starts from; records of later steps are dropped, 0 starts afresh.
            steps: how many the run has in all, for the time that is left; None: unknown.
            quiet: nothing on stderr.
            main: False on every process but the first: nothing is written.
            ledger: the run's books.
            wandb: a project of Weights & Biases; None: nothing is sent.
            config: settings to be shown there, as JSON holds them.

        Raises:
            UserError: the folder cannot be written.
        """
        self.directory = Path(directory)
        self._main = main
        self._ledger = ledger
        self._step = step
        self._steps = steps
        self._progress: RunDisplay = Silence()
        self._events: EventFile | None = None
        self._wandb: WandbRun | None = None
        if not main:
            return
        if not quiet:
            self._progress = PlainLines(steps)
        with self._writing():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._metrics = MetricsFile(self.directory, step)
            self._events = EventFile(self.directory / "tensorboard", step)
            self._leave_word("running")
        if wandb:
            self._wandb = WandbRun(wandb, self.directory, step=step, config=config or {}, warn=self.say)
        if not quiet and steps is not None and sys.stderr.isatty():
            self._progress = ProgressBar(step, steps, lambda: ledger.doing if ledger else "")

    def write(self, step: int, scalars: Mapping[str, float], line: str | None = None) -> None:
        """Record scalars (python or numpy numbers; names may hold slashes) at `step`. Steps do not decrease.

        line: said on stderr in their place.

        Raises:
            UserError: they cannot be written.
        """
        self._step = int(step)
        if not self._main:
            return
        values = {name: float(value) for name, value in scalars.items()}
        elapsed = self._ledger.total if self._ledger else None
        with self._writing():
            self._metrics.write(self._step, values, elapsed=elapsed)
            self._leave_word("running")
        self._add_events(lambda events: events.write(self._step, values))
        if self._wandb:
            self._wandb.write(self._step, values)
        self._progress.write(self._step, values, line)

    def settings(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a file of the run's settings, JSON, into its folder. UserError where that cannot be done."""
        if self._main:
            with self._writing():
                replace_json(self.directory / name, values)

    def advance(self, step: int) -> None:
        """`step` is done, and has no scalars to be written: it costs next to nothing."""
        self._step = int(step)
        self._progress.advance(self._step)

    def rolled_back(self, step: int) -> None:
        """The run goes on from `step`, which is behind it: what was written of later steps is forgotten."""
        self._step = step
        if not self._main:
            return
        with self._writing():
            self._metrics.rolled_back(step)
            self._leave_word("running")
        self._add_events(lambda events: events.rolled_back(step))
        self._progress.advance(step)

    def say(self, line: str) -> None:
        """One plain line on stderr, for what is not a scalar."""
        self._progress.say(line)

    def read(self, name: str) -> tuple[list[int], list[float]]:
        """-> (steps, values) of one scalar over the whole run, the part before a resume included."""
        return curves_of(read_metrics(self.directory)).get(name, ([], []))

    def curves_png(self, path: str | os.PathLike[str], names: Sequence[str]) -> None:
        """Draw one panel a name, each over steps, into a PNG at `path`. UserError where none of them was
        recorded.
        """
        if not self._main:
            return
        there = curves_of(read_metrics(self.directory))
        curves = {name: there[name] for name in names if name in there}
        if not curves:
            raise UserError(
                f"{self.directory / METRICS} holds none of {', '.join(names)}; name scalars that the run "
                "recorded"
            )
        draw_picture(path, curves)

    def close(self, *, failed: bool = False) -> None:
        """Say where the time went, and that the run is done, or stopped before its last step."""
        self._progress.close()
        if not self._main:
            return
        done = not failed and (self._steps is None or self._step >= self._steps)
        if self._ledger:
            self.say(table(self._ledger.seconds))
        self._attempt("the run's status", lambda: self._leave_word("done" if done else "stopped"))
        self._attempt(METRICS, self._metrics.close)
        if self._events:
            self._attempt("TensorBoard's events", self._events.close)
        if self._wandb:
            self._wandb.close(failed=failed)

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def _leave_word(self, state: State) -> None:
        status = RunStatus(state, self._step, self._steps, round(time.time(), 1))
        write_status(self.directory, status)
        if self._ledger:
            replace_json(self.directory / LEDGER, self._ledger.to_dict())

    def _add_events(self, add: Callable[[EventFile], None]) -> None:
        """To TensorBoard's copy, without which a run goes on."""
        if self._events is None:
            return
        events = self._events
        if not self._attempt("TensorBoard's events", lambda: add(events)):
            self._attempt("TensorBoard's last events", events.close)
            self._events = None

    def _attempt(self, what: str, write: Callable[[], None]) -> bool:
        """Whether it could be written; one line where not."""
        try:
            write()
        except OSError as error:
            self.say(
                f"{what} cannot be written to {self.directory} ({error.strerror}); left out from here on"
            )
            return False
        return True

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.directory} cannot be written: {error.strerror}; make room or give another folder "
                "(out), and the run goes on from its last checkpoint"
            ) from error
