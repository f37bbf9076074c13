"""What a world video shows, and when: shots, the things in them, and cards with a digit.

Everything follows from a seed. Times are in seconds. Things appear, change colour and leave half-way between
whole seconds (give or take `JITTER`), so that a video sampled once a second shows each event in the same
second, wherever the codec puts its frames. Positions are fractions of the picture: x to the right, y down. At
whole seconds each coordinate of a thing is one of `COORDINATES` (give or take `SWAY`), and things are far
enough from each other that none hides another. A thing that moves is between two such positions in between,
and that is when things pass each other.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35),
    "yellow": (245, 220, 40),
    "green": (40, 185, 60),
    "blue": (40, 80, 235),
    "purple": (185, 60, 215),
    "white": (245, 245, 245),
}
MORE_COLOURS: dict[str, tuple[int, int, int]] = {
    "pink": (255, 150, 190),
    "cyan": (0, 235, 235),
    "lime": (160, 255, 40),
    "brown": (140, 75, 30),
    "grey": (150, 150, 150),
    "beige": (235, 210, 170),
    "navy": (20, 30, 110),
    "magenta": (255, 0, 150),
}
"""Colours that only scenes `with_more_colours` have."""
OTHER = "other"
"""What the name of a thing says of any colour that is far from all of these and has no name here ("the other
circle"); only scenes `with_more_colours` have such things, too. A model that saw shapes in all colours learns
the name of one more from few videos.
"""
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS: dict[str, tuple[float, float]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
DIGITS = tuple(range(10))
HELD_OUT = 1 << 40
"""The first seed that training never draws."""

MIN_SECONDS = 5
MAX_SECONDS = 12
MAX_TOGETHER = 3
JITTER = 0.2
COORDINATES = (0.25, 0.5, 0.75)
STEP = COORDINATES[1] - COORDINATES[0]
SWAY = 0.012
SHADE = 14
"""By how much red, green and blue of one of MORE_COLOURS differ from thing to thing, at most."""
FAR = 60.0
"""How far, in red, green and blue of 0 to 255, OTHER colours are at least from those that have a name and
from the grey of backgrounds.
"""
BACKGROUND = (85, 85, 85)
RADII = ((0.15, 0.17), (0.21, 0.23))
"""Small things and large ones: from, to."""


@dataclass(frozen=True)
class Thing:
    """A shape that is visible while `appears <= t < leaves`.

    direction: a key of DIRECTIONS, or None for a thing that does not move. start, end: its centre in the
    first whole second that shows it, and where it comes to rest; it moves a STEP each second. changes: when
    its colour turns from `colour` to `later_colour` (None: never). shade: what is added to red, green and
    blue of `colour`; all of them where it is OTHER.
    """

    shape: str
    colour: str
    radius: float
    start: tuple[float, float]
    end: tuple[float, float]
    appears: float
    leaves: float
    direction: str | None = None
    changes: float | None = None
    later_colour: str | None = None
    shade: tuple[int, int, int] = (0, 0, 0)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def visible(self, t: float) -> bool:
        return self.appears <= t < self.leaves

    def centre(self, t: float) -> tuple[float, float]:
        """Its centre (x, y) at time `t`."""
        dx, dy = DIRECTIONS[self.direction] if self.direction else (0, 0)
        whole_way = max(abs(self.end[0] - self.start[0]), abs(self.end[1] - self.start[1]))
        moved = min(STEP * (t - np.ceil(self.appears)), whole_way)
        return self.start[0] + dx * moved, self.start[1] + dy * moved

    def colour_at(self, t: float) -> str:
        if self.changes is not None and self.later_colour is not None and t >= self.changes:
            return self.later_colour
        return self.colour

    def rgb_at(self, t: float) -> tuple[int, ...]:
        """Red, green and blue at time `t`, 0 to 255 each."""
        now = self.colour_at(t)
        plain = {**COLOURS, **MORE_COLOURS, OTHER: (0, 0, 0)}[now]
        shade = self.shade if now == self.colour else (0, 0, 0)
        return tuple(min(max(value + more, 0), 255) for value, more in zip(plain, shade, strict=True))


@dataclass(frozen=True)
class Card:
    """A plain card with a digit, which fills the picture while `appears <= t < leaves`."""

    digit: int
    colour: str
    appears: float
    leaves: float

    def visible(self, t: float) -> bool:
        return self.appears <= t < self.leaves


@dataclass(frozen=True)
class Shot:
    """The background between two cuts."""

    begins: float
    ends: float
    base: tuple[float, float, float]
    texture: str
    texture_seed: int


@dataclass(frozen=True)
class Scene:
    """A video: its seed, the second at which it ends, and what happens in it. first: the second at which it
    begins, above 0 in a clip of a longer scene.
    """

    seed: int
    duration: float
    shots: tuple[Shot, ...]
    things: tuple[Thing, ...] = field(default=())
    cards: tuple[Card, ...] = field(default=())
    first: int = 0

    @property
    def seconds(self) -> range:
        """The whole seconds at which the video is sampled."""
        return range(self.first, int(self.duration))

    def card_at(self, t: float) -> Card | None:
        """The card that is shown at `t`."""
        found = self._cards_by_second.get(math.floor(t), ())
        return next((card for card in found if card.visible(t)), None)

    def drawn_at(self, t: float) -> list[Thing]:
        """The things that are visible at `t`, in the order in which they are drawn; none while a card is
        shown.
        """
        if self.card_at(t) is not None:
            return []
        return [thing for thing in self._things_by_second.get(math.floor(t), ()) if thing.visible(t)]

    def things_at(self, t: float) -> list[Thing]:
        """The things that are visible at `t`, from left to right; none while a card is shown."""
        return sorted(self.drawn_at(t), key=lambda thing: thing.centre(t)[0])

    # What may be visible within each whole second: a long video has thousands of things.

    @cached_property
    def _things_by_second(self) -> dict[int, list[Thing]]:
        return _by_second((thing.appears, thing.leaves, thing) for thing in self.things)

    @cached_property
    def _cards_by_second(self) -> dict[int, list[Card]]:
        return _by_second((card.appears, card.leaves, card) for card in self.cards)

    @cached_property
    def _shots_by_second(self) -> dict[int, list[Shot]]:
        return _by_second((shot.begins, shot.ends, shot) for shot in self.shots)

    def clip(self, first: int, count: int) -> "Scene":
        """The scene as far as `count` whole seconds from `first` on show it. Times stay those of the whole
        scene.

        A thing that is visible in the clip's first second counts as appearing then. A colour change that is
        not in the clip is left out, and a thing that does not move within it has no direction.
        """
        things = []
        for thing in self.things:
            seen = _whole_seconds(thing, first, first + count)
            if not seen:
                continue
            colours = (thing.colour_at(seen[0]), thing.colour_at(seen[-1]))
            if colours[0] == colours[1]:
                thing = replace(thing, colour=colours[0], later_colour=None, changes=None)
            if thing.direction and thing.centre(seen[0]) == thing.centre(seen[-1]):
                rests = thing.centre(seen[0])
                thing = replace(thing, direction=None, start=rests, end=rests)
            things.append(thing)
        cards = tuple(card for card in self.cards if _whole_seconds(card, first, first + count))
        return replace(self, first=first, duration=float(first + count), things=tuple(things), cards=cards)

    def first_seen(self, what: Thing | Card) -> int:
        """The first whole second that shows it."""
        return max(self.first, int(np.ceil(what.appears)))

    def shot_at(self, t: float) -> Shot:
        """The background at `t`; the last one where there is none."""
        found = self._shots_by_second.get(math.floor(t), ())
        return next((shot for shot in found if shot.begins <= t < shot.ends), self.shots[-1])


_What = TypeVar("_What")


def _by_second(spans: Iterable[tuple[float, float, _What]]) -> dict[int, list[_What]]:
    """(from, to, what) -> by whole second, all that lasts through some of it, in the same order."""
    found: dict[int, list[_What]] = {}
    for begins, ends, what in spans:
        for second in range(math.floor(begins), math.ceil(ends)):
            found.setdefault(second, []).append(what)
    return found


def _whole_seconds(what: Thing | Card, first: int, stop: int) -> range:
    """The whole seconds from `first` on, before `stop`, at which it is visible."""
    return range(max(first, math.ceil(what.appears)), min(stop, math.ceil(what.leaves)))


def make_scene(seed: int) -> Scene:
    """The scene of a seed: 5 to 12 seconds, one to four shots, up to eight things, at most two cards."""
    random = np.random.default_rng([seed, 1])
    seconds = int(random.integers(MIN_SECONDS, MAX_SECONDS + 1))
    spans = _spans(random, seconds)
    card_spans = _choose_card_spans(random, spans)
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    random.shuffle(names)
    shots: list[Shot] = []
    things: list[Thing] = []
    cards: list[Card] = []
    card_colours = list(random.permutation(list(COLOURS)))
    appearing: set[int] = set()
    for index, (first, last) in enumerate(spans):
        begins = edge(random, first)
        ends = edge(random, last)
        shots.append(make_shot(random, begins if index else 0.0, ends))
        if index in card_spans:
            digit = int(random.choice([d for d in DIGITS if d not in {card.digit for card in cards}]))
            cards.append(Card(digit, str(card_colours.pop()), begins if index else 0.0, ends))
        else:
            things.extend(_make_things(random, first, last, names, appearing))
    # Nothing is shown before the first frame, so the first shot begins at zero.
    return Scene(seed, float(seconds), tuple(shots), tuple(things), tuple(cards))


def with_more_colours(scene: Scene) -> Scene:
    """The scene as its seed changes it further: one in three as it is, of the others three in ten things in
    one of MORE_COLOURS and about as many in an OTHER. No two things of a video have the same name.
    """
    random = np.random.default_rng([scene.seed, 6])
    if random.random() < 1 / 3:
        return scene
    names: set[tuple[str, str]] = set()
    things = []
    for thing in scene.things:
        free = [colour for colour in MORE_COLOURS if (colour, thing.shape) not in names]
        kind = random.random()
        if kind < 0.3 and (OTHER, thing.shape) not in names:
            thing = replace(thing, colour=OTHER, shade=_other_colour(random))
        elif kind < 0.6 and free:
            red, green, blue = random.integers(-SHADE, SHADE + 1, 3).tolist()
            thing = replace(thing, colour=str(random.choice(free)), shade=(red, green, blue))
        names.add((thing.colour, thing.shape))
        things.append(thing)
    return replace(scene, things=tuple(things))


def _other_colour(random: np.random.Generator) -> tuple[int, int, int]:
    """Red, green and blue, evenly drawn, that are FAR from all that have a name."""
    named = np.array([*COLOURS.values(), *MORE_COLOURS.values(), BACKGROUND])
    while True:
        drawn = random.integers(0, 256, 3)
        if np.linalg.norm(named - drawn, axis=1).min() >= FAR:
            red, green, blue = drawn.tolist()
            return red, green, blue


def edge(random: np.random.Generator, second: int) -> float:
    """When an event happens that whole second `second` is the first to show: about half a second before."""
    return max(0.0, second - 0.5 + float(random.uniform(-JITTER, JITTER)))


def _spans(random: np.random.Generator, seconds: int) -> list[tuple[int, int]]:
    """-> shots as [first, last) in whole seconds, of at least three seconds each (a short video is one
    shot).
    """
    spans = []
    first = 0
    while seconds - first >= 7 and random.random() < 0.75:
        length = int(random.integers(3, min(8, seconds - first - 3) + 1))
        spans.append((first, first + length))
        first += length
    spans.append((first, seconds))
    return spans


def _choose_card_spans(random: np.random.Generator, spans: list[tuple[int, int]]) -> set[int]:
    """Splits one or two seconds off some shots for cards, by changing `spans`. -> which of them are cards."""
    for _ in range(int(random.choice([0, 1, 2], p=[0.15, 0.6, 0.25]))):
        long_enough = [i for i, (first, last) in enumerate(spans) if last - first >= 4]
        if not long_enough:
            break
        index = int(random.choice(long_enough))
        first, last = spans[index]
        length = int(random.integers(1, 3))
        if random.random() < 0.5:
            spans[index : index + 1] = [(first, first + length), (first + length, last)]
        else:
            spans[index : index + 1] = [(first, last - length), (last - length, last)]
    # Cards are the spans shorter than a shot can be. Two in succession would look like one.
    chosen: set[int] = set()
    for index, (first, last) in enumerate(spans):
        if last - first <= 2 and index - 1 not in chosen:
            chosen.add(index)
    return chosen


def make_shot(random: np.random.Generator, begins: float, ends: float) -> Shot:
    """A random background from `begins` to `ends`, in seconds."""
    grey = float(random.uniform(50, 115))
    base = tuple(float(np.clip(grey + random.uniform(-22, 22), 20, 140)) for _ in range(3))
    texture = str(random.choice(["plain", "gradient", "stripes", "clouds"]))
    return Shot(begins, ends, base, texture, int(random.integers(1 << 31)))  # type: ignore[arg-type]


def _make_things(
    random: np.random.Generator, first: int, last: int, names: list[tuple[str, str]], appearing: set[int]
) -> list[Thing]:
    """Things of one shot. No two of a video have the same name or appear in the same second; at most
    MAX_TOGETHER are visible at once. names: those that are still free, changed here. appearing: the seconds
    in which things of the video appear, changed here.
    """
    made: list[Thing] = []
    together = np.zeros(last - first, int)
    length = last - first
    crossing = length >= 3 and random.random() < 0.2
    wanted = 2 if crossing else int(random.integers(1, 3 + min(2, length // 2)))
    for index in range(wanted):
        if not names:
            break
        stay = int(random.integers(2, min(6, length) + 1)) if length >= 2 else length
        enter = first if (crossing and index == 0) else int(random.integers(first, last - stay + 1))
        if crossing:
            enter = min(first + index, last - 3)
            stay = length - index if length > 3 else 3
        free = [s for s in range(enter, last - 1) if s not in appearing]
        if not free:
            continue
        enter = free[0]
        leave = min(enter + stay, last)
        if together[enter - first : leave - first].max() >= MAX_TOGETHER:
            continue
        colour, shape = names.pop()
        thing = _make_thing(random, colour, shape, enter, leave, last, names, made, crossing)
        if thing is not None:
            made.append(thing)
            together[enter - first : leave - first] += 1
            appearing.add(enter)
    return made


def _make_thing(
    random: np.random.Generator,
    colour: str,
    shape: str,
    enter: int,
    leave: int,
    shot_end: int,
    names: list[tuple[str, str]],
    others: list[Thing],
    crossing: bool,
) -> Thing | None:
    """A thing that is visible in whole seconds `enter` to `leave` - 1; None where no path is free of the
    other things of the shot. crossing: whether it moves against the first of them.
    """
    appears = edge(random, enter)
    leaves = leave - 0.3 if leave == shot_end else edge(random, leave)
    radius = float(random.uniform(*RADII[int(random.integers(len(RADII)))]))
    direction = (
        str(random.choice(list(DIRECTIONS)))
        if leave - enter >= 3 and (crossing or random.random() < 0.65)
        else None
    )
    if crossing and others and direction:
        towards = {"left": "right", "right": "left", "up": "down", "down": "up"}
        direction = towards.get(others[0].direction or "", direction)
    sway = random.uniform(-SWAY, SWAY, 2)
    made = Thing(shape, colour, radius, (0.5, 0.5), (0.5, 0.5), appears, leaves, direction)
    for _ in range(12):
        start, end = _path(random, direction, sway)
        made = replace(made, start=start, end=end)
        if not any(_meet(made, other, range(enter, leave)) for other in others):
            break
    else:
        return None
    if leave - enter >= 3 and random.random() < 0.22:
        choices = [c for c in COLOURS if c != colour and (c, shape) in names]
        if choices:
            later = str(random.choice(choices))
            names.remove((later, shape))
            made = replace(
                made, later_colour=later, changes=edge(random, int(random.integers(enter + 1, leave)))
            )
    return made


def _path(
    random: np.random.Generator, direction: str | None, sway: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """-> start and end of a random path through the picture: from one side to the other where there is a
    direction, else a single position.
    """
    x, y = (float(random.choice(COORDINATES)) for _ in range(2))
    dx, dy = DIRECTIONS[direction] if direction else (0, 0)
    start = (0.5 - dx * STEP if dx else x) + float(sway[0]), (0.5 - dy * STEP if dy else y) + float(sway[1])
    return start, (start[0] + 2 * dx * STEP, start[1] + 2 * dy * STEP)


def _meet(one: Thing, other: Thing, seconds: range) -> bool:
    """Whether the two touch, or nearly, in a whole second that shows both."""
    for second in seconds:
        if one.visible(second) and other.visible(second):
            apart = np.subtract(one.centre(second), other.centre(second))
            if np.abs(apart).max() < 1.5 * STEP:
                return True
    return False
