"""What is kept on disk: model folders, and the state of a training run.

    params (a pytree)  <-flatten, unflatten->  {"layers.attention.query": array}
    save_model / load_model    a model folder: config.json + model.safetensors (several files where it is large), for people to share;
    ModelWriter, load_params   the same, tensor by tensor: from anywhere to disk, from disk straight to devices (weights/folder.py)
    Checkpoints                a training run: one Orbax folder a step, for the run itself to resume from

Both are written aside and renamed when whole, so that a process killed at any moment leaves either the old thing or the new one.
A checkpoint carries the SHA-256 of each of its files: Orbax itself does not notice a flipped bit in an array.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision.data.foreign_files import read_object
from ringvision.errors import UserError
from ringvision.weights.folder import (
    CONFIG_FILE,
    INDEX_FILE,
    MAX_FILE,
    WEIGHTS_FILE,
    ModelReader,
    ModelWriter,
    Spec,
    sync,
    weight_files,
)

LARGE_PAGE, SMALLEST_BOUNDARY = 2 << 20, 64
"""Bytes: of a large page on most machines; what XLA asks of memory that it is to use as it lies."""

__all__ = [
    "CONFIG_FILE", "INDEX_FILE", "MAX_FILE", "WEIGHTS_FILE", "Checkpoints", "ModelReader", "ModelWriter", "Spec", "flatten", "load_model",
    "load_params", "read_config", "save_model", "specs", "unflatten", "weight_files",
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- names


def flatten(tree: Any) -> dict[str, Any]:
    """Name every leaf of a pytree by its path: `{"layers": {"attention": {"query": x}}}` -> `{"layers.attention.query": x}`.

    Works on NNX states (the `.value` of a variable is left out of the name), on optax states and dataclasses registered as pytrees.
    Raises ValueError where two leaves would share a name.
    """
    names: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = _name(path)
        if name in names:
            raise ValueError(f"two leaves of the tree are both called {name!r}")
        names[name] = leaf
    return names


def unflatten(flat: Mapping[str, Any], like: Any) -> Any:
    """The inverse of `flatten`: the tree `like` with each leaf replaced by the array of its name. KeyError names a missing one."""
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[_name(path)], like)


def _name(path: tuple[Any, ...]) -> str:
    parts = []
    for key in path:
        part = getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))
        parts.append(str(key) if part is None else str(part))
    if len(parts) > 1 and parts[-1] == "value" and isinstance(path[-1], jax.tree_util.GetAttrKey):
        parts.pop()  # NNX: a variable's array is its attribute `value`
    return ".".join(parts)


# ----------------------------------------------------------------------------------------------------- model folders


def save_model(folder: str | os.PathLike[str], config: Mapping[str, Any], params: Mapping[str, Any], *, max_file: int = MAX_FILE) -> Path:
    """Write `folder`/config.json and the weights; other files that lie there (cards, text.model) stay.

    config: what JSON can hold. params: name -> array, as `flatten` gives. Tensors of more than `max_file` bytes in all are spread over
    several files. All files are written aside first; each is then renamed into place, the weights before the config.
    """
    announced = {name: (np.shape(value), _dtype(value)) for name, value in params.items()}
    with ModelWriter(folder, config, announced, max_file=max_file) as writer:
        for name, value in params.items():
            writer.write(name, value)
    return Path(folder)


def read_config(folder: str | os.PathLike[str], kind: str | None = None) -> dict[str, Any]:
    """The config.json of a model folder. UserError where there is none, it is damaged, or its "kind" is another than the one asked for."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        what = "is not a folder" if not Path(folder).is_dir() else f"holds no {CONFIG_FILE}"
        raise UserError(f"{folder} {what}; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}: check the path")
    config = read_object(path, "copy the model folder again")
    if kind is not None and config.get("kind") != kind:
        raise UserError(f'{path} says "kind": {json.dumps(config.get("kind"))}, expected "{kind}"; give a folder of that kind')
    return config


def load_model(folder: str | os.PathLike[str], expected: Mapping[str, Spec] | None = None) -> dict[str, np.ndarray]:
    """Read the weights of a model folder: name -> array.

    expected: name -> (shape, dtype). All that is missing, unknown, misshaped or of another kind of number is collected and raised
    together as one UserError, before any array is read. A float of another width is converted to the expected dtype (a shipped
    model may be stored in bfloat16). Without `expected` the arrays come as they are stored.
    """
    with ModelReader(folder) as reader:
        if expected is not None:
            _check(reader.specs, expected, str(folder))
        wanted = reader.specs if expected is None else expected
        return {name: reader.read(name).astype(wanted[name][1], copy=False) for name in sorted(reader.specs)}


