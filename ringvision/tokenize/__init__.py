"""A library of videos to shards of codes, on one machine or on Ray: resumable, and every video accounted
for.
"""

from ringvision.data.tokenized import TokenizedVideo
from ringvision.tokenize.manifest import Manifest
from ringvision.tokenize.videos import read_examples, tokenize_videos

__all__ = ["Manifest", "TokenizedVideo", "read_examples", "tokenize_videos"]
