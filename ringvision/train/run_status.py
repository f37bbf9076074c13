"""How far a run is, in RUN/status.json, and where its time went, in RUN/ledger.json: for `ringvision watch`.

    {"state": "running", "step": 150, "steps": 500, "time": 1764433000.0}

`state` is running, done, or stopped (it can go on). A process that was killed leaves it at running; `time`,
seconds since 1970, says when it was last heard of.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ringvision.errors import UserError
from ringvision.train.ledger import KINDS
from ringvision.untrusted_files import read_object

STATUS = "status.json"
LEDGER = "ledger.json"
MOST_BYTES = 1 << 16
State = Literal["running", "done", "stopped"]


@dataclass(frozen=True)
class RunStatus:
    """See above. steps: None where the run does not say how many it has."""

    state: State
    step: int
    steps: int | None
    time: float


def write_status(directory: Path, status: RunStatus) -> None:
    """Leave word of the run in `directory`."""
    replace_json(directory / STATUS, asdict(status))


def read_status(directory: Path) -> RunStatus | None:
    """The last word of the run in `directory`; None where there is none that can be read."""
    found = _read(directory / STATUS)
    state = found.get("state")
    step = found.get("step")
    steps = found.get("steps")
    told = found.get("time")
    if state not in ("running", "done", "stopped") or type(step) is not int:
        return None
    if not isinstance(told, (int, float)) or not (steps is None or type(steps) is int):
        return None
    return RunStatus(state, step, steps, float(told))


def read_ledger(directory: Path) -> dict[str, float]:
    """Seconds by kind of time of the run in `directory`; empty where it kept no ledger."""
    found = _read(directory / LEDGER)
    return {
        kind: float(found[kind])
        for kind in KINDS
        if type(found.get(kind)) in (int, float) and math.isfinite(found[kind])
    }


def replace_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file anew, so that whoever reads it meanwhile finds the old one or the new one, whole."""
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(values) + "\n", encoding="utf-8")
    os.replace(aside, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, "", most_bytes=MOST_BYTES)
    except UserError:
        return {}
