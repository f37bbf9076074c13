"""An evaluation beside earlier ones: the scores of several folders of results as one table.

In: the named scores of this run, and the folders that earlier ones were written to (`--out`). Out: lines of
markdown, a column a run.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ringvision.errors import UserError
from ringvision.untrusted_files import read_object

Scores = dict[str, float | None]


def read_scores(folder: str, kind: str) -> Scores:
    """The scores of an evaluation of a kind, by name.

    UserError where the folder holds no result, or one of another kind.
    """
    path = Path(folder) / "result.json"
    result = read_object(path, "give a folder that an evaluation wrote (--out) and that is complete")
    record = result.get("record")
    found = record.get("kind") if isinstance(record, Mapping) else None
    if found != kind:
        raise UserError(f"{path} is of an evaluation of kind {found!r}; expected {kind!r}")
    scores = result.get("scores")
    if not isinstance(scores, Mapping) or not all(
        value is None or (isinstance(value, int | float) and math.isfinite(value))
        for value in scores.values()
    ):
        raise UserError(f'{path} has no "scores" by name; run that evaluation again with the same --out')
    return dict(scores)


def comparison(scores: Mapping[str, Any], earlier: Mapping[str, Scores], form: str = ".1%") -> list[str]:
    """The scores of this run and of others as a markdown table; [] without others.

    Args:
        scores: of this run, by name; None where there is none.
        earlier: those of other runs, by the name of the run.
        form: how a score is written.

    Returns:
        A line for each score that any of them has.
    """
    if not earlier:
        return []
    runs = {"this run": dict(scores), **earlier}
    names = dict.fromkeys(name for run in runs.values() for name in run)
    lines = [f"| | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]
    for name in names:
        values = [run.get(name) for run in runs.values()]
        shown = ["" if value is None else format(value, form) for value in values]
        lines.append(f"| {name.replace('|', '/')} | {' | '.join(shown)} |")
    return lines


def read_earlier(folders: Sequence[str], kind: str) -> dict[str, Scores]:
    """The scores of each folder, by its path as it was given. UserError as `read_scores`."""
    return {folder: read_scores(folder, kind) for folder in folders}
