"""Processes that fill the lanes of a loader, each some of them: the same rows, prepared beside the training.

    lanes 0 1 2 3 4 5, two workers:  0 2 4 | 1 3 5  -->  rows and states of a step, in the order of the lanes

A worker opens sources and text tokenizer for itself, fills its lanes step after step and sends every row with
the state after it through a pipe, which holds it up once it is ahead. When the other end of the pipe is gone,
however the process there ended, the worker ends too.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ringvision.data.lane import Lane
from ringvision.data.mixture import Mixture
from ringvision.data.packing import Batch
from ringvision.data.sources import DataConfig
from ringvision.data.stream import PromptProcessor
from ringvision.errors import UserError

SECONDS_TO_END = 5.0
LOOK_UP = 0.2
"""Seconds after which who waits for a worker looks whether it is still to wait."""

State = Mapping[str, Any]


class Filled(NamedTuple):
    """A row that a lane gave. row: arrays [length]. state: of the lane after it. bad: what is wrong with the
    records that were found to be unreadable for this row.
    """

    row: Batch
    state: dict[str, Any]
    bad: list[str]


def fill_lane(lane: Lane) -> Filled:
    """The next row of a lane."""
    known = len(lane.bad)
    row = lane.next_row()
    return Filled(row, lane.state(), lane.bad[known:])


class Task(NamedTuple):
    """What a worker is told: all of it goes through a pipe."""

    data: DataConfig
    reopen: Callable[[], PromptProcessor]
    seed: int
    max_length: int
    lanes: dict[int, State | None]


class WorkerPool:
    """`data.workers` processes, or as many as there are lanes.

    Args:
        mixture: what the lanes draw from; the workers open the like for themselves.
        lanes: the rows that are wanted, and the state that each goes on from.
        reopen: makes a text tokenizer and what goes with it; it is pickled.

    Raises:
        UserError: the sources or `reopen` cannot be sent to another process.
    """

    def __init__(
        self, mixture: Mixture, lanes: Mapping[int, State | None], reopen: Callable[[], PromptProcessor]
    ) -> None:
        self._count = min(mixture.data.workers, len(lanes))
        self._lanes = len(lanes)
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        context = multiprocessing.get_context("spawn")
        rows = list(lanes)
        try:
            for number in range(self._count):
                own = {row: lanes[row] for row in rows[number :: self._count]}
                task = Task(mixture.data, reopen, mixture.seed, mixture.max_length, own)
                ours, theirs = context.Pipe(duplex=False)
                self._pipes.append(ours)
                process = context.Process(target=_work, args=(theirs, task), name="rows", daemon=True)
                try:
                    process.start()
                except (AttributeError, TypeError) as error:  # pickle's, for what lives in no module
                    raise UserError(
                        f"the data cannot be sent to another process ({error}); set data.workers to 0"
                    ) from None
                finally:
                    theirs.close()
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    def next_rows(self, stop: threading.Event) -> list[Filled] | None:
        """The rows of the next step in the order of the lanes; None once `stop` is set.

        UserError where a worker raised one, or ended otherwise.
        """
        filled: list[Filled | None] = [None] * self._lanes
        for number in range(self._count):
            answer = self._receive(number, stop)
            if answer is None:
                return None
            filled[number :: self._count] = answer
        return [one for one in filled if one is not None]

    def close(self) -> None:
        """End the workers."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._pipes = []
        self._processes = []

    def _receive(self, number: int, stop: threading.Event) -> Sequence[Filled] | None:
        pipe = self._pipes[number]
        try:
            while not pipe.poll(LOOK_UP):
                if stop.is_set():
                    return None
            answer = pipe.recv()
        except (EOFError, OSError):
            process = self._processes[number]
            process.join(SECONDS_TO_END)
            raise UserError(
                f"process {number + 1} of {self._count} that prepare rows has ended (exit status "
                f"{process.exitcode}), perhaps for want of memory; the run goes on from its last checkpoint "
                "when it is started again, with fewer data.workers if need be"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        rows: Sequence[Filled] = answer
        return rows


def _work(pipe: Connection, task: Task) -> None:
    """Fill the lanes of a task until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the rows
    try:
        for rows in _rows(task):
            pipe.send(rows)
    except (BrokenPipeError, ConnectionResetError):
        return
    except UserError as error:
        _send(pipe, UserError(str(error)))
    except Exception as error:
        _send(pipe, UserError(f"a process that prepares rows failed: {type(error).__name__}: {error}"))
        raise


def _rows(task: Task) -> Any:
    processor = task.reopen()
    sources = [source.open(processor, task.data.length) for source in task.data.sources]
    mixture = Mixture(task.data, sources, seed=task.seed, max_length=task.max_length)
    lanes = [Lane(mixture, row, state) for row, state in task.lanes.items()]
    while True:
        yield [fill_lane(lane) for lane in lanes]


def _send(pipe: Connection, error: Exception) -> None:
    try:
        pipe.send(error)
    except OSError:
        return
