"""How a fuzzer changes a file: what fuzz_readers.py and the tests of the readers draw from."""


def changes(data: bytes, start: int, end: int, piece: bytes, flipped: bytes) -> list[bytes]:
    """`data` changed at `start` in each of six ways.

    Args:
        data: the file.
        start: where it is changed.
        end: behind the bytes that are cut out or doubled.
        piece: the bytes that others are overwritten with, or that are filled in.
        flipped: the byte at `start` with one bit changed; empty at the end of the file.

    Returns:
        it with the byte flipped, overwritten, filled in, cut out, doubled, and cut off.
    """
    return [
        data[:start] + flipped + data[start + 1 :],
        data[:start] + piece + data[start + len(piece) :],
        data[:start] + piece + data[start:],
        data[:start] + data[end:],
        data[:end] + data[start:],
        data[:end],
    ]
