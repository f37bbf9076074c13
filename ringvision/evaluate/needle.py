"""A needle in a haystack: a card that is shown for one second of a long video, and what was on it.

    length x depth x number -> a long scene with one card there -> "Which digit was on the card?"
                                                                    "When was the card shown?"
    length x number         -> a long scene without a card      -> "Which digit was on the card?": no card

The depth says how far into the video the card stands: 0 is its first second, 1 its last one.
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TextIO

import numpy as np

from ringvision.data.world import (
    COLOURS,
    DIGITS,
    HELD_OUT,
    MAX_LONG_SECONDS,
    MIN_LONG_SECONDS,
    NO_CARD,
    Card,
    Scene,
    long_chance,
    make_long_scene,
    one_second_card,
    time_words,
)
from ringvision.errors import UserError
from ringvision.evaluate.length_and_depth import (
    by_length,
    cells_of,
    depths_of,
    draw_cells,
    percent,
    rows_with,
    share_right,
    table_lines,
)
from ringvision.evaluate.result_log import ResultLog, Row
from ringvision.evaluate.video_tasks import (
    Asking,
    QuestionAnswerer,
    VideoTask,
    ask_all,
    check_length,
    settings_of,
)
from ringvision.evaluate.whole_numbers import check_least
from ringvision.evaluate.world import SEED_STRIDE

LENGTHS = (60, 240, 900, 1800, 3600)
DIGIT = "Which digit was on the card?"
WHEN = "When was the card shown?"
WITHIN = 2
"""By how many seconds the time of a card may be wrong."""
PIXELS = 128


@dataclass(frozen=True)
class NeedleSettings:
    """What is asked.

    lengths: of the videos, in whole seconds. depths: how many, evenly from the first second of a video to the
    last one; a single one is the middle. seeds: videos of each length and depth. fps: frames a second that
    are read. absent: whether to ask about videos without a card, too, a fifth as many. seed: which scenes.

    UserError for what cannot be asked: lengths that are not those of long scenes, less than one depth or
    video, an fps below 1, which would pass the card over.
    """

    lengths: tuple[int, ...] = LENGTHS
    depths: int = 5
    seeds: int = 20
    fps: float = 1.0
    absent: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for seconds in self.lengths:
            if not MIN_LONG_SECONDS <= seconds <= MAX_LONG_SECONDS:
                raise UserError(
                    f"a length of {seconds} seconds was given; expected {MIN_LONG_SECONDS} to "
                    f"{MAX_LONG_SECONDS}"
                )
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise UserError(f"lengths {list(self.lengths)} were given; expected at least one, each once")
        check_least(self, depths=1, seeds=1, seed=0)
        if not 1 <= self.fps < math.inf:
            raise UserError(
                f"fps {self.fps:g} was given; expected at least 1: fewer pass over a card of one second"
            )

    @property
    def places(self) -> tuple[float, ...]:
        """The depths themselves, from 0 to 1."""
        return depths_of(self.depths)


def evaluate_needle(
    assistant: QuestionAnswerer,
    settings: NeedleSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Asks about a card in long videos, by the length of the video and where in it the card is.

    Args:
        assistant: what is evaluated.
        settings: what is asked (None: the defaults).
        out: a folder for settings.json, results.jsonl, result.json, result.md and heatmap.png; from there a
            run that was stopped goes on (None: nothing is written).
        command: that was given, for the record.
        progress: where it is printed how far it is (None: nowhere).

    Returns:
        {"accuracy", "cells": [{"seconds", "depth", "accuracy", "examples", "when"}], "when": the share of
        times that are right within WITHIN seconds, "no_card": the share of videos without a card of which it
        is said that there is none (None: not asked), "no_card_cells": [{"seconds", "accuracy", "examples"}],
        "chance", "record"}. Scores are in [0, 1]; those of all cells are means over videos.

    Raises:
        UserError: a video is longer than the assistant reads; for `out` as ResultLog.
    """
    settings = settings or NeedleSettings()
    check_length(assistant, max(settings.lengths), WHEN, settings.fps)
    with ResultLog(out, {"kind": "needle", **asdict(settings), **settings_of(assistant)}, command) as log:
        ask_all(
            assistant,
            needle_tasks(settings),
            log,
            fps=settings.fps,
            file_fps=math.ceil(settings.fps),
            size=PIXELS,
            progress=progress,
        )
        result = _scores(settings, log)
        log.finish(result, needle_text(result))
        if log.folder is not None:
            draw_cells(
                log.folder / "heatmap.png",
                result["cells"],
                "seconds",
                time_words,
                title=f"The digit of a card of one second: {percent(result['accuracy'])}",
                across="length of the video",
                down="depth of the card",
            )
    return result


