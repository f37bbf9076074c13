"""Records in tables: Arrow files as `datasets` saves them, and Parquet through a copy in Arrow.

    data-00000-of-00002.arrow   rows by number, straight from the file, which stays on disk (memory-mapped)
    part.parquet                its columns that are wanted, copied once: into memory, or the cache folder

Parquet packs rows by the hundred thousand and gives none without unpacking the others, so rows in random
order need the copy. Its name is made of the path, size and time of change of the original, so that a file
that has changed is copied anew.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.records.byte_files import unreadable
from ringvision.errors import UserError

KEPT_BYTES = 1 << 28
"""Of the wanted columns of all Parquet files of a source, as Arrow: larger ones go to the cache folder."""
MOST_UNPACKED = 1 << 30
"""Bytes that an Arrow file may unpack to in memory; those of `datasets` are not compressed and take none."""
ROWS = 1024


class ArrowTable:
    """The rows of an Arrow file, a stream of batches, some of whose columns are wanted.

    Args:
        name: what it is called in messages.
        file: a path, which is mapped into memory, or a buffer.
        columns: those that are wanted; a record has those of them that the file has.

    Raises:
        UserError: the file is missing, damaged or no Arrow stream.
    """

    def __init__(self, name: str, file: "str | os.PathLike[str] | Any", columns: Sequence[str]) -> None:
        import pyarrow

        self.name = name
        with _damaged(name, "Arrow"):
            mapped = isinstance(file, (str, os.PathLike))
            source = pyarrow.memory_map(os.fspath(file)) if mapped else pyarrow.BufferReader(file)
            reader = pyarrow.ipc.open_stream(source)
            self.fields: tuple[str, ...] = tuple(reader.schema.names)
            wanted = [field for field in self.fields if field in columns]
            self._batches = list(_batches(name, reader, wanted))
        self._ends = np.cumsum([len(batch) for batch in self._batches])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, index: int) -> Mapping[str, Any]:
        """The wanted columns of a row."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        batch = self._batches[number]
        row = batch.slice(index - (int(self._ends[number]) - len(batch)), 1)
        with _damaged(self.where(index), "Arrow"):
            row.validate(full=True)  # where a value lies is read from the file: not beyond its end
            return {field: column[0].as_py() for field, column in zip(row.schema.names, row.columns)}

    def where(self, index: int) -> str:
        """Its file and its number there, from 1."""
        return f"{self.name}, record {index + 1}"


def open_parquet(path: str, columns: Sequence[str], files: int = 1) -> ArrowTable:
    """The rows of a Parquet file.

    Args:
        path: the file.
        columns: those that are wanted; others are not read.
        files: how many are opened like it; they share the memory that there is for copies.

    Returns:
        Its rows; `fields` names all columns.

    Raises:
        UserError: the file is missing, damaged or no Parquet, or the cache folder cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    with _damaged(path, "Parquet"), parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        wanted = [name for name in schema.names if name in columns]
        status = os.stat(path)
        named = repr((os.path.abspath(path), status.st_size, status.st_mtime_ns, wanted)).encode()
        copy = cache_folder() / f"{hashlib.sha256(named).hexdigest()[:32]}.arrow"
        selected = pyarrow.schema([schema.field(name) for name in wanted])
        if not copy.is_file():
            held = pyarrow.BufferOutputStream()
            if _write(held, selected, file, most_bytes=KEPT_BYTES // files):
                table = ArrowTable(path, held.getvalue(), wanted)
                table.fields = tuple(schema.names)
                return table
            _write_whole(copy, selected, file)
        table = ArrowTable(path, copy, wanted)
    table.fields = tuple(schema.names)
    return table


def cache_folder() -> Path:
    """Where copies are kept: ringvision/records in $XDG_CACHE_HOME, or else in ~/.cache. It may be removed
    whenever no run is going on.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ringvision" / "records"


def _batches(name: str, reader: Any, wanted: Sequence[str]) -> Iterator[Any]:
    import pyarrow

    before = pyarrow.total_allocated_bytes()
    for batch in reader:
        if pyarrow.total_allocated_bytes() - before > MOST_UNPACKED:
            raise UserError(f"{name} is compressed Arrow, which unpacks to too much; save it uncompressed")
        yield batch.select(wanted)


def _write(sink: Any, schema: Any, file: Any, most_bytes: float = math.inf) -> bool:
    """Copy the columns of a schema from a Parquet file. False, and not all is copied, where they have more
    than most_bytes: the file itself says only how many it has where texts that recur are kept once.
    """
    import pyarrow

    with pyarrow.ipc.new_stream(sink, schema) as writer:
        for batch in file.iter_batches(batch_size=ROWS, columns=schema.names):
            writer.write_batch(batch.select(schema.names))
            if sink.tell() > most_bytes:
                return False
    return True


def _write_whole(path: Path, schema: Any, file: Any) -> None:
    """Copy the columns to a file, which appears under its name when it is complete."""
    import pyarrow

    unfinished = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(number)
        with pyarrow.OSFile(unfinished, "wb") as sink:
            _write(sink, schema, file)
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written ({(error.strerror or str(error)).lower()}); free some "
            "space, or set XDG_CACHE_HOME to a folder that has some"
        ) from None
    finally:
        if unfinished and os.path.exists(unfinished):
            os.unlink(unfinished)


@contextmanager
def _damaged(name: str, form: str) -> Iterator[None]:
    """What pyarrow says of a file becomes one line."""
    import pyarrow

    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start + 1} of its text is not UTF-8; write it again") from None
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(name, error) from None
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name} cannot be read as {form} ({reason:.200}); write it again") from None
