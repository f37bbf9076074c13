"""safetensors: a length, a JSON header that names every tensor's type, shape and bytes, then the bytes; and
folders of such files.

In goes a path; out come tensors that are read on demand. The header is bounded, its ranges must cover the
data once without a hole, and an index may name files of its own folder alone.

Written by hand, although the package safetensors exists (our own model folders are read by it), for security:
the package takes a header in which a name comes twice, allows headers of 100 MB, and maps the file, so that
one that shrinks while it is read ends the process; and its errors don't name the file.
"""

import json
import re
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

from ringvision.errors import UserError
from ringvision.weights.readers.stored import Entry, StoredTensors, check_shape
from ringvision.weights.readers.weights_file import MOST_TENSORS, WeightsFile

HEADER_BYTES = 16 << 20
TYPES = {
    **{
        f"{letter}{bits}": f"{kind}{bits}"
        for letter, kind in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}


def open_safetensors(path: Path) -> StoredTensors:
    """The tensors of one safetensors file. Raises UserError where its header is not sound."""
    file = WeightsFile(path)
    try:
        length = file.number(0, 8)
        if not 2 <= length <= min(HEADER_BYTES, file.size - 8):
            raise file.damaged(f"its header would have {length} bytes")
        header = _parse(file, file.take(8, length))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise file.damaged("its metadata is no table of texts")
        entries = {name: _entry(file, name, fields, 8 + length) for name, fields in header.items()}
        _check_cover(file, entries, 8 + length)
        return StoredTensors(file, "safetensors", entries, metadata)
    except BaseException:
        file.close()
        raise


def open_index(path: Path) -> "ShardedTensors":
    """The tensors of the files that an index (`model.safetensors.index.json`) names, which lie in its folder.

    Raises UserError where the index or a file is not sound, or a file is missing.
    """
    file = WeightsFile(path)
    try:
        if file.size > HEADER_BYTES:
            raise file.damaged(f"an index of {file.size} bytes")
        weight_map = _parse(file, file.take(0, file.size)).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise file.damaged("it has no weight_map")
        files: dict[str, list[str]] = {}
        for name, shard in weight_map.items():
            if not isinstance(shard, str) or not re.fullmatch(
                r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors", shard
            ):
                raise file.damaged(
                    f"it names the file {ascii(shard)[:60]}, which is no safetensors file of its folder"
                )
            files.setdefault(shard, []).append(file.name(name))
        if gone := sorted(shard for shard in files if not (path.parent / shard).exists()):
            raise UserError(
                f"{path} names {len(files)} files, and {', '.join(gone[:6])} "
                f"{'is' if len(gone) == 1 else 'are'} not beside it"
                f"{f' ({len(gone)} in all)' if len(gone) > 6 else ''}; copy or download what is "
                "missing into that folder"
            )
        return ShardedTensors(file, files)
    finally:
        file.close()


class ShardedTensors:
    """Tensors of several safetensors files as one (`Tensors` of ringvision/weights/tensors.py)."""

    form = "safetensors"

    def __init__(self, index: WeightsFile, files: dict[str, list[str]]) -> None:
        self.path = index.path
        self.metadata: dict[str, Any] = {}
        self.shards: list[StoredTensors] = []
        self.homes: dict[str, StoredTensors] = {}
        try:
            for shard_name, names in files.items():
                shard = open_safetensors(index.path.parent / shard_name)
                self.shards.append(shard)
                self.metadata |= shard.metadata
                if absent := set(names) - set(shard.specs):
                    raise index.damaged(f"it says that {shard_name} holds {min(absent)}, which is not there")
                if twice := set(self.homes) & set(shard.specs):
                    raise index.damaged(f"{min(twice)} is in two of its files")
                self.homes |= dict.fromkeys(shard.specs, shard)
        except BaseException:
            self.close()
            raise
        self.specs = {name: shard.specs[name] for name, shard in self.homes.items()}

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor, or the range `rows` (first, end) of its first axis, of the shape and dtype of
        `specs[name]`.

        Raises UserError for a name or rows that no file has.
        """
        if name not in self.homes:
            raise UserError(
                f"{self.path} has no tensor {name}; it has {len(self.homes)}, such as "
                f"{', '.join([*self.homes][:3])}"
            )
        return self.homes[name].read(name, rows)

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parse(file: WeightsFile, data: bytes) -> dict[str, Any]:
    """A JSON object in which no key comes twice."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(found)
        if len(table) != len(found):
            raise file.damaged("a name comes twice in its header")
        return table

    def refuse(word: str) -> NoReturn:
        raise file.damaged(f"its header speaks of {word}")

    def whole(digits: str) -> int:
        return int(digits) if len(digits) <= 19 else refuse(f"a number of {len(digits)} digits")

    lists = data.count(b"[") + data.count(
        b"{"
    )  # each would take many times its bytes in memory, and so would names and values
    if lists > 4 * MOST_TENSORS or data.count(b":") > 5 * MOST_TENSORS or data.count(b",") > 8 * MOST_TENSORS:
        raise file.damaged("its header has more lists or names than tensors could need")
    try:
        header = json.loads(data, object_pairs_hook=pairs, parse_constant=refuse, parse_int=whole)
    except (ValueError, RecursionError) as error:
        raise file.damaged(f"its header is no JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise file.damaged("its header is no JSON object")
    return header


def _entry(file: WeightsFile, name: str, fields: Any, start: int) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise file.damaged(f"{ascii(name)[:60]} has not dtype, shape and data_offsets")
    kind = fields["dtype"]
    offsets = fields["data_offsets"]
    if not isinstance(kind, str) or kind not in TYPES:
        raise file.damaged(
            f"{ascii(name)[:60]} has the type {ascii(kind)[:40]}; known are {', '.join(TYPES)}"
        )
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(offset) is not int for offset in offsets)
    ):
        raise file.damaged(f"{ascii(name)[:60]} has the offsets {ascii(offsets)[:60]}")
    return Entry(
        check_shape(file, name, fields["shape"], TYPES[kind]),
        ((start + offsets[0], offsets[1] - offsets[0]),),
    )


def _check_cover(file: WeightsFile, entries: dict[str, Entry], start: int) -> None:
    """Raises UserError unless the entries' bytes lie one after another from `start` to the file's end."""
    for offset, length in sorted(entry.pieces[0] for entry in entries.values()):
        if offset != start or length < 0:
            raise file.damaged(f"its tensors leave a hole or overlap at byte {start}")
        start += length
    if start != file.size:
        raise file.damaged(f"its tensors end at byte {start} where the file has {file.size}")
