"""Folders of tokenized videos: what `ringvision tokenize` writes, and what is trained on.

format.py        what every format has in common
array_record.py  ArrayRecord shards, for TFDS and grain
jsonl.py         LWM's training lines
writer.py        shards added to a folder one after another
"""

import os

from ringvision.data.tokenized.array_record import ArrayRecord
from ringvision.data.tokenized.format import FolderMetadata, Format, code_dtype
from ringvision.data.tokenized.jsonl import Jsonl
from ringvision.data.tokenized.video import TokenizedVideo
from ringvision.errors import UserError

__all__ = ["FORMATS", "FolderMetadata", "Format", "TokenizedVideo", "code_dtype", "format_named", "format_of"]


FORMATS: dict[str, Format] = {known.name: known for known in (ArrayRecord(), Jsonl())}


def format_named(name: str) -> Format:
    """The format of this name. UserError for another."""
    if name not in FORMATS:
        raise UserError(f"there is no format {name}; give one of {', '.join(FORMATS)}")
    return FORMATS[name]


def format_of(folder: str | os.PathLike[str]) -> Format:
    """The format of the shards that a folder holds. UserError where it holds none, or of two formats."""
    try:
        found = [known for known in FORMATS.values() if known.shards(folder)]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}); give a folder that ringvision tokenize wrote"
        ) from None
    if len(found) != 1:
        held = "shards of " + " and ".join(known.name for known in found) if found else "no shard of codes"
        raise UserError(f"{folder} holds {held}; give a folder that ringvision tokenize wrote")
    return found[0]
