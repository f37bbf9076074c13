"""What an evaluation found, written as it comes, so that one that was stopped goes on where it was.

    OUT/settings.json    what was asked for, and which programs ran it, at each start
    OUT/results.jsonl    a line for each question: {"key", …}
    OUT/result.json      the scores; OUT/result.md the same for people

Lines depend on nothing but the settings and the answers: a run that was stopped and went on leaves the same
file as one that was not.
"""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

from ringvision.errors import Interrupted, UserError
from ringvision.untrusted_files import read_object

SETTINGS = "settings.json"
RESULTS = "results.jsonl"
Row = dict[str, Any]


class ResultLog:
    """The rows of an evaluation, by key; a context manager.

    Args:
        out: a folder for them (None: they are kept in memory alone).
        settings: what the answers depend on, as JSON has it.
        command: that was given.

    Raises:
        UserError: the folder cannot be written, holds something else, or results of other settings.
    """

    def __init__(
        self, out: str | os.PathLike[str] | None, settings: Mapping[str, Any], command: str = ""
    ) -> None:
        self.folder = None if out is None else Path(out)
        self.settings = json.loads(json.dumps(dict(settings)))
        self.rows: dict[str, Row] = {}
        self.runs = [{"command": command, **versions()}]
        self._file: Any = None
        if self.folder is not None:
            try:
                self._open(self.folder)
            except OSError as error:
                raise UserError(
                    f"{self.folder} cannot be written: {error.strerror}; give another --out"
                ) from None

    def __enter__(self) -> "ResultLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            if kind is KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted; {len(self.rows)} answers are in {self.folder}, and the same command goes "
                    "on from there"
                ) from None

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, row: Row) -> None:
        """Keeps a row, and has it on disk when it returns. Its "key" is that of no other row."""
        self.rows[row["key"]] = row
        if self._file is not None:
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self, result: Mapping[str, Any], text: str) -> None:
        """Writes the scores, for programs and for people (markdown)."""
        if self.folder is not None:
            _replace(self.folder / "result.json", json.dumps(result, ensure_ascii=False, indent=1) + "\n")
            _replace(self.folder / "result.md", text)

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if path.exists():
            found = read_object(path, "give another --out")
            self._check_same(found.get("settings"))
            before = found.get("runs")
            earlier = before if isinstance(before, list) else []
            self.runs = [*(run for run in earlier if run != self.runs[0]), *self.runs]
        elif any(folder.iterdir()):
            raise UserError(f"{folder} holds something else; give a new folder as --out")
        _replace(path, json.dumps({"settings": self.settings, "runs": self.runs}, indent=1) + "\n")
        rows = folder / RESULTS
        held = rows.read_bytes() if rows.exists() else b""
        whole = held[: held.rfind(b"\n") + 1]  # the last write may have been cut short
        for number, line in enumerate(whole.splitlines(), start=1):
            self._read(line, number)
        self._file = rows.open("ab")
        self._file.truncate(len(whole))

    def _read(self, line: bytes, number: int) -> None:
        try:
            row = json.loads(line)
            self.rows[row["key"]] = row
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{self.folder}/{RESULTS}, line {number} is damaged; delete the line, or give another --out"
            ) from None

    def _check_same(self, there: Any) -> None:
        known = there if isinstance(there, dict) else {}
        differ = [
            f"{name} {_shown(known.get(name))} there and {_shown(self.settings.get(name))} here"
            for name in dict.fromkeys([*known, *self.settings])
            if known.get(name) != self.settings.get(name)
        ]
        if differ:
            raise UserError(
                f"{self.folder} holds results of other settings ({'; '.join(differ)}); give another --out, "
                "or the settings that it has"
            )


def versions() -> dict[str, str]:
    """Of what answers depend on beside the settings."""
    import jax

    try:
        own = version("ringvision")
    except PackageNotFoundError:
        own = "unknown"
    return {"ringvision": own, "jax": jax.__version__, "python": platform.python_version()}


def _shown(value: Any) -> str:
    return "is missing" if value is None else f"is {json.dumps(value)}"


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
