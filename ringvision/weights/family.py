"""What another project's weights are: a `Family`, which says what folders they become and by which tables.

    tensors (names, shapes), config (their config.json, {} where there is none)  --recognise-->  Family, or
    None: another family's

Every family's file has such a `recognise`; families.py asks them in turn. `Settings` reads a foreign config
one setting at a time and remembers what had to be assumed and what was wrong.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flax import nnx

from ringvision.errors import UserError
from ringvision.model_folder import specs
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.vocabulary import Vocabulary
from ringvision.weights.table import Shape, Table

LARGEST = 2**31 - 1
MOST_LAYERS = 4096
LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Folder:
    """One folder to be written: its config.json (without "source"), the shapes of its tensors, the table that
    fills them.

    path: its path within the destination; "." is the destination itself.
    """

    config: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    table: Table
    path: str = "."


@dataclass(frozen=True)
class Family:
    """name: for people. ignorable: regular expressions of tensors that may occur and are left out. assumed:
    what the config did not say and was assumed, a sentence each.

    renumber: what becomes of a tokenizer.json (parsed), where ids change on the way.
    """

    name: str
    folders: tuple[Folder, ...]
    ignorable: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    renumber: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


class Settings:
    """A foreign config, read with types and bounds. Each reader takes the first of several names that has a
    value other than null.

    assumed: sentences on what was not said. `report()` raises one UserError of all that was wrong.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.assumed = list[str]()
        self.wrong = list[str]()

    def get(self, *names: str) -> Any:
        return self._first(*names)[1]

    def _first(self, *names: str) -> tuple[str, Any]:
        """The first of the names that has a value, and that; the first of all with None where none has."""
        return next(
            ((name, self.values[name]) for name in names if self.values.get(name) is not None),
            (names[0], None),
        )

    def whole(
        self, *names: str, default: int | None = None, why: str = "", least: int = 1, most: int = LARGEST
    ) -> int:
        """A whole number.

        Args:
            names: the setting's names, in the order in which they are tried.
            default: what an absent setting counts as; None: it is an error.
            why: on what grounds the default is taken, which is then noted as assumed; "": it needs no note.
            least: the smallest number that makes sense.
            most: the largest.

        Returns:
            the number; `least` where it is wrong, which `report` raises.
        """
        name, value = self._first(*names)
        if value is None:
            return int(self._absent(name, default, why))
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.wrong.append(f"{name} is {shown(value)}, expected a whole number from {least} to {most}")
            return least
        return value

    def real(self, *names: str, default: float | None = None, why: str = "") -> float:
        """A number above 0."""
        name, value = self._first(*names)
        if value is None:
            return float(self._absent(name, default, why))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            self.wrong.append(f"{name} is {shown(value)}, expected a number above 0")
            return 1.0
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            self.wrong.append(f"{name} is {shown(value)}, expected true or false")
        return default if value is None else bool(value)

    def wholes(self, *names: str, default: Iterable[int]) -> tuple[int, ...]:
        """A list of whole numbers from 0 on."""
        name, value = self._first(*names)
        if value is None:
            return tuple(default)
        if (
            not isinstance(value, (list, tuple))
            or not all(type(one) is int and 0 <= one <= LARGEST for one in value)
            or len(value) > 64
        ):
            self.wrong.append(f"{name} is {shown(value)}, expected a list of whole numbers")
            return tuple(default)
        return tuple(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.wrong.append(f"{name} is {shown(value)}, expected an object of settings")
        return value if isinstance(value, Mapping) else {}

    def only(self, name: str, *allowed: Any) -> None:
        """This setting, where it is given, must have one of these values: nothing else is computed here."""
        value = self.get(name)
        if value is not None and value not in allowed:
            self.wrong.append(
                f"{name} is {shown(value)}, and only {' or '.join(map(repr, allowed))} is known here"
            )

    def report(self) -> None:
        if self.wrong:
            raise UserError(
                f"the config of these weights: {'; '.join(self.wrong)}; correct it, or give another "
                "with --config"
            )

    def _absent(self, name: str, default: float | None, why: str) -> float:
        if default is None:
            self.wrong.append(f"{name} is missing")
            return 1
        if why:
            self.assumed.append(f"{name} {default:g} ({why})")
        return default


def shown(value: Any) -> str:
    """A value of a foreign config as an error may show it: on one line, and shortened where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …"


def shapes_of(network: Callable[..., nnx.Module], config: Hashable) -> dict[str, Shape]:
    """The names and shapes of the tensors of `network(config, rngs=...)`; it is traced, so that no array is
    made.
    """
    return dict(_traced_shapes(network, config))


@lru_cache(maxsize=32)
def _traced_shapes(network: Callable[..., nnx.Module], config: Hashable) -> dict[str, Shape]:
    """Kept, since tracing a network takes a second, and an import and an export ask for the same."""
    module = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    return {name: shape for name, (shape, _) in specs(nnx.split(module)[1]).items()}


def transformer_folder(
    config: TransformerConfig,
    table: Table,
    vocabulary: Vocabulary | None = None,
    text: Mapping[str, Any] | None = None,
) -> Folder:
    """The folder of a transformer.

    Args:
        config: its architecture.
        table: which of its tensors is which of theirs.
        vocabulary: its ids of text and codes; None: a text model.
        text: "bos" and "eos" as their config says, where it does.

    Returns:
        the folder, with the shapes of all its tensors.
    """
    settings: dict[str, Any] = {"kind": "transformer", "transformer": config.to_dict()}
    if vocabulary is not None:
        settings["vocabulary"] = vocabulary.to_dict()
    if text:
        settings["text"] = dict(text)
    return Folder(settings, shapes_of(Transformer, config), table)


def root_of(names: Iterable[str], marker: str) -> str | None:
    """What stands before `marker` in the shortest of the names that end in it, an optimizer's excepted; None
    where none does.
    """
    found = (name.removesuffix(marker) for name in names if name.endswith(marker))
    return min(
        (root for root in found if "opt_state" not in root and root[-1:] in ("", "/", ".")),
        key=len,
        default=None,
    )


def layers_in(names: Iterable[str], before: str, after: str) -> int:
    """How many layers there are by the names `before`0`after`, `before`1`after` …"""
    names = set(names)
    return next(layer for layer in range(len(names) + 1) if f"{before}{layer}{after}" not in names)
