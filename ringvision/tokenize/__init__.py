"""A library of videos to shards of codes, on one machine or on Ray: resumable, and every video accounted
for.
"""

from ringvision.tokenize.example import Example
from ringvision.tokenize.manifest import Manifest
from ringvision.tokenize.videos import read_examples, tokenize_videos

__all__ = ["Example", "Manifest", "read_examples", "tokenize_videos"]
