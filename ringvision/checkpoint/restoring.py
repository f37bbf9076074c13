"""A step on disk -> the tree of a run, on whatever devices the run has now.

a step's folder  --damage-->  what is wrong with it, if anything
a step's folder, a tree of shapes and shardings  --read_step-->  the tree, and the notes of each process
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision.checkpoint.arrays import ArrayReader, Spec
from ringvision.checkpoint.manifest import Damage, check, file_names, read_json, read_manifest, share
from ringvision.distributed import process_count, process_index
from ringvision.errors import UserError
from ringvision.model_folder import check_specs
from ringvision.tree import flatten, unflatten


def damage(folder: Path, step: int) -> str | None:
    """What this process finds wrong with its share of a step's files; None where they are as written. All
    processes together read every file through.
    """
    try:
        manifest = read_manifest(folder, step)
        check(folder, manifest, share(manifest, process_index(), process_count()))
    except Damage as found:
        return str(found)
    return None


def read_step(folder: Path, step: int, like: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The arrays of a step and the notes of every process that wrote it.

    Args:
        folder: of the step.
        step: its number.
        like: the tree, with arrays or `jax.ShapeDtypeStruct`s as leaves.

    Returns:
        The tree: a leaf that has a sharding with that sharding, a numpy array as numpy, a Python number as a
        Python number, each of the leaf's shape and dtype. The notes.

    Raises:
        UserError: names, shapes or dtypes differ from `like`'s, or the files contradict each other.
    """
    try:
        manifest = read_manifest(folder, step)
        reader = ArrayReader(folder, manifest)
        wanted = flatten(like)
        _check_fit(reader.specs, wanted, folder)
        flat = {name: _restored(reader, name, leaf) for name, leaf in wanted.items()}
        noted = [file_names(process, manifest.processes)[2] for process in range(manifest.processes)]
        notes = [read_json(folder / name) for name in noted]
    except (Damage, OSError) as error:  # though the checksums were right: written so, or changed since
        raise UserError(
            f"{folder} cannot be used: {error}; remove it, and go on from the one before"
        ) from error
    return unflatten(flat, like), notes


def _check_fit(found: Mapping[str, Spec], wanted: Mapping[str, Any], folder: Path) -> None:
    """UserError where the arrays of a step are not those of the run."""
    expected = {name: (np.shape(leaf), np.dtype(_dtype(leaf))) for name, leaf in wanted.items()}
    check_specs(found, expected, str(folder))
    wrong = [
        f"{name} holds {found[name][1]}, expected {dtype}"
        for name, (_, dtype) in expected.items()
        if found[name][1] != dtype
    ]
    if wrong:
        raise UserError(
            f"{folder} does not fit this run: {'; '.join(wrong[:6])}; resume with the config that it was "
            "saved with"
        )


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _restored(reader: ArrayReader, name: str, leaf: Any) -> Any:
    """One leaf in the form of `like`'s; what several devices hold is read once."""
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        value = reader.read(name, (slice(None),) * np.ndim(leaf))
        return type(leaf)(value.item()) if isinstance(leaf, (bool, int, float)) else value
    parts: dict[str, np.ndarray] = {}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        key = str(index)
        if key not in parts:
            parts[key] = reader.read(name, index)
        return parts[key]

    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.make_array_from_callback(leaf.shape, sharding, part)
