"""Tensors that lie in a file as they are: what each is (TensorSpec), where its bytes are (Entry), and reading
one at a time.

A reader hands in a table of entries made from the file's headers; `StoredTensors` checks each against the
file and reads on demand, so that memory holds one tensor at a time however large the file is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import ml_dtypes
import numpy as np

from ringvision.errors import UserError
from ringvision.weights.readers.weights_file import MOST_TENSORS, WeightsFile

DTYPES: dict[str, np.dtype] = {
    f"{kind}{bits}": np.dtype(f"{kind}{bits}")
    for kind in ("float", "int", "uint")
    for bits in (64, 32, 16, 8)
    if (kind, bits) != ("float", 8)
}
DTYPES |= {"bool": np.dtype(bool)}
DTYPES |= {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
}
MOST_AXES = 16
NAME_BYTES = 16 << 20
MOST_ELEMENTS = 1 << 44
MOST_SHARING = 16
"""How many times a file's size its tensors may come to together: more than one where tensors share bytes
(tied weights).
"""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's shape and the name of its NumPy dtype ("bfloat16" for ml_dtypes')."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: the byte ranges (offset, length) that make it up one after another.

    strides: in elements, where they lie otherwise than in C order. text: the bytes are written as UTF-8 text
    of the characters 0 to 255, as pickles of old protocols do.
    """

    spec: TensorSpec
    pieces: tuple[tuple[int, int], ...]
    strides: tuple[int, ...] | None = None
    text: bool = False


def check_shape(file: WeightsFile, name: str, shape: object, dtype: object) -> TensorSpec:
    """The TensorSpec of a shape and a dtype that a file gives.

    Args:
        file: the file, for the error.
        name: the tensor's name.
        shape: what the file says its shape is, of whatever type.
        dtype: what the file says its dtype is, of whatever type.

    Returns:
        the shape, as a tuple of whole numbers, and the dtype's name.

    Raises:
        UserError: where there can be no such tensor.
    """
    file.name(name)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise file.damaged(f"{name} has the type {ascii(dtype)[:40]}; known are {', '.join(DTYPES)}")
    if (
        not isinstance(shape, list | tuple)
        or len(shape) > MOST_AXES
        or any(type(length) is not int or length < 0 for length in shape)
    ):
        raise file.damaged(f"{name} has the shape {ascii(shape)[:60]}")
    if math.prod(max(1, length) for length in shape) > MOST_ELEMENTS:
        raise file.damaged(f"{name} has the shape {ascii(shape)[:60]}, which is more than any tensor has")
    return TensorSpec(tuple(shape), dtype)


def check_sharing(file: WeightsFile, entries: Mapping[str, Entry]) -> None:
    """Raises UserError where tensors share bytes so often that they would come to more than MOST_SHARING
    times the file.
    """
    if sum(entry.spec.nbytes for entry in entries.values()) > MOST_SHARING * file.size:
        raise file.damaged(
            f"its tensors share so many bytes that they would come to {MOST_SHARING} times the file and more"
        )


