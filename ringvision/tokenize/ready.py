"""Records whose shard is not yet in place: a file each in OUT/.work, so that a run that is killed keeps what
it made.

    ManifestRow, record (bytes)  --put-->  .work/NUMBER-HASH.record  --record-->  bytes, copied into the shard

A file's name depends on the row's content and what is asked of it: what another run left is found again only
where it still is what this run would make.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ringvision.errors import UserError
from ringvision.tokenize.manifest import ManifestRow

RecordKey = tuple[str, str]
"""Content and what is asked of it: rows of one key have one record."""


def record_key(row: ManifestRow) -> RecordKey:
    """A row's key; one whose content is not known shares it with no other."""
    return row.sha256 or f"none of row {row.number}", row.asked


@dataclass(frozen=True)
class _ReadyRecord:
    path: Path
    frames: int


class ReadyRecords:
    """The ready records of one run, by the number of their row; `in`, and iteration over the numbers.

    Raises UserError where the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[int, _ReadyRecord] = {}
        try:
            folder.mkdir(exist_ok=True)
            for left in (*folder.glob("*.partial"), *folder.glob("shard-*")):
                left.unlink()
        except OSError as error:
            raise disk_error(folder, error) from None

    def __contains__(self, number: int) -> bool:
        return number in self._records

    def __iter__(self) -> Iterator[int]:
        return iter(self._records)

    def put(self, row: ManifestRow, record: bytes, frames: int) -> None:
        """Writes a row's record of so many frames: under another name, then renamed, so that it is whole or
        missing.
        """
        path = self._path(row)
        unfinished = path.with_suffix(".partial")
        head = json.dumps({"frames": frames, "sha256": hashlib.sha256(record).hexdigest()}).encode()
        try:
            with open(unfinished, "wb") as file:
                file.write(head + b"\n" + record)
            os.replace(unfinished, path)
        except OSError as error:
            raise disk_error(path, error) from None
        self._records[row.number] = _ReadyRecord(path, frames)

    def find(self, row: ManifestRow) -> bool:
        """Whether an earlier run left a row's record, whole; it is known from then on."""
        path = self._path(row)
        try:
            frames, _ = _read(path)
        except (OSError, ValueError, KeyError):
            return False
        self._records[row.number] = _ReadyRecord(path, frames)
        return True

    def frames(self, number: int) -> int:
        """How many frames a row's record has."""
        return self._records[number].frames

    def record(self, number: int) -> bytes:
        """A row's record. ValueError where it is damaged."""
        return _read(self._records[number].path)[1]

    def forget(self, number: int) -> None:
        """A row's record is not known any more; its file stays."""
        del self._records[number]

    def remove(self, number: int) -> None:
        """A row's record is in its shard: its file goes."""
        self._records.pop(number).path.unlink(missing_ok=True)

    def _path(self, row: ManifestRow) -> Path:
        identity = json.dumps([row.source, *record_key(row)]).encode()
        return self.folder / f"{row.number:08d}-{hashlib.sha256(identity).hexdigest()[:16]}.record"


def disk_error(path: Path, error: OSError) -> UserError:
    """What the system said of writing to `path`, as one line that says what to do."""
    return UserError(
        f"{path} cannot be written ({error.strerror}); make room, and run the same command again: it goes on"
    )


def _read(path: Path) -> tuple[int, bytes]:
    """Frames and record. ValueError where a crash of the machine left less than was written."""
    head, _, record = path.read_bytes().partition(b"\n")
    about = json.loads(head)
    if hashlib.sha256(record).hexdigest() != about["sha256"]:
        raise ValueError(f"{path} is damaged")
    return about["frames"], record
