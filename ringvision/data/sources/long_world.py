"""Long videos of the synthetic world, put together from the tokenized short ones as they are needed.

    short videos  ->  | part | quiet | part | card | part | part | quiet | ...  ->  questions about the whole

A frame's codes do not depend on when it is shown, so the codes of a long video are those of its parts. Half
of the videos begin at second 0 and half are the end of a longer one; with `leaps`, time leaps between parts,
as if most of an hour were cut out. So a look-up by minute and second is learned from videos that are far
shorter.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ringvision.checks import Checks
from ringvision.data.sources.base import VideosInfo
from ringvision.data.sources.tokenized import videos_info
from ringvision.data.sources.videos import QuestionAnswer, Videos, VideoSourceConfig
from ringvision.data.sources.world import WorldVideos
from ringvision.data.world import LONG_KINDS, Scene, long_questions, retimed
from ringvision.data.world.joined_scene import Part, joined_scene
from ringvision.errors import UserError

VIDEOS = 100_000
"""How many videos there are; each is put together anew whenever it is asked for."""
HOUR = 3600
MOST_QUIET = 0.25
LONGEST_QUIET = 40
LEAST_PART = 2
CARDS = (1, 2, 1, 1, 1, 1, 1)
"""How likely a video has 0, 1, 2 … cards. One alone is asked about in the plainest words."""
TRIES = 200


@dataclass(frozen=True)
class LongWorldData(VideoSourceConfig):
    """Long videos made of those of a folder, which scripts/tokenize_world.py wrote; see VideoSourceConfig.

    shortest, longest: seconds of a video; each doubling between them is as likely.
    leaps: the share of videos whose parts are spread over an hour.
    same_second: the share of those in which parts begin at one second of different minutes, so that the
        second alone does not tell them apart.
    longest_part: seconds of the longest part of a short video (None: as long as that is).
    glances, whens: how many glances and questions for a card's time are asked of a video at most.
    looks: how often what things were like at a time is asked, of each kind of question.
    seconds_a_card: there is at most a card in so many seconds on average.
    seed: which videos.
    """

    shortest: int = 15
    longest: int = 100
    leaps: float = 0.0
    same_second: float = 0.0
    longest_part: int | None = None
    glances: int = 4
    whens: int = 2
    looks: int = 1
    seconds_a_card: int = 7
    seed: int = 0

    def open_videos(self) -> Videos:
        """The long videos. UserError where the folder has no videos of the world."""
        return LongWorldVideos(self)

    def vision(self) -> VideosInfo | None:
        """What the videos share, by the first short one that can be read."""
        return videos_info(self.folder)

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(LEAST_PART, "shortest")
        checks.at_least(0, "seed", "glances", "whens")
        checks.at_least(1, "seconds_a_card", "looks")
        checks.that(
            self.longest_part is None or self.longest_part >= 1,
            f"longest_part is {self.longest_part}, expected at least 1 second",
        )
        for name in ("leaps", "same_second"):
            share = getattr(self, name)
            checks.that(0 <= share <= 1, f"{name} is {share}, expected a share: 0 to 1")
        checks.that(
            self.shortest <= self.longest <= HOUR,
            f"longest is {self.longest}, expected shortest ({self.shortest}) to {HOUR} seconds",
        )
        return [*super().problems(), *checks.problems]


class _Frames(NamedTuple):
    """So many `frames` of a short video from `first` on; `shown` seconds in all, for what they are fewer than
    that the last one again and again. quiet: nothing is seen in them.
    """

    video: int
    first: int
    frames: int
    shown: int
    quiet: bool


class LongWorldVideos:
    """VIDEOS long videos; what is in one follows from the config's seed and its number.

    UserError where the folder has no videos of the world, or none without a card.
    """

    kinds = LONG_KINDS
    auxiliary: tuple[str, ...] = ()

    def __init__(self, config: LongWorldData) -> None:
        self._config = config
        self._short = WorldVideos(config.folder)
        self._readable = np.array([n for n in range(len(self._short)) if n not in self._short.bad])
        self.name = f"long videos of {self._short.name}"
        self.info = self._short.info
        self.bad: dict[int, str] = {}
        low, high = np.log([config.shortest, config.longest + 1])
        drawn = np.random.default_rng([config.seed, 10]).uniform(low, high, VIDEOS)
        self._lengths = np.clip(np.exp(drawn).astype(np.int64), config.shortest, config.longest)
        self._plan = lru_cache(maxsize=64)(self._planned)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each video: int64 [videos]."""
        return self._lengths

    def __len__(self) -> int:
        return VIDEOS

    def video(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The video of this number -> (codes uint16 or uint32 [T, h, w], times float64 [T])."""
        times, parts = self._plan(index)
        pieces = []
        for part in parts:
            codes, _ = self._short.video(part.video)
            codes = codes[part.first : part.first + part.frames]
            again = np.repeat(codes[-1:], part.shown - part.frames, axis=0)
            pieces += [codes, again]
        return np.concatenate(pieces), times.astype(np.float64)

    def questions(self, index: int, first: int, count: int) -> Sequence[QuestionAnswer]:
        """What is asked about the video, or about a part of it."""
        times, frames = self._plan(index)
        parts = [
            Part(None if part.quiet else self._short.scene(part.video), part.first, part.shown)
            for part in frames
        ]
        scene = joined_scene(index, parts)
        if (first, count) != (0, self._lengths[index]):
            scene = scene.clip(first, count)

        def shown(second: int) -> int:
            """When it is seen what the scene has at this second; after its end, so much later than that."""
            place = min(second, len(times) - 1)
            return int(times[place]) + second - place

        return [
            QuestionAnswer(asked.kind, retimed(asked.text, shown), retimed(asked.answer, shown))
            for asked in long_questions(scene, self._config.glances, self._config.whens, self._config.looks)
        ]

    def is_asked(self, index: int) -> bool:
        """Something can be asked about every video."""
        return True

    def _planned(self, index: int) -> tuple[np.ndarray, list[_Frames]]:
        """(when each frame of a video is shown: whole seconds, int64 [T]; of which frames it is made)."""
        random = np.random.default_rng([self._config.seed, 11, index])
        seconds = int(self._lengths[index])
        parts: list[_Frames] = []
        quiet = float(random.uniform(0, MOST_QUIET))
        while sum(part.shown for part in parts) < seconds:
            parts.append(self._quiet(random) if random.random() < quiet else self._part(random))
        most = min(seconds // self._config.seconds_a_card, len(parts))
        likely = np.array(CARDS[: most + 1], float)
        cards = self._cards(random, int(random.choice(len(likely), p=likely / likely.sum())))
        # No two cards stand one after the other: they would be one.
        places = random.permutation(len(parts))[: len(cards)]
        for place, card in sorted(zip(places.tolist(), cards), key=lambda pair: -pair[0]):
            parts.insert(place, card)
        parts = _first_seconds(parts, seconds)
        return np.arange(seconds) + self._later(random, parts, HOUR - seconds), parts

    def _later(self, random: np.random.Generator, parts: Sequence[_Frames], most: int) -> np.ndarray:
        """By how many seconds each frame is later than it would be in a video from 0 on: int64 [T]."""
        if random.random() < self._config.leaps:
            shown = [part.shown for part in parts]
            minutes = HOUR // 60
            # drawn where it can be so alone: without same_second the videos are what they were before
            same = self._config.same_second and random.random() < self._config.same_second
            if same and len(parts) <= minutes and max(shown) <= 60:
                first = int(random.integers(60 - max(shown) + 1))
                starts = 60 * np.sort(random.permutation(minutes)[: len(parts)]) + first
                later = starts - (np.cumsum(shown) - shown)
            else:
                later = np.sort(random.integers(most + 1, size=len(parts)))
            return np.repeat(later, shown)
        begins = int(random.integers(most + 1)) if random.random() < 0.5 else 0
        return np.full(sum(part.shown for part in parts), begins)

    def _any_scene(self, random: np.random.Generator) -> Iterator[tuple[int, Scene]]:
        """Short videos and their scenes, as chance has it."""
        for _ in range(TRIES):
            video = int(self._readable[random.integers(len(self._readable))])
            yield video, self._short.scene(video)
        raise UserError(f"{self.name}: {TRIES} videos one after another show none of what is looked for")

    def _part(self, random: np.random.Generator) -> _Frames:
        """As many seconds without a card as a short video has in a row."""
        for video, scene in self._any_scene(random):
            run = _longest_run([scene.card_at(second) is None for second in scene.seconds])
            if len(run) >= LEAST_PART:
                most = self._config.longest_part or len(run)
                if most < len(run):  # any of its seconds
                    start = run.start + int(random.integers(len(run) - most + 1))
                    run = range(start, start + int(random.integers(1, most + 1)))
                return _Frames(video, run.start, len(run), len(run), False)
        raise AssertionError("_any_scene ends with an error")

    def _quiet(self, random: np.random.Generator) -> _Frames:
        """Seconds in which there is the background alone; the last of them is shown until it is enough."""
        shown = int(np.exp(random.uniform(np.log(2), np.log(LONGEST_QUIET))))
        for video, scene in self._any_scene(random):
            run = _longest_run(
                [scene.card_at(second) is None and not scene.things_at(second) for second in scene.seconds]
            )
            if run:
                return _Frames(video, run.start, min(len(run), shown), shown, True)
        raise AssertionError("_any_scene ends with an error")

    def _cards(self, random: np.random.Generator, number: int) -> list[_Frames]:
        """So many cards, all of other digits and other colours."""
        found: list[_Frames] = []
        digits: set[int] = set()
        colours: set[str] = set()
        while len(found) < number:
            for video, scene in self._any_scene(random):
                new = [
                    card for card in scene.cards if card.digit not in digits and card.colour not in colours
                ]
                if new:
                    card = new[int(random.integers(len(new)))]
                    seen = [second for second in scene.seconds if card.visible(second)]
                    found.append(_Frames(video, seen[0], len(seen), len(seen), False))
                    digits.add(card.digit)
                    colours.add(card.colour)
                    break
        return found


def _first_seconds(parts: Sequence[_Frames], seconds: int) -> list[_Frames]:
    """As many of the parts as fill the seconds, the last one cut."""
    kept = []
    for part in parts:
        shown = min(part.shown, seconds)
        if shown:
            kept.append(part._replace(frames=min(part.frames, shown), shown=shown))
        seconds -= shown
    return kept


def _longest_run(wanted: Sequence[bool]) -> range:
    """The longest run of places that are wanted; the first of several."""
    best = range(0)
    start = 0
    for place, one in enumerate([*wanted, False]):
        if not one:
            if place - start > len(best):
                best = range(start, place)
            start = place + 1
    return best
