"""A folder that is there whole or not at all: filled aside, renamed when it is done, gone where something
failed.
"""

import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ringvision.errors import UserError


def check_free(target: Path) -> None:
    """UserError where something lies at `target` already (an empty folder does not count)."""
    with _said(target):
        if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
            return
        if os.path.lexists(target):
            raise UserError(f"{target} is there already; give a new folder, or remove it first")
        place = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise UserError(
                f"{target} cannot be made: {place} is no folder that can be written to; choose another place"
            )


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to be filled; it takes that name when the block ends, and is removed where
    it ends by an error.

    What a killed process left of an earlier attempt is removed first. UserError where `target` is there
    already, or where the disk is full or cannot be written to.
    """
    check_free(target)
    made = next((folder for folder in reversed(target.parents) if not folder.exists()), None)
    aside = target.absolute().with_name(f".{target.absolute().name}.making-{os.getpid()}")
    try:
        with _said(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _sweep(target)
            aside.mkdir()
            yield aside
            if target.is_dir():
                target.rmdir()
            os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside if made is None else made, ignore_errors=True)
        raise


@contextmanager
def _said(target: Path) -> Iterator[None]:
    """What the system refuses, as one line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's
            raise
        raise UserError(
            f"{target} cannot be written ({error.strerror}); choose another place, or make room"
        ) from error


def _sweep(target: Path) -> None:
    for path in target.parent.glob(f".{glob.escape(target.name)}.making-*"):
        match = re.fullmatch(r".*-(\d+)", path.name)
        if match and not _alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()
