"""Scalars as TensorBoard's events, written where they come up.

tensorboardX's SummaryWriter hands events to a thread of its own. When that ends, as it does on a full disk,
its queue fills and the next event waits for ever; so events are written here with its file format alone.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

FLUSHED = 20.0
"""Seconds after which a write also brings what was written before to the disk."""


class EventFile:
    """A new file of events in `directory`, which is made where it is missing. OSError where it cannot be
    written.
    """

    def __init__(self, directory: Path, step: int) -> None:
        """Open it; TensorBoard then hides what other files of the folder hold of steps after `step`."""
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, and wants "tfevents" in them
        self._file = RecordWriter(os.fspath(directory / f"events.out.tfevents.{time.time_ns()}"))
        self._flushed = time.monotonic()
        self._add(Event(file_version="brain.Event:2"))
        self.rolled_back(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        for name, value in values.items():
            self._add(Event(step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed > FLUSHED:
            self._file.flush()
            self._flushed = time.monotonic()

    def rolled_back(self, step: int) -> None:
        """Hide what was written of steps after `step`."""
        self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())
