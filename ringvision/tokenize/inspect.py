"""What a folder of tokens holds: counts, lengths, which codes are used, what failed, and a sheet of pictures
decoded back from codes.

    folder of shards (and manifest.sqlite) -> inspect -> report {...} -> describe -> text for people
                                                      -> contact sheet, PNG or HTML, with a tokenizer

Records are read one after another and forgotten: memory holds one of them, a count for each code, and the
sheet (data/contact_sheet.py).
"""

import contextlib
import math
import os
import sqlite3
import statistics
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ringvision.data.contact_sheet import FRAMES_SHOWN, SheetRow, plain, sheet_path, spread, write_sheet
from ringvision.data.tokenized import Format, TokenizedVideo, format_of
from ringvision.errors import UserError

MOST_CODES = 1 << 24
NAMED = 10


class CodeDecoder(Protocol):
    """What is asked of a tokenizer (video_tokenizer.VideoTokenizer is one)."""

    @property
    def num_codes(self) -> int: ...
    @property
    def hash(self) -> str: ...
    def decode(self, codes: np.ndarray, dtype: Any = ...) -> np.ndarray:
        """int32 [T, h, w] -> frames [T, H, W, 3] of `dtype`."""
        ...


@dataclass
class Tally:
    """What is kept of the records that were read. counts: int64 [codes], how often each was used."""

    counts: np.ndarray
    frames: array = field(default_factory=lambda: array("q"))
    seconds: float = 0.0
    captions: int = 0
    questions: int = 0
    tokenizer: str = ""
    grids: set[tuple[int, int]] = field(default_factory=set)
    rates: set[float] = field(default_factory=set)
    sizes: set[int] = field(default_factory=set)


def inspect(
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    tokenizer: CodeDecoder | str | os.PathLike[str] | None = None,
    videos: int = 12,
) -> dict[str, Any]:
    """Reads every record of a folder that `ringvision tokenize` wrote.

    Args:
        folder: of shards.
        out: a picture or page (.png, .html) to be written, with a row of frames for each of `videos` videos,
            evenly spread over the folder; needs `tokenizer`.
        tokenizer: the one that made the codes, or its folder.
        videos: how many of them the sheet shows.

    Returns:
        {"format", "shards", "videos", "frames", "codes", "hours", "captions", "questions", "tokenizer",
        "grid",
        "size", "fps", "lengths": {"min", "median", "max"}, in frames, "num_codes" (None where nothing says
        it),
        "codes_used", "perplexity", "most_used" and "least_used": [code, times] pairs, "unused": how many
        codes
        were never used, "unused_codes": the first of them, "histogram": [{"from", "to", "codes"}], codes used
        from .. to times, "status": {status: inputs} and "failures": {kind: inputs}, of manifest.sqlite, None
        where the folder has none, "out"}.

    Raises:
        UserError: where the folder holds no tokens, is damaged, or was made by another tokenizer, and where
        `out` cannot be made.
    """
    sheet = None if out is None else _sheet_path(out, tokenizer, videos)
    format = format_of(folder)
    paths = format.shards(folder)
    decoder = _load(tokenizer)
    known = format.num_codes(folder) or (decoder.num_codes if decoder else None)
    tally = Tally(np.zeros(min(known or 0, MOST_CODES), np.int64))
    chosen = spread(sum(map(format.count, paths)), videos) if sheet else set()
    rows = []
    for number, example in enumerate(_examples(format, paths)):
        _same_tokenizer(folder, tally, example, decoder)
        _count(folder, tally, example, known)
        if number in chosen and decoder:
            rows.append(_row(example, decoder))
    report = {
        "format": format.name,
        "shards": len(paths),
        **_summary(tally),
        "num_codes": known,
        **_usage(tally.counts),
        **_manifest(folder),
        "out": str(sheet) if sheet else None,
    }
    if sheet:
        write_sheet(sheet, f"Tokens of {folder}", describe(report), rows)
    return report