def load_params(folder: str | os.PathLike[str], like: Any, places: Any, dtype: Any = None, *, read_only: bool = False) -> Any:
    """Read the weights of a model folder onto devices, one tensor at a time, so that the host holds no more than one.

    like: the tree of the parameters, of arrays or `jax.ShapeDtypeStruct`s. places: one sharding for all, or a tree of them. dtype: of the
    floats; None: those of `like`; "stored": the one that the embedding, or else the first tensor, is stored in. read_only: nobody will
    donate them, so CPU devices may share them (see `_for_cpus`). UserError as `load_model`.
    """
    expected = specs(like)
    with ModelReader(folder) as reader:
        _check(reader.specs, expected, str(folder))
        if dtype == "stored":
            dtype = reader.specs["embed.table" if "embed.table" in expected else next(iter(expected))][1]

        where = dict.fromkeys(expected, places) if isinstance(places, jax.sharding.Sharding) else flatten(places)
        cpus = all(device.platform == "cpu" for place in where.values() for device in place.device_set)

        def load(name: str, place: Any) -> jax.Array:
            wanted = expected[name][1]
            if dtype is not None and jax.numpy.issubdtype(wanted, jax.numpy.floating):
                wanted = np.dtype(dtype)
            array = reader.read(name)
            array = _for_cpus(array, wanted) if read_only and cpus else array.astype(wanted, copy=False)
            return jax.block_until_ready(jax.device_put(array, place))

        return unflatten({name: load(name, where[name]) for name in expected}, like)


def _for_cpus(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy that begins where a large page does. JAX's CPU devices use such an array where it lies, all of them the same one; what is not
    aligned each copies for itself. And NumPy asks the system for large pages, which are read nearly twice as fast: decoding a token is
    little else than reading every weight."""
    boundary = LARGE_PAGE if array.size * dtype.itemsize >= LARGE_PAGE else SMALLEST_BOUNDARY
    memory = np.empty(array.size * dtype.itemsize + boundary, np.uint8)
    start = -memory.ctypes.data % boundary
    copy = memory[start : start + array.size * dtype.itemsize].view(dtype).reshape(array.shape)
    np.copyto(copy, array, casting="unsafe")
    return copy


def specs(tree: Any) -> dict[str, Spec]:
    """name -> (shape, dtype) of every leaf: what `load_model` expects. `tree` may be abstract (`jax.eval_shape`)."""
    return {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in flatten(tree).items()}


def _check(found: Mapping[str, Spec], expected: Mapping[str, Spec], where: str) -> None:
    """Collect every mismatch, then raise them in one error."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is unknown" for name in sorted(found) if name not in expected]
    for name in sorted(found.keys() & expected.keys()):
        (shape, dtype), (want_shape, want_dtype) = found[name], expected[name]
        if tuple(shape) != tuple(want_shape):
            wrong.append(f"{name} has shape {list(shape)}, expected {list(want_shape)}")
        elif not _same_kind(dtype, want_dtype):
            wrong.append(f"{name} holds {np.dtype(dtype)}, expected {np.dtype(want_dtype)}")
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise UserError(f"{where} does not fit its config: {shown}; use the config that was saved with these weights")


def _same_kind(one: Any, other: Any) -> bool:
    floating = [jax.numpy.issubdtype(dtype, jax.numpy.floating) for dtype in (one, other)]
    return all(floating) or np.dtype(one) == np.dtype(other)


# ------------------------------------------------------------------------------------------------------- training state

_STEP = re.compile(r"step-(\d{8,})")
_SUMS = "sha256.json"


