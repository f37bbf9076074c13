"""Questions about videos that people know (MSVD-QA, Video-MME and others), on files that the user has.

    question file ─qa_formats→ VideoQuestions ─by video→ ask_many, one reading of the video → rows → scores

Questions about one video share one reading of it and are answered as batches. What is not there is counted
and named: a video without a file, or one that cannot be read, or is longer than the model reads.
"""

import hashlib
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from ringvision.errors import UserError
from ringvision.evaluate.earlier import Scores, comparison
from ringvision.evaluate.length_and_depth import percent, share_right
from ringvision.evaluate.progress import TimeLeft
from ringvision.evaluate.qa_answers import chosen_letter, is_right, prompt
from ringvision.evaluate.qa_formats import VideoQuestion
from ringvision.evaluate.result_log import ResultLog, Row
from ringvision.evaluate.video_tasks import settings_of
from ringvision.evaluate.whole_numbers import check_least

KIND = "qa"
TOGETHER = 16
"""Questions about a video that are asked as one batch."""
ANSWER_TOKENS = 32
NAMED = 10
"""Videos that are named in what is printed; the JSON names all."""
PARTS = ("kind", "category", "duration")
"""Fields of a question by which scores are given."""


class BatchAnswerer(Protocol):
    """What is evaluated: anything with the assistant's `ask_many`."""

    def ask_many(
        self, videos: Any, questions: Sequence[str], fps: float = 1.0, *, max_tokens: int = 128
    ) -> Sequence[Any]: ...


@dataclass(frozen=True)
class QaSettings:
    """What is asked.

    fps: frames a second that are read. max_tokens: the longest answer. examples: how many questions (None:
    all), those of videos drawn by `seed`. UserError for what cannot be asked.
    """

    fps: float = 1.0
    max_tokens: int = ANSWER_TOKENS
    examples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, max_tokens=1, examples=1, seed=0)


