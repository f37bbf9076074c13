"""Tokenized videos of the synthetic world (data/world), whose questions are made anew from their seeds.

record whose source is "world:SEED"  ->  questions about the scene of that seed, or about a part of it
                       "more-colours:SEED"                   of that seed with more colours
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ringvision.checks import Checks
from ringvision.data import world
from ringvision.data.sources.base import VideosInfo
from ringvision.data.sources.tokenized import TokenizedVideos, videos_info
from ringvision.data.sources.videos import QuestionAnswer, Videos, VideoSourceConfig
from ringvision.errors import UserError

SCENES: dict[str, Callable[[int], world.Scene]] = {
    "world:": world.make_scene,
    "more-colours:": lambda seed: world.with_more_colours(world.make_scene(seed)),
}
"""How the scene of a record is made, by what its source begins with before the seed."""


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

    UserError where the folder is none, or a video's source is not one of SCENES with a seed.
    """

    kinds = (*world.KINDS, *world.AUXILIARY)
    auxiliary = world.AUXILIARY

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self.scenes = [
            ("", -1) if number in self.bad else self._scene(source)
            for number, source in enumerate(self._sources)
        ]
        """How each one's scene is made, a key of SCENES, and its seed."""

    def questions(self, index: int, first: int, count: int) -> Sequence[QuestionAnswer]:
        """What is asked about the scene of the video's seed, or about the part of it that these frames
        show.
        """
        kind, seed = self.scenes[index]
        scene = SCENES[kind](seed)
        seen = scene if (first, count) == (0, int(scene.duration)) else scene.clip(first, count)
        return [QuestionAnswer(asked.kind, asked.text, asked.answer) for asked in world.questions(seen)]

    def is_asked(self, index: int) -> bool:
        """Something can be asked about every scene."""
        return True

    def _scene(self, source: str) -> tuple[str, int]:
        kind, colon, seed = source.partition(":")
        if kind + colon not in SCENES or not (seed.isascii() and seed.isdigit()):
            raise UserError(
                f"{self.name} holds {source}, which is no video of the world ({', '.join(SCENES)} and a seed"
                "); use TokenizedData for videos that were tokenized with their captions and questions"
            )
        return kind + colon, int(seed)
