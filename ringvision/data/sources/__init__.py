"""What can be trained on, behind one protocol.

base.py       DataSource: videos by number and what is asked about them;
              VideoData: the part of a config that opens one
tokenized.py  a folder that `ringvision tokenize` wrote: the captions and questions of its records
world.py      such a folder of videos of the synthetic world: questions made anew from their seeds
"""

from ringvision.data.sources.base import DataSource, QuestionAnswer, VideoData, VideosInfo
from ringvision.data.sources.tokenized import TokenizedData, TokenizedSource
from ringvision.data.sources.world import WorldData, WorldSource

__all__ = [
    "DataSource",
    "QuestionAnswer",
    "TokenizedData",
    "TokenizedSource",
    "VideoData",
    "VideosInfo",
    "WorldData",
    "WorldSource",
]
