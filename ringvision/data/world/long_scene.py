"""A seed and a number of seconds -> a `Scene` of that length, from a quarter of a minute to two hours.

    | stretch | quiet | stretch | card | stretch | stretch | quiet | ...

A stretch is a short scene (scene.py) without its cards. In a quiet part there is the background alone. Cards
stand between them, from none to six in the whole video, all of different digits and colours. There are 24
names of things, which return many times in an hour; a few of them are kept for one thing in the whole video.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ringvision.data.world.scene import (
    COLOURS,
    DIGITS,
    HELD_OUT,
    SHAPES,
    Card,
    Scene,
    Shot,
    Thing,
    edge,
    make_scene,
    make_shot,
)
from ringvision.errors import UserError

MIN_LONG_SECONDS = 15
MAX_LONG_SECONDS = 7200
MAX_CARDS = len(COLOURS)
RARE_NAMES = 3
"""Names that only one thing of a long video has, at most."""
_LEAST_STRETCH = 3  # seconds; what is shorter stays quiet
_APART = 3  # seconds between two cards, at least


def make_long_scene(seed: int, seconds: int, cards: Sequence[Card] | None = None) -> Scene:
    """The scene of a seed, as long as is asked for. Seeds from HELD_OUT on are made of held-out short scenes.

    Args:
        seed: from 0 on.
        seconds: the length of the video.
        cards: what is shown of cards, in order and at least a second apart (None: as the seed has it).

    Returns:
        The scene. Of another length, the same seed gives another one.

    Raises:
        UserError: for a length that is not from MIN_LONG_SECONDS to MAX_LONG_SECONDS.
    """
    if not MIN_LONG_SECONDS <= seconds <= MAX_LONG_SECONDS:
        raise UserError(
            f"{seconds} seconds were given for a long scene; expected {MIN_LONG_SECONDS} to "
            f"{MAX_LONG_SECONDS}"
        )
    random = np.random.default_rng([seed, 7, seconds])
    shown = _make_cards(random, seconds) if cards is None else cards
    parts = _Parts(random, seconds, first_seed=HELD_OUT if seed >= HELD_OUT else 0)
    first = 0
    for card in shown:
        parts.fill(first, int(np.ceil(card.appears)))
        first = int(np.ceil(card.leaves))
    parts.fill(first, seconds)
    things = _without_repeats(random, parts.things)
    return Scene(seed, float(seconds), _joined(parts.shots, float(seconds)), tuple(things), tuple(shown))


def one_second_card(digit: int, colour: str, second: int) -> Card:
    """A card that is seen in this whole second alone."""
    return Card(digit, colour, max(0.0, second - 0.5), second + 0.5)


class _Parts:
    """The shots and things of a long scene that is being made.

    Args:
        random: what chance decides.
        seconds: the length of the whole video.
        first_seed: the least seed of a stretch.
    """

    def __init__(self, random: np.random.Generator, seconds: int, first_seed: int) -> None:
        self.random = random
        self.first_seed = first_seed
        self.quiet = float(random.uniform(0.02, 0.25))  # the share of parts that are quiet
        self.longest_quiet = min(40, seconds // 6)
        self.shots: list[Shot] = []
        self.things: list[Thing] = []

    def fill(self, first: int, stop: int) -> None:
        """Adds what happens from second `first` on and before `stop`."""
        while first < stop:
            room = stop - first
            if room < _LEAST_STRETCH or (self.things and self.random.random() < self.quiet):
                length = min(room, self._quiet_seconds())
                self.shots.append(make_shot(self.random, _begin(first), first + length))
            else:
                stretch = make_scene(self.first_seed + int(self.random.integers(HELD_OUT)))
                length = min(room, int(stretch.duration))
                self._add(stretch, first, length)
            first += length

    def _quiet_seconds(self) -> int:
        """Short ones are as likely as long ones, counted by how often the length doubles."""
        return round(2 * float(np.exp(self.random.uniform(0, np.log(self.longest_quiet / 2)))))

    def _add(self, stretch: Scene, first: int, length: int) -> None:
        """Adds the first `length` seconds of a short scene from second `first` on; things that stay longer
        are left out.
        """
        for shot in stretch.shots:
            if shot.begins < length - 1:
                begins = first + shot.begins if shot.begins else _begin(first)
                self.shots.append(replace(shot, begins=begins, ends=first + shot.ends))
        for thing in stretch.things:
            if np.ceil(thing.leaves) <= length:
                self.things.append(
                    replace(
                        thing,
                        appears=first + thing.appears if thing.appears else _begin(first),
                        leaves=first + thing.leaves,
                        changes=None if thing.changes is None else first + thing.changes,
                    )
                )


def _begin(second: int) -> float:
    """When something begins that whole second `second` is the first to show."""
    return max(0.0, second - 0.5)


def _make_cards(random: np.random.Generator, seconds: int) -> list[Card]:
    """Cards of one or two seconds, in the order in which they are shown."""
    # One card alone is asked about in the plainest words, so there is one a little more often.
    likely = np.array([1, 2, 1, 1, 1, 1, 1][: min(MAX_CARDS, seconds // 7) + 1], float)
    count = int(random.choice(len(likely), p=likely / likely.sum()))
    lengths = random.integers(1, 3, count)
    free = seconds - int(lengths.sum()) - _APART * max(0, count - 1)
    before = np.cumsum(lengths) - lengths + _APART * np.arange(count)  # what stands before each, at least
    firsts = np.sort(random.integers(0, free + 1, count)) + before
    digits = random.permutation(DIGITS)
    colours = random.permutation(list(COLOURS))
    return [
        Card(int(digit), str(colour), edge(random, int(first)), edge(random, int(first + length)))
        for digit, colour, first, length in zip(digits, colours, firsts, lengths)
    ]


def _without_repeats(random: np.random.Generator, things: Sequence[Thing]) -> list[Thing]:
    """The things, but of all that ever have one of RARE_NAMES random names a random one alone."""
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    left_out: set[int] = set()
    for number in random.permutation(len(names))[:RARE_NAMES]:
        colour, shape = names[number]
        alike = [
            index
            for index, thing in enumerate(things)
            if thing.shape == shape and colour in (thing.colour, thing.later_colour)
        ]
        if alike:
            left_out |= set(alike) - {int(random.choice(alike))}
    return [thing for index, thing in enumerate(things) if index not in left_out]


def _joined(shots: Sequence[Shot], end: float) -> tuple[Shot, ...]:
    """The shots, each until the next one begins; the first from 0 on, the last until `end`."""
    begins = [0.0, *(shot.begins for shot in shots[1:])]
    return tuple(
        replace(shot, begins=begin, ends=stop) for shot, begin, stop in zip(shots, begins, [*begins[1:], end])
    )
