"""Questions about a long scene, or about a part of one, with answers that follow from the scene.

Names return many times in a long video, so each question is about something that is there once in the whole
video, or says its time ("at 12 minutes 5 seconds"). Every question has exactly one right answer for a viewer
who sees one frame a second, at whole seconds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import numpy as np

from ringvision.data.times import time_words
from ringvision.data.world.questions import Pairs, Question, choose, glance_words
from ringvision.data.world.scene import COLOURS, DIGITS, DIRECTIONS, MAX_TOGETHER, SHAPES, Card, Scene, Thing

NO_CARD = "no card"
OVER = "the video was over"


def long_questions(scene: Scene, glances: int = 4, whens: int = 2, looks: int = 1) -> list[Question]:
    """The questions about a scene of any length in the order of LONG_KINDS: at most so many glances and
    questions for a card's time, one or two of every other kind; about a dozen of a whole video. The same
    scene gives the same questions.

    looks: how often what things were like at a time is asked, of each kind.
    """
    asked: list[Question] = []
    for position, (kind, (ask, most)) in enumerate(_ASKERS.items()):
        if kind == "glance":  # what is wanted may not be there any more: three tries each
            ask, most = partial(_glance, tries=3 * glances), glances
        elif kind == "when":
            most = whens
        elif kind in _LOOKS:
            ask, most = partial(_LOOKS[kind], looks=looks), most + looks - 1
        elif kind == "count":
            most = looks
        random = np.random.default_rng([scene.seed, 8, position, scene.first, int(scene.duration)])
        asked.extend(Question(kind, text, answer) for text, answer in islice(ask(scene, random), most))
    return asked


def long_chance(kind: str, seconds: int) -> float:
    """The score of guessing evenly among the answers that a question of `kind` about a video of so many
    `seconds` can have. A question about cards may be of kind needle or no_card, when or absent, so that the
    answers of both count.
    """
    return 1.0 / (seconds + 1 if kind in ("when", "absent", "end") else _ANSWERS[kind])


# ---------------------------------------------------------------------------------------------- cards


def _needle_texts(random: np.random.Generator, card: str) -> str:
    return choose(random, f"Which digit was on the {card}?", f"What number did the {card} show?")


def _when_texts(random: np.random.Generator, card: str) -> str:
    return choose(random, f"When was the {card} shown?", f"At what time did the {card} appear?")


def _named(scene: Scene, random: np.random.Generator) -> Iterator[tuple[str, Card]]:
    """The cards in random order, each by a name that fits it alone."""
    for index in random.permutation(len(scene.cards)):
        card = scene.cards[index]
        alone = len(scene.cards) == 1 and random.random() < 0.6
        yield ("card" if alone else f"{card.colour} card"), card


def _missing(scene: Scene, random: np.random.Generator) -> str | None:
    """A name that fits no card; None where there is one of every colour."""
    colours = [colour for colour in COLOURS if colour not in {card.colour for card in scene.cards}]
    if not scene.cards and random.random() < 0.6:
        return "card"
    return f"{random.choice(colours)} card" if colours else None


def _needle(scene: Scene, random: np.random.Generator) -> Pairs:
    for name, card in _named(scene, random):
        yield _needle_texts(random, name), str(card.digit)


def _no_card(scene: Scene, random: np.random.Generator) -> Pairs:
    name = _missing(scene, random)
    if name is not None and random.random() < 0.6:  # rarer than digits, which are a tenth each
        yield _needle_texts(random, name), NO_CARD


def _when(scene: Scene, random: np.random.Generator) -> Pairs:
    for name, card in _named(scene, random):
        yield _when_texts(random, name), time_words(scene.first_seen(card))


def _order(scene: Scene, random: np.random.Generator) -> Pairs:
    if len(scene.cards) >= 2:
        one, other = (scene.cards[index] for index in random.permutation(len(scene.cards))[:2])
        first = min(one, other, key=lambda card: card.appears)
        yield (
            choose(
                random,
                f"Which came first, the {one.colour} card or the {other.colour} card?",
                f"Which appeared earlier, the {one.colour} card or the {other.colour} card?",
            ),
            f"the {first.colour} card",
        )


def _how_many_cards(scene: Scene, random: np.random.Generator) -> Pairs:
    if len(scene.cards) != 1 or random.random() < 0.5:  # scenes have one card more often
        text = choose(random, "How many cards were shown?", "How many cards were there in the video?")
        yield text, str(len(scene.cards))


def _absent(scene: Scene, random: np.random.Generator) -> Pairs:
    name = _missing(scene, random)
    if name is not None and random.random() < 0.6:
        yield _when_texts(random, name), NO_CARD
    if random.random() < 0.35:  # rarer than glances at nothing, or it would be the best guess
        length = len(scene.seconds)
        second = int(scene.duration) + 1 + int(random.integers(max(60, length)))
        yield f"What was there at {time_words(second)}?", OVER


def _end(scene: Scene, random: np.random.Generator) -> Pairs:
    text = choose(random, "At what time did the video end?", "When was the end of the video shown?")
    yield text, time_words(scene.seconds[-1])


# --------------------------------------------------------------------------------------------- glances


def _shuffled_seconds(scene: Scene, random: np.random.Generator) -> list[int]:
    """The whole seconds of the scene in random order."""
    shuffled: list[int] = random.permutation(scene.seconds).tolist()
    return shuffled


_GLANCES = (0.12, 0.34, 0.34, 0.2)
"""How often a glance is at nothing, at one thing, at two, and at a card. Three things are not asked for."""


def _glance(scene: Scene, random: np.random.Generator, tries: int = 12) -> Pairs:
    shuffled = _shuffled_seconds(scene, random)
    seconds = [
        *(_with_things(scene, shuffled, number) for number in range(3)),
        (second for second in shuffled if scene.card_at(second) is not None),
    ]
    for wanted in random.choice(len(_GLANCES), size=tries, p=_GLANCES).tolist():
        second = next(seconds[wanted], None)
        if second is not None:
            yield f"What was there at {time_words(second)}?", glance_words(scene, second)


def _with_things(scene: Scene, seconds: Iterable[int], number: int) -> Iterator[int]:
    """Those of the seconds that show so many things."""
    return (
        second
        for second in seconds
        if scene.card_at(second) is None and len(scene.drawn_at(second)) == number
    )


def _count(scene: Scene, random: np.random.Generator) -> Pairs:
    shuffled = _shuffled_seconds(scene, random)
    for number in random.permutation(MAX_TOGETHER + 1).tolist():
        second = next(_with_things(scene, shuffled, number), None)
        if second is not None:
            when = time_words(second)
            text = choose(
                random, f"How many things were there at {when}?", f"How many things could be seen at {when}?"
            )
            yield text, str(number)


# ---------------------------------------------------------------------------------------------- things


def _only(scene: Scene, random: np.random.Generator) -> list[Thing]:
    """The things whose name, the first one where it changes, no other thing ever has; in random order."""
    names = Counter(thing.name for thing in scene.things)
    names.update(
        f"{thing.later_colour} {thing.shape}" for thing in scene.things if thing.later_colour is not None
    )
    found = [thing for thing in scene.things if names[thing.name] == 1]
    return [found[index] for index in random.permutation(len(found))]


def _alone_at(
    scene: Scene, random: np.random.Generator, key: Callable[[Thing, int], str]
) -> Iterator[tuple[int, Thing]]:
    """Seconds in random order with a thing in each whose `key` then no other visible thing has:
    (second, thing).
    """
    for second in _shuffled_seconds(scene, random):
        things = scene.things_at(second)
        keys = Counter(key(thing, second) for thing in things)
        alone = [thing for thing in things if keys[key(thing, second)] == 1]
        if alone:
            yield second, alone[int(random.integers(len(alone)))]


def _name_at(thing: Thing, second: int) -> str:
    return f"{thing.colour_at(second)} {thing.shape}"


def _colour(scene: Scene, random: np.random.Generator, looks: int = 1) -> Pairs:
    for second, thing in islice(_alone_at(scene, random, lambda thing, _: thing.shape), looks):
        yield f"What colour was the {thing.shape} at {time_words(second)}?", thing.colour_at(second)
    shapes = Counter(thing.shape for thing in scene.things)
    for thing in scene.things:
        if shapes[thing.shape] == 1 and thing.changes is None:
            yield f"What colour was the {thing.shape}?", thing.colour


def _shape(scene: Scene, random: np.random.Generator, looks: int = 1) -> Pairs:
    for second, thing in islice(_alone_at(scene, random, Thing.colour_at), looks):
        yield f"What shape was the {thing.colour_at(second)} thing at {time_words(second)}?", thing.shape
    colours = Counter(thing.colour for thing in scene.things)
    colours.update(thing.later_colour for thing in scene.things if thing.later_colour is not None)
    for thing in scene.things:
        if colours[thing.colour] == 1:
            yield f"What shape was the {thing.colour} thing?", thing.shape


def _direction(scene: Scene, random: np.random.Generator, looks: int = 1) -> Pairs:
    at_a_time = (
        (f"Which way did the {_name_at(thing, second)} move at {time_words(second)}?", thing.direction or "")
        for second, thing in _alone_at(scene, random, _name_at)
        if _moves_through(scene, thing, second)
    )
    yield from islice(at_a_time, looks)
    for thing in _only(scene, random):
        if thing.direction:
            yield f"Which way did the {thing.name} move?", thing.direction


def _moves_through(scene: Scene, thing: Thing, second: int) -> bool:
    """Whether it is seen to move from the second before to this one, and on to the next one."""
    around = [second - 1, second, second + 1]
    places = {thing.centre(near) for near in around}
    return len(places) == 3 and all(
        near in scene.seconds and thing.visible(near) and scene.card_at(near) is None for near in around
    )


def _change(scene: Scene, random: np.random.Generator, looks: int = 1) -> Pairs:
    changing = [thing for thing in scene.things if thing.changes is not None]
    at_a_time = (changing[index] for index in random.permutation(len(changing)))
    yield from islice(_changes(scene, at_a_time), looks)
    for thing in _only(scene, random):
        if thing.changes is not None and thing.later_colour is not None:
            yield f"What colour did the {thing.name} turn into?", thing.later_colour


def _changes(scene: Scene, things: Iterable[Thing]) -> Pairs:
    for thing in things:
        second = int(np.ceil(thing.changes or 0.0))
        before = [other for other in scene.things_at(second - 1) if _name_at(other, second - 1) == thing.name]
        if before == [thing] and thing.later_colour and thing in scene.things_at(second):
            yield f"What colour did the {thing.name} turn into at {time_words(second)}?", thing.later_colour


Asker = Callable[[Scene, np.random.Generator], Pairs]

_ASKERS: dict[str, tuple[Asker, int]] = {
    "needle": (_needle, 2),
    "no_card": (_no_card, 1),
    "when": (_when, 2),
    "glance": (_glance, 4),
    "colour": (_colour, 2),
    "shape": (_shape, 2),
    "direction": (_direction, 2),
    "change": (_change, 2),
    "count": (_count, 1),
    "order": (_order, 1),
    "how_many_cards": (_how_many_cards, 1),
    "absent": (_absent, 2),
    "end": (_end, 1),
}
_LOOKS: dict[str, Callable[..., Pairs]] = {
    "colour": _colour, "shape": _shape, "direction": _direction, "change": _change,
}  # fmt: skip
"""Those that ask what a thing was like at a time; `looks` such questions at most."""
_ANSWERS = {
    "needle": len(DIGITS) + 1, "no_card": len(DIGITS) + 1, "glance": len(COLOURS) * len(SHAPES),
    "colour": len(COLOURS), "shape": len(SHAPES), "direction": len(DIRECTIONS), "change": len(COLOURS) - 1,
    "count": MAX_TOGETHER + 1, "order": 2, "how_many_cards": len(COLOURS) + 1,
}  # fmt: skip

LONG_KINDS = tuple(_ASKERS)
"""The kinds of question about a long video."""
