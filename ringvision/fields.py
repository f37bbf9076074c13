"""Values that were read from JSON, held against the types of a dataclass's fields.

In: a dataclass and an object of a config.json that somebody wrote. Out: what its constructor takes: lists are
tuples, whole numbers are floats where floats belong, and an object within is a dataclass of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ringvision.errors import UserError

LARGEST = 2**31 - 1


class _Unfit(Exception):
    """What was expected."""


def fitted(what: str, kind: type, values: Any) -> dict[str, Any]:
    """The fields of `kind` that `values` names. UserError names all that is unknown, missing, or of another
    type than its field's.
    """
    if not isinstance(values, Mapping) or not is_dataclass(kind):
        raise UserError(
            f"{what} is {_shown(values)}; expected an object of settings: take the config.json "
            "that came with it"
        )
    known = {field.name: field for field in fields(kind)}
    types = get_type_hints(kind)
    wrong = [f"{_shown(name)} is unknown" for name in values if name not in known]
    needed = [
        name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING
    ]
    wrong += [f"{name} is missing" for name in needed if name not in values]
    found = {}
    for name in known.keys() & values.keys():
        try:
            found[name] = _fit(f"{name} of {what}", types[name], values[name])
        except _Unfit as expected:
            wrong.append(f"{name} is {_shown(values[name])}, expected {expected}")
    if wrong:
        raise UserError(f"{what}: {'; '.join(sorted(wrong))}; expected the fields {', '.join(sorted(known))}")
    return found


def _fit(what: str, kind: Any, value: Any) -> Any:
    """The value as one of type `kind`."""
    if get_origin(kind) in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if is_dataclass(kind) and isinstance(kind, type):
        return kind(**fitted(what, kind, value))
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise _Unfit(f"one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, list | tuple) or not (inner[-1] is ... or len(value) == len(inner)):
            raise _Unfit("a list" if inner[-1] is ... else f"a list of {len(inner)}")
        return tuple(
            _fit(what, one, part)
            for one, part in zip([inner[0]] * len(value) if inner[-1] is ... else inner, value)
        )
    if kind is float and type(value) in (int, float) and math.isfinite(value := _real(value)):
        return value
    if kind is int and type(value) is int and abs(value) <= LARGEST:
        return value
    if kind in (str, bool) and type(value) is kind:
        return value
    raise _Unfit(
        {int: f"a whole number up to {LARGEST}", float: "a number", str: "a text", bool: "true or false"}[
            kind
        ]
    )


def _real(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    return repr(value)[:60]
