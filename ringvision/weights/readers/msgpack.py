"""Flax's msgpack, as one tree or streamed: where each array's bytes lie, found by going over the headers
alone.

In goes a path; out come tensors named by the keys that lead to them, joined by "/". A tree
(`flax_model.msgpack`) is one map; a stream (LWM's `params`) is records of [[keys], bytes], where the bytes
hold a tree of their own. An array is the extension 1 around (shape, dtype name, bytes in C order), or, when
it is large, a map of flat pieces. What is no array (numbers, texts) is passed over.

Written by hand, although the package msgpack exists, for security and memory: that package builds every value
that a file describes before anything of it can be checked (a file of empty lists takes 65 times its size),
arrays included. Here values are only measured, and an array's bytes stay in the file until it is read.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from pathlib import Path
from typing import Any, NamedTuple

from ringvision.weights.readers.stored import Entry, StoredTensors, check_shape
from ringvision.weights.readers.weights_file import (
    DEEPEST,
    LONGEST_NAME,
    MOST_STEPS,
    MOST_TENSORS,
    WeightsFile,
)

ARRAY = 1
SCALAR = 3
CHUNKED = "__msgpack_chunked_array__"
# first byte -> what it begins and how many bytes say its number (of elements, bytes, or the value itself)
SIZED = {
    **{0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4)},
    **{0xC7: ("extension", 1), 0xC8: ("extension", 2), 0xC9: ("extension", 4)},
    **{0xCC: ("number", 1), 0xCD: ("number", 2), 0xCE: ("number", 4), 0xCF: ("number", 8)},
    **{0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4)},
    **{0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
# values of a fixed length that no array needs: nil, booleans, floats, signed integers
OTHERS = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


class Item(NamedTuple):
    """One header: its kind, its number (elements, bytes or the value), its extension's code, and where what
    it begins starts.
    """

    kind: str
    number: int
    code: int
    start: int

    @property
    def end(self) -> int:
        """Where its bytes end; an array's or a map's elements begin there."""
        return self.start + (self.number if self.kind in ("bytes", "text", "extension", "other") else 0)


def open_streaming(path: Path) -> StoredTensors:
    """The tensors of a stream of records. Raises UserError where it is not sound."""
    return _open(path, "streaming-msgpack")


def open_tree(path: Path) -> StoredTensors:
    """The tensors of one tree. Raises UserError where it is not sound."""
    return _open(path, "flax-msgpack")


def _open(path: Path, form: str) -> StoredTensors:
    file = WeightsFile(path)
    try:
        scan = Scan(file)
        if form == "flax-msgpack":
            scan.exactly(0, file.size, ())
        else:
            offset = 0
            while offset < file.size:
                offset = scan.record(offset)
        return StoredTensors(file, form, scan.entries)
    except BaseException:
        file.close()
        raise


class Scan:
    """Goes over a file's headers, from offset to offset, and collects the arrays in `entries`."""

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self.steps = 0
        self.entries: dict[str, Entry] = {}

    def item(self, offset: int, end: int) -> Item:
        """The header at `offset` of a value that ends at `end` or before."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise self.file.damaged(f"it has more than {MOST_STEPS} parts")
        if offset >= end:
            raise self.file.damaged("it ends in the middle of something")
        found = self._item(offset)
        least = found.number * {"array": 1, "map": 2}.get(found.kind, 0)
        if max(found.start, found.end) + least > end:
            raise self.file.damaged(
                f"at byte {offset} it speaks of {found.kind} of {found.number}, and {end - offset} "
                "bytes are left"
            )
        return found

    def _item(self, offset: int) -> Item:
        first = self.file.number(offset, 1)
        start = offset + 1
        if first < 0x80 or first >= 0xE0:
            return Item("number" if first < 0x80 else "other", first if first < 0x80 else 0, 0, start)
        if first < 0xC0:
            kind, mask = (
                ("map", 0x0F) if first < 0x90 else ("array", 0x0F) if first < 0xA0 else ("text", 0x1F)
            )
            return Item(kind, first & mask, 0, start)
        if 0xD4 <= first <= 0xD8:
            return Item("extension", 1 << (first - 0xD4), self.file.number(start, 1), start + 1)
        if first in OTHERS:
            return Item("other", OTHERS[first], 0, start)
        if first not in SIZED:
            raise self.file.damaged(f"the byte {first:#x} at {offset} begins nothing")
        kind, width = SIZED[first]
        number = int.from_bytes(self.file.take(start, width), "big")
        if kind == "extension":
            return Item(kind, number, self.file.number(start + width, 1), start + width + 1)
        return Item(kind, number, 0, start + width)

    def record(self, offset: int) -> int:
        """Goes over one record of a stream; returns where it ends."""
        end = self.file.size
        outer = self.item(offset, end)
        keys = self.item(outer.end, end)
        if (outer.kind, outer.number, keys.kind) != ("array", 2, "array") or not 0 < keys.number <= DEEPEST:
            raise self.file.damaged(f"at byte {offset} there is no record of a stream")
        path: tuple[str, ...] = ()
        offset = keys.end
        for _ in range(keys.number):
            key, offset = self.text(offset, end)
            path += (key,)
        body = self.item(offset, end)
        if body.kind != "bytes":
            raise self.file.damaged(f"{'/'.join(path)[:60]} has {body.kind} in the place of bytes")
        self.exactly(body.start, body.end, path)
        return body.end

    def exactly(self, offset: int, end: int, path: tuple[str, ...]) -> None:
        """Goes over one value that fills the bytes from `offset` to `end`."""
        if self.value(offset, end, path) != end:
            raise self.file.damaged(f"something lies behind the end of {'/'.join(path)[:60] or 'the tree'}")

    def value(self, offset: int, end: int, path: tuple[str, ...]) -> int:
        """Goes over one value and what it holds; returns where it ends."""
        if len(path) > DEEPEST:
            raise self.file.damaged(f"it is nested more than {DEEPEST} deep")
        item = self.item(offset, end)
        if item.kind == "extension" and item.code in (ARRAY, SCALAR):
            self.add(path, *self.array(item, path))
        if item.kind == "array":
            offset = item.end
            for number in range(item.number):
                offset = self.value(offset, end, (*path, str(number)))
            return offset
        if item.kind != "map":
            return item.end
        offset = item.end
        for number in range(item.number):
            key, offset = self.text(offset, end)
            if number == 0 and key == CHUNKED:
                return self.chunked(item.number, offset, end, path)
            offset = self.value(offset, end, (*path, key))
        return offset

    def text(self, offset: int, end: int) -> tuple[str, int]:
        """A text that is a key, and where it ends."""
        item = self.item(offset, end)
        if item.kind != "text" or item.number > LONGEST_NAME:
            raise self.file.damaged(
                f"at byte {offset} there is {item.kind} of {item.number} in the place of a name"
            )
        try:
            return self.file.take(item.start, item.number).decode(), item.end
        except UnicodeDecodeError:
            raise self.file.damaged(f"the name at byte {offset} is no UTF-8") from None

    def array(self, item: Item, path: tuple[str, ...]) -> tuple[list[int], str, tuple[int, int]]:
        """An array's shape, dtype and (offset, length), from the extension `item`."""
        name = "/".join(path)[:60]
        outer = self.item(item.start, item.end)
        axes = self.item(outer.end, item.end)
        if (outer.kind, outer.number, axes.kind) != ("array", 3, "array") or axes.number > DEEPEST:
            raise self.file.damaged(f"{name} is no array of Flax's")
        shape = []
        offset = axes.end
        for _ in range(axes.number):
            length = self.item(offset, item.end)
            if length.kind != "number":
                raise self.file.damaged(f"{name} has {length.kind} in its shape")
            shape.append(length.number)
            offset = length.start
        dtype, offset = self.text(offset, item.end)
        body = self.item(offset, item.end)
        if body.kind != "bytes" or body.end != item.end:
            raise self.file.damaged(f"{name} is no array of Flax's")
        return shape, dtype, (body.start, body.number)

    def chunked(self, keys: int, offset: int, end: int, path: tuple[str, ...]) -> int:
        """Adds the array whose map of pieces goes on at `offset`, behind its first key.

        Args:
            keys: how many keys the map has.
            offset: where the value of the first key begins.
            end: where the map must have ended.
            path: the keys that lead to the array.

        Returns:
            where the map ends.

        Raises:
            UserError: where pieces are missing, of several types, or no pieces of an array.
        """
        name = "/".join(path)[:60]
        offset = self.item(offset, end).end
        parts: dict[str, dict[int, Any]] = {}
        for _ in range(keys - 1):
            part, offset = self.text(offset, end)
            outer = self.item(offset, end)
            if part not in ("shape", "chunks") or part in parts or outer.kind != "map":
                raise self.file.damaged(f"{name} is no array in pieces: it has {part[:40]!a}")
            parts[part] = {}
            offset = outer.end
            for _ in range(outer.number):
                key, offset = self.text(offset, end)
                item = self.item(offset, end)
                if not key.isascii() or not key.isdecimal() or len(key) > 9 or int(key) in parts[part]:
                    raise self.file.damaged(f"{name} has a piece named {key[:40]!a}")
                if part == "shape" and item.kind == "number":
                    parts[part][int(key)] = item.number
                    offset = item.start
                elif part == "chunks" and item.kind == "extension" and item.code == ARRAY:
                    parts[part][int(key)] = self.array(item, path)
                    offset = item.end
                else:
                    raise self.file.damaged(f"{name} has {item.kind} among its {part}")
        shape, pieces = (
            [found[number] for number in sorted(found)]
            for found in (parts.get("shape", {}), parts.get("chunks", {}))
        )
        if (
            not pieces
            or any(sorted(found) != list(range(len(found))) for found in parts.values())
            or len({dtype for _, dtype, _ in pieces}) != 1
        ):
            raise self.file.damaged(f"{name} lacks some of its pieces, or they are of several types")
        self.add(path, shape, pieces[0][1], *(found_at for _, _, found_at in pieces))
        return offset

    def add(self, path: tuple[str, ...], shape: list[int], dtype: str, *pieces: tuple[int, int]) -> None:
        """Adds an array to `entries`.

        Args:
            path: the keys that lead to it.
            shape: its shape, by the file.
            dtype: its dtype's name, by the file.
            pieces: (offset, bytes) of its flat pieces, in their order.

        Raises:
            UserError: where an array of this name is known, or there can be none of this shape.
        """
        name = "/".join(path)
        if name in self.entries:
            raise self.file.damaged(f"{name[:60]!a} comes twice in it")
        if len(self.entries) >= MOST_TENSORS:
            raise self.file.damaged(f"it has more than {MOST_TENSORS} tensors")
        self.entries[name] = Entry(check_shape(self.file, name, shape, dtype), pieces)
