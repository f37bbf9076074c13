"""Freed memory, which a training process keeps for its next step.

XLA's buffers on a CPU are the C library's memory, and come and go at every step. By itself glibc gives every
large one back to the system, which fills its pages with zeros when it is asked for them again: a sixth of the
processor time of the demo's step. In: nothing; out: nothing; where the C library is another, nothing happens.
"""

import ctypes
from typing import Any

SETTINGS = {
    -8: 1,  # M_ARENA_MAX: one heap for all threads; the heaps of others take no large buffer
    -3: 2**29,  # M_MMAP_THRESHOLD: a larger buffer is mapped on its own, and unmapped when it is freed
    -1: -1,  # M_TRIM_THRESHOLD: the end of the heap stays
    -2: 2**26,  # M_TOP_PAD: it grows by so many bytes
}
"""glibc's numbers of what mallopt(3) sets, and the values. A step with buffers above the threshold takes
so long that their page faults do not count; what would count is the memory that is lost where something small
comes to stand in such a buffer's place.
"""


def keep_freed_memory() -> None:
    """From now on. To be called before there are threads."""
    if (library := _glibc()) is not None:
        for parameter, value in SETTINGS.items():
            library.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Once: what is free now goes back, as when a program has been compiled and will not be again."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> Any:
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, TypeError, AttributeError):
        return None
