"""Options of a command line read into a frozen dataclass by tyro; a mistake becomes one line.

    kind (a dataclass), ["--lr", "1e-3", "--model.num-layers", "4"]  --parse_options-->  a value of that kind

A misspelt name is answered with the nearest one; `--help` prints every name with its type and default, and
exits. `ringvision.cli.parsing` reads the commands themselves, whose words may stand in any order.
"""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ringvision.errors import UserError

Options = TypeVar("Options")


def parse_options(
    kind: type[Options],
    args: Sequence[str],
    *,
    prog: str,
    default: Options,
    renamed: Mapping[str, str] | None = None,
) -> Options:
    """The value of `kind` that the arguments describe.

    Args:
        kind: a dataclass, nested ones included; a field `b` of a field `a` is the option `--a.b`.
        args: the arguments, without the program's name.
        prog: what `--help` calls the program.
        default: the value whose fields the arguments replace.
        renamed: old option names (without dashes in front) and what they are called now.

    Returns:
        A new value; `default` stays as it is.

    Raises:
        UserError: for a name that is no option, and for a value of another type than its field's.
        SystemExit: when --help has been printed.
    """
    import tyro

    _check_names(option_names(default), args, renamed or {})
    try:
        return call_tyro(
            kind,
            args,
            prog=prog,
            default=default,
            config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        )
    except TyroError as error:
        raise UserError(f"{error}; see --help for what each option takes") from None


class TyroError(UserError):
    """What tyro refuses, in one line."""


def call_tyro(kind: type[Options], args: Sequence[str], **settings: Any) -> Options:
    """`tyro.cli(kind, args=args, **settings)`, but that what it refuses is raised and not printed.

    Raises:
        TyroError: with the first sentence of what tyro would have printed.
        SystemExit: when --help has been printed.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=list(args), **settings)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise TyroError(first_sentence(said.getvalue())) from None


def closest(given: str, names: Sequence[str], *, prefix: str = "", cutoff: float = 0.6) -> str:
    """Asks whether another name was meant than the one that was given.

    Args:
        given: a misspelt name.
        names: the names that there are.
        prefix: what is written before the name in the question.
        cutoff: how much they must have in common, from 0 to 1.

    Returns:
        A question with the name that `given` resembles most; "" where it resembles none.
    """
    close = difflib.get_close_matches(given, names, n=1, cutoff=cutoff)
    return f"did you mean {prefix}{close[0]}?" if close else ""


def _check_names(names: Sequence[str], args: Sequence[str], renamed: Mapping[str, str]) -> None:
    for argument in args:
        if not argument.startswith("--") or argument == "--help":
            continue
        given = argument.partition("=")[0]
        name = given[2:].replace("_", "-")
        if name in names:
            continue
        if name in renamed:
            raise UserError(f"no option {given}: it is called --{renamed[name]} now")
        shown = ", ".join(f"--{known}" for known in names[:8])
        hint = closest(name, names, prefix="--", cutoff=0.5) or f"there are {shown} and more: see --help"
        raise UserError(f"no option {given}: {hint}")


def option_names(config: Any, prefix: str = "") -> list[str]:
    """Every field, nested ones with their owner before a dot, in the order of the declaration. A field of
    several dataclasses numbers them: `sources.0.folder`.
    """
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            names += [one for at, part in enumerate(value) for one in option_names(part, f"{name}.{at}.")]
        else:
            names += option_names(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return names


def first_sentence(box: str) -> str:
    """The message inside the frame that tyro draws: the first paragraph, without the frame."""
    lines = [re.sub(r"^[│|]\s?|\s*[│|]$", "", line.strip()) for line in box.splitlines()]
    paragraph: list[str] = []
    for line in lines:
        if re.match(r"[╭╰─]", line):
            if paragraph:
                break
            continue
        paragraph.append(line.strip())
    return " ".join(part for part in paragraph if part) or "the options could not be read"
