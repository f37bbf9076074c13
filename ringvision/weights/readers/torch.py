"""Files of torch.save, without torch: the zip of today and the older sequence of pickles; a bare `state_dict`
or a whole training checkpoint.

In goes a path; out come tensors by the names that they have there. The pickle says which tensors there are,
in a process of its own (child.py); their numbers are slices of the zip's members, or of what follows the
pickles, and are read there. Nothing is unpacked.

Written by hand, although torch.load and zipfile exist, for security: torch.load unpickles (and would make
torch a dependency), and zipfile decompresses members to whatever size they turn out to have. Here a member
must be stored plain, lie inside the file and share no byte with another.

Zip: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT; torch stores its members uncompressed.
"""

import math
import struct
from pathlib import Path
from typing import Any

from ringvision.weights.readers.child import table_of
from ringvision.weights.readers.stored import DTYPES, Entry, StoredTensors, check_shape, check_sharing
from ringvision.weights.readers.weights_file import MOST_TENSORS, WINDOW_BYTES, WeightsFile

DIRECTORY_BYTES = 64 << 20
PICKLE_BYTES = 256 << 20
END, END64, LOCATOR64, CENTRAL, LOCAL = (
    b"PK" + bytes(pair) for pair in ((5, 6), (6, 6), (6, 7), (1, 2), (3, 4))
)


def open_torch(path: Path, memory: int) -> StoredTensors:
    """The tensors of a file of torch.save. memory: bytes that the process that goes over its pickle may use.

    Raises UserError for a file that is not sound.
    """
    file = WeightsFile(path)
    try:
        ranges, answer = _zip(file, memory) if file.take(0, 4) == LOCAL else _legacy(file, memory)
        entries = {
            name: _entry(file, name, fields, answer["storages"], ranges)
            for name, fields in answer["tensors"].items()
        }
        tensors = StoredTensors(file, "torch", entries)
        check_sharing(file, entries)
        return tensors
    except BaseException:
        file.close()
        raise


def _entry(
    file: WeightsFile,
    name: str,
    fields: dict[str, Any],
    storages: dict[str, Any],
    ranges: dict[str, tuple[int, int]],
) -> Entry:
    spec = check_shape(file, name, fields["shape"], fields["dtype"])
    key = fields["storage"]
    strides = tuple(fields["strides"])
    size = DTYPES[spec.dtype].itemsize
    count = storages[key][1]
    if key not in ranges or type(count) is not int or count < 0 or count * size > ranges[key][1]:
        raise file.damaged(f"the numbers of {name} are not all there")
    if len(strides) != len(spec.shape):
        raise file.damaged(f"{name} has {len(strides)} strides for {len(spec.shape)} axes")
    span = 1 + sum((length - 1) * stride for length, stride in zip(spec.shape, strides)) if spec.count else 0
    if fields["offset"] + span > count:
        raise file.damaged(f"{name} reaches beyond the numbers that it is a part of")
    in_order = all(
        length < 2 or stride == math.prod(spec.shape[axis + 1 :])
        for axis, (length, stride) in enumerate(zip(spec.shape, strides))
    )
    return Entry(
        spec,
        ((ranges[key][0] + fields["offset"] * size, span * size),),
        None if in_order or not spec.count else strides,
    )


def _legacy(file: WeightsFile, memory: int) -> tuple[dict[str, tuple[int, int]], dict[str, Any]]:
    """The range (offset, bytes) of each storage, and the table: behind the pickles come, for each key, a
    count and the numbers.
    """
    answer = table_of(file, memory, "torch-legacy")
    offset = answer["end"]
    ranges = {}
    for key in answer["keys"]:
        dtype, count = answer["storages"].get(key, ("uint8", -1))
        if file.number(offset, 8) != count:
            raise file.damaged(f"the storage {ascii(key)[:40]} has another length than its tensors say")
        ranges[key] = (offset + 8, count * DTYPES[dtype].itemsize)
        offset += 8 + ranges[key][1]
    return ranges, answer