class StoredTensors:
    """The tensors of one file (`Tensors` of ringvision/weights/tensors.py).

    Args:
        file: the file, which is closed with this.
        form: one of FORMS of ringvision/weights/tensors.py.
        entries: each tensor's name, shape, dtype and bytes.
        metadata: what the file says beside its tensors; None: nothing.

    Raises:
        UserError: where there is no tensor, too many, or an entry that does not lie in the file.
    """

    def __init__(
        self,
        file: WeightsFile,
        form: str,
        entries: Mapping[str, Entry],
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if not entries:
            raise file.damaged("there is not one tensor in it")
        if len(entries) > MOST_TENSORS or sum(map(len, entries)) > NAME_BYTES:
            raise file.damaged(
                f"it speaks of {len(entries)} tensors, and {MOST_TENSORS} with short names are the most"
            )
        for name, entry in entries.items():
            self.check(file, name, entry)
        self.form = form
        self.file = file
        self.entries = dict(entries)
        self.metadata = metadata or {}
        self.specs = {name: entry.spec for name, entry in entries.items()}

    def check(self, file: WeightsFile, name: str, entry: Entry) -> None:
        """Raises UserError unless the entry's bytes lie in the file and are as many as its shape needs."""
        for offset, length in entry.pieces:
            if offset < 0 or length < 0 or offset + length > file.size:
                raise file.damaged(f"{name} ends at byte {offset + length} where the file has {file.size}")
        given = sum(length for _, length in entry.pieces)
        needed = entry.spec.nbytes
        size = DTYPES[entry.spec.dtype].itemsize
        if entry.text:
            possible = needed <= given <= 2 * needed
        elif entry.strides is None:
            possible = given == needed
        else:
            if len(entry.strides) != len(entry.spec.shape) or any(
                type(stride) is not int or stride < 0 for stride in entry.strides
            ):
                raise file.damaged(f"{name} has the strides {ascii(entry.strides)[:60]}")
            span = 1 + sum((length - 1) * stride for length, stride in zip(entry.spec.shape, entry.strides))
            possible = given == span * size and needed <= given
        if not possible:
            raise file.damaged(
                f"{name} of shape {list(entry.spec.shape)} needs {needed} bytes of {entry.spec.dtype} "
                f"and has {given}"
            )

    def entry(self, name: str) -> Entry:
        """Where a tensor lies. Raises UserError for a name that is not in the file."""
        if name not in self.entries:
            raise UserError(
                f"{self.file.path} has no tensor {name}; it has {len(self.entries)}, such as "
                f"{', '.join([*self.entries][:3])}"
            )
        return self.entries[name]

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor in memory of its own, of the shape and dtype of `specs[name]`: [R, …] whole, or [end -
        first, …] where `rows` is (first, end), a range of its first axis.

        A range takes the memory of a range, where the tensor lies in C order. Raises UserError for a name or
        rows that the file does not have.
        """
        entry = self.entry(name)
        first, end = self.rows(name, rows)
        if entry.text or entry.strides is not None:
            whole = self._whole(name, entry)
            return whole if rows is None else whole[first:end].copy()
        dtype = DTYPES[entry.spec.dtype]
        shape = entry.spec.shape
        row = math.prod(shape[1:])  # elements of one row
        flat = np.empty((end - first) * row, dtype)  # (elements of the range)
        self.fill(flat, entry, first * row * dtype.itemsize)
        return flat.reshape(shape if rows is None else (end - first, *shape[1:]))

    def rows(self, name: str, rows: tuple[int, int] | None) -> tuple[int, int]:
        """The range of rows that is meant; a tensor without axes has one row. Raises UserError for rows that
        the tensor does not have.
        """
        count = (*self.entry(name).spec.shape, 1)[0]
        first, end = rows or (0, count)
        if not 0 <= first <= end <= count or (rows and not self.specs[name].shape):
            raise UserError(
                f"{name} of {self.file.path} has {count} rows, and {first} to {end} were asked for; "
                "ask for some of them"
            )
        return first, end

    def fill(self, flat: np.ndarray, entry: Entry, start: int) -> None:
        """Fills `flat` [count], of the entry's dtype, with the entry's bytes from the one numbered `start`
        on, across its pieces.
        """
        data = flat.view(np.uint8)
        done = 0
        for offset, length in entry.pieces:
            skipped = min(start, length)
            start -= skipped
            count = min(length - skipped, len(data) - done)
            if count:
                self.file.fill(data[done : done + count].data, offset + skipped)
            done += count

    def _whole(self, name: str, entry: Entry) -> np.ndarray:
        """A tensor that does not lie in C order, or lies in a text."""
        dtype = DTYPES[entry.spec.dtype]
        if entry.text:
            flat = self._characters(name, entry, dtype)
        else:
            flat = np.empty(entry.pieces[0][1] // dtype.itemsize, dtype)
            self.fill(flat, entry, 0)
        if entry.strides is None:
            return flat.reshape(entry.spec.shape)
        strides = tuple(stride * dtype.itemsize for stride in entry.strides)
        return np.lib.stride_tricks.as_strided(flat, entry.spec.shape, strides, writeable=False).copy(
            order="C"
        )

    def _characters(self, name: str, entry: Entry, dtype: np.dtype) -> np.ndarray:
        ((offset, length),) = entry.pieces
        try:
            data = self.file.take(offset, length).decode("utf-8").encode("latin-1")
        except UnicodeError:
            raise self.file.damaged(f"{name} is no text of characters 0 to 255") from None
        if len(data) != entry.spec.nbytes:
            raise self.file.damaged(f"{name} needs {entry.spec.nbytes} bytes and has {len(data)}")
        return np.frombuffer(bytearray(data), dtype)

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
