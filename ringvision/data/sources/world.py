"""Tokenized videos of the synthetic world (data/world), whose questions are made anew from their seeds.

record whose source is "world:SEED"  ->  questions about the scene of that seed, or about a part of it
                       "more-colours:SEED"                   of that seed with more colours
                       "long:SECONDS:SEED"                   of that length and seed
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ringvision.checks import Checks
from ringvision.data import world
from ringvision.data.sources.base import VideosInfo
from ringvision.data.sources.tokenized import TokenizedVideos, videos_info
from ringvision.data.sources.videos import QuestionAnswer, Videos, VideoSourceConfig
from ringvision.errors import UserError


@dataclass(frozen=True)
class SceneKind:
    """A kind of scenes.

    numbers: what a source gives, each a whole number after a colon. make: the scene of these numbers. ask:
    the questions about a scene.
    """

    numbers: tuple[str, ...]
    make: Callable[..., world.Scene]
    ask: Callable[[world.Scene], list[world.Question]] = world.questions


def _make_long(seconds: int, seed: int) -> world.Scene:
    return world.make_long_scene(seed, seconds)


SCENES: dict[str, SceneKind] = {
    "world:": SceneKind(("SEED",), world.make_scene),
    "more-colours:": SceneKind(("SEED",), lambda seed: world.with_more_colours(world.make_scene(seed))),
    "long:": SceneKind(("SECONDS", "SEED"), _make_long, world.long_questions),
}
"""The kinds of scenes, by what the source of a record begins with before its numbers."""


SCENES_KEPT = 1 << 15
"""How many scenes stay in memory, of about 4 KB each: making one takes longer than asking about it."""


def read_source(source: str) -> tuple[str, tuple[int, ...]]:
    """The source of a record -> a key of SCENES, and the numbers that its `make` wants. UserError where it
    is no scene.
    """
    name, colon, rest = source.partition(":")
    kind = SCENES.get(name + colon)
    given = rest.split(":")
    if (
        kind is None
        or len(given) != len(kind.numbers)
        or not all(number.isascii() and number.isdigit() for number in given)
    ):
        forms = ", ".join(begin + ":".join(kind.numbers) for begin, kind in SCENES.items())
        raise UserError(f"{source} is no video of the world ({forms})")
    numbers = tuple(int(number) for number in given)
    if "SECONDS" in kind.numbers:
        seconds = numbers[kind.numbers.index("SECONDS")]
        if not world.MIN_LONG_SECONDS <= seconds <= world.MAX_LONG_SECONDS:
            raise UserError(
                f"{source} is no video of the world: a long one has {world.MIN_LONG_SECONDS} to "
                f"{world.MAX_LONG_SECONDS} seconds"
            )
    return name + colon, numbers


@dataclass(frozen=True)
class WorldData(VideoSourceConfig):
    """A folder of tokenized world videos (scripts/tokenize_world.py); see VideoSourceConfig.

    grow_from, grow_steps: at first only parts of at most `grow_from` frames of a video are shown, and
    longer ones from step to step until after `grow_steps` videos are whole (0: whole from the start).
    """

    grow_from: int = 0
    grow_steps: int = 0

    def open_videos(self) -> Videos:
        """The world's videos of `folder`. UserError where it holds none, or others."""
        return WorldVideos(self.folder)

    def vision(self) -> VideosInfo | None:
        """What the videos share, by the first of them that can be read."""
        return videos_info(self.folder)

    @property
    def growth(self) -> tuple[int, int]:
        """(grow_from, grow_steps), as VideoSourceConfig.growth says."""
        return self.grow_from, self.grow_steps

    @property
    def frame_question(self) -> str:
        """The question of the kind "glance"."""
        return "What was there at {seconds}?"

    def problems(self) -> list[str]:
        """All that is wrong with these settings, a sentence each."""
        checks = Checks(self)
        checks.at_least(0, "grow_from", "grow_steps")
        return [*super().problems(), *checks.problems]


class WorldVideos(TokenizedVideos):
    """A folder of tokenized world videos, one frame a second.

    UserError where the folder is none, or a video's source is not one of SCENES with its numbers.
    """

    kinds = tuple(dict.fromkeys((*world.KINDS, *world.LONG_KINDS, *world.AUXILIARY)))
    auxiliary = world.AUXILIARY

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self.scenes = [
            ("", ()) if number in self.bad else self._scene(source)
            for number, source in enumerate(self._sources)
        ]
        """How each one's scene is made: a key of SCENES, and its numbers."""
        self.scene = lru_cache(maxsize=SCENES_KEPT)(self._made)
        """The scene of the video of a number."""

    def questions(self, index: int, first: int, count: int) -> Sequence[QuestionAnswer]:
        """What is asked about the scene that the video's source names, or about the part of it that these
        frames show. Times are those of the whole scene.
        """
        kind = SCENES[self.scenes[index][0]]
        scene = self.scene(index)
        seen = scene if (first, count) == (0, int(scene.duration)) else scene.clip(first, count)
        return [QuestionAnswer(asked.kind, asked.text, asked.answer) for asked in kind.ask(seen)]

    def _made(self, index: int) -> world.Scene:
        name, numbers = self.scenes[index]
        return SCENES[name].make(*numbers)

    def is_asked(self, index: int) -> bool:
        """Something can be asked about every scene."""
        return True

    def _scene(self, source: str) -> tuple[str, tuple[int, ...]]:
        try:
            return read_source(source)
        except UserError as error:
            raise UserError(
                f"{self.name}: {error}; use TokenizedData for videos that were tokenized with their captions "
                "and questions"
            ) from None
