"""The checkpoints of one run: saved in the background, kept by policy, restored past damaged ones.

    step, tree, notes  --Checkpoints.save-->  folder/step-00001000/
    folder  --Checkpoints.restore-->  Restored: the newest step that is whole, on any mesh of any processes

On several processes each calls every method, at the same point of the run; the folder is one that they share.
Their background threads tell each other through the coordination service how writing went
(ringvision/distributed), so a failure on one is known to all at once.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ringvision.checkpoint.arrays import Snapshot, snapshot, write
from ringvision.checkpoint.manifest import StepManifest, Written
from ringvision.checkpoint.restoring import damage, read_step
from ringvision.checkpoint.step_folders import StepFolders
from ringvision.distributed import (
    PATIENCE,
    agreed,
    failing_together,
    gathered,
    is_main,
    process_count,
    process_index,
    reason_of,
)
from ringvision.errors import UserError

_WRITING = 6 * PATIENCE
"""Seconds for which one process waits for another's files."""


@dataclass(frozen=True)
class Restored:
    """What came back: the step's number; its tree; the notes of every process that saved it, in their order;
    and a sentence for each newer step that was passed over.
    """

    step: int
    tree: Any
    notes: list[dict[str, Any]]
    skipped: list[str]


class Checkpoints:
    """The checkpoints of one run: `folder`/step-00001000/; a context manager, which waits for the last save.

    A step's folder is written under another name and renamed when it is whole, so what has a step's name was
    whole, whatever moment an earlier process was killed at. A step that is saved again takes the other's
    place; steps beyond it, which are of a past that the run left by going back, are removed.

    Args:
        folder: is made where it is missing.
        keep: how many of the newest steps stay.
        keep_every: every step that this divides stays too (None: no others).

    `saved` is the newest step that this object has brought to the disk, None before the first.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2, keep_every: int | None = None):
        self._folders = StepFolders(folder, keep, keep_every)
        self.folder: Path = self._folders.folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        self.saved: int | None = None
        self._damaged: set[int] = set()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError:
            if error is None:  # or else the one that ended the block is told
                raise

    def save(self, step: int, tree: Any, notes: Mapping[str, Any] | None = None) -> None:
        """Begin to write a step; returns as soon as the arrays are copied off the devices, so the tree may be
        donated then. Waits for an earlier save first.

        Args:
            step: its number.
            tree: of arrays of any shape, jax or numpy, and numbers; the same on all processes, each of which
                gives the parts that its devices hold.
            notes: what else this process must know to go on; what JSON can hold.

        Raises:
            UserError: the earlier save failed.
        """
        text = json.dumps(dict(notes or {}))
        self.wait()
        self._saving = self._thread.submit(self._save, step, snapshot(tree), text)

    @property
    def failed(self) -> bool:
        """Whether the last save failed and nothing has raised it yet: what a process tells the others at a
        step (`signals` of ringvision/distributed), so that all of them stop there.
        """
        return self._saving is not None and self._saving.done() and self._saving.exception() is not None

    def check(self) -> None:
        """UserError where a save failed in the background since the last call; never waits."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Return when all that was given to `save` is on disk. UserError where it failed."""
        saving = self._saving
        self._saving = None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        """`wait`, and end the background thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """The steps in the folder, in ascending order, whether good or damaged; on all processes what process
        0 sees.
        """
        return gathered("checkpoint steps", self._folders.steps() if is_main() else None)[0]

    def latest(self) -> int | None:
        """The newest of `steps`, or None where the run has not saved one."""
        return max(self.steps(), default=None)

    def restore(self, like: Any, step: int | None = None) -> Restored:
        """The newest step that is whole, in the form of `like`. Each process reads some of a step's files
        through, and all take the one that none found damaged.

        Args:
            like: the same tree with arrays or `jax.ShapeDtypeStruct`s as leaves: a leaf with a sharding comes
                back with that sharding, a numpy array as numpy, a Python number as a Python number, each of
                the leaf's shape and dtype. Or a function of a step's number that gives this tree, where not
                all steps of a run hold the same.
            step: take this one, or where it is damaged the newest before it (None: the newest of all).

        Returns:
            The tree, bit for bit as it was saved, and what was noted with it.

        Raises:
            UserError: there is no such step, all are damaged, or names, shapes or dtypes are not `like`'s.
        """
        self.wait()
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            have = ", ".join(map(str, steps)) or "none"
            of_step = "" if step is None else f" of step {step}"
            raise UserError(
                f"{self.folder} has no checkpoint{of_step} (it has {have}); name one of these or "
                "start the run anew"
            )
        skipped: list[str] = []
        for candidate in reversed([other for other in steps if step is None or other <= step]):
            path = self._folders.path(candidate)
            found = next(filter(None, gathered("checkpoint read", damage(path, candidate))), None)
            if found is None:
                tree = like(candidate) if callable(like) else like
                return Restored(candidate, *read_step(path, candidate, tree), skipped)
            self._damaged.add(candidate)
            skipped.append(f"the checkpoint of step {candidate} is damaged and was passed over: {found}")
        raise UserError(
            f"{self.folder} has no checkpoint that is whole ({'; '.join(skipped)}); copy one back, or start "
            "the run anew"
        )

    def _save(self, step: int, taken: Snapshot, notes: str) -> None:
        """What the background thread does, in three phases."""
        partial = self._phase("its folder", lambda: self._begin(step))[0]
        path = self.folder / partial
        try:
            files = self._phase(
                "its files", lambda: write(path, process_index(), process_count(), taken, notes), _WRITING
            )
            self._phase("its name", lambda: self._finish(step, path, files), _WRITING)
            self.saved = step
        except UserError:
            if is_main():  # a disk that is full has room again
                shutil.rmtree(path, ignore_errors=True)
            raise

    def _phase(self, name: str, action: Callable[[], Any], seconds: float = PATIENCE) -> list[Any]:
        """Nobody goes on, or waits for one that has failed: at the end of a phase all know how it went.

        Args:
            name: of the phase.
            action: this process's part in it.
            seconds: for how long to wait for the others' parts.

        Returns:
            What `action` returned on each process.

        Raises:
            UserError: on all of them where it failed on one.
        """
        try:
            with failing_together(f"writing it ({name})", seconds=seconds):
                result = action()
        except Exception as error:
            raise UserError(
                f"no checkpoint could be written to {self.folder}: {reason_of(error)}; put that right and "
                "start again, and the run goes on from the checkpoint before"
            ) from error
        return gathered(f"checkpoint {name}", result)

    def _begin(self, step: int) -> str | None:
        agreed("the step of a checkpoint", str(step))
        return self._folders.begin(step).name if is_main() else None

    def _finish(self, step: int, partial: Path, files: list[dict[str, list[Any]]]) -> None:
        if not is_main():
            return
        everything = {name: Written(*found) for share in files for name, found in share.items()}
        absent = [name for name in everything if not (partial / name).is_file()]
        if absent:
            raise UserError(f"{absent[0]} is not there; all processes must share this folder")
        self._folders.finish(partial, StepManifest(step, len(files), everything), self._damaged)
