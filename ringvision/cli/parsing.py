"""The words behind a command -> a value of its frozen dataclass, by tyro; a mistake becomes one line.

    Ask, ["clip.mp4", "Which digit?", "--fps", "2"]  --read_command-->  Ask(videos=("clip.mp4",), fps=2.0, …)

A command is a dataclass that inherits `Command`, and each of its fields an option, or, marked `Positional`, a
word without a name. Options that several commands share are dataclasses of their own that inherit `Options`
and are fields of the commands; their options keep their plain names.

    fps: Annotated[float, POSITIVE, option("frames of each second")] = 1.0
    sampler: Annotated[SamplerOptions, option("How each token is chosen.")] = field(default_factory=…)

tyro makes the values, builds the dataclass and writes --help. It reads from left to right, and a list of
words takes all that follow: `VIDEO QUESTION --devices 4` would be two videos and no question. Therefore
`_Arrangement` first puts the options before the words, and names what is unknown, lacks its value, or is
missing. Help stands in `option` and not in docstrings, for which tyro would read the source file each time.
"""

import abc
import collections
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

import tyro
from tyro.conf import Positional
from tyro.constructors import PrimitiveConstructorSpec

from ringvision.errors import UserError
from ringvision.options import call_tyro, closest

AnyCommand = TypeVar("AnyCommand", bound="Command")
REST = "takes every option that the command itself does not know, and the words after its own"
HELP = ("-h", "--help")


# ------------------------------------------------------------------------------------------ what a field says


@dataclasses.dataclass(frozen=True)
class ValueType(PrimitiveConstructorSpec[Any]):
    """What a field may be given: `read` makes a value of a text, or raises ValueError."""

    read: Callable[[str], Any] = str
    expected: str = ""
    choices_shown: tuple[str, ...] = ()

    def refusal(self, option: str, given: str) -> str:
        if self.choices_shown:
            hint = closest(given, self.choices_shown) or f"there are {', '.join(self.choices_shown)}"
            return f"{option} is {given!r}: {hint}"
        return f"argument {option}: {given!r} was given, expected {self.expected}"


def value_type(
    expected: str, read: Callable[[str], Any], metavar: str = "N", choices: tuple[str, ...] = ()
) -> ValueType:
    """What a field may be given.

    Args:
        expected: what a user is told who gave something else.
        read: makes the value of a text; ValueError for one that is none.
        metavar: what --help writes for the value.
        choices: every text that is a value, where they are few.

    Returns:
        What stands in a field's annotation, for tyro and for `Options`.
    """

    def read_or_keep(texts: list[str]) -> Any:
        try:
            return read(texts[0])
        except ValueError:
            return texts[0]  # tyro does not say here which option it is; the dataclass does, and refuses it

    return ValueType(
        nargs=1,
        metavar=metavar,
        instance_from_str=read_or_keep,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [f"{value:g}" if isinstance(value, float) else str(value)],
        read=read,
        expected=expected,
        choices_shown=choices,
    )


def _read_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(text)
    return int(text)


def _read_positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


COUNT = value_type("a whole number from 1 upward", _read_count)
POSITIVE = value_type("a number above 0", _read_positive)
WHOLE = value_type("a whole number", int)
NUMBER = value_type("a number", float)


def choice(*words: str) -> ValueType:
    """One of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return value_type("one of " + ", ".join(words), read, "{" + ",".join(words) + "}", words)


def option(what: str, metavar: str | None = None, *, default: str | None = None) -> Any:
    """What --help says of a field.

    Args:
        what: what it is for.
        metavar: what is written for its value (None: what its `ValueType` says).
        default: what happens without it, where the field's own default does not say so.
    """

    def hint(shown: str) -> str:
        if default is not None:
            return f"(default: {default})"
        return "" if shown in ("None", "False", "") else f"(default: {shown})"

    return tyro.conf.arg(help=what, metavar=metavar, help_behavior_hint=hint)


Json = Annotated[bool, option("one JSON object on stdout")]


class Options:
    """Fields that check themselves when they are constructed.

    Raises:
        UserError: for a value that its field's `ValueType` refuses.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            kind = next((part for part in _metadata(field.type) if isinstance(part, ValueType)), None)
            if kind is None or value is None:
                continue
            try:
                kind.read(str(value))
            except ValueError:
                raise UserError(kind.refusal(_option_name(field.name), str(value))) from None


class Command(Options, abc.ABC):
    """One command: its fields are its options, `run` carries it out."""

    @abc.abstractmethod
    def run(self) -> int:
        """Carry the command out; -> the exit status. UserError where the request cannot be met."""


# ------------------------------------------------------------------------------------------ reading a command


