"""Files that are made to do harm when they are read as weights: to run a command, to take all memory or time,
to reach other files.

`HOSTILE` maps a name to a function of a folder, which writes the file there and returns its path. What could
run a command would make the file `canary` in that folder: `ARMED` names those that Python's own pickle.load
makes do so.
"""

import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

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
    return _writer("weights.pkl", content)


def _writer(file: str, content: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / file).write_bytes(content(folder))
        return folder / file

    return write


def _calls(make: Callable[[Path], Any], protocol: int = 4) -> Callable[[Path], Path]:
    return of_pickle(lambda folder: pickle.dumps(make(folder), protocol=protocol))


def _laughs(_: Path) -> bytes:
    """A list of ten times the same list of ten times the same list, and so on, thirty deep."""
    return (
        b"\x80\x04]q\x00"
        + b"".join(b"(" + b"h%c" % level * 10 + b"lq%c" % (level + 1) for level in range(30))
        + b"."
    )


def _torch(
    data: bytes, members: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in ({"archive/data.pkl": data} | (members or {})).items():
            file.writestr(name, content)
    return buffer.getvalue()


def torch_tensor(
    shape: bytes,
    strides: bytes,
    offset: bytes = b"K\x00",
    count: bytes = b"K\x04",
    kind: str = "FloatStorage",
) -> bytes:
    """torch's rebuild of a tensor over the storage 0, with the opcodes of its shape, strides, offset and the
    storage's length.
    """
    storage = b"(" + text("storage") + named("torch", kind) + text("0") + text("cpu") + count + b"tQ"
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage
        + offset
        + shape
        + strides
        + b"\x89"
        + b")tR"
    )


def of_tensor(*parts: bytes, storage: bytes = bytes(16), **fields: bytes) -> Callable[[Path], Path]:
    return _writer(
        "weights.pt",
        lambda _: _torch(dictionary(torch_tensor(*parts, **fields)), {"archive/data/0": storage}),
    )


def _overlapping(_: Path) -> bytes:
    """A zip whose list says of two members that they are the same bytes."""
    data = bytearray(
        _torch(
            dictionary(torch_tensor(b"K\x04\x85", b"K\x01\x85")),
            {"archive/data/0": bytes(16), "archive/data/1": bytes(16)},
        )
    )
    entries = [place for place in range(len(data)) if data[place : place + 4] == b"PK\x01\x02"]
    data[entries[2] + 42 : entries[2] + 46] = data[entries[1] + 42 : entries[1] + 46]
    return bytes(data)


SMALL = b"K\x04\x85", b"K\x01\x85"


def _twice(_: Path) -> bytes:
    return _torch(
        dictionary(torch_tensor(*SMALL)), {"archive/data/0": bytes(16), "archive/data/1": bytes(16)}
    ).replace(b"archive/data/1", b"archive/data/0")


def _changed_zip(place: int, value: bytes) -> bytes:
    """A zip with something else in the last entry of its list, `place` bytes on."""
    data = bytearray(_torch(dictionary(torch_tensor(*SMALL)), {"archive/data/0": bytes(16)}))
    start = data.rfind(b"PK\x01\x02") + place
    data[start : start + len(value)] = value
    return bytes(data)


def _zip64(count: int, size: int, offset: int) -> bytes:
    """A zip whose longer end says this of its list."""
    data = _torch(dictionary(torch_tensor(*SMALL)), {"archive/data/0": bytes(16)})
    data = data[: data.rfind(b"PK\x05\x06")]
    longer = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, offset)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data + longer + b"PK\x06\x07" + struct.pack("<IQI", 0, len(data), 1) + end


