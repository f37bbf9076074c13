"""A file cut at a separator: how many pieces it has, and any of them by its number.

    "a\\nb\\n\\nc"  --PieceIndex(file, b"\\n")-->  3 pieces: a, b, c

PieceIndex of white space alone do not count. The file is gone through once when it is opened. The index says
where every piece begins; where these are too many, where every second does, every fourth, and so on, so that
it stays small however many there are, and a read goes over some pieces before the one that is wanted.
"""

from array import array
from collections.abc import Iterator

from ringvision.data.records.base import MOST_BYTES
from ringvision.data.records.byte_files import ByteFile, open_bytes
from ringvision.errors import UserError

MOST_STARTS = 1 << 24
"""Of all files of a source together."""
LEAST_STARTS = 1 << 10


def pieces_of(path: str, separator: bytes, files: int = 1) -> "PieceIndex":
    """The pieces of a file, packed or not. files: how many there are like it; their indices share a room."""
    return PieceIndex(open_bytes(path, files), separator, max(LEAST_STARTS, MOST_STARTS // files))


class PieceIndex:
    """The pieces of a file between separators.

    Args:
        file: is read from its beginning to its end, once.
        separator: at least one byte.
        most_starts: how many places the index has room for.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, file: ByteFile, separator: bytes, most_starts: int = MOST_STARTS) -> None:
        self.file = file
        self.separator = separator
        self.stride = 1
        self._starts = array("q")
        self._count = 0
        for start, _ in self._walk(0, keep=False):
            if self._count % self.stride == 0:
                self._starts.append(start)
                if len(self._starts) > most_starts:
                    self._starts = self._starts[::2]
                    self.stride *= 2
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> bytes:
        """The piece of this number, without its separator. UserError where it is longer than MOST_BYTES, or
        the file has changed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        pieces = self._walk(self._starts[index // self.stride], keep=True)
        for number, (_, piece) in enumerate(pieces):
            if number == index % self.stride:
                return piece
        raise UserError(f"{self.file.path} is shorter than when it was opened; start again")

    def _walk(self, offset: int, *, keep: bool) -> Iterator[tuple[int, bytes]]:
        """Where each piece from `offset` on begins, and its bytes where they are to be kept."""
        begin = base = offset  # of the piece, and of `data`
        held: list[bytes] = []
        size = 0
        blank = True
        left = b""
        overlap = len(self.separator) - 1  # a separator may begin in one block and end in the next
        for block in self.file.blocks(offset):
            data = left + block
            at = 0
            while True:
                found = data.find(self.separator, at)
                end = found if found >= 0 else max(at, len(data) - overlap)
                part = data[at:end]
                blank = blank and (not part or part.isspace())
                size += len(part)
                if keep and size > MOST_BYTES:
                    raise UserError(f"longer than {MOST_BYTES >> 20} MB; split it")
                if keep:
                    held.append(part)
                if found < 0:
                    break
                if not blank:
                    yield begin, b"".join(held)
                at = found + len(self.separator)
                begin = base + at
                held = []
                size = 0
                blank = True
            left = data[end:]
            base += end
        if not blank or left.strip():
            yield begin, b"".join([*held, left] if keep else [])