def _zip(file: WeightsFile, memory: int) -> tuple[dict[str, tuple[int, int]], dict[str, Any]]:
    """The range (offset, bytes) of each storage, and the table: `<folder>/data.pkl` and
    `<folder>/data/<key>`.
    """
    found = members(file)
    pickles = [name for name in found if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise file.damaged("it is a zip, and none of torch.save's (there is not one data.pkl in it)")
    folder = pickles[0].removesuffix("data.pkl")
    start, length = found[pickles[0]]
    order = found.get(f"{folder}byteorder")
    if order and file.take(order[0], min(order[1], 16)) != b"little":
        raise file.damaged("its numbers are big-endian, which is not read")
    if length > PICKLE_BYTES:
        raise file.damaged(f"a pickle of {length} bytes")
    ranges = {
        name.removeprefix(f"{folder}data/"): found_at
        for name, found_at in found.items()
        if name.startswith(f"{folder}data/")
    }
    return ranges, table_of(file, memory, "torch", start, start + length)


def members(file: WeightsFile) -> dict[str, tuple[int, int]]:
    """The members of a zip: name -> (offset of its bytes, how many).

    Raises UserError for members that are compressed or encrypted, that overlap, come twice, do not lie in the
    file, or whose name leads out of the zip's folder.
    """
    offset, count, size = _directory(file)
    end = offset + size
    found = {}
    for _ in range(count):
        if offset + 46 > end or file.take(offset, 4) != CENTRAL:
            raise file.damaged("the zip's list of members is cut off")
        flags, method = struct.unpack("<8xHH", file.take(offset, 12))
        packed, length, named, extra, comment = struct.unpack("<IIHHH", file.take(offset + 20, 14))
        name = _member_name(file, file.take(offset + 46, named))
        header = file.number(offset + 42, 4)
        if 0xFFFFFFFF in (packed, length, header):
            packed, length, header = _zip64_numbers(
                file, file.take(offset + 46 + named, extra), packed, length, header
            )
        if flags & 1 or method != 0 or packed != length:
            raise file.damaged(f"{name} is compressed or encrypted, which torch.save does to nothing")
        if name in found:
            raise file.damaged(f"{name} comes twice in it")
        found[name] = (_member_start(file, header), length)
        offset += 46 + named + extra + comment
    last = 0
    for start, length in sorted(found.values()):
        if start < last or start + length > file.size:
            raise file.damaged("the zip's members overlap or end behind the file")
        last = start + length
    return found


def _directory(file: WeightsFile) -> tuple[int, int, int]:
    """Where the zip's list of members begins, how many there are and how many bytes it has."""
    tail = min(file.size, WINDOW_BYTES)
    found = file.take(file.size - tail, tail).rfind(END)
    if found < 0 or tail - found < 22:
        raise file.damaged("it begins as a zip and does not end as one")
    end = file.size - tail + found
    count, size, offset = struct.unpack("<HII", file.take(end + 10, 10))
    if (
        (count == 0xFFFF or 0xFFFFFFFF in (size, offset))
        and end >= 20
        and file.take(end - 20, 4) == LOCATOR64
    ):
        longer = file.number(end - 12, 8)
        if file.take(longer, 4) != END64:
            raise file.damaged("the zip's end is not where it says")
        count, size, offset = struct.unpack("<QQQ", file.take(longer + 32, 24))
    if count > 2 * MOST_TENSORS or size > DIRECTORY_BYTES or offset + size > file.size:
        raise file.damaged(f"its zip would have {count} members in a list of {size} bytes")
    return offset, count, size


def _member_name(file: WeightsFile, data: bytes) -> str:
    try:
        name = file.name(data.decode())
    except UnicodeDecodeError:
        raise file.damaged("a member's name is no UTF-8") from None
    if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
        raise file.damaged(f"its member {name[:100]} would lie outside its folder")
    return name


def _zip64_numbers(file: WeightsFile, extra: bytes, *numbers: int) -> list[int]:
    """The three numbers of a member; each that is too long for its 32 bits comes from the extra field of type
    1 (zip64).
    """
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        body = extra[4 : 4 + length]
        extra = extra[4 + length :]
        if kind != 1:
            continue
        longer = list(numbers)
        for index in (index for index, number in enumerate(numbers) if number == 0xFFFFFFFF):
            if len(body) < 8:
                break
            longer[index] = int.from_bytes(body[:8], "little")
            body = body[8:]
        return longer
    raise file.damaged("a member's length is missing")


def _member_start(file: WeightsFile, header: int) -> int:
    """Where a member's bytes begin, behind its own header."""
    if file.take(header, 4) != LOCAL:
        raise file.damaged("a member is not where the zip's list says")
    named, extra = struct.unpack("<HH", file.take(header + 26, 4))
    return header + 30 + named + extra
