"""Reading a model folder: its config, and its tensors one at a time, from disk straight to devices.

In: a folder, which anybody may have written. Out: name -> array, or the parameters on the devices of a mesh.
Memory: one tensor.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from ringvision.errors import UserError
from ringvision.model_folder.files import CONFIG_FILE, DTYPES, WEIGHTS_FILE, Spec, weight_files
from ringvision.tree import flatten, unflatten
from ringvision.untrusted_files import read_object

LARGE_PAGE = 2 << 20
SMALLEST_BOUNDARY = 64
"""Bytes: of a large page on most machines; the alignment that XLA asks of memory that it uses in place."""


class ModelReader:
    """Reads the tensors of a model folder one at a time; a context manager.

    specs: name -> (shape, dtype) of all of them, as they are stored. UserError where the folder has no
    weights or they are damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}  # name of a tensor -> the open file it is in
        self.specs: dict[str, Spec] = {}

    def __enter__(self) -> "ModelReader":
        with contextlib.ExitStack() as stack:
            for path in weight_files(self.folder):
                with _damage(path):
                    file = stack.enter_context(safe_open(str(path), framework="numpy"))
                    for name in file.keys():  # noqa: SIM118 (no mapping)
                        part = file.get_slice(name)
                        self.specs[name] = (tuple(part.get_shape()), _stored_dtype(name, part.get_dtype()))
                        self._files[name] = file
            self._stack = stack.pop_all()
        return self

    def read(self, name: str) -> np.ndarray:
        """One tensor, of the shape and dtype of `specs[name]`: [*shape]. KeyError where the folder has none
        of this name.
        """
        with _damage(self.folder):
            return self._files[name].get_tensor(name)

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def read_config(folder: str | os.PathLike[str], kind: str | None = None) -> dict[str, Any]:
    """The config.json of a model folder. UserError where it is missing or damaged, or its "kind" is another
    than the one asked for.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        what = "is not a folder" if not Path(folder).is_dir() else f"holds no {CONFIG_FILE}"
        raise UserError(
            f"{folder} {what}; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}: check the path"
        )
    config = read_object(path, "copy the model folder again")
    if kind is not None and config.get("kind") != kind:
        raise UserError(
            f'{path} says "kind": {json.dumps(config.get("kind"))}, expected "{kind}"; give a '
            "folder of that kind"
        )
    return config


def load_model(
    folder: str | os.PathLike[str], expected: Mapping[str, Spec] | None = None
) -> dict[str, np.ndarray]:
    """Read the weights of a model folder: name -> array [*shape] of the expected, or else the stored, shape
    and dtype.

    expected: name -> (shape, dtype). All that is missing, unknown, misshaped or of another kind of number is
    collected and raised together as one UserError, before any array is read. A float of another width is
    converted to the expected dtype (a shipped model may be stored in bfloat16).
    """
    with ModelReader(folder) as reader:
        if expected is not None:
            check_specs(reader.specs, expected, str(folder))
        wanted = reader.specs if expected is None else expected
        return {name: reader.read(name).astype(wanted[name][1], copy=False) for name in sorted(reader.specs)}


def load_params(
    folder: str | os.PathLike[str], like: Any, shardings: Any, dtype: Any = None, *, read_only: bool = False
) -> Any:
    """Read the weights of a model folder onto devices, one tensor at a time, so that the host holds no more
    than one.

    Args:
        folder: the model's.
        like: the tree of the parameters, of arrays or `jax.ShapeDtypeStruct`s.
        shardings: one sharding for all, or a tree of them.
        dtype: of the floats; None: those of `like`; "stored": the one that the embedding, or else the first
            tensor, is stored in.
        read_only: whether nobody will donate them, so that CPU devices may share them (see `_for_cpus`).

    Returns:
        the tree of `like`, its leaves arrays [*shape] of the leaf's shape on the devices of its sharding.

    Raises:
        UserError: as `load_model`.
    """
    expected = specs(like)
    with ModelReader(folder) as reader:
        check_specs(reader.specs, expected, str(folder))
        if dtype == "stored":
            dtype = reader.specs["embed.table" if "embed.table" in expected else next(iter(expected))][1]

        sharding_of = (
            dict.fromkeys(expected, shardings)
            if isinstance(shardings, jax.sharding.Sharding)
            else flatten(shardings)
        )
        cpus = all(
            device.platform == "cpu" for sharding in sharding_of.values() for device in sharding.device_set
        )

        def load(name: str, sharding: Any) -> jax.Array:
            wanted = expected[name][1]
            if dtype is not None and jax.numpy.issubdtype(wanted, jax.numpy.floating):
                wanted = np.dtype(dtype)
            array = reader.read(name)
            array = _for_cpus(array, wanted) if read_only and cpus else array.astype(wanted, copy=False)
            return jax.block_until_ready(jax.device_put(array, sharding))

        return unflatten({name: load(name, sharding_of[name]) for name in expected}, like)


def _for_cpus(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy of `array` as `dtype` that begins where a large page does. JAX's CPU devices use such an array
    in place, all of them the same one; one that is not aligned each of them copies. And NumPy asks the system
    for large pages, which are read nearly twice as fast: decoding a token is little else than reading every
    weight.
    """
    boundary = LARGE_PAGE if array.size * dtype.itemsize >= LARGE_PAGE else SMALLEST_BOUNDARY
    memory = np.empty(array.size * dtype.itemsize + boundary, np.uint8)
    start = -memory.ctypes.data % boundary  # bytes to the next boundary, less than `boundary`
    copy = memory[start : start + array.size * dtype.itemsize].view(dtype).reshape(array.shape)
    np.copyto(copy, array, casting="unsafe")
    return copy


def specs(tree: Any) -> dict[str, Spec]:
    """name -> (shape, dtype) of every leaf: what `load_model` expects. `tree` may be abstract
    (`jax.eval_shape`).
    """
    return {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in flatten(tree).items()}


def check_specs(found: Mapping[str, Spec], expected: Mapping[str, Spec], where: str) -> None:
    """Raises one UserError of everything in which the tensors found differ from those expected: missing,
    unknown, misshaped, or another kind of number. where: what does not fit, for the error.
    """
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is unknown" for name in sorted(found) if name not in expected]
    for name in sorted(found.keys() & expected.keys()):
        shape, dtype = found[name]
        want_shape, want_dtype = expected[name]
        if tuple(shape) != tuple(want_shape):
            wrong.append(f"{name} has shape {list(shape)}, expected {list(want_shape)}")
        elif not _same_kind(dtype, want_dtype):
            wrong.append(f"{name} holds {np.dtype(dtype)}, expected {np.dtype(want_dtype)}")
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise UserError(
            f"{where} does not fit its config: {shown}; use the config that was saved with these weights"
        )


def _same_kind(one: Any, other: Any) -> bool:
    floating = [jax.numpy.issubdtype(dtype, jax.numpy.floating) for dtype in (one, other)]
    return all(floating) or np.dtype(one) == np.dtype(other)


def _stored_dtype(name: str, stored: str) -> np.dtype:
    found = next((dtype for dtype, known in DTYPES.items() if known == stored), None)
    if found is None:
        raise UserError(
            f"{name} is stored as {stored}; expected one of {', '.join(DTYPES.values())}: convert "
            "the weights first"
        )
    return found


class _damage:
    """Turns what the safetensors library complains of into one line for the user."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (SafetensorError, OSError)):
            raise UserError(
                f"{self.path} is damaged or cut short ({error}); copy the model folder again"
            ) from error
