"""Files of untrusted folders: JSON read within bounds, and which files belong to a folder.

`read_object` gives a dict whose whole numbers have at most 64 bits (larger ones become floats, as
`model_max_length` of many tokenizers is), whose floats are finite, and whose values are nested at most
DEEPEST deep. A file that would take too much memory is refused before it is parsed: a list that is two
characters in the file takes sixty bytes in memory.

The parser is Python's own. The bounds are written by hand for security: JSON libraries (orjson, msgspec,
ijson) do not limit all of size, count of values, depth and numbers.
"""

import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from ringvision.errors import UserError

MOST_BYTES = 16 << 20
MOST_PARTS = 1 << 21
"""Values and names in a file, counted by the punctuation before them; each takes up to a hundred bytes in
memory.
"""
DEEPEST = 64
LONGEST_NUMBER = 19
TOO_LONG = re.compile(rb"\d{%d}" % (LONGEST_NUMBER + 1))


def read_object(
    path: str | os.PathLike[str], advice: str, *, most_bytes: int = MOST_BYTES, most_parts: int = MOST_PARTS
) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Args:
        path: the file.
        advice: what to do where the file cannot be read; the end of the message.
        most_bytes: the largest file to read.
        most_parts: the largest number of values and names.

    Returns:
        The object.

    Raises:
        UserError: the file cannot be opened, holds no object, or is over a bound.
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
        return parse_object(data, most_parts=most_parts)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); {advice}") from None


def parse_object(data: bytes, *, most_parts: int = MOST_PARTS) -> dict[str, Any]:
    """The object that is written as JSON in `data`. ValueError or RecursionError where there is none, or it
    is over a bound.
    """
    opened = data.count(b"[") + data.count(b"{")
    if opened + data.count(b",") + data.count(b":") > most_parts:
        raise ValueError(f"more than {most_parts} values")
    # Where no number is too long Python's own int is right, and five times as fast for a million of them.
    whole = _whole if TOO_LONG.search(data) else None
    found = json.loads(data, parse_int=whole, parse_float=_finite, parse_constant=_refuse)
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, expected an object")
    if opened > DEEPEST:
        _check_depth(found)
    return found


def belongs(path: Path, folder: Path) -> bool:
    """Whether a file of a folder may be copied out of it: it is in the folder itself, or among the blobs of
    the same repository, where Hugging Face keeps its downloads. A link that leads elsewhere could bring a
    private file into a folder that is passed on.
    """
    target = path.resolve()
    root = folder.resolve()
    return target.is_relative_to(root) or (
        root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs"
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
