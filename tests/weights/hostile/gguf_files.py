"""Files of GGUF."""

import struct
from collections.abc import Callable
from pathlib import Path

from hostile.writing import writer


def gguf(tensors: int, keys: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest


def gguf_text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def of_gguf(tensors: int, keys: int, rest: bytes) -> Callable[[Path], Path]:
    return writer("weights.gguf", lambda _: gguf(tensors, keys, rest))


GGUF_TENSOR = gguf_text("w") + struct.pack("<IQQIQ", 2, 1 << 20, 1 << 20, 0, 0)
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
    "gguf_big_endian": writer("weights.gguf", lambda _: b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64)),
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