def _tar(_: Path) -> bytes:
    """What torch wrote before it wrote rows of pickles, with a member outside its folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("../canary"), io.BytesIO())
    return buffer.getvalue()


def safetensors(header: Any, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def of_safetensors(header: Any, data: bytes = b"") -> Callable[[Path], Path]:
    return _writer("weights.safetensors", lambda _: safetensors(header, data))


def fields(*shape: int, begin: int = 0, end: int = 16, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def of_msgpack(content: bytes) -> Callable[[Path], Path]:
    return _writer("weights.msgpack", lambda _: content)


def extension(shape: tuple[int, ...], dtype: str, data: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


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


def gguf(tensors: int, keys: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def gguf_text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def of_gguf(tensors: int, keys: int, rest: bytes) -> Callable[[Path], Path]:
    return _writer("weights.gguf", lambda _: gguf(tensors, keys, rest))


GGUF_TENSOR = gguf_text("w") + struct.pack("<IQQIQ", 2, 1 << 20, 1 << 20, 0, 0)

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

TORCH = {
    "torch_os_system": _writer(
        "weights.pt", lambda folder: _torch(pickle.dumps(Call(os.system, touch(folder)), protocol=2))
    ),
    "torch_pickle_in_a_pickle": _writer(
        "weights.pt",
        lambda _: _torch(dictionary(named("torch.storage", "_load_from_bytes") + b"C\x01x\x85R")),
    ),
    "torch_legacy_os_system": _writer(
        "weights.pt",
        lambda folder: (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2)
            + pickle.dumps(1001, 2)
            + pickle.dumps(Call(os.system, touch(folder)), 2)
        ),
    ),
    "torch_zip_slip": _writer("weights.pt", lambda _: _torch(dictionary(b"N"), {"../canary": b"x"})),
    "torch_absolute_member": _writer("weights.pt", lambda _: _torch(dictionary(b"N"), {"/tmp/canary": b"x"})),
    "torch_deflate_bomb": _writer(
        "weights.pt", lambda _: _torch(bytes(64 << 20), None, zipfile.ZIP_DEFLATED)
    ),
    "torch_overlapping_members": _writer("weights.pt", _overlapping),
    "torch_stride_of_zero": of_tensor(b"\x8a\x05\0\0\0\0\x02\x85", b"K\x00\x85"),
    "torch_beyond_its_storage": of_tensor(b"K\x04\x85", b"K\x01\x85", b"K\x01"),
    "torch_storage_longer_than_its_member": of_tensor(b"J\0\0\0\x40\x85", b"K\x01\x85", count=b"J\0\0\0\x40"),
    "torch_negative_stride": of_tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85", b"K\x02"),
    "torch_negative_offset": of_tensor(b"K\x04\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"),
    "torch_count_of_160_bits": of_tensor(b"K\x04\x85", b"K\x01\x85", count=b"\x8a\x15" + bytes(20) + b"\x01"),
    "torch_member_twice": _writer("weights.pt", _twice),
    "torch_encrypted": _writer("weights.pt", lambda _: _changed_zip(8, b"\x01\x00")),
    "torch_member_beyond_the_file": _writer(
        "weights.pt", lambda _: _changed_zip(20, struct.pack("<II", 1 << 30, 1 << 30))
    ),
    "torch_list_of_2_to_the_60": _writer("weights.pt", lambda _: _zip64(1 << 60, 100, 0)),
    "torch_list_beyond_the_file": _writer("weights.pt", lambda _: _zip64(2, 1 << 62, 1 << 62)),
    "torch_legacy_long_storage": _writer(
        "weights.pt",
        lambda _: (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2)
            + b"".join(pickle.dumps(part, 2) for part in (1001, {}))
            + dictionary(torch_tensor(b"K\x04\x85", b"K\x01\x85", count=b"\x8a\x08\0\0\0\0\0\0\0\x10"))
            + b"\x80\x02]"
            + text("0")
            + b"a."
            + struct.pack("<Q", 1 << 60)
        ),
    ),
    "torch_tar": _writer("weights.pt", _tar),
    "torch_one_storage_often": _writer(
        "weights.pt",
        lambda _: _torch(
            b"\x80\x04}("
            + b"".join(
                b"M"
                + struct.pack("<H", n)
                + torch_tensor(b"J\0\0\x04\0\x85", b"K\x01\x85", count=b"J\0\0\x04\0")
                for n in range(200)
            )
            + b"u.",
            {"archive/data/0": bytes(1 << 20)},
        ),
    ),
}

MSGPACK = {
    "msgpack_map_of_billions": of_msgpack(b"\xdf\xff\xff\xff\xff\xa1w"),
    "msgpack_long_bytes": of_msgpack(b"\x81\xa1w\xc6\xff\xff\xff\xff"),
    "msgpack_long_extension": of_msgpack(b"\x81\xa1w\xc9\xff\xff\xff\xff\x01"),
    "msgpack_long_name": of_msgpack(b"\x81\xdb\x00\x10\x00\x00" + b"w" * (1 << 20) + b"\xc0"),
    "msgpack_nested": of_msgpack(b"\x81\xa1w" * 100_000 + b"\xc0"),
    "msgpack_two_million_nothings": of_msgpack(
        b"\x81\xa1w\xdd" + struct.pack(">I", 1 << 21) + b"\xc0" * (1 << 21)
    ),
    "msgpack_names_of_17_megabytes": of_msgpack(
        b"\xde"
        + struct.pack(">H", 17_000)
        + b"".join(
            b"\xda\x03\xe8%05d" % number + b"w" * 995 + msgpack.packb(extension((0,), "float32", b""))
            for number in range(17_000)
        )
    ),
    "msgpack_nested_lists": of_msgpack(b"\x81\xa1w" + b"\x91" * 100_000 + b"\xc0"),
    "msgpack_number_as_a_key": of_msgpack(b"\x81\x01\xc0"),
    "msgpack_twice": of_msgpack(
        b"\x82" + (b"\xa1w" + msgpack.packb(extension((4,), "float32", bytes(16)))) * 2
    ),
    "msgpack_negative_shape": of_msgpack(msgpack.packb({"w": extension((-4,), "float32", bytes(16))})),
    "msgpack_wide_type": of_msgpack(msgpack.packb({"w": extension((1,), "V1000000", bytes(16))})),
    "msgpack_escape_in_a_type": of_msgpack(msgpack.packb({"w": extension((1,), "\x1b[2J", bytes(16))})),
    "msgpack_chunks_of_billions": of_msgpack(
        b"\x81\xa1w\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x04"
        b"\xa6chunks\xdf\xff\xff\xff\xff\xa10"
    ),
    "msgpack_shape": of_msgpack(msgpack.packb({"w": extension((1 << 40, 1 << 40), "float32", bytes(16))})),
    "msgpack_shape_without_bytes": of_msgpack(
        msgpack.packb({"w": extension((1 << 33,), "float32", bytes(16))})
    ),
    "msgpack_objects": of_msgpack(msgpack.packb({"w": extension((2,), "object", bytes(16))})),
    "msgpack_chunks": of_msgpack(
        msgpack.packb(
            {
                "w": {
                    "__msgpack_chunked_array__": True,
                    "shape": {"0": 8},
                    "chunks": {
                        "0": extension((4,), "float32", bytes(16)),
                        "7": extension((4,), "float32", bytes(16)),
                    },
                }
            }
        )
    ),
    "msgpack_stream": _writer(
        "params",
        lambda _: msgpack.packb(
            [["params", "w"], msgpack.packb(extension((1 << 40,), "float32", bytes(16)))]
        ),
    ),
    "msgpack_stream_of_pickles": _writer(
        "params", lambda _: msgpack.packb([["w"], msgpack.packb(msgpack.ExtType(1, pickle.dumps(1)))])
    ),
}

SAFETENSORS = {
    "safetensors_long_header": _writer(
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
    "safetensors_header_of_2_to_the_64": _writer(
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

GGUF = {
    "gguf_tensors_without_end": of_gguf(1 << 62, 0, b""),
    "gguf_keys_without_end": of_gguf(0, 1 << 62, b""),
    "gguf_long_text": of_gguf(1, 1, gguf_text("k") + struct.pack("<IQ", 8, 1 << 62)),
    "gguf_long_list": of_gguf(1, 1, gguf_text("k") + struct.pack("<IIQ", 9, 4, 1 << 40)),
    "gguf_list_of_lists": of_gguf(1, 1, gguf_text("k") + struct.pack("<IIQ", 9, 9, 4) + bytes(64)),
    "gguf_shape": of_gguf(
        1, 0, gguf_text("w") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0) + bytes(64)
    ),
    "gguf_shape_without_bytes": of_gguf(1, 0, GGUF_TENSOR + bytes(64)),
    "gguf_offset": of_gguf(1, 0, gguf_text("w") + struct.pack("<IQIQ", 1, 4, 0, 1 << 62) + bytes(64)),
    "gguf_type": of_gguf(1, 0, gguf_text("w") + struct.pack("<IQIQ", 1, 4, 999, 0) + bytes(64)),
    "gguf_axes": of_gguf(1, 0, gguf_text("w") + struct.pack("<I", 1 << 30) + bytes(64)),
    "gguf_key_twice": of_gguf(0, 2, (gguf_text("k") + struct.pack("<II", 4, 1)) * 2),
    "gguf_tensor_twice": of_gguf(2, 0, (gguf_text("w") + struct.pack("<IQIQ", 1, 4, 0, 0)) * 2 + bytes(64)),
    "gguf_overlap": of_gguf(
        2, 0, b"".join(gguf_text(name) + struct.pack("<IQIQ", 1, 4, 0, 0) for name in "vw") + bytes(64)
    ),
    "gguf_big_endian": _writer("weights.gguf", lambda _: b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64)),
    "gguf_shape_that_wraps": of_gguf(
        1, 0, gguf_text("w") + struct.pack("<IQQQIQ", 3, 1 << 63, 1 << 63, 4, 0, 0) + bytes(64)
    ),
    "gguf_million_empty_texts": of_gguf(
        1, 1, gguf_text("k") + struct.pack("<IIQ", 9, 8, (1 << 21) + 1) + bytes(64)
    ),
    "gguf_alignment": of_gguf(
        1,
        1,
        gguf_text("general.alignment")
        + struct.pack("<II", 4, 0)
        + gguf_text("w")
        + struct.pack("<IQIQ", 1, 4, 0, 0)
        + bytes(64),
    ),
}

HOSTILE = PICKLES | TORCH | MSGPACK | SAFETENSORS | GGUF
