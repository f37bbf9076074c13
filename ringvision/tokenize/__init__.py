"""A library of videos to codes on disk: resumable, and every video accounted for."""

from ringvision.tokenize.manifest import Manifest
from ringvision.tokenize.videos import read_codes, tokenize_videos

__all__ = ["Manifest", "read_codes", "tokenize_videos"]
