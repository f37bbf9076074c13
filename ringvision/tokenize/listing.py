"""A manifest of videos, CSV, JSONL or Parquet, in; a VideoSource for each of its rows out.

Columns are path (or video, or file), start, end, caption, question, answer and qa; others are ignored. What a
manifest says is read as data: no address is followed, and its lines and rows are bounded.
"""

import contextlib
import csv
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Generator, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from ringvision.errors import UserError
from ringvision.tokenize.source import VideoSource

PATHS = ("path", "video", "file")
COLUMNS = (*PATHS, "start", "end", "caption", "question", "answer", "qa")
MOST_BYTES_A_LINE = 4 << 20
MOST_ROWS = 10_000_000
ELSEWHERE = re.compile(r"tfds:|[A-Za-z][A-Za-z0-9+.-]*://")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
CLOCK = re.compile(r"(?:(\d{1,6}):([0-5]?\d)|(\d{1,6})):([0-5]?\d(?:\.\d+)?)", re.ASCII)
ListedRow = tuple[str, dict[str, Any]]


def read_listing(path: str) -> list[VideoSource]:
    """A VideoSource for each row, in their order. Raises UserError that names the line or row, the column,
    and what was expected there.
    """
    with contextlib.closing(LISTINGS[Path(path).suffix.lower()](path)) as rows:
        sources = [_source(*row, os.path.dirname(path)) for row in rows]
    if not sources:
        raise UserError(f"{path} holds no row; give at least one, with a path")
    return sources


def _lines(path: str) -> Generator[str, None, None]:
    try:
        with open(path, "rb") as file:
            for number in itertools.count(1):
                line = file.readline(MOST_BYTES_A_LINE + 1)
                if len(line) > MOST_BYTES_A_LINE:
                    raise UserError(
                        f"{path}, line {number}: longer than {MOST_BYTES_A_LINE} bytes; is it a manifest? "
                        "Split the row in several"
                    )
                if not line:
                    return
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: byte {error.start + 1} of it is not UTF-8; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({(error.strerror or str(error)).lower()}); give a manifest that can"
        ) from None


def _csv_rows(path: str) -> Generator[ListedRow, None, None]:
    limit = csv.field_size_limit(MOST_BYTES_A_LINE)
    lines = _lines(path)
    reader = csv.reader(lines, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if names:
            _path_column(f"{path}, line 1", names)
        if len(set(names) & set(COLUMNS)) < sum(name in COLUMNS for name in names):
            raise UserError(f"{path}, line 1: a column comes twice in {_shown(names)}; name each once")
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(names):
                raise UserError(
                    f"{path}, line {line}: {len(fields)} fields where the first line names {len(names)}; "
                    "quote fields with commas"
                )
            if fields:
                yield f"{path}, line {line}", dict(zip(names, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; expected comma-separated values, quoted by "
            "double quotes"
        ) from None
    finally:
        lines.close()
        csv.field_size_limit(limit)


def _json_rows(path: str) -> Generator[ListedRow, None, None]:
    with contextlib.closing(_lines(path)) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}, line {number}"
                row = _json(where, line)
                if not isinstance(row, dict):
                    raise UserError(
                        f'{where}: {_shown(row)} where an object was expected, such as {{"path": "clip.mp4"}}'
                    )
                yield where, {key.strip().lower(): value for key, value in row.items()}


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: malformed JSON ({error.msg}, character {error.pos + 1}); write one JSON "
            "value on one line"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(
            f"{where}: JSON with a number too long or lists too deep; write a row as a plain object"
        ) from None


def _parquet_rows(path: str) -> Generator[ListedRow, None, None]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = {name.strip().lower(): name for name in file.schema_arrow.names}
            _path_column(path, names)
            if file.metadata.num_rows > MOST_ROWS:
                raise UserError(
                    f"{path} says it has {file.metadata.num_rows} rows; at most {MOST_ROWS} are read: "
                    "split it"
                )
            wanted = {name: names[name] for name in COLUMNS if name in names}
            rows = itertools.chain.from_iterable(
                batch.to_pylist()
                for batch in file.iter_batches(batch_size=1024, columns=list(wanted.values()))
            )
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", {name: row[actual] for name, actual in wanted.items()}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({str(error).partition(chr(10))[0]:.200}); write it again"
        ) from None


