"""Batches of a run: each process makes the rows that its devices hold, ahead of the step that needs them.

    DataConfig, sources, processor  --Loader.batches(state)-->  Loaded(batch, state), Loaded, ...

Row r of every batch is lane r (lane.py), so a batch is the same whatever number of processes make it, and a
run that goes on from a state sees what an undisturbed one would have seen.
"""

import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from ringvision.data.lane import Lane
from ringvision.data.mixture import Mixture
from ringvision.data.packing import Batch, stack
from ringvision.data.sources import DataConfig, DataSource, VideosInfo
from ringvision.data.stream import Example, PromptProcessor
from ringvision.data.workers import Filled, WorkerPool, fill_lane
from ringvision.errors import UserError

AHEAD = 2
"""How many batches are made before they are asked for."""
FEW = 3
"""So many bad records never stop a run, whatever their share."""
NAMED = 5
"""How many of the bad records are named."""


class Loaded(NamedTuple):
    """A batch, and where to go on after it.

    batch: arrays [rows of this process, length]. state: plain values that JSON can hold, {"step": how many
    batches there were, "lanes": {row: state of its lane}}.
    """

    batch: Batch
    state: dict[str, Any]


class Loader:
    """Makes batches of `data.rows` x `data.length` tokens, or those rows of them that this process needs.

    drawn, bad: how many records were read, and how many of them could not be, in the rows of this process.
    named: what is wrong with the first few of those. notices: what a user should know of the sources.

    Args:
        data: what is read and how it is packed.
        sources: of `data.sources`, opened, in their order.
        processor: what they were opened with.
        seed: of the order of documents and of all choices.
        rows: those of a batch that are wanted, from 0 on; None: all.
        max_length: positions stay below it, in documents longer than a row.
        reopen: makes a processor like `processor` in another process; it is pickled. None: `data.workers` has
            to be 0.
    """

    def __init__(
        self,
        data: DataConfig,
        sources: Sequence[DataSource],
        processor: PromptProcessor,
        *,
        seed: int = 0,
        rows: Sequence[int] | None = None,
        max_length: int | None = None,
        reopen: Callable[[], PromptProcessor] | None = None,
    ) -> None:
        self.data = data
        self.sources = sources
        self.processor = processor
        self.rows = list(range(data.rows) if rows is None else rows)
        self.drawn = 0
        self.bad = 0
        self.named: list[str] = []
        self.notices = [notice for source in sources for notice in source.notices]
        self._mixture = Mixture(data, sources, seed=seed, max_length=max_length or data.length)
        self._reopen = reopen

    @property
    def vision(self) -> VideosInfo | None:
        """What all videos of the mixture share; None where it has none."""
        return next((source.vision for source in self.sources if source.vision), None)

    def lane(self, row: int) -> Lane:
        """One row of every batch by itself, from the first batch on: for looking at what a run reads."""
        return Lane(self._mixture, row)

    def document(self, source: int, position: int) -> tuple[int, Example]:
        """The number and the example of the document at a position of a source's stream, as the first row of
        a run would get it. BadRecord where it cannot be read.
        """
        index = self._mixture.index(source, position)
        return index, self._mixture.example(source, position, 0)

    def batches(self, state: Mapping[str, Any] | None = None) -> Generator[Loaded, None, None]:
        """Batches without end, made ahead.

        state: that of the last batch that was used; None: from the first batch. It holds the lanes of this
        process at least. To be closed; then no thread and no process is left.

        UserError where the state is of other rows or sources, a source gives nothing, or more records are bad
        than `data.bad_records` allows.
        """
        lanes = dict.fromkeys(self.rows) if state is None else self._lanes_of(state)
        step = 0 if state is None else int(state["step"])
        self.drawn = sum(lane["drawn"] for lane in lanes.values() if lane)
        self.bad = sum(lane["bad"] for lane in lanes.values() if lane)
        with closing(_ahead(partial(self._filled, lanes))) as ready:
            for filled in ready:
                step += 1
                self._count(filled)
                states = {str(row): one.state for row, one in zip(self.rows, filled, strict=True)}
                yield Loaded(stack([one.row for one in filled]), {"step": step, "lanes": states})

    def _filled(
        self, lanes: Mapping[int, Mapping[str, Any] | None], stop: threading.Event
    ) -> Generator[list[Filled], None, None]:
        """For every step this process's rows, in order, until `stop`."""
        if self.data.workers and self.rows:
            if self._reopen is None:
                raise ValueError("workers need a way to open a processor")
            with closing(WorkerPool(self._mixture, lanes, self._reopen)) as pool:
                while (filled := pool.next_rows(stop)) is not None:
                    yield filled
            return
        opened = [Lane(self._mixture, row, state) for row, state in lanes.items()]
        while True:
            yield [fill_lane(lane) for lane in opened]

    def _lanes_of(self, state: Mapping[str, Any]) -> dict[int, Mapping[str, Any] | None]:
        lanes = state["lanes"]
        if missing := [row for row in self.rows if str(row) not in lanes]:
            raise UserError(
                f"the state of the data has no row {missing[0]}, it is of {len(lanes)} rows; go on with as "
                "many rows as the run began with"
            )
        return {row: lanes[str(row)] for row in self.rows}

    def _count(self, filled: Sequence[Filled]) -> None:
        """UserError where more records are bad than may be."""
        self.drawn = sum(one.state["drawn"] for one in filled)
        self.bad = sum(one.state["bad"] for one in filled)
        for name in (name for one in filled for name in one.bad):
            if name not in self.named and len(self.named) < NAMED:
                self.named.append(name)
        if self.bad > max(FEW, self.data.bad_records * self.drawn):
            shown = "; ".join(self.named)
            raise UserError(
                f"{self.bad} of {self.drawn} records cannot be read, more than data.bad_records "
                f"({self.data.bad_records:g}) allows: {shown}; mend them, or allow more"
            )


def _ahead(make: Callable[[threading.Event], Generator[Any, None, None]]) -> Generator[Any, None, None]:
    """The items of a generator, made in a thread up to AHEAD of them early. To be closed; `make` is given an
    event by which it learns that it was.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def build() -> None:
        try:
            with closing(make(stop)) as items:
                for item in items:
                    put(item)
                    if stop.is_set():
                        return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=build, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
