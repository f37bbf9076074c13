"""What a pickle of weights may name (the allow-list), and the descriptions that unpickler.py makes of it.

    opcodes  --Unpickler-->  a tree of Mapping, list, tuple, numbers, Characters (where text or bytes lie),
    and descriptions of arrays: Array (NumPy's, and JAX's through NumPy's own reduce tuple) and Tensor
    (torch's, over a Storage)

Only the standard library is imported here: the process that reads pickles (child.py) starts with it.
"""

from dataclasses import dataclass, field
from typing import Any

NUMPY = ("numpy.core", "numpy._core")
RECONSTRUCT = {f"{base}.multiarray._reconstruct" for base in NUMPY}
SCALAR = {f"{base}.multiarray.scalar" for base in NUMPY}
FROM_BUFFER = {f"{base}.numeric._frombuffer" for base in NUMPY}
NDARRAY = "numpy.ndarray"
DTYPE = "numpy.dtype"
BFLOAT16 = "ml_dtypes.bfloat16"
ENCODE = "_codecs.encode"
BYTES = {"__builtin__.bytes", "builtins.bytes"}
JAX_ARRAY = "jax._src.array._reconstruct_array"
MAPPINGS = {"collections.OrderedDict", "flax.core.frozen_dict.FrozenDict"}
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
STORAGES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        **{
            "Double": "float64",
            "Float": "float32",
            "Half": "float16",
            "BFloat16": "bfloat16",
            "Bool": "bool",
        },
        **{"Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8"},
    }.items()
}
KNOWN = (
    RECONSTRUCT
    | SCALAR
    | FROM_BUFFER
    | BYTES
    | MAPPINGS
    | {NDARRAY, DTYPE, BFLOAT16, ENCODE, JAX_ARRAY, TENSOR, PARAMETER}
    | set(STORAGES)
)
# What frameworks leave in a training checkpoint beside the weights. Each becomes Opaque, whatever is done to
# it.
OPAQUE_MODULES = ("pytorch_lightning.", "lightning.", "omegaconf.")
OPAQUE = {"collections.defaultdict", "argparse.Namespace", "typing.Any", "torch.Size"}
OPAQUE |= {
    f"{module}.{kind}"
    for module in ("builtins", "__builtin__")
    for kind in ("dict", "list", "set", "int", "float", "str", "bool")
}
DTYPES = {"b1": "bool"} | {
    f"{letter}{size}": f"{kind}{8 * size}"
    for letter, kind in (("i", "int"), ("u", "uint"))
    for size in (1, 2, 4, 8)
}
DTYPES |= {f"f{size}": f"float{8 * size}" for size in (2, 4, 8)}


@dataclass(frozen=True, slots=True)
class Characters:
    """Bytes of the file: a text in UTF-8, or bytes as they are (`text` False). latin: bytes that are written
    as the characters 0 to 255 of a text.
    """

    start: int
    length: int
    text: bool
    latin: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """What the pickle calls by name; one of KNOWN."""

    name: str


@dataclass(slots=True)
class Opaque:
    """Something that weights do not need."""


@dataclass(slots=True)
class Mapping:
    """A dict, an OrderedDict or a FrozenDict: keys and values in the order in which they come."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True)
class DType:
    name: str


@dataclass(slots=True)
class Array:
    """A NumPy array. Fields that are None are filled in by the opcode BUILD."""

    dtype: str | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: Characters | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """torch's one-dimensional memory, which lies elsewhere in the file under `key`; count: its elements."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """torch's view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