LISTINGS: dict[str, Callable[[str], Generator[ListedRow, None, None]]] = {
    ".csv": _csv_rows,
    ".jsonl": _json_rows,
    ".parquet": _parquet_rows,
}


def _path_column(where: str, names: Iterable[str]) -> str:
    column = next((name for name in PATHS if name in names), None)
    if column is None:
        raise UserError(
            f"{where}: no path among the columns {_shown(list(names))}; name the column of files "
            "path, video or file"
        )
    return column


def _source(where: str, row: dict[str, Any], folder: str) -> VideoSource:
    column = _path_column(where, row)
    path = _text(where, column, row[column])
    if not path or "\0" in path:
        raise _wrong(where, column, row[column], "the path of a video, from the manifest's folder")
    if ELSEWHERE.match(path):
        raise _wrong(where, column, path, "a file; nothing is fetched: download it, and give its path")
    start = _seconds(where, "start", row) or 0.0
    end = _seconds(where, "end", row)
    if end is not None and end <= start:
        raise _wrong(where, "end", row["end"], f"a time after start, {_number(start)}")
    return file_source(
        os.path.join(folder, path),
        start,
        end,
        caption=_text(where, "caption", row.get("caption")),
        qa=_pairs(where, row),
    )


def _shown(value: Any) -> str:
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _wrong(where: str, column: str, given: Any, expected: str) -> UserError:
    return UserError(f"{where}, column {column}: {_shown(given)}; expected {expected}")


def _text(where: str, column: str, value: Any) -> str:
    """The text as it is; "" where there is none or only spaces."""
    if value is not None and not isinstance(value, str):
        raise _wrong(where, column, value, "text")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise _wrong(where, column, value, "text in Unicode, without halves of characters") from None
    return value if value and value.strip() else ""


def _seconds(where: str, column: str, row: dict[str, Any]) -> float | None:
    value = row.get(column)
    seconds = math.nan
    text = value.strip() if isinstance(value, str) else ""
    if value is None or (isinstance(value, str) and not text):
        return None
    if clock := CLOCK.fullmatch(text):
        hours, minutes, alone, rest = clock.groups()
        seconds = int(hours or 0) * 3600 + int(minutes or alone) * 60 + float(rest)
    elif NUMBER.fullmatch(text) or (isinstance(value, int | float | Decimal) and not isinstance(value, bool)):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    if not (math.isfinite(seconds) and seconds >= 0):
        raise _wrong(where, column, value, "seconds from 0 on, or H:MM:SS")
    return float(seconds) + 0.0


def _pairs(where: str, row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    alone = [_text(where, name, row.get(name)) for name in ("question", "answer")]
    if bool(alone[0]) != bool(alone[1]):
        missing = "answer" if alone[0] else "question"
        raise _wrong(
            where, missing, row.get(missing), "a text, because the other of question and answer is given"
        )
    pairs = [(alone[0], alone[1])] if alone[0] else []
    held = row.get("qa")
    if isinstance(held, str):
        held = _json(f"{where}, column qa", held) if held.strip() else None
    for entry in held if isinstance(held, list) else [held] * (held is not None):
        pair = (
            [entry.get("question"), entry.get("answer")]
            if isinstance(entry, dict) and isinstance(held, list)
            else entry
        )
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not all(isinstance(text, str) and text.strip() for text in pair)
        ):
            raise _wrong(
                where, "qa", entry, 'a list of {"question": ..., "answer": ...} or of pairs of texts'
            )
        pairs.append((_text(where, "qa", pair[0]), _text(where, "qa", pair[1])))
    return tuple(pairs)


def file_source(
    path: str | os.PathLike[str], start: float = 0.0, end: float | None = None, **said: Any
) -> VideoSource:
    """A file, or a part of it.

    Args:
        path: the file's.
        start: seconds from its beginning.
        end: where the part ends, in seconds; None: with the file.
        said: caption and qa.

    Returns:
        the source, named by the absolute path and the part.

    Raises:
        UserError: where the name is not UTF-8.
    """
    whole = os.path.abspath(path)
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise UserError(f"the name of {whole!a} is not UTF-8; rename the file") from None
    part = f"#t={_number(start)},{'' if end is None else _number(end)}" if start or end is not None else ""
    return VideoSource(whole + part, whole, start, end, **said)


def _number(seconds: float) -> str:
    return repr(seconds).removesuffix(".0")
