"""What a world video shows, and when: shots, the things in them, and cards with a digit.

Everything follows from a seed. Time is in seconds. Things appear, change colour and leave half-way between whole seconds
(give or take `JITTER`), so a video sampled once a second sees each event in the same second wherever the codec puts its frames.
Places are fractions of the picture: x to the right, y down.
"""

from dataclasses import dataclass, field, replace

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35),
    "yellow": (245, 220, 40),
    "green": (40, 185, 60),
    "blue": (40, 80, 235),
    "purple": (185, 60, 215),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS: dict[str, tuple[float, float]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
DIGITS = tuple(range(10))
HELD_OUT = 1 << 40
"""The first seed that training never draws."""

MIN_SECONDS, MAX_SECONDS = 4, 16
MAX_TOGETHER = 3
JITTER = 0.2


@dataclass(frozen=True)
class Thing:
    """A shape on its way from `start` to `end` while `appears <= t < leaves`.

    `changes` is the second at which its colour turns from `colour` to `later_colour`; None where it never does.
    `direction` is a key of DIRECTIONS, or None for a thing that stays where it is.
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

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def visible(self, t: float) -> bool:
        return self.appears <= t < self.leaves

    def place(self, t: float) -> tuple[float, float]:
        """Centre at time `t`."""
        along = (t - self.appears) / (self.leaves - self.appears)
        return self.start[0] + along * (self.end[0] - self.start[0]), self.start[1] + along * (self.end[1] - self.start[1])

    def colour_at(self, t: float) -> str:
        if self.changes is not None and self.later_colour is not None and t >= self.changes:
            return self.later_colour
        return self.colour


@dataclass(frozen=True)
class Card:
    """A digit on a plain card that fills the picture while `appears <= t < leaves`."""

    digit: int
    colour: str
    appears: float
    leaves: float

    def visible(self, t: float) -> bool:
        return self.appears <= t < self.leaves


@dataclass(frozen=True)
class Shot:
    """What lies behind the things between two cuts."""

    begins: float
    ends: float
    base: tuple[float, float, float]
    texture: str
    texture_seed: int


@dataclass(frozen=True)
class Scene:
    """A video: its seed, the second at which it ends, and what happens in it. `first` is above 0 in a clip cut from a longer one."""

    seed: int
    duration: float
    shots: tuple[Shot, ...]
    things: tuple[Thing, ...] = field(default=())
    cards: tuple[Card, ...] = field(default=())
    first: int = 0

    @property
    def seconds(self) -> range:
        """The whole seconds at which it is looked at."""
        return range(self.first, int(self.duration))

    def things_at(self, t: float) -> list[Thing]:
        """The things that can be seen at `t`, from left to right; none while a card is up."""
        if any(card.visible(t) for card in self.cards):
            return []
        return sorted((thing for thing in self.things if thing.visible(t)), key=lambda thing: thing.place(t)[0])

    def clip(self, first: int, count: int) -> "Scene":
        """What someone knows of it who sees only `count` whole seconds from `first` on; the clock goes on as it was.

        What is there in the clip's first second appears then; a colour that was seen on one side of its change only never changed, and what
        was seen once has no direction.
        """
        seconds = range(first, first + count)
        things = []
        for thing in self.things:
            seen = [second for second in seconds if thing.visible(second)]
            if not seen:
                continue
            colours = (thing.colour_at(seen[0]), thing.colour_at(seen[-1]))
            if colours[0] == colours[1]:
                thing = replace(thing, colour=colours[0], later_colour=None, changes=None)
            if len(seen) == 1:
                thing = replace(thing, direction=None)
            things.append(thing)
        cards = tuple(card for card in self.cards if any(card.visible(second) for second in seconds))
        return replace(self, first=first, duration=float(first + count), things=tuple(things), cards=cards)

    def first_seen(self, what: Thing | Card) -> int:
        """The first whole second that sees it."""
        return max(self.first, int(np.ceil(what.appears)))

    def shot_at(self, t: float) -> Shot:
        return next((shot for shot in self.shots if shot.begins <= t < shot.ends), self.shots[-1])


def make_scene(seed: int) -> Scene:
    """The scene of a seed: 4 to 16 seconds, one to four shots, up to eight things, at most two cards."""
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
        begins, ends = _edge(random, first), _edge(random, last)
        shots.append(_make_shot(random, begins if index else 0.0, ends))
        if index in card_spans:
            digit = int(random.choice([d for d in DIGITS if d not in {card.digit for card in cards}]))
            cards.append(Card(digit, str(card_colours.pop()), begins if index else 0.0, ends))
        else:
            things.extend(_make_things(random, first, last, names, appearing))
    # An event before the first frame would never be seen to happen: the first shot simply begins at zero.
    return Scene(seed, float(seconds), tuple(shots), tuple(things), tuple(cards))


def _edge(random: np.random.Generator, second: int) -> float:
    """A moment between whole second `second - 1` and `second`: at `second` what happens there has happened."""
    return max(0.0, second - 0.5 + float(random.uniform(-JITTER, JITTER)))


def _spans(random: np.random.Generator, seconds: int) -> list[tuple[int, int]]:
    """Cuts the video into shots of at least three seconds (or the whole): [first, last) in whole seconds."""
    spans, first = [], 0
    while seconds - first >= 7 and random.random() < 0.75:
        length = int(random.integers(3, min(8, seconds - first - 3) + 1))
        spans.append((first, first + length))
        first += length
    spans.append((first, seconds))
    return spans


def _choose_card_spans(random: np.random.Generator, spans: list[tuple[int, int]]) -> set[int]:
    """Splits one or two seconds off some shots for cards (in place) and says which spans are cards."""
    for _ in range(int(random.choice([0, 1, 2], p=[0.15, 0.6, 0.25]))):
        roomy = [i for i, (first, last) in enumerate(spans) if last - first >= 4]
        if not roomy:
            break
        index = int(random.choice(roomy))
        first, last = spans[index]
        length = int(random.integers(1, 3))
        if random.random() < 0.5:
            spans[index : index + 1] = [(first, first + length), (first + length, last)]
        else:
            spans[index : index + 1] = [(first, last - length), (last - length, last)]
    # Cards are the spans shorter than a shot can be; two that touch would read as one.
    chosen: set[int] = set()
    for index, (first, last) in enumerate(spans):
        if last - first <= 2 and index - 1 not in chosen:
            chosen.add(index)
    return chosen


def _make_shot(random: np.random.Generator, begins: float, ends: float) -> Shot:
    grey = float(random.uniform(50, 115))
    base = tuple(float(np.clip(grey + random.uniform(-22, 22), 20, 140)) for _ in range(3))
    texture = str(random.choice(["plain", "gradient", "stripes", "clouds"]))
    return Shot(begins, ends, base, texture, int(random.integers(1 << 31)))  # type: ignore[arg-type]


def _make_things(random: np.random.Generator, first: int, last: int, names: list[tuple[str, str]], appearing: set[int]) -> list[Thing]:
    """Things of one shot. No two of a video share a name or appear in the same second; at most three are seen at once."""
    made: list[Thing] = []
    together = np.zeros(last - first, int)
    length = last - first
    crossing = length >= 3 and random.random() < 0.2
    wanted = 2 if crossing else int(random.integers(1, 2 + min(3, length // 2)))
    for index in range(wanted):
        if not names:
            break
        stay = int(random.integers(2, min(6, length) + 1)) if length >= 2 else length
        enter = first if (crossing and index == 0) else int(random.integers(first, last - stay + 1))
        if crossing:
            enter, stay = min(first + index, last - 3), length - index if length > 3 else 3
        free = [s for s in range(enter, last - 1) if s not in appearing]
        if not free:
            continue
        enter = free[0]
        leave = min(enter + stay, last)
        if together[enter - first : leave - first].max() >= MAX_TOGETHER:
            continue
        together[enter - first : leave - first] += 1
        appearing.add(enter)
        colour, shape = names.pop()
        made.append(_make_thing(random, colour, shape, enter, leave, last, names, made, crossing))
    return made


def _make_thing(
    random: np.random.Generator, colour: str, shape: str, enter: int, leave: int, shot_end: int, names: list[tuple[str, str]],
    others: list[Thing], crossing: bool,
) -> Thing:  # fmt: skip
    appears = _edge(random, enter)
    leaves = leave - 0.3 if leave == shot_end else _edge(random, leave)
    radius = float(random.uniform(0.16, 0.23))
    direction = str(random.choice(list(DIRECTIONS))) if leave - enter >= 3 and (crossing or random.random() < 0.65) else None
    if crossing and others and direction:
        towards = {"left": "right", "right": "left", "up": "down", "down": "up"}
        direction = towards.get(others[0].direction or "", direction)
    paths = [_path(random, direction, enter, leave, appears, leaves) for _ in range(8)]
    start, end = max(paths, key=lambda path: _room(path, others, appears, leaves))
    changes = later = None
    if leave - enter >= 3 and random.random() < 0.22:
        choices = [c for c in COLOURS if c != colour and (c, shape) in names]
        if choices:
            later = str(random.choice(choices))
            names.remove((later, shape))
            changes = _edge(random, int(random.integers(enter + 1, leave)))
    return Thing(shape, colour, radius, start, end, appears, leaves, direction, changes, later)


Path = tuple[tuple[float, float], tuple[float, float]]


def _path(random: np.random.Generator, direction: str | None, enter: int, leave: int, appears: float, leaves: float) -> Path:
    """A random way through the picture: where a thing is when it appears and when it leaves."""
    if direction is None:
        place = (float(random.uniform(0.22, 0.78)), float(random.uniform(0.22, 0.78)))
        return place, place
    dx, dy = DIRECTIONS[direction]
    # The first and last whole seconds see the thing near opposite edges; before and after, it slides in and out.
    speed = 0.56 / (leave - 1 - enter)
    across = float(random.uniform(0.22, 0.78))
    x, y = (0.5 - dx * 0.28, across) if dx else (across, 0.5 - dy * 0.28)
    before, after = (appears - enter) * speed, (leaves - enter) * speed
    return (x + dx * before, y + dy * before), (x + dx * after, y + dy * after)


def _room(path: Path, others: list[Thing], appears: float, leaves: float) -> float:
    """The least distance, along `path`, to any other thing that is there at the time."""
    (x0, y0), (x1, y1) = path
    least = 1.0
    for other in others:
        for t in np.arange(np.ceil(max(appears, other.appears)), min(leaves, other.leaves)):
            along = (float(t) - appears) / (leaves - appears)
            x, y = other.place(float(t))
            least = min(least, float(np.hypot(x0 + along * (x1 - x0) - x, y0 + along * (y1 - y0) - y)))
    return least
