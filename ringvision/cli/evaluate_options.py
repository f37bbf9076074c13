"""What the evaluations share on the command line: options, and the command as a record keeps it."""

import dataclasses
import shlex
from typing import Annotated, Any

from tyro.conf import Positional

from ringvision.cli.parsing import Command, Options, option, value_type


def _read_numbers(text: str) -> str:
    """Checks that these are whole numbers with commas between them. ValueError for anything else."""
    if not all(number.isascii() and number.isdecimal() for number in text.split(",")):
        raise ValueError(text)
    return text


NUMBERS = value_type("whole numbers with commas between them, such as 60,240", _read_numbers, "N,N,…")
ResultFolder = Annotated[
    str | None,
    option("a folder for every answer and the scores; a run that was stopped goes on from there", "DIR"),
]
Against = Annotated[
    tuple[str, ...],
    option("folders of earlier results of the same kind (--out), whose scores stand beside these", "DIR"),
]


def numbers(given: str | None, usual: tuple[int, ...]) -> tuple[int, ...]:
    """What NUMBERS was given, or else what is usual."""
    return usual if given is None else tuple(int(number) for number in given.split(","))


def command_line(what: str, command: Command) -> str:
    """The command line that says this, without what is the same as by default."""
    return shlex.join(["ringvision", "evaluate", what, *_words(command)])


def _words(options: Options) -> list[str]:
    words = []
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if isinstance(value, Options):
            words += _words(value)
            continue
        if value is False or value is None or value == field.default:
            continue
        if Positional not in getattr(field.type, "__metadata__", ()):
            words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words += [_shown(one) for one in (value if isinstance(value, tuple) else (value,))]
    return words


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
