"""One thing to be tokenized, a row of the manifest and a record of the output: a video file, a part of one,
or an example of a data set.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoSource:
    """`name` tells it from all others: a file's absolute path, with `#t=START,END` (seconds) behind it for a
    part; for an example of a data set `tfds:NAME/SPLIT#INDEX`.

    path: the file, "" for an example of a data set, which `dataset` (`tfds:NAME/SPLIT`) and `index` name.
    `end` None: to the end of the file. variant: 0, or the number of an altered copy (variants.py), whose name
    ends with `#variant=NUMBER`. caption, qa (question, answer): what the manifest that named it says
    of it.
    """

    name: str
    path: str = ""
    start: float = 0.0
    end: float | None = None
    caption: str = ""
    qa: tuple[tuple[str, str], ...] = ()
    dataset: str = ""
    index: int = 0
    variant: int = 0
