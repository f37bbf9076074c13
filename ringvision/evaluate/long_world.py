"""How well an assistant answers questions about long videos of the world, by kind of question.

In: an assistant, the length of the videos, a number of questions. Out: as evaluate/world.py, the share of
right answers beside what guessing evenly (`chance`) and a model that never sees a video (`blind`) score.
"""

import os
import re
import sys
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any, TextIO

from ringvision.data.world import (
    HELD_OUT,
    LONG_KINDS,
    Question,
    long_chance,
    long_questions,
    make_long_scene,
)
from ringvision.errors import UserError
from ringvision.evaluate.result_log import ResultLog
from ringvision.evaluate.video_tasks import (
    Asking,
    QuestionAnswerer,
    VideoTask,
    ask_all,
    check_length,
    settings_of,
)
from ringvision.evaluate.world import SEED_STRIDE, BlindModel, scores_of

BLIND_SECONDS = 200_000
"""How much video of training the blind model learns from, in seconds; at most BLIND_SCENES scenes."""
BLIND_SCENES = 1000
_TIME = re.compile(r"\d+ minutes?(?: \d+ seconds?)?|\d+ seconds?")


def evaluate_long_world(
    assistant: QuestionAnswerer,
    seconds: int,
    examples: int = 240,
    seed: int = 0,
    *,
    fps: float = 1.0,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    blind_scenes: int | None = None,
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Asks about held-out scenes of one length; all questions about one are asked in succession.

    Args:
        assistant: what is evaluated.
        seconds: the length of each video.
        examples: how many questions to ask, spread evenly over LONG_KINDS, at most one of a kind about a
            scene.
        seed: which scenes.
        fps: frames a second that the assistant is to read.
        out: a folder for what is found, as evaluate_needle has it, without a picture.
        command: that was given, for the record.
        blind_scenes: how many scenes of training the blind model learns from (None: see BLIND_SECONDS).
        progress: where it is printed how far it is (None: nowhere).

    Returns:
        {"overall", "examples", "chance", "blind", "kinds": {kind: {"accuracy", "examples", "chance",
        "blind"}}, "record"}, scores in [0, 1].

    Raises:
        UserError: there are fewer examples than kinds, the length is not that of a long scene, or the
            assistant does not read as much; for `out` as ResultLog.
    """
    tasks = long_tasks(seconds, examples, seed)
    longest = max((asking.text for task in tasks for asking in task.askings), key=len)
    check_length(assistant, seconds, longest, fps)
    settings = {"kind": "long world", "seconds": seconds, "examples": examples, "seed": seed, "fps": fps}
    with ResultLog(out, {**settings, **settings_of(assistant)}, command) as log:
        ask_all(assistant, tasks, log, fps=fps, progress=progress)
        scenes = blind_scenes or max(20, min(BLIND_SCENES, BLIND_SECONDS // seconds))
        result = {**_scores(log, seconds, scenes), "record": {**log.settings, "runs": log.runs}}
        log.finish(result, _text(result))
    return result


def long_tasks(seconds: int, examples: int, seed: int) -> list[VideoTask]:
    """Videos and the questions about each, so that kinds are asked evenly. UserError as above."""
    if examples < len(LONG_KINDS):
        raise UserError(
            f"{examples} examples were asked for; give at least {len(LONG_KINDS)}, one for each kind of "
            "question"
        )
    if seed < 0:
        raise UserError(f"seed {seed} was given; expected a whole number from 0 upward")
    wanted = {
        kind: examples // len(LONG_KINDS) + (index < examples % len(LONG_KINDS))
        for index, kind in enumerate(LONG_KINDS)
    }
    tasks = []
    number = HELD_OUT + seed * SEED_STRIDE
    while any(wanted.values()):
        askings: dict[str, Asking] = {}
        for question in long_questions(make_long_scene(number, seconds)):
            if wanted[question.kind] and question.kind not in askings:
                wanted[question.kind] -= 1
                askings[question.kind] = Asking(question.kind, question.text, question.answer)
        if askings:
            make = partial(make_long_scene, number, seconds)
            tasks.append(VideoTask(f"{number}", seconds, make, tuple(askings.values()), {"seed": number}))
        number += 1
    return tasks


def _scores(log: ResultLog, seconds: int, blind_scenes: int) -> dict[str, Any]:
    blind = BlindModel(
        _timeless(question)
        for seed in range(blind_scenes)
        for question in long_questions(make_long_scene(seed, seconds))
    )
    right: dict[str, list[bool]] = defaultdict(list)
    blind_right: dict[str, list[bool]] = defaultdict(list)
    for row in log.rows.values():
        question = Question(row["kind"], row["question"], row["expected"])
        right[question.kind].append(row["right"])
        asking = Asking(question.kind, question.text, question.answer)
        blind_right[question.kind].append(asking.is_right(blind.answer(_timeless(question))))
    return scores_of(
        LONG_KINDS, right, blind_right, {kind: long_chance(kind, seconds) for kind in LONG_KINDS}
    )


def _timeless(question: Question) -> Question:
    """The question with its time left out, so that the blind model finds it among others."""
    return replace(question, text=_TIME.sub("a time", question.text))


def _text(result: dict[str, Any]) -> str:
    """The scores for people, in markdown."""
    lines = ["| kind | accuracy | chance | blind | examples |", "|---|---|---|---|---|"]
    for kind, score in [*result["kinds"].items(), ("all", {**result, "accuracy": result["overall"]})]:
        shares = " | ".join(f"{score[name]:.1%}" for name in ("accuracy", "chance", "blind"))
        lines.append(f"| {kind} | {shares} | {score['examples']} |")
    if command := result["record"]["runs"][-1]["command"]:
        lines += ["", f"`{command}`"]
    return "\n".join(lines) + "\n"
