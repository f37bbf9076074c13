"""Passages of code that stand twice: runs of lines that are the same but for a few names and values.

What counts as a line is a line of code: comments, blank lines, docstrings and imports are left out before
anything is compared. Two runs of the same form count where most of their names and values are equal too.
style_report.py prints the pairs.
"""

import ast
import io
import keyword
import tokenize
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

MIN_LINES = 8
# of the names and values of two runs of the same form, the share that must be equal: below it they have only
# their form in common, as the rows of two tables do
MIN_EQUAL = 0.8
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
VALUES = {tokenize.NUMBER, tokenize.STRING}
NAMES_AND_VALUES = VALUES | {tokenize.NAME}


@dataclass(frozen=True)
class Line:
    """A line of code: its number, its names and values, and its form."""

    number: int
    words: tuple[str, ...]
    form: str  # the line with its names and values replaced
    block: int  # the line where the top-level function, class or statement around it begins


@dataclass(frozen=True)
class Pair:
    """Two blocks of code that share at least one run of lines; the lines are those of the longest run."""

    first: str  # "path:begin-end"
    second: str
    lines: int
    identical: bool


def code_lines(source: str) -> list[Line]:
    """The lines of code of a Python file, without comments, docstrings and imports."""
    tree = ast.parse(source)
    left_out: set[int] = set()
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if (docstring and isinstance(node.value.value, str)) or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, node.end_lineno + 1))
    starts: dict[int, int] = {}
    for statement in tree.body:
        starts.update(dict.fromkeys(range(statement.lineno, statement.end_lineno + 1), statement.lineno))
    words: dict[int, list[tokenize.TokenInfo]] = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT and token.type != tokenize.COMMENT and token.start[0] not in left_out:
            words[token.start[0]].append(token)
    return [
        Line(
            number,
            tuple(token.string for token in tokens if token.type in NAMES_AND_VALUES),
            " ".join(_form(token) for token in tokens),
            starts.get(number, number),
        )
        for number, tokens in sorted(words.items())
    ]


def _form(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return token.string if keyword.iskeyword(token.string) else "name"
    return "value" if token.type in VALUES else token.string


def duplicated_passages(paths: Iterable[Path], root: Path, min_lines: int = MIN_LINES) -> list[Pair]:
    """Pairs of blocks (functions, classes, statements of a module) that share runs of code.

    Args:
        paths: the Python files to compare, with each other and each with itself.
        root: the folder from which the pairs name them.
        min_lines: how long a run must be to count.

    Returns:
        The pairs, the longest first; two blocks are one pair however many runs they share.
    """
    files = {str(path.relative_to(root)): code_lines(path.read_text()) for path in paths}
    longest: dict[tuple[str, int, str, int], Pair] = {}
    for (name, begin), (other, start), length in _runs(files, min_lines):
        first = files[name][begin : begin + length]
        second = files[other][start : start + length]
        equal = _equal_words(first, second)
        if equal < MIN_EQUAL:
            continue
        blocks = (name, first[0].block, other, second[0].block)
        if blocks not in longest or length > longest[blocks].lines:
            longest[blocks] = Pair(
                f"{name}:{first[0].number}-{first[-1].number}",
                f"{other}:{second[0].number}-{second[-1].number}",
                length,
                equal == 1,
            )
    return sorted(longest.values(), key=lambda pair: (-pair.lines, pair.first, pair.second))


def _equal_words(first: list[Line], second: list[Line]) -> float:
    """Of the names and values of two runs of one form, the share that are equal."""
    pairs = [pair for line, other in zip(first, second) for pair in zip(line.words, other.words)]
    return sum(one == other for one, other in pairs) / max(len(pairs), 1)


def _runs(files: dict[str, list[Line]], min_lines: int) -> list[tuple[tuple[str, int], tuple[str, int], int]]:
    """Longest runs of lines of one form: (file, index), (file, index), how many lines. Runs do not overlap
    themselves.
    """
    windows: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, lines in files.items():
        for begin in range(len(lines) - min_lines + 1):
            windows[tuple(line.form for line in lines[begin : begin + min_lines])].append((name, begin))
    meetings: set[tuple[str, str, int, int]] = set()  # file, other file, index, the other's index minus it
    for homes in windows.values():
        for position, (name, begin) in enumerate(homes):
            for other, start in homes[position + 1 :]:
                if name != other or start - begin >= min_lines:
                    meetings.add((name, other, start - begin, begin))
    runs = []
    ordered = sorted(meetings)
    while ordered:
        name, other, shift, begin = ordered[0]
        size = 1
        for before, after in pairwise(ordered):
            if after[:3] != before[:3] or after[3] != before[3] + 1:
                break
            size += 1
        length = size + min_lines - 1
        if name == other:
            length = min(length, shift)
        runs.append(((name, begin), (other, begin + shift), length))
        ordered = ordered[size:]
    return runs