class Checkpoints:
    """The checkpoints of one run: `folder`/step-00001000/, the newest `keep` of them.

    A step's folder is written under another name, with the checksums of its files, and renamed when it is whole: what `latest` gives is
    complete whatever moment an earlier process was killed at. Arrays come back bit for bit. On several processes every process calls
    `save` and `restore`; the folder must be one that they share.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least one checkpoint must be kept")
        self.folder, self.keep = Path(folder).absolute(), keep

    def save(self, step: int, tree: Any) -> Path:
        """Write the tree's leaves (arrays, numpy or jax, or numbers) as step `step`; returns when they are on disk. Replaces that step."""
        import orbax.checkpoint as ocp

        final, partial = self._path(step), self.folder / f".partial-{step:08d}"
        flat = {name: _storable(leaf) for name, leaf in flatten(tree).items()}
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in (*self.folder.glob(".partial-*"), *self.folder.glob(".removed-*")):
                shutil.rmtree(old)
        _together(f"checkpoint {step} begins")
        with ocp.StandardCheckpointer() as writer:
            writer.save(partial / "state", flat)
            writer.wait_until_finished()
        if jax.process_index() == 0:
            leaves = {name: [list(np.shape(leaf)), str(np.dtype(leaf.dtype))] for name, leaf in flat.items()}
            (partial / _SUMS).write_text(json.dumps({"step": step, "leaves": leaves, "files": _sums(partial / "state")}, indent=1))
            for file in (*partial.rglob("*"), partial):
                sync(file)
            self._remove(final)
            os.rename(partial, final)
            sync(self.folder)
            for earlier in self.steps()[: -self.keep]:
                self._remove(self._path(earlier))
        _together(f"checkpoint {step} is whole")
        return final

    def steps(self) -> list[int]:
        """The steps that are there, whole, in ascending order."""
        if not self.folder.is_dir():
            return []
        found = ((_STEP.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match, path in found if match and (path / _SUMS).is_file())

    def latest(self) -> int | None:
        """The newest step, or None where the run has not saved one."""
        return max(self.steps(), default=None)

    def restore(self, like: Any, step: int | None = None) -> Any:
        """The tree of `step` (the latest when None), in the form of `like`.

        like: the same tree with arrays or `jax.ShapeDtypeStruct`s as leaves; a leaf with a sharding comes back with that sharding, a
        numpy array as numpy, a Python number as a Python number. UserError where there is no such step, where a file's checksum is
        wrong, or where names, shapes or dtypes differ from `like`'s.
        """
        import orbax.checkpoint as ocp

        there = self.steps()
        step = max(there, default=None) if step is None else step
        if step is None or step not in there:
            have = ", ".join(map(str, there)) or "none"
            raise UserError(f"{self.folder} has no checkpoint of step {step} (it has {have}); name one of these or start the run anew")
        path = self._path(step)
        record = self._verify(path)
        wanted = flatten(like)
        found = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in record["leaves"].items()}
        expected = {name: (np.shape(leaf), _dtype(leaf)) for name, leaf in wanted.items()}
        _check(found, expected, str(path))
        wrong = [f"{n} holds {found[n][1]}, expected {dtype}" for n, (_, dtype) in expected.items() if found[n][1] != np.dtype(dtype)]
        if wrong:
            raise UserError(f"{path} does not fit this run: {'; '.join(wrong[:6])}; resume with the config that it was saved with")
        with ocp.StandardCheckpointer() as reader:
            flat = reader.restore(path / "state", {name: _abstract(leaf) for name, leaf in wanted.items()})
        return unflatten({name: _restored(flat[name], leaf) for name, leaf in wanted.items()}, like)

    def _verify(self, path: Path) -> dict[str, Any]:
        try:
            record = json.loads((path / _SUMS).read_text())
            sums = _sums(path / "state")
            damaged = sorted(name for name in sums.keys() | record["files"].keys() if sums.get(name) != record["files"].get(name))
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it, and the run resumes from the step before") from error
        if damaged:
            changed = ", ".join(damaged[:3])
            raise UserError(f"{path} is damaged: {changed} changed since it was saved; remove it, and the run resumes from the step before")
        return record

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _remove(self, path: Path) -> None:
        """Rename, then delete: a kill in between leaves no half of a step under a step's name."""
        if path.exists():
            gone = path.with_name(f".removed-{path.name}")
            os.rename(path, gone)
            shutil.rmtree(gone)


def _storable(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return np.empty(np.shape(leaf), _dtype(leaf))


def _restored(value: Any, leaf: Any) -> Any:
    return type(leaf)(value.item()) if isinstance(leaf, (bool, int, float)) else value


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under the folder, by its path inside it."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _together(what: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)
