"""Files of a folder that a stranger made: which of them are its own, and the object in one of JSON.

In: a path. Out of `read_object` comes a dict whose whole numbers have at most 64 bits (larger ones become
floats, as `model_max_length` of many tokenizers is), whose floats are finite and whose lists are not nested
without end. What would take more memory than it is worth is refused unread: a list that is two characters in
the file takes sixty bytes in memory.
"""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from ringvision.errors import UserError

MOST_BYTES = 16 << 20
MOST_PARTS = 1 << 21
"""Values and names that a file may hold, counted by the marks before them; each takes up to a hundred bytes
in memory.
"""
DEEPEST = 64
LONGEST_NUMBER = 19


def read_object(
    path: str | os.PathLike[str], advice: str, *, most_bytes: int = MOST_BYTES, most_parts: int = MOST_PARTS
) -> dict[str, Any]:
    """The object in a JSON file. UserError, which ends in `advice`, where it cannot be opened, is none, or is
    more than it may be.
    """
    try:
        if not Path(path).is_file():
            raise ValueError("it is no file")
        size = os.stat(path).st_size
        if size > most_bytes:
            raise UserError(
                f"{path} has {size} bytes, expected at most {most_bytes}; is it what its name says?"
            )
        with open(path, "rb") as file:
            data = file.read(most_bytes)
        if sum(map(data.count, (b",", b":", b"[", b"{"))) > most_parts:
            raise ValueError(f"more than {most_parts} values")
        found = json.loads(data, parse_int=_whole, parse_float=_finite, parse_constant=_refuse)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, expected an object of settings")
        _check_depth(found)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); {advice}") from None
    return found


def belongs(path: Path, folder: Path) -> bool:
    """Whether a file of a folder may be copied out of it: it lies there, or, as Hugging Face keeps what it
    downloads, among the blobs of the same repository. A link to any other place could bring what is private
    into a folder that is passed on.
    """
    real = path.resolve()
    home = folder.resolve()
    return real.is_relative_to(home) or (
        home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    )


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_NUMBER else _finite(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if abs(value) == float("inf"):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _check_depth(found: dict[str, Any]) -> None:
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        level = [
            value
            for part in level
            for value in (part.values() if isinstance(part, dict) else part)
            if isinstance(value, list | dict)
        ]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} deep")
