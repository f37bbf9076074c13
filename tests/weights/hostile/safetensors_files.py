"""Files of safetensors, and indices of several."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.writing import writer


def safetensors(header: Any, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def of_safetensors(header: Any, data: bytes = b"") -> Callable[[Path], Path]:
    return writer("weights.safetensors", lambda _: safetensors(header, data))


def fields(*shape: int, begin: int = 0, end: int = 16, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _index(folder: Path) -> Path:
    (folder / "inside").mkdir()
    (folder / "model.safetensors").write_bytes(safetensors({"w": fields(4)}, bytes(16)))
    path = folder / "inside" / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"w": "../model.safetensors"}}))
    return path.parent


def _index_of(make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    """A folder with an index of one file; `make` makes the file at a path, or says under what name the index
    has it.
    """

    def write(folder: Path) -> Path:
        (folder / "inside").mkdir()
        name = make(folder / "inside" / "one.safetensors")
        index = {"weight_map": {"w": name if isinstance(name, str) else "one.safetensors"}}
        (folder / "inside" / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder / "inside"

    return write


SAFETENSORS = {
    "safetensors_long_header": writer(
        "weights.safetensors", lambda _: struct.pack("<Q", (16 << 20) - 1) + b"{}"
    ),
    "safetensors_nested": of_safetensors(b'{"w":' + b"[" * 200_000),
    "safetensors_shape": of_safetensors({"w": fields(1 << 40, 1 << 40)}, bytes(16)),
    "safetensors_shape_that_wraps": of_safetensors({"w": fields(1 << 32, 1 << 32, 0)}, bytes(16)),
    "safetensors_overlap": of_safetensors({"a": fields(4), "b": fields(4)}, bytes(16)),
    "safetensors_hole": of_safetensors({"a": fields(4), "b": fields(4, begin=24, end=40)}, bytes(40)),
    "safetensors_negative": of_safetensors({"w": fields(4, begin=-16, end=0)}, bytes(16)),
    "safetensors_twice": of_safetensors(
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        bytes(16),
    ),
    "safetensors_wide_header": of_safetensors(b'{"w":[' + b"[]," * (5 << 20) + b"0]}"),
    "safetensors_names_without_end": of_safetensors(
        b"{" + b",".join(b'"%x":0' % number for number in range(700_000)) + b"}"
    ),
    "safetensors_number_of_4000_digits": of_safetensors(
        b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,' + b"1" * 4000 + b"]}}", bytes(16)
    ),
    "safetensors_not_a_number": of_safetensors(
        b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', bytes(16)
    ),
    "safetensors_header_of_2_to_the_64": writer(
        "weights.safetensors", lambda _: struct.pack("<Q", (1 << 64) - 1) + b"{"
    ),
    "safetensors_index_out_of_its_folder": _index,
    "safetensors_index_of_root": _index_of(lambda path: "/etc/passwd"),
    "safetensors_index_of_a_link_to_text": _index_of(lambda path: path.symlink_to("/etc/passwd")),
    "safetensors_index_of_a_device": _index_of(lambda path: path.symlink_to("/dev/zero")),
    "safetensors_index_of_a_pipe": _index_of(os.mkfifo),
    "safetensors_index_of_a_long_name": _index_of(lambda path: "a" * 5000 + ".safetensors"),
    "safetensors_index_of_another_tensor": _index_of(
        lambda path: path.write_bytes(safetensors({"v": fields(4)}, bytes(16))) and None
    ),
}