def read_command(kind: type[AnyCommand], args: Sequence[str], *, prog: str, summary: str) -> AnyCommand:
    """The command that the words describe.

    Args:
        kind: the command's frozen dataclass.
        args: the words behind the command's name.
        prog: the program's and the command's name.
        summary: what --help says that the command does.

    Returns:
        The value of `kind`.

    Raises:
        UserError: for anything in `args` that the command does not take, and for what it lacks.
        SystemExit: when --help has been printed.
    """
    arranged = _Arrangement(_parameters(kind), prog).arrange(args)
    try:
        return call_tyro(
            kind,
            arranged,
            prog=prog,
            description=summary[:1].upper() + summary[1:] + ".",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        )
    except UserError as error:
        raise UserError(f"{error} (see {prog} --help)") from None


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """What `_Arrangement` must know of a field."""

    name: str  # "--fps"; of a positional one what --help calls it
    positional: bool
    flag: bool  # an option without a value
    several: bool  # takes all the words that follow
    required: bool
    rest: bool  # see REST


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())


def _option_name(field: str) -> str:
    return "--" + field.replace("_", "-")


def _parameters(kind: Any) -> list[_Parameter]:
    """Those of a dataclass and of the dataclasses that are its fields, in their order."""
    found = []
    for field in dataclasses.fields(kind):
        metadata = _metadata(field.type)
        annotated = get_args(field.type)[0] if metadata else field.type
        if dataclasses.is_dataclass(annotated):
            found += _parameters(annotated)
            continue
        positional = Positional in metadata
        metavars = [part.metavar for part in metadata if getattr(part, "metavar", None)]
        found.append(
            _Parameter(
                name=metavars[0].split()[0] if positional else _option_name(field.name),
                positional=positional,
                flag=annotated is bool,
                several=get_origin(annotated) is tuple,
                required=field.default is dataclasses.MISSING,
                rest=REST in metadata,
            )
        )
    return found


class _Arrangement:
    """The words of a command sorted for tyro: its options, each with its values, then "--" and the others."""

    def __init__(self, parameters: Sequence[_Parameter], prog: str):
        self.prog = prog
        self.options = {item.name: item for item in parameters if not item.positional}
        self.slots = [item for item in parameters if item.positional and not item.rest]
        self.takes_rest = any(item.rest for item in parameters)
        self.capacity = math.inf if any(item.several for item in self.slots) else len(self.slots)
        self.given: dict[str, list[str]] = {}  # option -> its part of the command line; the last one counts
        self.words: list[str] = []
        self.extra: list[str] = []

    def arrange(self, args: Sequence[str]) -> list[str]:
        queue = collections.deque(args)
        wants_help = False
        while queue:
            word = queue.popleft()
            if word == "--":
                while queue:
                    self._place(queue.popleft())
            elif not self._is_option(word):
                self._place(word)
            elif word in HELP and not self.takes_rest:
                return ["--help"]
            else:
                wants_help = wants_help or word in HELP
                self._take_option(word, queue)
        if self.takes_rest and not self.words and (wants_help or not args):
            return ["--help"]
        self._check()
        options = [part for parts in self.given.values() for part in parts]
        return [*options, "--", *self.words, *self.extra]

    def _place(self, word: str) -> None:
        (self.words if len(self.words) < self.capacity else self.extra).append(word)

    def _is_option(self, word: str) -> bool:
        """A negative number and a sentence that begins with a dash are none, unless an option begins them."""
        name = word.partition("=")[0]
        if name in self.options or word in HELP:
            return True
        return len(word) > 1 and word[0] == "-" and not re.fullmatch(r"-\d+|-\d*\.\d+|.* .*", word, re.DOTALL)

    def _take_option(self, word: str, queue: collections.deque[str]) -> None:
        name, equals, value = word.partition("=")
        known = self.options.get(name)
        if known is None:
            self.extra.append(word)
            return
        if known.flag:
            if equals:
                self._refuse(f"argument {name}: it takes no value, but {value!r} was given")
            self.given[name] = [name]
            return
        values = [value] if equals else []
        while queue and not equals and (known.several or not values):
            if queue[0] == "--" or self._is_option(queue[0]):
                break
            values.append(queue.popleft())
        if not values:
            self._refuse(f"argument {name}: expected {'at least one' if known.several else 'one'} argument")
        self.given[name] = [f"{name}={values[0]}", *values[1:]]

    def _check(self) -> None:
        if self.extra and not self.takes_rest:
            command = self.prog.partition(" ")[2]
            unknown = [word.partition("=")[0] for word in self.extra if self._is_option(word)]
            hint = (unknown and closest(unknown[0], [*self.options, "--help"])) or f"see {self.prog} --help"
            raise UserError(f"{command} takes no {' '.join(self.extra)}: {hint}")
        missing = [item.name for item in self.slots[len(self.words) :] if item.required]
        missing += [name for name, item in self.options.items() if item.required and name not in self.given]
        if missing:
            self._refuse(f"the following arguments are required: {', '.join(missing)}")

    def _refuse(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")
