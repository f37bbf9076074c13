"""Files of msgpack: Flax's trees, and the streams of LWM."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import msgpack

from hostile.writing import writer


def of_msgpack(content: bytes) -> Callable[[Path], Path]:
    return writer("weights.msgpack", lambda _: content)


def extension(shape: tuple[int, ...], dtype: str, data: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


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
    "msgpack_stream": writer(
        "params",
        lambda _: msgpack.packb(
            [["params", "w"], msgpack.packb(extension((1 << 40,), "float32", bytes(16)))]
        ),
    ),
    "msgpack_stream_of_pickles": writer(
        "params", lambda _: msgpack.packb([["w"], msgpack.packb(msgpack.ExtType(1, pickle.dumps(1)))])
    ),
}
