"""A run's metrics on disk, one JSON object a line: appended to, cut back where the run goes back, and read.

    {"step": 150, "time": 1764433000.0, "elapsed": 421.5, "loss": 0.71, "tokens_per_second": 5210.0}

`time` is in seconds since 1970, `elapsed` the seconds that the run had taken by its ledger, whose clock
stands still while no process works on it. A number that is not finite is null in the file and NaN when it is
read.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
LONGEST_LINE = 1 << 20
"""Bytes. A longer line is none of a run's, and is passed over in pieces of this size."""


class MetricsFile:
    """The lines of the run in `directory`, open for more of them."""

    def __init__(self, directory: Path, step: int) -> None:
        """Open the file, made where it is missing; lines of steps after `step` are dropped, and all of them
        where `step` is 0.
        """
        self.path = directory / METRICS
        self._cut(step)

    def write(self, step: int, values: Mapping[str, float], *, elapsed: float | None = None) -> None:
        """One line, on disk when this returns."""
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 1)}
        if elapsed is not None:
            line["elapsed"] = round(elapsed, 3)
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()

    def rolled_back(self, step: int) -> None:
        """Forget all lines of steps after `step`."""
        self.close()
        self._cut(step)

    def close(self) -> None:
        self._lines.close()

    def _cut(self, step: int) -> None:
        """Lines are copied until the run goes back; one that a kill cut short is left out."""
        aside = self.path.with_suffix(".partial")
        with aside.open("w", encoding="utf-8") as kept:
            for line in _lines(self.path) if step else ():
                record = _record(line)
                if record is not None and record["step"] <= step:
                    kept.write(line if line.endswith("\n") else line + "\n")
        os.replace(aside, self.path)
        self._lines = self.path.open("a", encoding="utf-8")


def read_metrics(directory: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Every line of a run's folder, oldest first. Lines that are cut short or hold no step, and values that
    are no numbers, are left out. Empty where there is no file.
    """
    found = map(_record, _lines(Path(directory) / METRICS))
    return [record for record in found if record is not None]


def lost_seconds(directory: str | os.PathLike[str], step: int) -> float:
    """How long the run in `directory` had worked after its checkpoint of `step` when it was killed: what it
    does again from there. To be asked before the record is opened, which drops those lines.

    It is taken from `elapsed`, between lines on a straight line, up to the last line that was written; what
    came after that is in no file. 0 where nothing was written after `step`, or by a run without a ledger.
    """
    marks = [(0.0, 0.0)]
    marks += [
        (record["step"], record["elapsed"]) for record in read_metrics(directory) if "elapsed" in record
    ]
    after = next((mark for mark in marks if mark[0] > step), None)
    if after is None:
        return 0.0
    before = [mark for mark in marks if mark[0] <= step][-1]
    share = (step - before[0]) / (after[0] - before[0])
    return max(0.0, marks[-1][1] - (before[1] + share * (after[1] - before[1])))


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(LONGEST_LINE):
            yield line


def _record(line: str) -> dict[str, float] | None:
    """The numbers of a line; None where it is none of a run's."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int or not 0 <= found["step"] < 2**63:
        return None
    numbers: dict[str, float] = {}
    for name, value in found.items():
        kind = type(value)
        if kind is float or (kind is int and value.bit_length() < 1024):  # steps stay whole numbers
            numbers[name] = value
        elif kind is int or value is None:
            numbers[name] = math.nan
    return numbers
