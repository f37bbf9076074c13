"""Scores by the length of what was read and by where in it the answer stands: cells, a table, a picture.

    rows {"seconds": 60, "depth": 0.5, "right", …} -> cells {"seconds", "depth", "accuracy", "examples"}

`unit` is the name of the length: seconds of video, or tokens of text.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ringvision.evaluate.heatmap import draw_heatmap
from ringvision.evaluate.result_log import Row

Cell = dict[str, Any]


def rows_with(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """The rows that say this."""
    return [row for row in rows if all(row.get(name) == value for name, value in fields.items())]


def share_right(rows: Sequence[Row]) -> float | None:
    """The share of right answers; None of no rows."""
    return sum(bool(row["right"]) for row in rows) / len(rows) if rows else None


def percent(score: float | None) -> str:
    """A score for people."""
    return "not asked" if score is None else f"{score:.1%}"


def depths_of(count: int) -> tuple[float, ...]:
    """So many depths, evenly from 0 to 1; a single one is the middle."""
    return (0.5,) if count == 1 else tuple(round(index / (count - 1), 4) for index in range(count))


def cells_of(rows: Sequence[Row], unit: str, lengths: Sequence[int], depths: Sequence[float]) -> list[Cell]:
    """A cell for each length and depth, also those without a row: {unit, "depth", "accuracy", "examples"}."""
    cells = []
    for length in lengths:
        for depth in depths:
            here = rows_with(rows, **{unit: length}, depth=depth)
            cells.append({unit: length, "depth": depth, "accuracy": share_right(here), "examples": len(here)})
    return cells


def by_length(rows: Sequence[Row], unit: str, lengths: Sequence[int]) -> list[Cell]:
    """A cell for each length that has rows: {unit, "accuracy", "examples"}."""
    found = {length: rows_with(rows, **{unit: length}) for length in lengths}
    return [
        {unit: length, "accuracy": share_right(here), "examples": len(here)}
        for length, here in found.items()
        if here
    ]


def table_lines(
    cells: Sequence[Cell],
    unit: str,
    name: Callable[[int], str],
    further: Mapping[str, Sequence[Cell]],
) -> list[str]:
    """The cells as a markdown table, a line for each depth.

    Args:
        cells: as `cells_of` has them.
        unit: of their lengths.
        name: of a length, for people.
        further: cells as `by_length` has them, each a line more; of none there is no line.

    Returns:
        The lines of the table.
    """
    lengths = list(dict.fromkeys(cell[unit] for cell in cells))
    lines = [f"| depth | {' | '.join(map(name, lengths))} |", "|---" * (len(lengths) + 1) + "|"]
    named = {f"{depth:.0%}": [cell for cell in cells if cell["depth"] == depth] for depth in _depths(cells)}
    for title, line in {**named, **further}.items():
        if line:
            scores = {cell[unit]: percent(cell["accuracy"]) for cell in line}
            lines.append(f"| {title} | {' | '.join(scores.get(length, '') for length in lengths)} |")
    return lines


def draw_cells(
    path: str | os.PathLike[str],
    cells: Sequence[Cell],
    unit: str,
    name: Callable[[int], str],
    *,
    title: str,
    across: str,
    down: str,
) -> None:
    """Draws the cells as a heatmap.

    Args:
        path: the PNG to write.
        cells: as `cells_of` has them.
        unit: of their lengths.
        name: of a length, for people.
        title: above the picture.
        across: what the lengths are.
        down: what the depths are.

    Raises:
        UserError: the file cannot be written.
    """
    lengths = list(dict.fromkeys(cell[unit] for cell in cells))
    depths = _depths(cells)
    scores = {(cell[unit], cell["depth"]): cell["accuracy"] for cell in cells}
    draw_heatmap(
        path,
        [[scores[length, depth] for length in lengths] for depth in depths],
        columns=[name(length) for length in lengths],
        rows=[f"{depth:.0%}" for depth in depths],
        title=title,
        across=across,
        down=down,
    )


def _depths(cells: Sequence[Cell]) -> list[float]:
    return list(dict.fromkeys(cell["depth"] for cell in cells))
