"""Tokenized videos of the synthetic world (data/world), whose questions are made anew from their seeds.

record whose source is "world:SEED"  ->  questions about the scene of that seed, or about a part of it
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ringvision.checks import Checks
from ringvision.data import world
from ringvision.data.sources.base import VideosInfo
from ringvision.data.sources.tokenized import TokenizedVideos, videos_info
from ringvision.data.sources.videos import QuestionAnswer, Videos, VideoSourceConfig
from ringvision.errors import UserError

PREFIX = "world:"


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

    UserError where the folder is none, or a video's source is not `world:SEED`.
    """

    kinds = (*world.KINDS, *world.AUXILIARY)
    auxiliary = world.AUXILIARY

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self.seeds = [
            -1 if number in self.bad else self._seed(source) for number, source in enumerate(self._sources)
        ]

    def questions(self, index: int, first: int, count: int) -> Sequence[QuestionAnswer]:
        """What is asked about the scene of the video's seed, or about the part of it that these frames
        show.
        """
        scene = world.make_scene(self.seeds[index])
        seen = scene if (first, count) == (0, int(scene.duration)) else scene.clip(first, count)
        return [QuestionAnswer(asked.kind, asked.text, asked.answer) for asked in world.questions(seen)]

    def is_asked(self, index: int) -> bool:
        """Something can be asked about every scene."""
        return True

    def _seed(self, source: str) -> int:
        seed = source.removeprefix(PREFIX)
        if seed == source or not (seed.isascii() and seed.isdigit()):
            raise UserError(
                f"{self.name} holds {source}, which is no video of the world ({PREFIX}SEED); use "
                "TokenizedData for videos that were tokenized with their captions and questions"
            )
        return int(seed)
