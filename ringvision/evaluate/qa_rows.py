"""Rows of a file of questions, whatever its form: JSON (a list, or objects a line), CSV, TSV, Parquet.

In: a path that a user gave, to a file that anybody may have written. Out: dicts. Nothing in a file is
followed; its size and the number of its values are bounded before it is parsed.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ringvision.data.records import open_records
from ringvision.errors import UserError
from ringvision.untrusted_files import parse_object

FieldValues = Mapping[str, Any]
MOST_BYTES = 256 << 20
MOST_PARTS = 1 << 24
MOST_ROWS = 5_000_000
TABLES = (".csv", ".tsv")
KNOWN = (".json", ".jsonl", ".parquet", *TABLES)


def read_rows(path: str | os.PathLike[str], columns: Sequence[str]) -> list[FieldValues]:
    """The rows of a file.

    Args:
        path: of .json, .jsonl, .csv, .tsv or .parquet.
        columns: that are wanted; of Parquet no others are read.

    Returns:
        A dict for each row, at least one.

    Raises:
        UserError: it is missing, damaged, too large, of another form, or has no row.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in KNOWN:
        raise UserError(f"{path} is no file of questions; expected one that ends in {', '.join(KNOWN)}")
    if ending == ".json":
        rows = _json(path, _bytes(path))
    elif ending in TABLES:
        rows = _table(path, _bytes(path))
    else:
        records = open_records(os.fspath(path), columns=columns)
        if len(records) > MOST_ROWS:
            raise UserError(f"{path} has {len(records)} rows; expected at most {MOST_ROWS}: split it")
        rows = [records.read(index) for index in range(len(records))]
    if not rows:
        raise UserError(f"{path} holds no question; give a file that has some")
    return rows


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file; give a file of questions")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(
                f"{path} has {size} bytes, expected at most {MOST_BYTES}; is it what its name says?"
            )
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from None


def _json(path: Path, data: bytes) -> list[FieldValues]:
    """A list of objects, or an object a line."""
    data = data.removeprefix(b"\xef\xbb\xbf").strip()
    whole = data if data.startswith(b"[") else b"[" + b",".join(filter(None, data.splitlines())) + b"]"
    try:
        rows = parse_object(b'{"rows":' + whole + b"}", most_parts=MOST_PARTS)["rows"]
    except (ValueError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); expected a list of objects, or an object a line"
        ) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds something else than objects; expected a list of them, one a question")
    return rows


def _table(path: Path, data: bytes) -> list[FieldValues]:
    """Fields between commas or tabs, under a line of names. TGIF-QA's .csv has tabs."""
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start + 1} of it is not UTF-8; save the file as UTF-8"
        ) from None
    first = text.partition("\n")[0]
    tabs = "\t" in first
    # in fields between tabs a quotation mark is only itself
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    reader = csv.reader(io.StringIO(text, newline=""), **form)
    rows: list[FieldValues] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(names):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields where the first line names "
                    f"{len(names)}; correct the line"
                )
            if len(rows) >= MOST_ROWS:
                raise UserError(f"{path} has more than {MOST_ROWS} rows; split it")
            rows.append(dict(zip(names, fields)))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; correct the line") from None
    return rows
