"""What can be trained on, behind one protocol.

base.py       DataConfig: the mixture that a run reads; SourceConfig and DataSource: a part of it
videos.py     tokenized videos and questions about them -> examples
tokenized.py  a folder that `ringvision tokenize` wrote: the captions and questions of its records
world.py      such a folder of videos of the synthetic world: questions made anew from their seeds
"""

from ringvision.data.sources.base import BadRecord, DataConfig, DataSource, SourceConfig, VideosInfo
from ringvision.data.sources.tokenized import TokenizedData, TokenizedVideos
from ringvision.data.sources.videos import QuestionAnswer, Videos, VideoSource, VideoSourceConfig
from ringvision.data.sources.world import WorldData, WorldVideos

__all__ = [
    "BadRecord",
    "DataConfig",
    "DataSource",
    "QuestionAnswer",
    "SourceConfig",
    "TokenizedData",
    "TokenizedVideos",
    "VideoSource",
    "VideoSourceConfig",
    "Videos",
    "VideosInfo",
    "WorldData",
    "WorldVideos",
]
