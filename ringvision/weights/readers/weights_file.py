"""A file of weights from another project, read by pieces: every offset and length is held against the
file's size before memory is asked for.

Only the standard library is imported here, since the process that reads pickles (child.py) starts with it.
"""

import os
import stat
from pathlib import Path

from ringvision.errors import UserError

WINDOW_BYTES = 1 << 16
MOST_TENSORS = 1 << 17
MOST_STEPS = 1 << 20
DEEPEST = 64
LONGEST_NAME = 1024


class WeightsFile:
    """The bytes of one regular file, from `path` or from an open descriptor that is named by it.

    Raises UserError where the file cannot be opened, and wherever more is asked of it than it holds.
    """

    def __init__(self, path: str | os.PathLike[str], descriptor: int | None = None) -> None:
        self.path = Path(path)
        try:
            if descriptor is None:
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise UserError(
                        f"{path} is not a file; give a file of weights, or the folder that holds it"
                    )
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.descriptor = descriptor
            self.size = os.fstat(descriptor).st_size
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); give a file of weights, or the folder "
                "that holds it"
            ) from None
        self.window = b""
        self.window_start = 0

    def take(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on; small pieces come out of a buffer of the latest bytes that were
        read.
        """
        start = offset - self.window_start
        if min(start, count) >= 0 and start + count <= len(self.window):
            return self.window[start : start + count]
        self._within(offset, count)
        if count > WINDOW_BYTES:
            data = bytearray(count)
            self.fill(data, offset)
            return bytes(data)
        self.window = os.pread(self.descriptor, WINDOW_BYTES, offset)
        self.window_start = offset
        if count > len(self.window):
            raise self.damaged("it grew shorter while it was read")
        return self.window[:count]

    def number(self, offset: int, count: int) -> int:
        """An unsigned little-endian number of `count` bytes."""
        return int.from_bytes(self.take(offset, count), "little")

    def fill(self, buffer: bytearray | memoryview, offset: int) -> None:
        """Reads from `offset` on until `buffer` (writable, contiguous) is full."""
        rest = memoryview(buffer).cast("B")
        self._within(offset, len(rest))
        while rest:
            count = os.preadv(self.descriptor, [rest], offset)
            if count == 0:
                raise self.damaged("it grew shorter while it was read")
            rest = rest[count:]
            offset = offset + count

    def damaged(self, why: str) -> UserError:
        """The error to raise where the file is not what it should be. What `why` quotes of names out of the
        file is made printable.
        """
        why = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in why)
        return UserError(
            f"{self.path} cannot be read as weights: {why}; it is damaged or made to do harm: "
            "fetch it again from where it comes from"
        )

    def name(self, name: object) -> str:
        """`name` if it can be a tensor's: text of printable characters, not longer than LONGEST_NAME."""
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            raise self.damaged(f"{ascii(name)[:60]} is no name of a tensor")
        return name

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _within(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.damaged(f"it speaks of {count} bytes at {offset} where it has {self.size} in all")
