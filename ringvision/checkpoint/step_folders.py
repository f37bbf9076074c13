"""The folders of a run's steps on disk: which there are, how one appears at once and whole, which ones stay.

    a partial folder, filled by all processes  --finish-->  step-00001000/, and what is not kept removed

What changes the disk here, one process does alone. A kill at any moment leaves every step that had a name
whole; what it leaves of other names the next `begin` clears away.
"""

import os
import re
import shutil
import uuid
from collections.abc import Collection
from pathlib import Path

from ringvision.checkpoint.manifest import MANIFEST, StepManifest, write_file
from ringvision.model_folder import sync

_STEP = re.compile(r"(?:\.replaced-)?step-(\d{8,12})")


class StepFolders:
    """The steps under a folder.

    Args:
        folder: is made where it is missing.
        keep: how many of the newest steps stay.
        keep_every: every step that this divides stays too (None: no others).
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int, keep_every: int | None):
        if keep < 1 or (keep_every is not None and keep_every < 1):
            raise ValueError(f"keep={keep}, keep_every={keep_every}: expected at least 1")
        self.folder = Path(folder).absolute()
        self.keep = keep
        self.keep_every = keep_every

    def steps(self) -> list[int]:
        """The steps that have a folder, in ascending order, whether good or damaged."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted({int(match[1]) for match in found if match})

    def path(self, step: int) -> Path:
        """Where a step lies: under another name where a process was killed as it replaced the step."""
        path = self.folder / f"step-{step:08d}"
        replaced = _replaced(path)
        return replaced if replaced.exists() and not path.exists() else path

    def begin(self, step: int) -> Path:
        """An empty folder for a step, of a name that no process of an earlier run can be writing to. OSError
        where the disk refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in (*self.folder.glob(".partial-*"), *self.folder.glob(".removed-*")):
            shutil.rmtree(old)
        for old in self.folder.glob(".replaced-*"):
            there = self.folder / old.name.removeprefix(".replaced-")
            if there.exists():
                shutil.rmtree(old)
            else:
                os.rename(old, there)
        partial = self.folder / f".partial-{step:08d}-{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        return partial

    def finish(self, partial: Path, manifest: StepManifest, damaged: Collection[int]) -> None:
        """Write the manifest, give the step its name, in place of an older one of this name, and remove what
        is not kept.

        Args:
            partial: what `begin` gave, filled.
            manifest: of the step.
            damaged: steps that were found damaged: they do not count among those kept.

        Raises:
            OSError: where the disk refuses.
        """
        write_file(partial / MANIFEST, [manifest.text().encode()])
        sync(partial)
        target = self.path(manifest.step)
        if target.exists():
            os.rename(target, _replaced(target))
        os.rename(partial, target)
        sync(self.folder)
        self._remove(_replaced(target))
        kept = self._kept(manifest.step, set(damaged) - {manifest.step})
        for step in self.steps():
            if step not in kept:
                self._remove(self.path(step))

    def _kept(self, newest: int, damaged: Collection[int]) -> set[int]:
        good = [step for step in self.steps() if step <= newest and step not in damaged]
        every = self.keep_every
        return {*good[-self.keep :], *(step for step in good if every is not None and step % every == 0)}

    def _remove(self, path: Path) -> None:
        """Rename, then delete: a kill in between leaves no half of a step under a step's name."""
        if path.exists():
            gone = self.folder / f".removed-{path.name.lstrip('.')}"
            os.rename(path, gone)
            shutil.rmtree(gone)


def _replaced(path: Path) -> Path:
    return path.with_name(f".replaced-{path.name}")
