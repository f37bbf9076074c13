"""Reads the schedule out of compiled TPU code: what stands between the start of each permute and its end."""

import re
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?)\s([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]+\d+)\[([\d,]*)\]")


@dataclass(frozen=True)
class Permute:
    """One collective-permute: where it stands, what it sends, and how many kernels run while it is under
    way.
    """

    computation: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    kernels: int

    @property
    def is_small(self) -> bool:
        """Positions and segment ids: integers, a few bytes a token."""
        return self.dtype.startswith("s")


def permutes(text: str) -> list[Permute]:
    """`text`: `compiled.as_text()` of a program compiled for a TPU, whose computations are printed in the
    order of their schedule.
    """
    if "is_scheduled=true" not in text:
        raise ValueError("this is not a scheduled program")
    found = []
    computation = ""
    kernels = 0
    under_way = {}
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            computation = start[1]
            kernels = 0
            under_way = {}
        if not (operation := _OPERATION.match(line)):
            continue
        name, result, code, rest = operation.groups()
        if code == "custom-call" and "tpu_custom_call" in rest:
            kernels += 1
        elif code == "collective-permute":
            found.append(Permute(computation, name, *_array(result), 0))
        elif code == "collective-permute-start":
            under_way[name] = (kernels, *_array(result))
        elif code == "collective-permute-done":
            before, dtype, shape = under_way.pop(re.match(r".*?%([\w.\-]+)", rest)[1])
            found.append(Permute(computation, name, dtype, shape, kernels - before))
    return found


def _array(text: str) -> tuple[str, tuple[int, ...]]:
    dtype, sizes = _ARRAY.search(text).groups()
    return dtype, tuple(int(size) for size in sizes.split(",") if size)
