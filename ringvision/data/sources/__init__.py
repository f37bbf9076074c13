"""What can be trained on, behind one protocol.

base.py               DataConfig: the mixture that a run reads; SourceConfig and DataSource: a part of it
videos.py             tokenized videos and questions about them -> examples
tokenized.py          a folder that `ringvision tokenize` wrote: the captions and questions of its records
caption_questions.py  what else a caption answers
world.py              such a folder of videos of the synthetic world: questions made anew from their seeds
long_world.py         long ones, put together from those
text.py               text and conversations in files of any usual format
conversation.py       messages of users and assistants as tokens
lwm.py                the lines that LWM's trainer reads: text, and text with codes
"""

from ringvision.data.sources.base import BadRecord, DataConfig, DataSource, SourceConfig, VideosInfo
from ringvision.data.sources.caption_questions import CaptionQuestion
from ringvision.data.sources.long_world import LongWorldData, LongWorldVideos
from ringvision.data.sources.lwm import LwmData, LwmSource
from ringvision.data.sources.text import TextData, TextSource
from ringvision.data.sources.tokenized import TokenizedData, TokenizedVideos
from ringvision.data.sources.videos import QuestionAnswer, VideoExamples, Videos, VideoSourceConfig
from ringvision.data.sources.world import WorldData, WorldVideos

SOURCE_KINDS: dict[str, type[SourceConfig]] = {
    kind.__name__: kind for kind in (TokenizedData, WorldData, LongWorldData, TextData, LwmData)
}
"""What a config on disk may name as a source."""

__all__ = [
    "SOURCE_KINDS",
    "BadRecord",
    "CaptionQuestion",
    "DataConfig",
    "DataSource",
    "LongWorldData",
    "LongWorldVideos",
    "LwmData",
    "LwmSource",
    "QuestionAnswer",
    "SourceConfig",
    "TextData",
    "TextSource",
    "TokenizedData",
    "TokenizedVideos",
    "VideoExamples",
    "VideoSourceConfig",
    "Videos",
    "VideosInfo",
    "WorldData",
    "WorldVideos",
]
