"""Curves of a run's metrics: as a picture, and in the letters of a terminal.

In: {name: (steps, values)} (`curves_of`). Out: a PNG or SVG file; lines of text, each dot of a Braille letter
a point. Values that are not finite are left out of both.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import plotille

from ringvision.errors import UserError
from ringvision.train.progress import short

Curve = tuple[list[int], list[float]]
FIRST = ("loss", "answer_accuracy", "eval/all", "gradient_norm", "learning_rate", "tokens_per_second")
"""Shown where nobody says which, followed by others in the order in which they came up."""
NO_METRICS = ("step", "time", "elapsed")
SHOWN = 6
FORMATS = (".png", ".svg")


def curves_of(records: Iterable[Mapping[str, float]]) -> dict[str, Curve]:
    """The records of a run (metrics_file.read_metrics), by name."""
    curves: dict[str, Curve] = {}
    for record in records:
        for name, value in record.items():
            if name not in NO_METRICS:
                steps, values = curves.setdefault(name, ([], []))
                steps.append(int(record["step"]))
                values.append(float(value))
    return curves


def selected(names: Iterable[str]) -> list[str]:
    """Up to SHOWN of these names, those that matter most first."""
    there = list(dict.fromkeys(names))
    return [*(name for name in FIRST if name in there), *(name for name in there if name not in FIRST)][
        :SHOWN
    ]


def draw_picture(path: str | os.PathLike[str], curves: Mapping[str, Curve]) -> None:
    """One panel a curve, over steps, into a file whose ending says of which kind it is.

    Raises:
        UserError: it ends in neither .png nor .svg, or cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if Path(path).suffix.lower() not in FORMATS:
        raise UserError(f"{path} ends in {Path(path).suffix!r}; give a name that ends in .png or .svg")
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, (steps, values)) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.plot(steps, values, linewidth=1)
        axes.set_title(name, fontsize=10, parse_math=False)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
    try:
        figure.savefig(os.fspath(path), dpi=110)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another --out") from None


def terminal_curve(name: str, curve: Curve, *, width: int, height: int = 5) -> list[str]:
    """One curve in letters.

    Args:
        name: what stands above it.
        curve: steps and values, in the order in which they were recorded.
        width: columns of a line in all.
        height: lines of the curve.

    Returns:
        `height` + 2 lines: name and last value; the curve, beside it its highest and lowest value; its first
        and last step.
    """
    points = sorted((step, value) for step, value in zip(*curve) if math.isfinite(value))
    title = f"{name}  {short(curve[1][-1])}"[:width]
    if not points:
        return [title]
    values = [value for _, value in points]
    low = min(values)
    high = max(values)
    labels = {0: short(high), height - 1: short(low)} if high > low else {height // 2: short(low)}
    margin = max(map(len, labels.values()))
    columns = max(8, width - margin - 2)
    drawn = _braille(points, low, high, columns, height)
    lines = [f"{labels.get(row, ''):>{margin}} │{letters}".rstrip() for row, letters in enumerate(drawn)]
    first = str(points[0][0])
    last = str(points[-1][0])
    return [title, *lines, f"{'':{margin}} └{first}{last:>{max(1, columns - len(first))}}"]


def _braille(
    points: Sequence[tuple[int, float]], low: float, high: float, columns: int, rows: int
) -> list[str]:
    """The points joined by lines, as `rows` lines of `columns` letters of 2 x 4 dots."""
    right = 2 * columns - 1
    top = 4 * rows - 1
    first = points[0][0]
    across = max(1, points[-1][0] - first)
    canvas = plotille.Canvas(columns, rows, xmax=2 * columns, ymax=4 * rows)
    dots: dict[tuple[int, int], None] = {}  # each once, in order: a long run has many points to a dot
    for step, value in points:
        # halves, because the difference of the largest floats is infinite
        up = 0.5 if high == low else (value / 2 - low / 2) / (high / 2 - low / 2)
        dots[round((step - first) / across * right), round(up * top)] = None
    joined = list(dots)
    canvas.point(*joined[0])
    for (x0, y0), (x1, y1) in pairwise(joined):
        canvas.line(x0, y0, x1, y1)
    return canvas.plot("\n").replace("\N{BRAILLE PATTERN BLANK}", " ").split("\n")
