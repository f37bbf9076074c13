"""The state of a training run on disk: one Orbax folder a step, for the run itself to resume from.

A step is written under another name and renamed when whole, so that a process killed at any moment leaves
either the old step or the new one. It carries the SHA-256 of each of its files: Orbax itself does not notice
a flipped bit in an array.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision.errors import UserError
from ringvision.model_folder import check_specs, sync
from ringvision.tree import flatten, unflatten

_STEP = re.compile(r"step-(\d{8,})")
_SUMS = "sha256.json"


class Checkpoints:
    """The checkpoints of one run: `folder`/step-00001000/, the newest `keep` of them.

    A step's folder is written under another name, with the checksums of its files, and renamed when it is
    whole: what `latest` gives is complete whatever moment an earlier process was killed at. Arrays come back
    bit for bit. On several processes every process calls `save` and `restore`; the folder must be one that
    they share.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least one checkpoint must be kept")
        self.folder = Path(folder).absolute()
        self.keep = keep

    def save(self, step: int, tree: Any) -> Path:
        """Write the tree's leaves (arrays of any shape, numpy or jax, or numbers) as step `step`; returns
        when they are on disk. Replaces that step.
        """
        import orbax.checkpoint as ocp

        target = self._path(step)
        partial = self.folder / f".partial-{step:08d}"
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
            (partial / _SUMS).write_text(
                json.dumps({"step": step, "leaves": leaves, "files": _sums(partial / "state")}, indent=1)
            )
            for file in (*partial.rglob("*"), partial):
                sync(file)
            self._remove(target)
            os.rename(partial, target)
            sync(self.folder)
            for earlier in self.steps()[: -self.keep]:
                self._remove(self._path(earlier))
        _together(f"checkpoint {step} is whole")
        return target

    def steps(self) -> list[int]:
        """The steps that are complete, in ascending order."""
        if not self.folder.is_dir():
            return []
        found = ((_STEP.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match, path in found if match and (path / _SUMS).is_file())

    def latest(self) -> int | None:
        """The newest step, or None where the run has not saved one."""
        return max(self.steps(), default=None)

    def restore(self, like: Any, step: int | None = None) -> Any:
        """The tree of `step` (the latest when None), in the form of `like`.

        like: the same tree with arrays or `jax.ShapeDtypeStruct`s as leaves; a leaf with a sharding comes
        back with that sharding, a numpy array as numpy, a Python number as a Python number, each of the
        leaf's shape and dtype. UserError where the run has no such step, where a file's checksum is wrong, or
        where names, shapes or dtypes differ from `like`'s.
        """
        import orbax.checkpoint as ocp

        found_steps = self.steps()
        step = max(found_steps, default=None) if step is None else step
        if step is None or step not in found_steps:
            have = ", ".join(map(str, found_steps)) or "none"
            raise UserError(
                f"{self.folder} has no checkpoint of step {step} (it has {have}); name one of these "
                "or start the run anew"
            )
        path = self._path(step)
        record = self._verify(path)
        wanted = flatten(like)
        found = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in record["leaves"].items()}
        expected = {name: (np.shape(leaf), _dtype(leaf)) for name, leaf in wanted.items()}
        check_specs(found, expected, str(path))
        wrong = [
            f"{n} holds {found[n][1]}, expected {dtype}"
            for n, (_, dtype) in expected.items()
            if found[n][1] != np.dtype(dtype)
        ]
        if wrong:
            raise UserError(
                f"{path} does not fit this run: {'; '.join(wrong[:6])}; resume with the config that "
                "it was saved with"
            )
        with ocp.StandardCheckpointer() as reader:
            flat = reader.restore(path / "state", {name: _abstract(leaf) for name, leaf in wanted.items()})
        return unflatten({name: _restored(flat[name], leaf) for name, leaf in wanted.items()}, like)

    def _verify(self, path: Path) -> dict[str, Any]:
        try:
            record = json.loads((path / _SUMS).read_text())
            sums = _sums(path / "state")
            damaged = sorted(
                name
                for name in sums.keys() | record["files"].keys()
                if sums.get(name) != record["files"].get(name)
            )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"{path} is damaged ({error}); remove it, and the run resumes from the step before"
            ) from error
        if damaged:
            changed = ", ".join(damaged[:3])
            raise UserError(
                f"{path} is damaged: {changed} changed since it was saved; remove it, and the run "
                "resumes from the step before"
            )
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