def describe(report: dict[str, Any]) -> str:
    """The report as a table and a histogram, for a terminal; no line breaks come from the data."""
    lengths = report["lengths"]
    total = report["num_codes"]
    table = [
        ("format", f"{report['format']}, {_many(report['shards'], 'shard')}"),
        (
            "videos",
            f"{report['videos']:,}, {report['captions']:,} with a caption, "
            f"{_many(report['questions'], 'question')}",
        ),
        (
            "frames",
            f"{report['frames']:,} of {_either(report['grid'])} codes, from "
            f"{_either(report['size'])} pixels a side",
        ),
        ("codes", f"{report['codes']:,}"),
        ("hours", f"{report['hours']:.3f} at {_either(report['fps'])} frames a second"),
        ("frames a video", f"{lengths['min']:,} to {lengths['max']:,}, median {lengths['median']:,}"),
        ("tokenizer", report["tokenizer"] or "unknown"),
        (
            "codes used",
            f"{report['codes_used']:,}"
            + (f" of {total:,} ({report['codes_used'] / total:.1%})" if total else ""),
        ),
        ("perplexity", f"{report['perplexity']:.1f}"),
        ("most used", _pairs(report["most_used"])),
        ("least used", _pairs(report["least_used"])),
        ("never used", _never(report)),
        *((f"inputs {status}", f"{count:,}") for status, count in (report["status"] or {}).items()),
        *((f"failed: {kind}", f"{count:,}") for kind, count in (report["failures"] or {}).items()),
        *([("contact sheet", report["out"])] if report["out"] else []),
    ]
    width = max(len(plain(name)) for name, _ in table)
    lines = [f"{plain(name):<{width}}  {plain(value)}" for name, value in table]
    return "\n".join(
        [*lines, "", "how often a code is used, and how many codes are:", *_bars(report["histogram"])]
    )


def _examples(format: Format, paths: Sequence[Path]) -> Iterator[TokenizedVideo]:
    for path in paths:
        for number, record in enumerate(format.stream(path)):
            try:
                example = format.decode(record)
            except UserError as error:
                raise UserError(f"{path}, example {number}: {error}") from None
            yield example


def _same_tokenizer(
    folder: str | os.PathLike[str], tally: Tally, example: TokenizedVideo, decoder: CodeDecoder | None
) -> None:
    expected = decoder.hash if decoder else tally.tokenizer or example.tokenizer
    if example.tokenizer != expected:
        given, wanted = (
            ("the one given", "the tokenizer that made the folder")
            if decoder
            else ("the one before", "a folder of one tokenizer")
        )
        made = plain(example.tokenizer)[:12]
        other = plain(expected)[:12]
        raise UserError(
            f"{folder}: {plain(example.source)} was encoded by tokenizer {made}, {given} is "
            f"{other}; give {wanted}"
        )
    tally.tokenizer = example.tokenizer


def _count(folder: str | os.PathLike[str], tally: Tally, example: TokenizedVideo, known: int | None) -> None:
    most = int(example.codes.max())
    limit = min(known or MOST_CODES, MOST_CODES)
    if most >= limit:
        raise UserError(
            f"{folder}: {plain(example.source)} holds code {most}, expected below {limit}; tokenize it again"
        )
    counted = np.bincount(example.codes.ravel(), minlength=len(tally.counts))
    counted[: len(tally.counts)] += tally.counts
    tally.counts = counted
    tally.frames.append(len(example.codes))
    tally.seconds += float(example.times[-1] - example.times[0]) + (1 / example.fps if example.fps > 0 else 0)
    tally.captions += bool(example.caption)
    tally.questions += len(example.qa)
    tally.grids.add((int(example.codes.shape[1]), int(example.codes.shape[2])))
    tally.rates.add(example.fps)
    tally.sizes.add(example.size)


def _summary(tally: Tally) -> dict[str, Any]:
    lengths = tally.frames or array("q", [0])
    return {
        "videos": len(tally.frames),
        "frames": sum(tally.frames),
        "codes": int(tally.counts.sum()),
        "hours": tally.seconds / 3600,
        "captions": tally.captions,
        "questions": tally.questions,
        "tokenizer": tally.tokenizer,
        "grid": [f"{rows}x{columns}" for rows, columns in sorted(tally.grids)],
        "size": sorted(tally.sizes),
        "fps": sorted(tally.rates),
        "lengths": {"min": min(lengths), "median": statistics.median(lengths), "max": max(lengths)},
    }


