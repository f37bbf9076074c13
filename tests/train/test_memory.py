"""Freed memory stays with the process that asked for that, and with no other."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from ringvision.train.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**28, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
BUFFER = 2**28
SMALLEST = BUFFER // 2**21
"""Page faults of a buffer whose pages are large; most have more."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(
    ("mode", "fewest", "most"), [("keep", 0, SMALLEST // 2), ("plain", SMALLEST, BUFFER)]
)
def test_a_freed_buffer_is_used_again(mode: str, fewest: int, most: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, timeout=120, check=True
    )
    assert fewest <= int(done.stdout) <= most
