"""The question files of public video benchmarks -> VideoQuestions, by the fields that each of them has.

    activitynet-qa   test_q.json {video_name, question, question_id}, test_a.json {answer, type, question_id}
    msvd-qa          test_qa.json {id, video_id, question, answer}
    msrvtt-qa        test_qa.json {id, video_id, question, answer, category_id}
    tgif-qa          Test_*_question.csv, between tabs {gif_name, question, answer}, of action and transition
                     {a1 … a5} too, of frames {type}
    video-mme        test-*.parquet {question_id, videoID, question, options, answer, duration, domain,
                     task_type}
    lvbench          video_info.meta.jsonl {key, type, qa: [{uid, question, answer, question_type,
                     time_reference}]}; or a row a question, as it is passed on {key, uid, …}

What a file says is text to ask and to compare, and a name to look up among the files that there are; nothing
else is done with it.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ringvision.errors import UserError
from ringvision.evaluate.qa_rows import FieldValues, read_rows
from ringvision.options import closest

LETTERS = "ABCDEFGHIJ"
LONGEST = 20_000
"""Characters of a text."""
_ACTIVITYNET_TYPES = (
    "motion", "spatial relation", "temporal relation", "yes or no", "colour", "object", "location", "number",
    "other",
)  # fmt: skip
_TGIF_TYPES = ("object", "number", "colour", "location")
_OPTION = re.compile(r"^\s*\(?([A-J])[).:]\s*(.*)$")


@dataclass(frozen=True)
class VideoQuestion:
    """A question about a video.

    key: unique in its file (its number there where it has no id). video: its name, without a folder. text:
    without its options. answer: of several choices the letter. options: what there is to choose from; () for
    an open question. kind, category, duration: of the question and the video, as the file has them; "" where
    it has not. time_reference: where in the video the answer is.
    """

    key: str
    video: str
    text: str
    answer: str
    options: tuple[str, ...] = ()
    kind: str = ""
    category: str = ""
    duration: str = ""
    time_reference: str = ""


@dataclass(frozen=True)
class _Format:
    """fields: that tell it from the others. read: (where, row) -> the questions of a row."""

    fields: tuple[str, ...]
    read: Callable[[str, FieldValues], Iterator[VideoQuestion]]


def _text(where: str, row: FieldValues, name: str, usual: str | None = None) -> str:
    """A field as text. UserError where it is missing, or no text and no whole number."""
    value = row.get(name, usual)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or (usual is None and not value.strip()):
        raise UserError(f"{where}: {name} is {_shown(value)}; expected text")
    if len(value) > LONGEST:
        raise UserError(f"{where}: {name} has {len(value)} characters; expected at most {LONGEST}")
    return " ".join(value.split()) if name != "question" else value.strip()


def _shown(value: Any) -> str:
    shown = repr(value)
    return "missing" if value is None else shown if len(shown) <= 60 else shown[:57] + "..."


def _first_word(question: str) -> str:
    """The kind of a question of MSVD-QA and MSRVTT-QA: what, who, how, when or where."""
    word = question.split()[0].casefold()
    return word if word in ("what", "who", "how", "when", "where") else "other"


def _short_open(where: str, row: FieldValues) -> Iterator[VideoQuestion]:
    """Of MSVD-QA and MSRVTT-QA."""
    question = _text(where, row, "question")
    yield VideoQuestion(
        _text(where, row, "id"),
        _text(where, row, "video_id"),
        question,
        _text(where, row, "answer"),
        kind=_first_word(question),
        category=_text(where, row, "category_id", ""),
    )


def _activitynet(where: str, row: FieldValues) -> Iterator[VideoQuestion]:
    number = row.get("type")
    known = isinstance(number, int) and 0 <= number < len(_ACTIVITYNET_TYPES)
    yield VideoQuestion(
        _text(where, row, "question_id"),
        _text(where, row, "video_name"),
        _text(where, row, "question"),
        _text(where, row, "answer"),
        kind=_ACTIVITYNET_TYPES[number] if known else "",  # type: ignore[index]
    )


def _tgif(where: str, row: FieldValues) -> Iterator[VideoQuestion]:
    choices = [name for name in row if re.fullmatch(r"a\d", name)]
    options = tuple(_text(where, row, name) for name in sorted(choices))
    answer = _text(where, row, "answer")
    number = str(row.get("type", ""))
    kind = "count" if answer.isdecimal() else "frame"
    if options:
        if not answer.isdecimal() or int(answer) >= len(options):
            raise UserError(f"{where}: answer is {answer!r}; expected a number below {len(options)}")
        answer = LETTERS[int(answer)]
        kind = "choice"
    elif number.isdecimal() and int(number) < len(_TGIF_TYPES):
        kind = _TGIF_TYPES[int(number)]
    video = _text(where, row, "gif_name")
    yield VideoQuestion("", video, _text(where, row, "question"), answer, options, kind)


def _video_mme(where: str, row: FieldValues) -> Iterator[VideoQuestion]:
    given = row.get("options")
    if not isinstance(given, list) or not 2 <= len(given) <= len(LETTERS):
        raise UserError(f"{where}: options is {_shown(given)}; expected a list of 2 to {len(LETTERS)} texts")
    options = [_text(where, {"options": one}, "options") for one in given]
    yield VideoQuestion(
        _text(where, row, "question_id"),
        _text(where, row, "videoID"),
        _text(where, row, "question"),
        _letter(where, row, len(options)),
        tuple(found[2] if (found := _OPTION.match(option)) else option for option in options),
        kind=_text(where, row, "task_type", ""),
        category=_text(where, row, "domain", ""),
        duration=_text(where, row, "duration", ""),
    )


def _lvbench(where: str, row: FieldValues) -> Iterator[VideoQuestion]:
    held = row.get("qa", [row])
    if not isinstance(held, list) or not all(isinstance(one, Mapping) for one in held):
        raise UserError(f"{where}: qa is {_shown(held)}; expected a list of questions")
    video = _text(where, row, "key")
    for one in held:
        lines = _text(where, one, "question").splitlines()
        found = [_OPTION.match(line) for line in lines]
        options = tuple(option[2].strip() for option in found if option)
        if len(options) < 2:
            raise UserError(f"{where}: the question {_shown(lines[0])} names no options (A), (B), …")
        kinds = one.get("question_type")
        kind = ", ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds or "")
        yield VideoQuestion(
            f"{video}/{_text(where, one, 'uid')}",
            video,
            " ".join(line.strip() for line, option in zip(lines, found) if not option),
            _letter(where, one, len(options)),
            options,
            kind=kind[:200],
            category=_text(where, row, "type", ""),
            time_reference=_text(where, one, "time_reference", ""),
        )


def _letter(where: str, row: FieldValues, options: int) -> str:
    answer = _text(where, row, "answer").strip("(). ").upper()
    if len(answer) != 1 or answer not in LETTERS[:options]:
        raise UserError(f"{where}: answer is {answer!r}; expected a letter from A to {LETTERS[options - 1]}")
    return answer


FORMATS = {
    "activitynet-qa": _Format(("video_name", "question", "question_id"), _activitynet),
    "msrvtt-qa": _Format(("video_id", "question", "answer", "id", "category_id"), _short_open),
    "msvd-qa": _Format(("video_id", "question", "answer", "id"), _short_open),
    "tgif-qa": _Format(("gif_name", "question", "answer"), _tgif),
    "video-mme": _Format(("question_id", "videoID", "question", "options", "answer"), _video_mme),
    "lvbench": _Format(("key", "qa"), _lvbench),
}
_FLAT_LVBENCH = ("key", "uid", "question", "answer")
_COLUMNS = (
    "question_id", "videoID", "question", "options", "answer", "duration", "domain", "task_type", "key",
    "uid", "question_type", "time_reference", "type", "video_id", "id", "category_id", "video_name",
    "gif_name", "qa",
)  # fmt: skip


def read_questions(
    path: str | os.PathLike[str], form: str = "auto", answers: str | os.PathLike[str] | None = None
) -> tuple[str, list[VideoQuestion]]:
    """The questions of a file.

    Args:
        path: of the questions, or a folder that holds one such file.
        form: one of FORMATS, or "auto": by the fields of the first row.
        answers: the file of the answers where they are apart, as ActivityNet-QA's are (None: X_a.json beside
            X_q.json).

    Returns:
        The name of the format, and the questions in their order, at least one, each of another key.

    Raises:
        UserError: for a file that cannot be read, of no format that is known, or without a question.
    """
    path = _file(Path(path))
    rows = read_rows(path, _COLUMNS)
    name = _form_of(path, rows[0]) if form == "auto" else form
    if name not in FORMATS:
        hint = closest(name, list(FORMATS)) or f"there are {', '.join(FORMATS)}"
        raise UserError(f"there is no format {name!r}: {hint}")
    if name == "activitynet-qa" and "answer" not in rows[0]:
        rows = _with_answers(path, rows, answers)
    found: dict[str, VideoQuestion] = {}
    for number, row in enumerate(rows, start=1):
        for question in FORMATS[name].read(f"{path}, question {number}", row):
            question = replace(question, key=question.key or str(number))
            if question.key in found:
                raise UserError(
                    f"{path}, question {number}: the id {question.key!r} comes twice; expected each once"
                )
            found[question.key] = question
    if not found:
        raise UserError(f"{path} holds no question; give a file that has some")
    return name, list(found.values())


def _file(path: Path) -> Path:
    """The file itself, or the one file of questions in a folder."""
    if not path.is_dir():
        return path
    endings = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
    found = sorted(
        one
        for one in path.iterdir()
        if one.suffix.lower() in endings and one.is_file() and not one.stem.endswith("_a")
    )
    if len(found) != 1:
        held = ", ".join(one.name for one in found[:5]) or "none"
        raise UserError(f"{path} holds {len(found)} files of questions ({held}); give the one to ask")
    return found[0]


def _form_of(path: Path, row: FieldValues) -> str:
    for name, form in FORMATS.items():
        if all(field in row for field in form.fields):
            return name
    if all(field in row for field in _FLAT_LVBENCH):
        return "lvbench"
    held = ", ".join(map(str, row))[:200]
    raise UserError(
        f"{path} has the fields {held}, which are those of no format that is known "
        f"({', '.join(FORMATS)}); give a file as its benchmark publishes it"
    )


def _with_answers(
    path: Path, rows: Sequence[FieldValues], answers: str | os.PathLike[str] | None
) -> list[FieldValues]:
    """Questions and answers joined by question_id. UserError where one has no answer."""
    beside = path.with_name(re.sub(r"_q$", "_a", path.stem) + path.suffix)
    if answers is None and (beside == path or not beside.is_file()):
        raise UserError(f"{path} has questions without answers; give their file as --answers")
    file = beside if answers is None else Path(answers)
    known = {_id(file, row): row for row in read_rows(file, _COLUMNS)}
    without = [row for row in rows if _id(path, row) not in known]
    if without:
        raise UserError(
            f"{len(without)} of {len(rows)} questions have no answer, {_id(path, without[0])!r} among them; "
            "give the answers of this file as --answers"
        )
    return [{**known[_id(path, row)], **row} for row in rows]


def _id(path: Path, row: FieldValues) -> str:
    return _text(str(path), row, "question_id")
