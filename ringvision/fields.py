"""Values from JSON, checked against the types of a dataclass's fields.

In: a dataclass, and an object of a config.json that may come from anybody. Out: the arguments of its
constructor: lists become tuples, whole numbers become floats where a field is a float, and an object inside
becomes the dataclass of its field.

Written by hand for security and for its messages: converters such as dacite, cattrs and pydantic accept
whole numbers of any size and floats that are not finite unless each field says otherwise, and their messages
take several lines or stop at the first fault. Here one line names all faults.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ringvision.errors import UserError

LARGEST = 2**31 - 1


class _Unfit(Exception):
    """A value of the wrong type. The message says what was expected."""


def fitted(what: str, kind: type, values: Any) -> dict[str, Any]:
    """-> the arguments for the dataclass `kind`, from `values`. what: what messages call the object.
    UserError names all fields that are unknown, missing, or of another type.
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
    """The value converted to type `kind`; _Unfit where it is of another."""
    if get_origin(kind) in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else kind(**fitted(what, kind, value))
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
