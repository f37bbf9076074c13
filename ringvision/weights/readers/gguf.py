"""GGUF, the file of llama.cpp: key-values, a list of tensors, then their numbers, mostly quantised.

In goes a path; out come the key-values as `metadata` (the vocabulary among them) and tensors that are
dequantised to float32, a slice of rows at a time, when they are read. Shapes are given slowest axis first, as
NumPy has them; the file lists them the other way.

The `gguf` package dequantises. The header is read by hand, although that package has a GGUFReader, for
security: that one bounds neither counts nor lengths, and takes a list of a million numbers out of a file of a
hundred bytes without a word.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ringvision.errors import UserError
from ringvision.weights.readers.stored import Entry, StoredTensors, check_shape
from ringvision.weights.readers.weights_file import LONGEST_NAME, MOST_TENSORS, WeightsFile

MOST_KEYS = 1 << 16
MOST_ELEMENTS = 1 << 21
TEXT_BYTES = 1 << 24
ALL_TEXT_BYTES = 1 << 26
SLICE_ELEMENTS = 1 << 20
TEXT = 8
ARRAY = 9
# type of a value -> how struct reads it
NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}


class Quantised(NamedTuple):
    """How a tensor's numbers are stored: the package's type, and how many elements in how many bytes make a
    block.
    """

    kind: Any
    block: int
    block_bytes: int


def open_gguf(path: Path) -> "GgufTensors":
    """The tensors and key-values of a GGUF file. Raises UserError where its header is not sound, or holds a
    type that is not read.
    """
    file = WeightsFile(path)
    try:
        header = GgufHeader(file)
        return GgufTensors(file, header)
    except BaseException:
        file.close()
        raise


class GgufHeader:
    """What stands before the numbers: `metadata` (the key-values), and the shape, type and offset of each
    tensor.
    """

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self.offset = 4
        self.elements = 0
        self.text_bytes = 0
        if file.take(0, 4) != b"GGUF" or (version := self.number(4)) not in (2, 3):
            raise file.damaged("it is no GGUF of version 2 or 3")
        self.version = version
        tensors = self.number(8)
        keys = self.number(8)
        if tensors > MOST_TENSORS or keys > MOST_KEYS:
            raise file.damaged(f"it speaks of {tensors} tensors and {keys} keys")
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            name = file.name(self.text(LONGEST_NAME))
            if name in self.metadata:
                raise file.damaged(f"the key {name[:60]} comes twice")
            self.metadata[name] = self.value(self.number(4))
        self.infos: dict[str, tuple[list[int], int, int]] = {}
        for _ in range(tensors):
            self._info()
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
            raise file.damaged("its alignment is none")
        self.alignment = alignment
        self.start = -(-self.offset // alignment) * alignment

    def number(self, count: int) -> int:
        self.offset += count
        return self.file.number(self.offset - count, count)

    def text(self, most: int = TEXT_BYTES) -> str:
        length = self.number(8)
        self.text_bytes += length
        if length > most or self.text_bytes > ALL_TEXT_BYTES:
            raise self.file.damaged(
                f"at byte {self.offset} it speaks of a text of {length} bytes, or has too many of them"
            )
        self.offset += length
        try:
            return self.file.take(self.offset - length, length).decode()
        except UnicodeDecodeError:
            raise self.file.damaged(f"the text before byte {self.offset} is no UTF-8") from None

    def value(self, kind: int) -> Any:
        """One value of a key: a number, a text, or a list of either."""
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self._numbers(kind, 1)[0]
        kind = self.number(4)
        count = self.number(8)
        self.elements += count
        if self.elements > MOST_ELEMENTS:
            raise self.file.damaged(f"its lists have more than {MOST_ELEMENTS} elements")
        return [self.text() for _ in range(count)] if kind == TEXT else list(self._numbers(kind, count))

    def _numbers(self, kind: int, count: int) -> tuple[Any, ...]:
        if kind not in NUMBERS:
            raise self.file.damaged(f"a value has the type {kind}, which is none, or a list of lists")
        self.offset += (length := count * struct.calcsize(NUMBERS[kind]))
        return struct.unpack(f"<{count}{NUMBERS[kind][1]}", self.file.take(self.offset - length, length))

    def _info(self) -> None:
        name = self.file.name(self.text(LONGEST_NAME))
        axes = self.number(4)
        if name in self.infos or axes > 8:
            raise self.file.damaged(f"{name[:60]} comes twice, or has {axes} axes")
        shape = [self.number(8) for _ in range(axes)][::-1]
        self.infos[name] = (shape, self.number(4), self.number(8))


class GgufTensors(StoredTensors):
    """The tensors of a GGUF file, as float32."""

    def __init__(self, file: WeightsFile, header: GgufHeader) -> None:
        kinds = _kinds(file)
        self.quantised: dict[str, Quantised] = {}
        entries = {}
        ranges = []
        for name, (shape, kind, offset) in header.infos.items():
            spec = check_shape(file, name, shape, "float32")
            if kind not in kinds:
                raise file.damaged(f"{name} is quantised in the way {kind}, which is not read")
            how = self.quantised[name] = kinds[kind]
            if not shape or shape[-1] % how.block or offset % header.alignment:
                raise file.damaged(
                    f"{name} of shape {shape} cannot lie where it says in blocks of {how.block}"
                )
            length = math.prod(shape) // how.block * how.block_bytes
            if header.start + offset + length > file.size:
                raise file.damaged(f"{name} ends behind the file, which has {file.size} bytes")
            ranges.append((header.start + offset, length))
            entries[name] = Entry(spec, (ranges[-1],))
        last = 0
        for offset, length in sorted(ranges):
            if offset < last:
                raise file.damaged(f"its tensors overlap at byte {offset}")
            last = offset + length
        super().__init__(file, "gguf", entries, header.metadata)

    def check(self, file: WeightsFile, name: str, entry: Entry) -> None:
        """Quantised, a tensor has as many bytes as its blocks, which was checked above."""

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or the range `rows` (first, end) of its first axis, dequantised: float32 of the shape
        of `specs[name]`.

        Raises UserError for a name or rows that the file does not have.
        """
        entry = self.entry(name)
        how = self.quantised[name]
        first, end = self.rows(name, rows)
        shape = entry.spec.shape
        if len(shape) == 1:  # a block can be longer than what is asked for
            return self._dequantised(entry, how, 0, shape[0])[first:end]
        row = math.prod(shape[1:])
        return self._dequantised(entry, how, first * row, end * row).reshape(end - first, *shape[1:])

    def _dequantised(self, entry: Entry, how: Quantised, first: int, end: int) -> np.ndarray:
        """float32 [end - first]: the elements from `first` to `end`, both at the edge of a block. Takes the
        memory of the result and of one slice.
        """
        from gguf import quants

        flat = np.empty(end - first, np.float32)
        step = max(1, SLICE_ELEMENTS // how.block) * how.block
        for start in range(first, end, step):
            stop = min(end, start + step)
            data = np.empty((1, (stop - start) // how.block * how.block_bytes), np.uint8)
            self.fill(data[0], entry, start // how.block * how.block_bytes)
            with np.errstate(all="ignore"):
                flat[start - first : stop - first] = quants.dequantize(data, how.kind)[0]
        return flat


def _kinds(file: WeightsFile) -> dict[int, Quantised]:
    """The ways of quantising that the `gguf` package can undo, by their numbers in a file."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise UserError(
            f"{file.path} is GGUF, for which the package gguf is needed; pip install gguf"
        ) from None
    return _dequantisable()


@cache
def _dequantisable() -> dict[int, Quantised]:
    """Found out by trying each on a block of zeros, once in a process, since that takes a while."""
    import gguf
    from gguf import quants

    kinds = {}
    for kind, (block, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        try:
            with np.errstate(all="ignore"):
                quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError:
            continue
        kinds[int(kind)] = Quantised(kind, block, block_bytes)
    return kinds
