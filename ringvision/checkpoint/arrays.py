"""The arrays of one process <-> a file of their bytes, and a table of where each lies.

    tree of arrays  --snapshot-->  copies in the host's memory  --write-->  arrays-*.bin, arrays-*.json
    those files of all processes  --ArrayReader.read-->  any part of any array

A process writes the parts ("shards") that its devices hold, each part of an array once, whatever devices
have copies of it. What reads them may be another number of processes with other devices: every part that is
asked for is put together from the shards that overlap it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision.checkpoint.manifest import Damage, StepManifest, Written, file_names, read_json, write_file
from ringvision.distributed import is_main
from ringvision.tree import flatten

Spec = tuple[tuple[int, ...], np.dtype]  # (shape, dtype)


@dataclass(frozen=True)
class ArrayShard:
    """A part of an array. start: where in the whole it begins, an index a dimension; data: [*shape]."""

    name: str
    start: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """A tree at one moment, in this process's memory alone. specs: of all its leaves, whole; shards: the
    parts of them that this process writes.
    """

    specs: dict[str, Spec]
    shards: list[ArrayShard]


def snapshot(tree: Any) -> Snapshot:
    """Copy the part of a tree that is this process's to write: what its devices hold first of, and on process
    0 what every process has whole (numpy arrays, numbers, arrays of its own devices alone).

    Args:
        tree: of jax arrays, numpy arrays and numbers; the jax arrays may be donated as soon as this returns.

    Returns:
        The copies. What was read is not kept, so that a donated array's memory is still used in place.
    """
    specs = {}
    parts: list[tuple[str, tuple[int, ...], Any]] = []
    for name, leaf in flatten(tree).items():
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        specs[name] = (tuple(array.shape), np.dtype(array.dtype))
        if isinstance(array, np.ndarray):
            if is_main():
                parts.append((name, (0,) * array.ndim, array))
            continue
        if array.is_fully_addressable and not is_main():
            continue
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                start = tuple(part.indices(size)[0] for part, size in zip(shard.index, array.shape))
                shard.data.copy_to_host_async()
                parts.append((name, start, shard.data))
    parts.reverse()
    shards = []
    while parts:  # each transfer's own copy goes as soon as ours is made
        name, start, data = parts.pop()
        shards.append(ArrayShard(name, start, np.array(data, order="C")))
    return Snapshot(specs, shards)


def write(folder: Path, process: int, processes: int, taken: Snapshot, notes: str) -> dict[str, Written]:
    """Write the files of one process through to the disk; other files of the folder stay.

    Args:
        folder: of the step.
        process: which one this is.
        processes: how many there are.
        taken: what to write.
        notes: the JSON of the process's notes.

    Returns:
        What each of its files is known by.

    Raises:
        OSError: where the disk does not take them.
    """
    data_file, table_file, notes_file = file_names(process, processes)
    # wide numbers first, so that each begins at a multiple of its size
    shards = sorted(taken.shards, key=lambda shard: -shard.data.dtype.itemsize)
    table = []
    end = 0
    for shard in shards:
        table.append([shard.name, list(shard.start), list(shard.data.shape), end])
        end = end + shard.data.nbytes
    leaves = {name: [list(shape), str(dtype)] for name, (shape, dtype) in taken.specs.items()}
    text = json.dumps({"leaves": leaves, "shards": table})
    return {
        data_file: write_file(
            folder / data_file, [shard.data.reshape(-1).view(np.uint8) for shard in shards]
        ),
        table_file: write_file(folder / table_file, [text.encode()]),
        notes_file: write_file(folder / notes_file, [notes.encode()]),
    }


class ArrayReader:
    """Any part of any array of a step, from the files of all processes that wrote it.

    specs: name -> (shape, dtype) of every array. Nothing is read before it is asked for. Damage where a table
    is not one.
    """

    def __init__(self, folder: Path, manifest: StepManifest) -> None:
        self.specs: dict[str, Spec] = {}
        self._shards: dict[str, list[tuple[tuple[int, ...], tuple[int, ...], np.ndarray, int]]] = {}
        for process in range(manifest.processes):
            data_file, table_file, _ = file_names(process, manifest.processes)
            table = read_json(folder / table_file)
            try:
                self._add(table, _mapped(folder / data_file))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise Damage(f"{table_file} is no table of arrays ({error!r})") from error

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of an array.

        Args:
            name: of the array.
            index: a slice of step 1 a dimension.

        Returns:
            A new array [*sizes of the slices] of the array's dtype.

        Raises:
            Damage: no process wrote some of it.
        """
        shape, dtype = self.specs[name]
        bounds = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
        result = np.empty([stop - start for start, stop in bounds], dtype)
        filled = 0
        for begin, sizes, data, offset in self._shards.get(name, ()):
            overlap = [
                (max(start, first), min(stop, first + size))
                for (start, stop), first, size in zip(bounds, begin, sizes)
            ]
            if any(start >= stop for start, stop in overlap):
                continue
            count = int(np.prod(sizes, dtype=np.int64))
            held = data[offset : offset + count * dtype.itemsize].view(dtype).reshape(sizes)
            there = tuple(slice(a - first, b - first) for (a, b), first in zip(overlap, begin))
            here = tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(overlap, bounds))
            result[here] = held[there]
            filled = filled + result[here].size
        if filled != result.size:
            raise Damage(f"{name} is not whole")
        return result

    def _add(self, table: Mapping[str, Any], data: np.ndarray) -> None:
        """The shards of one process. ValueError where they do not fit their arrays or the file."""
        specs = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in table["leaves"].items()}
        if self.specs and specs != self.specs:
            raise ValueError("it names other arrays than the first one")
        self.specs = specs
        for name, start, sizes, offset in table["shards"]:
            shape, dtype = specs[name]
            size = int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize
            inside = len(start) == len(sizes) == len(shape) and all(
                min(first, count) >= 0 and first + count <= whole
                for first, count, whole in zip(start, sizes, shape)
            )
            if not inside or not 0 <= offset <= offset + size <= len(data):
                raise ValueError(f"a part of {name} lies outside")
            self._shards.setdefault(name, []).append((tuple(start), tuple(sizes), data, offset))


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, uint8 [N], read from the disk where they are used."""
    if not path.stat().st_size:  # which cannot be mapped
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, "r")
