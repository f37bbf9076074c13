"""What `inspect_data` found, as text for a terminal.

report {...}  --describe-->  two tables, notices, and documents in words
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ringvision.data.contact_sheet import printable

SHARES = ("source", "documents", "weight", "tokens", "examples", "loss", "of it codes")
LENGTHS = ("tokens of a document", "read", "least", "median", "90 %", "most", "over a row", "empty", "bad")
NONE = {"min": 0, "median": 0, "p90": 0, "max": 0}


def describe(report: Mapping[str, Any]) -> str:
    """The report for a terminal; no line breaks or controls come from the data."""
    loss = report["loss"]
    lines = [
        f"{report['rows']} rows of {report['length']:,} tokens, {report['fill']:.1%} filled (the emptiest "
        f"{report['least_fill']:.1%}), with {report['pieces_a_row']:.1f} documents or parts of one each",
        f"loss: {loss['text']:.1%} on words, {loss['vision']:.1%} on codes",
        "",
        *_table([SHARES, *map(_share_line, report["sources"])]),
        "",
        *_table([LENGTHS, *map(_length_line, report["sources"])]),
        *(f"bad: {printable(named)}" for source in report["sources"] for named in source["named"]),
        *(f"note: {printable(notice)}" for notice in report["notices"]),
    ]
    if report["examples"]:
        lines += ["", "documents in words; what counts in the loss stands between « and »:"]
    for example in report["examples"]:
        counts = f"{example['tokens']:,} tokens, {example['counted']:,} of which count"
        lines += [
            "",
            f"{printable(example['source'])}, document {example['document']}: {counts}",
            f"  {printable(example['text'])}",
        ]
    if report["out"]:
        lines += ["", f"pictures: {printable(report['out'])}"]
    return "\n".join(lines)


def _share_line(source: Mapping[str, Any]) -> list[str]:
    share = source["share"]
    shares = [share["wanted"], share["tokens"], share["examples"], share["loss"], source["loss"]["vision"]]
    return [_named(source), f"{source['documents']:,}", *(f"{part:.1%}" for part in shares)]


def _length_line(source: Mapping[str, Any]) -> list[str]:
    lengths = source["lengths"] or NONE
    counts = [source["read"], *lengths.values(), source["longer"], source["empty"], source["bad"]]
    return [_named(source), *(f"{count:,}" for count in counts)]


def _named(source: Mapping[str, Any]) -> str:
    """What a source is called in a table: its kind, and the last part of where it lies."""
    return printable(f"{source['kind']} {os.path.basename(source['name'].rstrip('/'))}")[:40]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]
