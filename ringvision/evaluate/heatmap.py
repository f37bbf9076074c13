"""Scores by two things, such as length and depth, as a picture: red is 0, green is 1."""

import os
from collections.abc import Sequence

from ringvision.errors import UserError


def draw_heatmap(
    path: str | os.PathLike[str],
    scores: Sequence[Sequence[float | None]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    title: str,
    across: str,
    down: str,
) -> None:
    """Draws a PNG.

    Args:
        path: the file to write.
        scores: in [0, 1], of each row and column; None where nothing was asked.
        columns: names of the columns.
        rows: names of the rows.
        title: above the picture.
        across: what columns are.
        down: what rows are.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 + 1.2 * len(columns), 1.8 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    known = [[float("nan") if score is None else score for score in line] for line in scores]
    axes.imshow(known, cmap="RdYlGn", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.set_title(title, fontsize=11)
    for row, line in enumerate(scores):
        for column, score in enumerate(line):
            if score is not None:
                axes.text(column, row, f"{score:.0%}", ha="center", va="center", fontsize=9)
    try:
        figure.savefig(os.fspath(path), dpi=110)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
