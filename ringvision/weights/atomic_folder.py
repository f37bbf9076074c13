"""A folder that exists whole or not at all: filled under another name, renamed when it is complete, removed
where an error comes.
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
    """UserError where `target` exists already (an empty folder does not count), or cannot be made."""
    with _system_errors(target):
        if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
            return
        if os.path.lexists(target):
            raise UserError(f"{target} is there already; give a new folder, or remove it first")
        parent = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(
                f"{target} cannot be made: {parent} is no folder that can be written to; choose another place"
            )


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder next to `target`, to be filled; it takes that name when the block ends, and is removed
    where it ends by an error.

    What a killed process left of an earlier attempt is removed first. UserError where `target` exists
    already, or where the disk is full or cannot be written to.
    """
    check_free(target)
    made = next((folder for folder in reversed(target.parents) if not folder.exists()), None)
    partial = target.absolute().with_name(f".{target.absolute().name}.making-{os.getpid()}")
    try:
        with _system_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(target)
            partial.mkdir()
            yield partial
            if target.is_dir():
                target.rmdir()
            os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial if made is None else made, ignore_errors=True)
        raise


@contextmanager
def _system_errors(target: Path) -> Iterator[None]:
    """What the system refuses, as one line for the user."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the system's
            raise
        raise UserError(
            f"{target} cannot be written ({error.strerror}); choose another place, or make room"
        ) from error


def _remove_abandoned(target: Path) -> None:
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
