"""What a training run writes down as it goes: scalars by step.

In: `{name: float}` at a step. Out: one line of `metrics.jsonl`, TensorBoard events beside it, one plain line
on stderr, and the curves as a picture when asked. A resumed run forgets what was written after the step that
it resumes from, so the record of a run that was stopped ten times reads like that of one that never was.
"""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import tensorboardX

from ringvision.errors import UserError

METRICS = "metrics.jsonl"


class Record:
    """Scalars of one run, kept in `directory` (created where it is missing).

    step: the step that the run starts from; records of later steps are dropped, 0 starts afresh.
    quiet: nothing on stderr.
    """

    def __init__(self, directory: str | os.PathLike[str], *, step: int = 0, quiet: bool = False) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.quiet = quiet
        self._file = self.directory / METRICS
        _keep_until(self._file, step)
        self._lines = self._file.open("a", encoding="utf-8")
        self._board = tensorboardX.SummaryWriter(
            str(self.directory / "tensorboard"), purge_step=step + 1 if step else None, flush_secs=20
        )

    def write(self, step: int, scalars: Mapping[str, float], line: str | None = None) -> None:
        """Record scalars (python or numpy numbers; names may hold slashes) at `step`. Steps do not decrease.

        line: said on stderr in their place.
        """
        values = {name: float(value) for name, value in scalars.items()}
        self._lines.write(json.dumps({"step": int(step), "time": round(time.time(), 1), **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, int(step))
        self.say(
            f"step {step}  "
            + (line or "  ".join(f"{name} {_short(value)}" for name, value in values.items()))
        )

    def say(self, line: str) -> None:
        """One plain line on stderr, for what is not a scalar."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def read(self, name: str) -> tuple[list[int], list[float]]:
        """-> (steps, values) of one scalar over the whole run, the part before a resume included."""
        pairs = [
            (int(record["step"]), record[name]) for record in read_metrics(self.directory) if name in record
        ]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def curves_png(self, path: str | os.PathLike[str], names: Sequence[str]) -> None:
        """Draw one panel a name, each over steps, into a PNG at `path`. UserError where none of them was
        recorded.
        """
        curves = {name: self.read(name) for name in names}
        curves = {name: curve for name, curve in curves.items() if curve[0]}
        if not curves:
            raise UserError(
                f"{self._file} holds none of {', '.join(names)}; name scalars that the run recorded"
            )
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns = min(3, len(curves))
        rows = math.ceil(len(curves) / columns)
        figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for index, (name, (steps, values)) in enumerate(curves.items()):
            axes = figure.add_subplot(rows, columns, index + 1)
            axes.plot(steps, values, linewidth=1)
            axes.set_title(name, fontsize=10)
            axes.set_xlabel("step", fontsize=8)
            axes.grid(alpha=0.3)
        figure.savefig(os.fspath(path), dpi=110)

    def close(self) -> None:
        self._lines.close()
        self._board.close()

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(directory: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Every record of a run's folder, oldest first; a line cut short by a kill is left out. Empty where there
    is none.
    """
    file = Path(directory) / METRICS
    if not file.exists():
        return []
    records = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records.append(record)
    return records


def _keep_until(file: Path, step: int) -> None:
    records = [record for record in read_metrics(file.parent) if record["step"] <= step] if step else []
    aside = file.with_suffix(".partial")
    aside.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    os.replace(aside, file)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
