"""Files of torch: pickles in a zip, in a row, in a tar."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from hostile.pickles import Call, dictionary, named, text, touch
from hostile.writing import writer


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
    return writer(
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


TORCH = {
    "torch_os_system": writer(
        "weights.pt", lambda folder: _torch(pickle.dumps(Call(os.system, touch(folder)), protocol=2))
    ),
    "torch_pickle_in_a_pickle": writer(
        "weights.pt",
        lambda _: _torch(dictionary(named("torch.storage", "_load_from_bytes") + b"C\x01x\x85R")),
    ),
    "torch_legacy_os_system": writer(
        "weights.pt",
        lambda folder: (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2)
            + pickle.dumps(1001, 2)
            + pickle.dumps(Call(os.system, touch(folder)), 2)
        ),
    ),
    "torch_zip_slip": writer("weights.pt", lambda _: _torch(dictionary(b"N"), {"../canary": b"x"})),
    "torch_absolute_member": writer("weights.pt", lambda _: _torch(dictionary(b"N"), {"/tmp/canary": b"x"})),
    "torch_deflate_bomb": writer("weights.pt", lambda _: _torch(bytes(64 << 20), None, zipfile.ZIP_DEFLATED)),
    "torch_overlapping_members": writer("weights.pt", _overlapping),
    "torch_stride_of_zero": of_tensor(b"\x8a\x05\0\0\0\0\x02\x85", b"K\x00\x85"),
    "torch_beyond_its_storage": of_tensor(b"K\x04\x85", b"K\x01\x85", b"K\x01"),
    "torch_storage_longer_than_its_member": of_tensor(b"J\0\0\0\x40\x85", b"K\x01\x85", count=b"J\0\0\0\x40"),
    "torch_negative_stride": of_tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85", b"K\x02"),
    "torch_negative_offset": of_tensor(b"K\x04\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"),
    "torch_count_of_160_bits": of_tensor(b"K\x04\x85", b"K\x01\x85", count=b"\x8a\x15" + bytes(20) + b"\x01"),
    "torch_member_twice": writer("weights.pt", _twice),
    "torch_encrypted": writer("weights.pt", lambda _: _changed_zip(8, b"\x01\x00")),
    "torch_member_beyond_the_file": writer(
        "weights.pt", lambda _: _changed_zip(20, struct.pack("<II", 1 << 30, 1 << 30))
    ),
    "torch_list_of_2_to_the_60": writer("weights.pt", lambda _: _zip64(1 << 60, 100, 0)),
    "torch_list_beyond_the_file": writer("weights.pt", lambda _: _zip64(2, 1 << 62, 1 << 62)),
    "torch_legacy_long_storage": writer(
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
    "torch_tar": writer("weights.pt", _tar),
    "torch_one_storage_often": writer(
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
