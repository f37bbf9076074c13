"""What is spread over the devices of several processes -> the memory of one host, a part at a time.

array on a mesh  --host_parts-->  its layers one after another, or the whole, in numpy
"""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ringvision.distributed.agreement import is_main


def host_copy(array: jax.Array) -> np.ndarray:
    """An array in this process's memory, whatever devices it is spread over; every process must call it.

    array: [*shape] on a mesh, each of whose devices holds the whole of it for a moment. The result [*shape]
    may share its memory with a device's: it is to be read alone.
    """
    if not _here(array):
        array = jax.jit(lambda x: x, out_shardings=_everywhere(array))(array)
    return np.asarray(array)


def host_parts(array: jax.Array, *, by_row: bool = False) -> Iterator[tuple[int | None, np.ndarray | None]]:
    """An array in the memory of process 0, whatever devices it is spread over; every process must take all
    parts.

    Args:
        array: [*shape] on a mesh, each of whose devices holds a part for a moment.
        by_row: whether an array that is spread over processes comes as `array[0]`, `array[1]`, ..., so that
            no device holds more than one of them.

    Yields:
        (index, `array[index]`) or (None, the array); in the place of the array None on other processes than
        0. It may share its memory with a device's: it is to be read alone.
    """
    if _here(array):
        yield None, np.asarray(array) if is_main() else None
        return
    pick = jax.jit(lambda x, index: x if index is None else x[index], out_shardings=_everywhere(array))
    for index in range(array.shape[0]) if by_row else (None,):
        part = jax.block_until_ready(pick(array, index))
        yield index, np.asarray(part) if is_main() else None


def _here(array: jax.Array) -> bool:
    return array.is_fully_addressable or array.is_fully_replicated


def _everywhere(array: jax.Array) -> NamedSharding:
    assert isinstance(array.sharding, NamedSharding), array.sharding
    return NamedSharding(array.sharding.mesh, PartitionSpec())
