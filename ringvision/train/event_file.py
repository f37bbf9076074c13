"""Scalars as TensorBoard's events, written where they come up.

tensorboardX's SummaryWriter hands events to a thread of its own. When that ends, as it does on a full disk,
its queue fills and the next event waits for ever; so events are written here with its file format alone.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

FLUSHED = 20.0
"""Seconds after which events go to disk, where the program itself writes none on time."""


class EventFile:
    """A new file of events in `directory`, which is made where it is missing."""

    def __init__(self, directory: Path, step: int) -> None:
        """Open it; TensorBoard then hides what other files of the folder hold of steps after `step`."""
        directory.mkdir(parents=True, exist_ok=True)
        # the time in the file's name is in whole seconds, and a file of the same name would be overwritten
        self._file = EventsWriter(os.fspath(directory / "events"), f".{time.time_ns()}")
        self._flush()
        self.rolled_back(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        for name, value in values.items():
            self._file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if time.monotonic() - self._flushed > FLUSHED:
            self._flush()

    def rolled_back(self, step: int) -> None:
        """Hide what was written of steps after `step`."""
        started = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(wall_time=time.time(), step=step + 1, session_log=started))

    def close(self) -> None:
        self._file.close()

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()
