"""What became of every input: one row a source in manifest.sqlite, pending, done or failed, and what the folder was made with.

A row turns done only after its codes are in place. Content is told by sha256, so a renamed file is not redone and a changed
one is; a file whose size and time of change are the ones noted is taken as unchanged without reading it again.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ringvision.errors import UserError

TABLES = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS videos (
    source TEXT PRIMARY KEY,
    sha256 TEXT,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
    kind TEXT,
    message TEXT,
    file TEXT,
    frames INTEGER,
    bytes INTEGER,
    changed INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_content ON videos (sha256);
"""


class Manifest:
    """manifest.sqlite in `folder`, held by one process at a time. Use it in a `with`.

    `settings` is what decides the codes (tokenizer's hash, fps, ...); UserError where the folder was made with other ones.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "w")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}); give a folder for the codes that can") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UserError(f"another run is writing to {folder}; wait for it, or give another folder") from None
        try:
            self._database = sqlite3.connect(self.folder / "manifest.sqlite", isolation_level=None)
            self._database.row_factory = sqlite3.Row
            self._database.executescript(TABLES)
            self._settle({name: str(value) for name, value in settings.items()})
        except sqlite3.DatabaseError as error:
            self.close()
            raise UserError(f"{folder}/manifest.sqlite cannot be read ({error}); give another folder, or remove it to begin anew") from None
        except UserError:
            self.close()
            raise

    def _settle(self, settings: dict[str, str]) -> None:
        there = {row["name"]: row["value"] for row in self._database.execute("SELECT name, value FROM settings")}
        if there and there != settings:
            differing = ", ".join(
                f"{name} {there.get(name)} there and {settings.get(name)} now"
                for name in sorted(there | settings)
                if there.get(name) != settings.get(name)
            )
            raise UserError(f"{self.folder} holds codes that were made otherwise ({differing}); give another folder")
        self._database.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", settings.items())

    def add(self, sources: Iterable[str]) -> None:
        """A pending row for each source that has none."""
        with self._transaction():
            self._database.executemany("INSERT OR IGNORE INTO videos (source) VALUES (?)", ((source,) for source in sources))

    def row(self, source: str) -> dict[str, Any]:
        return dict(self._database.execute("SELECT * FROM videos WHERE source = ?", (source,)).fetchone())

    def same_content(self, sha256: str) -> dict[str, Any] | None:
        """A done row of any source with this content."""
        found = self._database.execute(
            "SELECT * FROM videos WHERE sha256 = ? AND status = 'done' ORDER BY source LIMIT 1", (sha256,)
        ).fetchone()
        return dict(found) if found else None

    def write(self, source: str, **columns: Any) -> None:
        """Sets columns of a source's row."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self._database.execute(f"UPDATE videos SET {names} WHERE source = ?", (*columns.values(), source))

    def counts(self, sources: Iterable[str]) -> dict[str, int]:
        """{"done", "failed", "pending", "frames"} over these sources."""
        total = {"done": 0, "failed": 0, "pending": 0, "frames": 0}
        for source in sources:
            row = self.row(source)
            total[row["status"]] += 1
            total["frames"] += row["frames"] or 0 if row["status"] == "done" else 0
        return total

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._database.execute("BEGIN")
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