# ------------------------------------------------------------------------------------------ what is asked


def needle_tasks(settings: NeedleSettings) -> list[VideoTask]:
    """The videos, by length: with a card by depth, then those without one."""
    tasks = []
    for seconds in settings.lengths:
        for place, depth in enumerate(settings.places):
            random = np.random.default_rng([settings.seed, 9, seconds, place])
            digits = random.permutation(np.arange(settings.seeds) % len(DIGITS)).tolist()
            for number, digit in enumerate(digits):
                colour = str(random.choice(list(COLOURS)))
                card = one_second_card(digit, colour, round(depth * (seconds - 1)))
                tasks.append(_with_card(settings, seconds, depth, number, card))
        for number in range(_absent_videos(settings)):
            seed = _seed(settings, settings.seeds + number)
            tasks.append(
                VideoTask(
                    f"{seconds}-none-{number}",
                    seconds,
                    partial(_scene, seed, seconds, ()),
                    (Asking("no_card", DIGIT, NO_CARD),),
                    {"seconds": seconds, "depth": None, "seed": seed},
                )
            )
    return tasks


def _with_card(settings: NeedleSettings, seconds: int, depth: float, number: int, card: Card) -> VideoTask:
    seed = _seed(settings, number)
    shown = time_words(math.ceil(card.appears))
    return VideoTask(
        f"{seconds}-{depth:g}-{number}",
        seconds,
        partial(_scene, seed, seconds, (card,)),
        (Asking("needle", DIGIT, str(card.digit)), Asking("when", WHEN, shown, tolerance=WITHIN)),
        {"seconds": seconds, "depth": depth, "seed": seed},
    )


def _scene(seed: int, seconds: int, cards: Sequence[Card]) -> Scene:
    return make_long_scene(seed, seconds, cards)


def _seed(settings: NeedleSettings, number: int) -> int:
    return HELD_OUT + settings.seed * SEED_STRIDE + number


def _absent_videos(settings: NeedleSettings) -> int:
    """How many of each length."""
    return max(1, settings.depths * settings.seeds // 5) if settings.absent else 0


# ------------------------------------------------------------------------------------------ what is found


def _scores(settings: NeedleSettings, log: ResultLog) -> dict[str, Any]:
    rows = list(log.rows.values())
    digits = rows_with(rows, kind="needle")
    times = rows_with(rows, kind="when")
    without = rows_with(rows, kind="no_card")
    asked = ("seconds", settings.lengths, settings.places)
    return {
        "accuracy": share_right(digits),
        "cells": [
            {**cell, "when": other["accuracy"]}
            for cell, other in zip(cells_of(digits, *asked), cells_of(times, *asked), strict=True)
        ],
        "when": share_right(times),
        "no_card": share_right(without),
        "no_card_cells": by_length(without, "seconds", settings.lengths),
        "chance": long_chance("needle", max(settings.lengths)),
        "record": {
            **log.settings,
            "pixels": PIXELS,
            "read": {str(seconds): _read(rows_with(rows, seconds=seconds)) for seconds in settings.lengths},
            "runs": log.runs,
        },
    }


def _read(rows: Sequence[Row]) -> dict[str, int]:
    """How much was read of a video of these rows, at most; 0 where the assistant does not say."""
    return {name: max((row[name] or 0 for row in rows), default=0) for name in ("frames", "tokens")}


def needle_text(result: Mapping[str, Any]) -> str:
    """The scores for people, in markdown: a table of depths and lengths, and what else was asked."""
    further = {"no card": result["no_card_cells"]}
    examples = sum(cell["examples"] for cell in result["cells"])
    lines = [
        *table_lines(result["cells"], "seconds", time_words, further),
        "",
        f"The digit: {percent(result['accuracy'])} of {examples} (chance {result['chance']:.1%}). When it "
        f"was shown, within {WITHIN} seconds: {percent(result['when'])}. Videos without a card: "
        f"{percent(result['no_card'])}.",
    ]
    if command := result["record"]["runs"][-1]["command"]:
        lines += ["", f"`{command}`"]
    return "\n".join(lines) + "\n"
