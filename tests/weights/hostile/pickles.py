"""Pickles. What could run a command makes the file `canary`; `ARMED` names those that Python's own
pickle.load makes do so.
"""

import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hostile.writing import writer

ARMED = (
    "os_system",
    "posix_by_old_opcode",
    "builtins_exec",
    "subprocess",
    "behind_a_good_array",
    "jax_array_of_os_system",
    "frozen_dict_of_os_system",
)


class Call:
    """Pickles as a call of `function` with `arguments`, and with `state` to set afterwards where one is
    given.
    """

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def touch(folder: Path) -> str:
    return f"touch {folder / 'canary'}"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def dictionary(value: bytes, name: str = "w") -> bytes:
    return b"\x80\x04}" + text(name) + value + b"s."


def array(shape: bytes, data: bytes, code: str = "f4") -> bytes:
    """NumPy's reduce of an array, with the opcodes of a shape and of its data."""
    dtype = (
        named("numpy", "dtype")
        + b"("
        + text(code)
        + b"\x89\x88tR(K\x03"
        + text("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    start = (
        named("numpy.core.multiarray", "_reconstruct")
        + b"("
        + named("numpy", "ndarray")
        + b"K\x00\x85C\x01btR"
    )
    return start + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def of_pickle(content: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    return writer("weights.pkl", content)


def _calls(make: Callable[[Path], Any], protocol: int = 4) -> Callable[[Path], Path]:
    return of_pickle(lambda folder: pickle.dumps(make(folder), protocol=protocol))


def _laughs(_: Path) -> bytes:
    """A list of ten times the same list of ten times the same list, and so on, thirty deep."""
    return (
        b"\x80\x04]q\x00"
        + b"".join(b"(" + b"h%c" % level * 10 + b"lq%c" % (level + 1) for level in range(30))
        + b"."
    )


PICKLES = {
    "os_system": _calls(lambda folder: {"w": Call(os.system, touch(folder))}),
    "posix_by_old_opcode": of_pickle(
        lambda folder: b"\x80\x02cposix\nsystem\n" + text(touch(folder)) + b"\x85R."
    ),
    "builtins_exec": _calls(lambda folder: {"w": Call(exec, f"import os; os.system({touch(folder)!r})")}),
    "subprocess": _calls(lambda folder: [Call(subprocess.check_call, ["touch", str(folder / "canary")])], 5),
    "behind_a_good_array": _calls(
        lambda folder: {"a": np.ones(3, np.float32), "b": {"c": Call(os.system, touch(folder))}}
    ),
    "jax_array_of_os_system": of_pickle(
        lambda folder: dictionary(
            named("os", "system")
            + text(touch(folder))
            + b"\x85R0"
            + named("jax._src.array", "_reconstruct_array")
            + b"(NNNNtR"
        )
    ),
    "getattr_chain": of_pickle(
        lambda _: dictionary(
            named("builtins", "getattr") + named("numpy", "ndarray") + text("__class__") + b"\x86R"
        )
    ),
    "dotted_name": of_pickle(lambda _: dictionary(named("collections", "OrderedDict.__init__.__globals__"))),
    "numpy_runstring": of_pickle(
        lambda _: dictionary(named("numpy.testing._private.utils", "runstring") + text("1") + b"}\x86R")
    ),
    "old_instance": of_pickle(lambda folder: b"\x80\x02(" + text(touch(folder)) + b"ios\nsystem\n."),
    "new_object": of_pickle(
        lambda _: dictionary(named("numpy", "ndarray") + b"J\xff\xff\xff\x7f\x85\x85\x81")
    ),
    "behind_lightning": of_pickle(
        lambda folder: dictionary(
            named("pytorch_lightning.x", "Y") + named("os", "system") + text(touch(folder)) + b"\x85R\x85R"
        )
    ),
    "codec": of_pickle(
        lambda _: dictionary(named("_codecs", "encode") + text("x") + text("zlib") + b"\x86R")
    ),
    "extension_registry": of_pickle(lambda _: b"\x80\x02\x82\x01."),
    "persistent_id": of_pickle(lambda _: b"\x80\x02" + text("storage") + b"Q."),
    "numpy_bomb_in_the_call": of_pickle(
        lambda _: dictionary(
            named("numpy.core.multiarray", "_reconstruct")
            + b"("
            + named("numpy", "ndarray")
            + b"\x8a\x05\0\0\0\0\x02\x85C\x01dtR"
        )
    ),
    "numpy_bomb_in_the_state": of_pickle(
        lambda _: dictionary(array(b"\x8a\x05\0\0\0\0\x02\x85", b"C\x04abcd"))
    ),
    "numpy_objects": of_pickle(lambda _: dictionary(array(b"K\x01\x85", b"]N\x61", "O8"))),
    "numpy_zeros": of_pickle(lambda _: dictionary(named("numpy", "zeros") + b"\x8a\x05\0\0\0\0\x02\x85R")),
    "negative_shape": of_pickle(lambda _: dictionary(array(b"J\xff\xff\xff\xff\x85", b"C\x04abcd"))),
    "shape_of_dicts": of_pickle(lambda _: dictionary(array(b"}\x85", b"C\x04abcd"))),
    "holds_itself": of_pickle(lambda _: b"\x80\x04}q\x00" + text("w") + b"h\x00s."),
    "laughs": of_pickle(_laughs),
    "calls_in_calls": of_pickle(
        lambda _: (
            b"\x80\x04"
            + (named("jax._src.array", "_reconstruct_array") + b"(") * 9000
            + b")))N"
            + b"tR))N" * 8999
            + b"tR."
        )
    ),
    "long_bytes": of_pickle(lambda _: dictionary(b"\x8e" + struct.pack("<Q", 1 << 62))),
    "far_memo": of_pickle(lambda _: b"\x80\x02]r\xff\xff\xff\xff."),
    "stack_of_maps": of_pickle(lambda _: b"\x80\x02" + b"}" * ((1 << 20) - 8) + b"."),
    "steps_without_end": of_pickle(lambda _: b"\x80\x02" + b"N0" * (1 << 20) + b"N."),
    "shape_of_fifty_axes": of_pickle(lambda _: dictionary(array(b"(" + b"K\x01" * 50 + b"t", b"C\x04abcd"))),
    "structured_type": of_pickle(lambda _: dictionary(array(b"K\x01\x85", b"C\x04abcd", "V4"))),
    "long_without_end": of_pickle(lambda _: b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "state_set_twice": of_pickle(
        lambda _: dictionary(array(b"K\x01\x85", b"C\x04abcd") + b"(K\x01K\x01\x85NNNtb")
    ),
    "frozen_dict_of_os_system": of_pickle(
        lambda folder: dictionary(
            named("flax.core.frozen_dict", "FrozenDict")
            + named("os", "system")
            + text(touch(folder))
            + b"\x85R\x85R"
        )
    ),
    "escape_in_a_name": of_pickle(
        lambda _: dictionary(array(b"K\x01\x85", b"C\x04abcd"), "\x1b]0;owned\x07")
    ),
}
