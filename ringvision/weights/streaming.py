"""LWM's streaming msgpack, written as it comes: a record a tensor, [[path strings …], bin], the bin being
Flax's msgpack of the array.

    file, path, shape, dtype, arrays that lie one after another in it  ->  bytes

Written by hand, although the package msgpack exists, for memory: that package needs the bytes of a whole
array before it writes their length. Here lengths, which stand before contents, are computed first and nothing
has to be held; a length is written in 32 bits, the widest form, wherever it may be large. Flax cuts an array
above 1 GiB into a map of chunks.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from ringvision.errors import UserError
from ringvision.weights.table import Shape

CHUNK = 1 << 30
"""Bytes above which Flax cuts an array, and of each piece."""
LARGEST = 2**32 - 1


def record(
    file: BinaryIO,
    path: list[str],
    shape: Shape,
    dtype: np.dtype,
    parts: Iterable[np.ndarray],
    *,
    chunk: int = CHUNK,
) -> None:
    """Write one tensor.

    Args:
        file: where to, at its current position.
        path: the keys that lead to the tensor.
        shape: the whole tensor's.
        dtype: the whole tensor's.
        parts: arrays [...] of `dtype` and any shape that together are the tensor in C order.
        chunk: bytes above which the array is cut, and of each piece.

    Raises:
        UserError: above 4 GiB, which this format cannot hold.
        ValueError: where the parts are more or fewer than the shape says.
    """
    count = math.prod(shape)
    width = dtype.itemsize
    if count * width <= chunk:
        pieces = [(_array_head(shape, dtype), count * width)]
    else:
        per = max(1, chunk // width)
        sizes = [min(per, count - start) for start in range(0, count, per)]
        heads = [_text(str(number)) + _array_head((size,), dtype) for number, size in enumerate(sizes)]
        heads[0] = _opening(shape, len(sizes)) + heads[0]
        pieces = [(head, size * width) for head, size in zip(heads, sizes)]
    length = sum(len(head) + nbytes for head, nbytes in pieces)
    if length > LARGEST:
        raise UserError(
            f"{'/'.join(path)} takes {length / 2**30:.1f} GiB, and LWM's format holds at most 4: "
            "export it with dtype bfloat16"
        )
    file.write(b"\x92" + _list(len(path)) + b"".join(map(_text, path)) + b"\xc6" + struct.pack(">I", length))
    stream = _Stream(parts)
    for head, nbytes in pieces:
        file.write(head)
        stream.pour(file, nbytes)
    if stream.left():
        raise ValueError(f"{'/'.join(path)}: more was given than a tensor of {list(shape)} holds")


class _Stream:
    """The bytes of arrays, one after another."""

    def __init__(self, parts: Iterable[np.ndarray]) -> None:
        self._parts: Iterator[np.ndarray] = iter(parts)
        self._rest = memoryview(b"")

    def pour(self, file: BinaryIO, count: int) -> None:
        while count:
            if not self.left():
                raise ValueError(f"{count} bytes fewer were given than announced")
            file.write(self._rest[:count])
            written = min(count, len(self._rest))
            self._rest = self._rest[written:]
            count = count - written

    def left(self) -> bool:
        """Whether more bytes follow; the next array is taken where the last is used up."""
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return False
            self._rest = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
        return True


def _array_head(shape: Shape, dtype: np.dtype) -> bytes:
    """All that stands before an array's own bytes: extension type 1 around (shape, name of the dtype,
    bytes).
    """
    nbytes = math.prod(shape) * dtype.itemsize
    inner = (
        b"\x93"
        + _list(len(shape))
        + b"".join(map(_whole, shape))
        + _text(dtype.name)
        + b"\xc6"
        + struct.pack(">I", nbytes)
    )
    return b"\xc9" + struct.pack(">I", len(inner) + nbytes) + b"\x01" + inner


def _opening(shape: Shape, chunks: int) -> bytes:
    """All that stands before the first chunk."""
    axes = b"".join(_text(str(axis)) + _whole(length) for axis, length in enumerate(shape))
    return (
        _map(3)
        + _text("__msgpack_chunked_array__")
        + b"\xc3"
        + _text("shape")
        + _map(len(shape))
        + axes
        + _text("chunks")
        + _map(chunks)
    )


def _text(value: str) -> bytes:
    return b"\xd9" + struct.pack(">B", len(value.encode())) + value.encode()


def _whole(value: int) -> bytes:
    return b"\xce" + struct.pack(">I", value)


def _list(count: int) -> bytes:
    return b"\xdc" + struct.pack(">H", count)


def _map(count: int) -> bytes:
    return b"\xde" + struct.pack(">H", count)