def _usage(counts: np.ndarray) -> dict[str, Any]:
    used = np.flatnonzero(counts)
    unused = np.flatnonzero(counts == 0)
    ranked = used[np.argsort(-counts[used], kind="stable")]
    shares = counts[used] / max(counts.sum(), 1)
    histogram = [{"from": 0, "to": 0, "codes": len(unused)}]
    low = 1
    while used.size and low <= counts.max():
        histogram.append(
            {"from": low, "to": 2 * low - 1, "codes": int(((counts >= low) & (counts < 2 * low)).sum())}
        )
        low *= 2
    return {
        "codes_used": len(used),
        "perplexity": math.exp(-float((shares * np.log(shares)).sum())) if used.size else 0.0,
        "most_used": [[int(code), int(counts[code])] for code in ranked[:NAMED]],
        "least_used": [[int(code), int(counts[code])] for code in ranked[::-1][:NAMED]],
        "unused": len(unused),
        "unused_codes": unused[:NAMED].tolist(),
        "histogram": histogram,
    }


def _manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    path = Path(folder).absolute() / "manifest.sqlite"
    if not path.is_file():
        return {"status": None, "failures": None}
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            status = database.execute(
                "SELECT status, COUNT(*) FROM videos GROUP BY status ORDER BY status"
            ).fetchall()
            failed = database.execute(
                "SELECT COALESCE(kind, 'unknown'), COUNT(*) FROM videos WHERE status = 'failed' "
                "GROUP BY 1 ORDER BY 2 DESC, 1"
            ).fetchall()
            return {"status": dict(status), "failures": dict(failed)}
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be read ({error}); remove it to inspect the shards alone") from None


def _row(example: TokenizedVideo, decoder: CodeDecoder) -> SheetRow:
    shown = sorted(spread(len(example.codes), FRAMES_SHOWN))
    pictures = np.asarray(decoder.decode(example.codes[shown].astype(np.int32), dtype=np.uint8))
    times = example.times[shown]
    label = (
        f"{os.path.basename(example.source)}: {_many(len(example.codes), 'frame')}, "
        f"{times[0]:.1f} to {times[-1]:.1f} s"
    )
    said = [example.caption, *(f"{question} {answer}" for question, answer in example.qa)]
    return SheetRow(label, said, pictures)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _either(values: Sequence[Any]) -> str:
    return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values) or "?"


def _pairs(pairs: Sequence[Sequence[int]]) -> str:
    return ", ".join(f"{code} ({times:,})" for code, times in pairs[:5]) or "none"


def _never(report: dict[str, Any]) -> str:
    shown = ", ".join(map(str, report["unused_codes"]))
    return f"{report['unused']:,}" + (
        f": {shown}{', ...' if report['unused'] > len(report['unused_codes']) else ''}" if shown else ""
    )


def _bars(histogram: Sequence[dict[str, int]]) -> list[str]:
    most = max(1, *(bin["codes"] for bin in histogram))
    names = [
        f"{bin['from']:,}" if bin["from"] == bin["to"] else f"{bin['from']:,} to {bin['to']:,}"
        for bin in histogram
    ]
    width = max(map(len, names))
    return [
        f"  {name:>{width}}  {bin['codes']:>7,}  {'#' * -(-40 * bin['codes'] // most)}".rstrip()
        for name, bin in zip(names, histogram)
    ]


def _sheet_path(out: str | os.PathLike[str], tokenizer: Any, videos: int) -> Path:
    path = sheet_path(out)
    if tokenizer is None:
        raise UserError(
            f"{out} would show pictures decoded from codes, and no tokenizer was given; give the "
            "one that made the folder"
        )
    if videos < 1:
        raise UserError(f"{out} would show {videos} videos; give at least 1")
    return path


def _load(tokenizer: CodeDecoder | str | os.PathLike[str] | None) -> CodeDecoder | None:
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    from ringvision.video_tokenizer import load_video_tokenizer

    return load_video_tokenizer(tokenizer)
