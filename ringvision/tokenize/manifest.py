"""What became of every input: one row a source in manifest.sqlite, pending, done or failed, and what the
folder was made with.

A row turns done only when the shard with its record is in place, in the same transaction that notes the
shard's checksum. Rows keep the number they got when their source was first named: number // shard_size is the
shard, so where a record belongs never depends on the order in which videos got ready.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ringvision.errors import UserError
from ringvision.tokenize.source import VideoSource

TABLES = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS videos (
    number INTEGER PRIMARY KEY,
    source TEXT NOT NULL UNIQUE,
    asked TEXT NOT NULL,
    sha256 TEXT,
    bytes INTEGER,
    changed INTEGER,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
    kind TEXT,
    message TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    shard INTEGER,
    record INTEGER,
    frames INTEGER,
    seconds REAL
);
CREATE TABLE IF NOT EXISTS shards (
    shard INTEGER PRIMARY KEY,
    file TEXT NOT NULL,
    records INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    changed INTEGER NOT NULL
);
"""
COLUMNS = (
    "number, source, asked, sha256, bytes, changed, status, kind, message, attempts, "
    "shard, record, frames, seconds"
)


@dataclass(frozen=True)
class ManifestRow:
    """A row of `videos`. number: from 0, in the order in which sources were first named. asked: what is
    wanted of it beside its bytes (the part, caption and questions, as JSON). bytes, changed: the file's size
    and time of change (ns) when sha256 was taken. shard, record: where its record is; a source with the
    content of an earlier one has none of its own and points to that one's. frames, seconds: of video.
    """

    number: int
    source: str
    asked: str
    sha256: str | None = None
    bytes: int | None = None
    changed: int | None = None
    status: str = "pending"
    kind: str | None = None
    message: str | None = None
    attempts: int = 0
    shard: int | None = None
    record: int | None = None
    frames: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Shard:
    """A row of `shards`: a file that is in place, its checksum, and its size and time of change (ns), by
    which it is recognised without being read.
    """

    shard: int
    file: str
    records: int
    sha256: str
    bytes: int
    changed: int


def asked_of(source: VideoSource) -> str:
    """What decides a record beside the bytes and the name, as one text."""
    asked = [source.start, source.end, source.caption, source.qa]
    return json.dumps([*asked, source.variant] if source.variant else asked, ensure_ascii=False)


class Manifest:
    """manifest.sqlite in `folder`, held by one process at a time; its methods may be called from any thread.
    Use it in a `with`.

    settings: what decides the codes and the shards (tokenizer's hash, fps, ...). UserError where the folder
    was made with other ones, or another process holds it.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "w")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error.strerror}); give a folder for the codes that can"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(
                f"another run is writing to {folder}; wait for it, or give another folder"
            ) from None
        self._turn = threading.RLock()
        try:
            self._database = sqlite3.connect(
                self.folder / "manifest.sqlite", isolation_level=None, check_same_thread=False
            )
            self._database.executescript(TABLES)
            self._database.execute(f"SELECT {COLUMNS} FROM videos LIMIT 1")
            self._settle({name: str(value) for name, value in settings.items()})
        except sqlite3.DatabaseError as error:
            self.close()
            raise UserError(
                f"{folder}/manifest.sqlite cannot be read ({error}); give another folder, or remove "
                "it to begin anew"
            ) from None
        except BaseException:
            self.close()
            raise

    def _settle(self, settings: dict[str, str]) -> None:
        """Notes the settings of a new folder, all or none of them, whenever it is killed."""
        with self.transaction():
            noted = dict(self._database.execute("SELECT name, value FROM settings"))
            if noted and noted != settings:
                differing = ", ".join(
                    f"{name} {noted.get(name)} there and {settings.get(name)} now"
                    for name in sorted(noted | settings)
                    if noted.get(name) != settings.get(name)
                )
                raise UserError(
                    f"{self.folder} holds codes that were made otherwise ({differing}); give another folder"
                )
            self._database.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", settings.items())

    def add(self, sources: Iterable[VideoSource]) -> None:
        """A pending row for each source that has none, numbered on; what is asked of the others is brought up
        to date.
        """
        with self.transaction():
            known = dict(self._database.execute("SELECT source, asked FROM videos"))
            for source in sources:
                asked = asked_of(source)
                if source.name not in known:
                    self._database.execute(
                        "INSERT INTO videos (number, source, asked) VALUES (?, ?, ?)",
                        (len(known), source.name, asked),
                    )
                elif asked != known[source.name]:
                    nothing = (
                        "status = 'pending', kind = NULL, message = NULL, shard = NULL, record = NULL, "
                        "frames = NULL, seconds = NULL"
                    )
                    self._database.execute(
                        f"UPDATE videos SET asked = ?, {nothing} WHERE source = ?", (asked, source.name)
                    )
                known[source.name] = asked

    def rows(self) -> list[ManifestRow]:
        """All, by number."""
        with self._turn:
            return [
                ManifestRow(*row)
                for row in self._database.execute(f"SELECT {COLUMNS} FROM videos ORDER BY number")
            ]

    def shards(self) -> list[Shard]:
        """All, by number."""
        with self._turn:
            found = self._database.execute(
                "SELECT shard, file, records, sha256, bytes, changed FROM shards ORDER BY shard"
            )
            return [Shard(*row) for row in found]

    def write(self, row: ManifestRow, **columns: Any) -> ManifestRow:
        """The row with these columns changed, in the database and in what is returned."""
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._turn:
            self._database.execute(
                f"UPDATE videos SET {names} WHERE number = ?", (*columns.values(), row.number)
            )
        return replace(row, **columns)

    def commit(self, shard: Shard) -> None:
        """Notes a shard that is in place; call it in the transaction that turns its rows done."""
        values = (shard.shard, shard.file, shard.records, shard.sha256, shard.bytes, shard.changed)
        self._database.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?, ?)", values)

    def forget(self, shard: int) -> None:
        """A shard that is missing or not as it was noted: its rows are pending again."""
        with self.transaction():
            self._database.execute("DELETE FROM shards WHERE shard = ?", (shard,))
            self._database.execute(
                "UPDATE videos SET status = 'pending', shard = NULL, record = NULL WHERE shard = ? "
                "AND status = 'done'",
                (shard,),
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self._turn:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def close(self) -> None:
        if hasattr(self, "_database"):
            self._database.close()
        self._lock.close()

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def counts(rows: Sequence[ManifestRow]) -> dict[str, int]:
    """{"done", "failed", "pending", "frames"}; frames of the done ones."""
    total = {"done": 0, "failed": 0, "pending": 0, "frames": 0}
    for row in rows:
        total[row.status] += 1
        total["frames"] += row.frames or 0 if row.status == "done" else 0
    return total