def evaluate_qa(
    assistant: BatchAnswerer,
    form: str,
    questions: Sequence[VideoQuestion],
    videos: Mapping[str, Path],
    settings: QaSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    earlier: Mapping[str, Scores] | None = None,
    command: str = "",
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Asks all questions of which there is the video.

    Args:
        assistant: what is evaluated.
        form: the name of the questions' format.
        questions: as read_questions gives them.
        videos: the file of each video's name, as find_videos gives them; others are missing.
        settings: how they are asked (None: the defaults).
        out: a folder for settings.json, results.jsonl, result.json and result.md; from there a run that was
            stopped goes on, and tries again what could not be read (None: nothing is written).
        earlier: scores of earlier runs that stand beside these, as read_earlier gives them.
        command: that was given, for the record.
        progress: where it is printed how far it is (None: nowhere).

    Returns:
        {"accuracy", "examples", "chance": of guessing among the options (None: open questions), "open",
        "choices": the accuracy of either (None: there is none), "unclear": the answers in which no option was
        found, "kind", "category", "duration": {name: {"accuracy", "examples"}}, "missing": {"videos": their
        names, "questions"}, "unreadable": {name: why}, "scores", "record"}. Scores are in [0, 1] and of the
        questions that were asked.

    Raises:
        UserError: no video could be read;; for `out` as ResultLog.
    """
    settings = settings or QaSettings()
    chosen = choose(questions, settings)
    here = [question for question in chosen if question.video in videos]
    kept = {"kind": KIND, "format": form, "questions": _fingerprint(questions), **asdict(settings)}
    with ResultLog(out, {**kept, **settings_of(assistant)}, command) as log:
        unreadable = _ask_all(assistant, here, videos, settings, log, progress)
        if not log.rows:
            raise UserError(f"no video could be read: {next(iter(unreadable.values()), 'there is none')}")
        result = _scores(log, assistant, chosen, videos, unreadable)
        log.finish(result, qa_text(result, earlier))
    return result


def choose(questions: Sequence[VideoQuestion], settings: QaSettings) -> list[VideoQuestion]:
    """The questions that are asked, those about one video one after another: all, or those of videos drawn by
    the seed until there are as many as `examples`.
    """
    by_video = defaultdict(list)
    for question in questions:
        by_video[question.video].append(question)
    groups = list(by_video.values())
    if settings.examples is None:
        return [question for group in groups for question in group]
    order = np.random.default_rng([settings.seed, 16]).permutation(len(groups))
    drawn = [question for index in order for question in groups[index]]
    return drawn[: settings.examples]


def _fingerprint(questions: Sequence[VideoQuestion]) -> str:
    """Tells these questions from others."""
    return hashlib.sha256(repr(list(questions)).encode()).hexdigest()


def _ask_all(
    assistant: BatchAnswerer,
    questions: Sequence[VideoQuestion],
    videos: Mapping[str, Path],
    settings: QaSettings,
    log: ResultLog,
    progress: TextIO | None,
) -> dict[str, str]:
    """Asks what is not in the log yet; -> why videos could not be asked about, by name."""
    waiting = defaultdict(list)
    for question in questions:
        if question.key not in log:
            waiting[question.video].append(question)
    unreadable: dict[str, str] = {}
    time_left = TimeLeft(progress, log, len(questions), sum(map(len, waiting.values())))
    for video, group in waiting.items():
        for first in range(0, len(group), TOGETHER):
            some = group[first : first + TOGETHER]
            texts = [prompt(question) for question in some]
            try:
                replies = assistant.ask_many(
                    [videos[video]], texts, settings.fps, max_tokens=settings.max_tokens
                )
                answers = [reply.text for reply in replies]
            except UserError as error:
                unreadable[video] = str(error)
                break
            for question, reply, answer in zip(some, replies, answers):
                log.add(_row(question, reply, answer))
        time_left.done(len(group))
    return unreadable


def _row(question: VideoQuestion, reply: Any, answer: str) -> Row:
    chosen = chosen_letter(answer, question.options) if question.options else None
    return {
        "key": question.key,
        "video": question.video,
        **{part: getattr(question, part) for part in PARTS},
        "time_reference": question.time_reference,
        "question": question.text,
        "options": list(question.options),
        "expected": question.answer,
        "answer": answer,
        "chosen": chosen,
        "right": is_right(question, answer),
        "finish": getattr(reply, "finish", None),
        "frames": getattr(reply, "frames", None),
        "tokens": getattr(reply, "video_tokens", None),
    }


def _scores(
    log: ResultLog,
    assistant: Any,
    asked: Sequence[VideoQuestion],
    videos: Mapping[str, Path],
    unreadable: Mapping[str, str],
) -> dict[str, Any]:
    rows = list(log.rows.values())
    choices = [row for row in rows if row["options"]]
    missing = Counter(question.video for question in asked if question.video not in videos)
    parts = {part: _by(rows, part) for part in PARTS}
    accuracy = share_right(rows)
    names = {f"{part} {name}": cell["accuracy"] for part in PARTS for name, cell in parts[part].items()}
    return {
        "accuracy": accuracy,
        "examples": len(rows),
        "chance": float(np.mean([1 / len(row["options"]) for row in choices])) if choices else None,
        "open": share_right([row for row in rows if not row["options"]]),
        "choices": share_right(choices),
        "unclear": sum(row["chosen"] is None for row in choices),
        **parts,
        "missing": {"videos": list(missing), "questions": missing.total()},
        "unreadable": dict(unreadable),
        "scores": {"all": accuracy, **names},
        "record": {
            **log.settings,
            "pixels": getattr(getattr(assistant, "tokenizer", None), "size", None),
            "read": {name: max((row[name] or 0 for row in rows), default=0) for name in ("frames", "tokens")},
            "runs": log.runs,
        },
    }


def _by(rows: Sequence[Row], part: str) -> dict[str, dict[str, Any]]:
    """The scores by a field of the rows, those that have it; one that is of several kinds counts in each."""
    found = defaultdict(list)
    for row in rows:
        for name in filter(None, row[part].split(", ")):
            found[name].append(row)
    return {
        name: {"accuracy": share_right(found[name]), "examples": len(found[name])} for name in sorted(found)
    }


def qa_text(result: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> str:
    """The scores for people, in markdown.

    Args:
        result: as evaluate_qa gives it.
        earlier: the scores of other runs by name, for a table beside them.
    """
    chance = "" if result["chance"] is None else f" (chance {result['chance']:.1%})"
    lines = [
        f"{result['record']['format']}: {percent(result['accuracy'])} of {result['examples']} questions right"
        f"{chance}.",
        "",
        "| | accuracy | examples |",
        "|---|---|---|",
    ]
    for part in PARTS:
        for name, cell in result[part].items():
            shown = name.replace("|", "/")
            lines.append(f"| {part}: {shown} | {percent(cell['accuracy'])} | {cell['examples']} |")
    if result["unclear"]:
        lines += ["", f"In {result['unclear']} answers no option was found; they count as wrong."]
    if videos := result["missing"]["videos"]:
        lines += [
            "",
            f"Not there: {len(videos)} videos with {result['missing']['questions']} questions: "
            f"{_some(videos)}.",
        ]
    if unreadable := result["unreadable"]:
        why = [f"{name} ({reason})" for name, reason in unreadable.items()]
        lines += ["", f"Could not be asked about: {_some(why)}."]
    if beside := comparison(result["scores"], earlier or {}):
        lines += ["", *beside]
    if command := result["record"]["runs"][-1]["command"]:
        lines += ["", f"`{command}`"]
    return "\n".join(lines) + "\n"


def _some(names: Sequence[str]) -> str:
    further = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + further
