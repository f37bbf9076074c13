"""The checksums of a step's files, and a step's files by them.

    {file name: (bytes, SHA-256)}, step, processes  --write-->  sha256.json
    sha256.json  --read-->  the same, or Damage;  --check-->  Damage where a file is not as it was written

The text of the manifest carries its own checksum and is canonical, so that a change of any of its bytes
shows.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MANIFEST = "sha256.json"
FORMAT = 2
"""1 was Orbax's files with checksums beside them."""
_LONGEST = 64 << 20
_AT_ONCE = 1 << 26
_NAME = re.compile(r"(arrays|notes)-\d{5}-of-\d{5}\.(bin|json)")


class Damage(Exception):
    """A step on disk is not as it was written. The message says what is wrong with it."""


class Written(NamedTuple):
    """What a file is known by: how many bytes, and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class StepManifest:
    """What a step consists of. files: by name, those of every process."""

    step: int
    processes: int
    files: dict[str, Written]

    def text(self) -> str:
        """The JSON of it, canonical, with its own checksum."""
        record = asdict(self) | {"format": FORMAT}
        return _canonical(record | {"sha256": hashlib.sha256(_canonical(record).encode()).hexdigest()})


def file_names(process: int, processes: int) -> tuple[str, str, str]:
    """The files of one process: its arrays' bytes, their table, its notes."""
    part = f"{process:05d}-of-{processes:05d}"
    return f"arrays-{part}.bin", f"arrays-{part}.json", f"notes-{part}.json"


def read_manifest(folder: Path, step: int) -> StepManifest:
    """The manifest of a step's folder. Damage where it is missing, changed, or of another step."""
    text = _read(folder / MANIFEST).decode("utf-8", "replace")
    try:
        record = json.loads(text)
        manifest = StepManifest(
            record["step"],
            record["processes"],
            {name: Written(*found) for name, found in record["files"].items()},
        )
        if len(manifest.files) != len(file_names(0, 1)) * manifest.processes:
            raise ValueError("as many files as processes need")
        wanted = {name for i in range(manifest.processes) for name in file_names(i, manifest.processes)}
        whole = (
            record["format"] == FORMAT
            and text == manifest.text()
            and manifest.step == step
            and manifest.files.keys() == wanted
            and all(_NAME.fullmatch(name) for name in wanted)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damage(f"{MANIFEST} is not as it was written ({type(error).__name__})") from error
    if not whole:
        raise Damage(f"{MANIFEST} is not as it was written")
    return manifest


def write_file(path: Path, parts: Sequence[np.ndarray | bytes]) -> Written:
    """Write the parts (uint8 [N] each, or bytes) one after another, through to the disk; the checksum is of
    what was to be written. OSError where the disk does not take them.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("xb", buffering=0) as file:
        for part in parts:
            view = part if isinstance(part, bytes) else part.data
            while len(view):
                piece = view[:_AT_ONCE]
                count = file.write(piece)
                digest.update(piece[:count])
                size = size + count
                view = view[count:]
        os.fsync(file.fileno())
    return Written(size, digest.hexdigest())


def check(folder: Path, manifest: StepManifest, names: Sequence[str]) -> None:
    """Read these files of a step through. Damage names the first that is not as it was written."""
    for name in names:
        path = folder / name
        expected = manifest.files[name]
        try:
            size = os.stat(path).st_size
            if size != expected.size:
                raise Damage(f"{name} has {size} bytes of {expected.size}")
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Damage(f"{name} cannot be read ({error.strerror or error})") from error
        if found != expected.sha256:
            raise Damage(f"{name} changed since it was saved")


def share(manifest: StepManifest, process: int, processes: int) -> list[str]:
    """The files that one of the processes that restore a step reads through: of all together each file once,
    about as many bytes to each.
    """
    by_size = sorted(manifest.files, key=lambda name: (-manifest.files[name].size, name))
    return by_size[process::processes]


def read_json(path: Path) -> Any:
    """The value in a JSON file that was checked; whole numbers of any length stay whole. Damage where it is
    none.
    """
    try:
        return json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise Damage(f"{path.name} is no JSON ({type(error).__name__})") from error


def _read(path: Path) -> bytes:
    try:
        size = os.stat(path).st_size
        if size > _LONGEST:
            raise Damage(f"{path.name} has {size} bytes, expected at most {_LONGEST}")
        return path.read_bytes()
    except OSError as error:
        raise Damage(f"{path.name} cannot be read ({error.strerror or error})") from error


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, indent=1) + "\n"
