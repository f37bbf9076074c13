"""What the commands print: the answer or its JSON on stdout, everything else on stderr."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any


def say(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_result(result: Any, text: str, *, as_json: bool) -> None:
    """The result of a command on stdout: `text`, or with --json the result as one JSON object."""
    print(json.dumps(plain(result), ensure_ascii=False) if as_json else text, flush=True)


def plain(value: Any) -> Any:
    """What JSON can hold: numpy's numbers and arrays as Python's; a number that JSON lacks (NaN) as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(values: Mapping[str, Any]) -> str:
    """A line `name  value` for each value; numbers with four digits."""
    return "\n".join(
        f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}"
        for name, value in plain(values).items()
    )


def counted(number: int, what: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} {what}{'s' * (number != 1)}"


def progress_line() -> Callable[[str, int, int], None] | None:
    """On a terminal, one line that is written over as frames and tokens are read; elsewhere nothing."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, of: int) -> None:
        line = f"{what}: {done} of {of}" if done < of else ""
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    return show
