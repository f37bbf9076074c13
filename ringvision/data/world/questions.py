"""Questions about a scene, with answers that follow from the scene itself.

Every question has exactly one right answer for a viewer who sees one frame a second, at whole seconds. The
answers of a kind are spread as evenly as the world allows, so that a model that answers without seeing the
video scores low; evaluation reports that score beside the model's own.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ringvision.data.times import time_words
from ringvision.data.world.scene import (
    COLOURS,
    DIGITS,
    DIRECTIONS,
    MAX_SECONDS,
    MORE_COLOURS,
    OTHER,
    SHAPES,
    Scene,
)


@dataclass(frozen=True)
class Question:
    """One question of a `kind` (a key of KINDS or AUXILIARY), its text and its only right answer."""

    kind: str
    text: str
    answer: str


Pairs = Iterator[tuple[str, str]]  # question and answer


def questions(scene: Scene) -> list[Question]:
    """The questions about a scene, at most a few of a kind, in the order of KINDS. The same seed gives the
    same questions.
    """
    asked = []
    for position, (kind, (ask, most)) in enumerate({**_ASKERS, **_AUXILIARY_ASKERS}.items()):
        random = np.random.default_rng(
            [scene.seed, 3, position, *([scene.first, int(scene.duration)] if scene.first else [])]
        )
        found = [Question(kind, text, answer) for text, answer in ask(scene, random)]
        random.shuffle(found)
        asked.extend(found[:most])
    return asked


def chance(kind: str) -> float:
    """The score of guessing evenly among the answers that a question of `kind` can have."""
    return 1.0 / _ANSWERS[kind]


_TIME = re.compile(r"(?:(\d+) minutes?)?(?:\b ?(\d+) seconds?)?")


def read_time(words: str) -> int | None:
    """The whole seconds that `time_words` says so; None where the words are no time."""
    found = _TIME.fullmatch(words.strip())
    if found is None or not words.strip():
        return None
    minutes, seconds = (int(part or 0) for part in found.groups())
    return 60 * minutes + seconds


_TIMES = re.compile(r"\d+ minutes?(?: \d+ seconds?)?|\d+ seconds?")


def retimed(words: str, shown: Callable[[int], int]) -> str:
    """The words with each time in them, as `time_words` says it, replaced by what `shown` makes of it."""
    return _TIMES.sub(lambda found: time_words(shown(read_time(found[0]) or 0)), words)


def glance_words(scene: Scene, second: int) -> str:
    """What a viewer sees at a whole second: a card, or all things from left to right, or nothing."""
    card = scene.card_at(second)
    if card is not None:
        return f"a {card.colour} card with a {card.digit}"
    things = scene.things_at(second)
    return ", ".join(f"{thing.colour_at(second)} {thing.shape}" for thing in things) or "nothing"


def choose(random: np.random.Generator, *wordings: str) -> str:
    """One of the wordings."""
    return wordings[int(random.integers(len(wordings)))]


def _colour(scene: Scene, random: np.random.Generator) -> Pairs:
    for shape in SHAPES:
        alike = [thing for thing in scene.things if thing.shape == shape]
        if len(alike) == 1 and alike[0].changes is None:
            yield (
                choose(random, f"What colour was the {shape}?", f"Which colour did the {shape} have?"),
                alike[0].colour,
            )


def _shape(scene: Scene, random: np.random.Generator) -> Pairs:
    for colour in (*COLOURS, *MORE_COLOURS, OTHER):
        alike = [thing for thing in scene.things if colour in (thing.colour, thing.later_colour)]
        if len(alike) == 1:
            yield (
                choose(
                    random, f"What shape was the {colour} thing?", f"Which shape did the {colour} thing have?"
                ),
                alike[0].shape,
            )


_COUNT_KEPT = {0: 0.34, 1: 0.19, 2: 0.22, 3: 0.85}
"""The share of questions that is kept, by their answer: scenes have far more of some counts than of
others.
"""


def _count(scene: Scene, random: np.random.Generator) -> Pairs:
    seconds: dict[int, list[int]] = {}
    for second in scene.seconds:
        if not any(card.visible(second) for card in scene.cards):
            seconds.setdefault(len(scene.things_at(second)), []).append(second)
    for number, choices in seconds.items():
        if random.random() < _COUNT_KEPT[number]:
            when = time_words(int(random.choice(choices)))
            yield (
                choose(
                    random,
                    f"How many things were there at {when}?",
                    f"How many things could be seen at {when}?",
                ),
                str(number),
            )


def _direction(scene: Scene, random: np.random.Generator) -> Pairs:
    for thing in scene.things:
        if thing.direction:
            yield (
                choose(
                    random,
                    f"Which way did the {thing.name} move?",
                    f"In which direction did the {thing.name} go?",
                ),
                thing.direction,
            )


def _order(scene: Scene, random: np.random.Generator) -> Pairs:
    things = list(scene.things)
    if len(things) < 2:
        return
    for _ in range(3):
        one, other = random.permutation(len(things))[:2]
        a = things[one]
        b = things[other]
        if scene.first_seen(a) == scene.first_seen(b):
            continue
        first = a if a.appears < b.appears else b
        yield (
            choose(
                random,
                f"Which came first, the {a.name} or the {b.name}?",
                f"Which appeared earlier, the {a.name} or the {b.name}?",
            ),
            f"the {first.name}",
        )


_SECOND_KEPT = {0: 0.12, 1: 0.45, 2: 0.45, 3: 0.4, 4: 0.5, 5: 0.55, 6: 0.7}
"""The same, by the second that is the answer: every video has early seconds, so they would be right too
often.
"""


def _time(scene: Scene, random: np.random.Generator) -> Pairs:
    for thing in scene.things:
        second = scene.first_seen(thing)
        if random.random() < _SECOND_KEPT.get(second - scene.first, 1.0):
            yield (
                choose(
                    random,
                    f"When did the {thing.name} appear?",
                    f"At what second did the {thing.name} come in?",
                ),
                time_words(second),
            )
    if len(scene.cards) == 1:
        second = scene.first_seen(scene.cards[0])
        if random.random() < _SECOND_KEPT.get(second - scene.first, 1.0):
            yield (
                choose(random, "When was the card shown?", "At what second did the card appear?"),
                time_words(second),
            )


def _after(scene: Scene, random: np.random.Generator) -> Pairs:
    things = sorted(scene.things, key=lambda thing: thing.appears)
    for thing in things:
        after = [other for other in things if scene.first_seen(other) > scene.first_seen(thing)]
        if not after:
            continue
        later = after[0]
        yield (
            choose(
                random,
                f"What came next after the {thing.name}?",
                f"Which thing appeared right after the {thing.name}?",
            ),
            f"the {later.name}",
        )


def _needle(scene: Scene, random: np.random.Generator) -> Pairs:
    if len(scene.cards) == 1:
        yield (
            choose(random, "Which digit was on the card?", "What number did the card show?"),
            str(scene.cards[0].digit),
        )
    else:
        for card in scene.cards:
            yield (
                choose(
                    random,
                    f"Which digit was on the {card.colour} card?",
                    f"What number did the {card.colour} card show?",
                ),
                str(card.digit),
            )


def _change(scene: Scene, random: np.random.Generator) -> Pairs:
    for thing in scene.things:
        if thing.changes is not None and thing.later_colour is not None:
            yield (
                choose(
                    random,
                    f"What colour did the {thing.name} turn into?",
                    f"The {thing.name} changed colour: to which?",
                ),
                thing.later_colour,
            )


def _glance(scene: Scene, random: np.random.Generator) -> Pairs:
    for second in scene.seconds:
        yield f"What was there at {time_words(second)}?", glance_words(scene, second)


def _events(scene: Scene, random: np.random.Generator) -> Pairs:
    happened = [(scene.first_seen(thing), thing.name) for thing in scene.things]
    happened += [(scene.first_seen(card), f"{card.colour} card") for card in scene.cards]
    yield (
        "What appeared, and when?",
        ", ".join(f"{second} {name}" for second, name in sorted(happened)) or "nothing",
    )


Asker = Callable[[Scene, np.random.Generator], Pairs]

_ASKERS: dict[str, tuple[Asker, int]] = {
    "colour": (_colour, 2),
    "shape": (_shape, 2),
    "count": (_count, 2),
    "direction": (_direction, 2),
    "order": (_order, 2),
    "time": (_time, 2),
    "after": (_after, 2),
    "needle": (_needle, 2),
    "change": (_change, 2),
}
_AUXILIARY_ASKERS: dict[str, tuple[Asker, int]] = {"glance": (_glance, 6), "events": (_events, 1)}
_NAMES = len(COLOURS) * len(SHAPES)
_ANSWERS = {
    "colour": len(COLOURS), "shape": len(SHAPES), "count": 4, "direction": len(DIRECTIONS), "order": 2,
    "time": MAX_SECONDS - 1, "after": _NAMES - 1, "needle": len(DIGITS), "change": len(COLOURS) - 1,
    "glance": _NAMES, "events": _NAMES,
}  # fmt: skip

KINDS = tuple(_ASKERS)
"""The kinds of question that are evaluated."""
AUXILIARY = tuple(_AUXILIARY_ASKERS)
"""Kinds that teach a model to read single frames: used in training, not evaluated."""
