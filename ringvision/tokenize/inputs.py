"""What is to be tokenized: files, folders, globs, manifests and data sets in, a list of VideoSource out; the
frames and checksum of each.

    clips/                    every video in a folder
    clips/**/*.mp4            a pattern
    list.csv .jsonl .parquet  a manifest (listing.py)
    tfds:NAME/SPLIT           the examples of a data set (dataset.py)

Nothing is fetched, and what names a file is never run or followed.
"""

import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.video import FrameBatch, Limits, VideoError, sample
from ringvision.data.video.container import identify
from ringvision.errors import UserError
from ringvision.tokenize.dataset import examples, frames_of, open_dataset, stored
from ringvision.tokenize.listing import ELSEWHERE, LISTINGS, file_source, read_listing
from ringvision.tokenize.source import VideoSource
from ringvision.tokenize.variants import altered

SUFFIXES = {
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".ts",
    ".m2ts",
    ".mpg",
    ".mpeg",
    ".flv",
    ".ogv",
    ".wmv",
    ".gif",
    ".3gp",
}
OTHER_LISTS = {".json", ".ndjson", ".tsv", ".txt", ".xlsx", ".yaml", ".yml"}


def read_inputs(inputs: Iterable[str | os.PathLike[str]]) -> list[VideoSource]:
    """The sources that `inputs` name, in their order, folders and patterns in the order of paths, each name
    once, where it came first.

    A file is taken as it is, even where none has this name. Folders are entered, but no links to folders; of
    them, and of patterns, every file counts that is not hidden and is a video by its bytes or its name. Where
    several rows or inputs name the same part of the same file, it gets the questions of all and their
    captions, each once, with a line break between. Raises UserError where nothing is found, and for a
    manifest or a data set that is not as it should be.
    """
    found: dict[str, VideoSource] = {}
    captions: dict[str, dict[str, None]] = {}
    questions: dict[str, dict[tuple[str, str], None]] = {}
    for source in itertools.chain.from_iterable(_expand(os.fspath(given)) for given in inputs):
        first = found.setdefault(source.name, source)
        if (first.path, first.start, first.end) != (source.path, source.start, source.end):
            raise UserError(
                f"{source.path!r} and a part of {first.path!r} are both called {source.name!r}; "
                "rename the file"
            )
        captions.setdefault(source.name, {}).update({source.caption: None} if source.caption else {})
        questions.setdefault(source.name, {}).update(dict.fromkeys(source.qa))
    if not found:
        raise UserError(
            "there is no video among the inputs; give video files, folders that hold some, a "
            "manifest, or tfds:NAME/SPLIT"
        )
    return [
        replace(source, caption="\n".join(captions[name]), qa=tuple(questions[name]))
        for name, source in found.items()
    ]


QUICKLY: dict[str, Any] = {"steady": True}
SURELY: dict[str, Any] = {"steady": True, "threads": 1}
"""How `pictures` is to read, so that a file's codes are the same whenever it is read: the first way, and
after Unsteady the second.
"""


def pictures(
    source: VideoSource,
    *,
    fps: float,
    size: int,
    batch: int,
    limits: Limits | None = None,
    decoder: str = "auto",
    **reading: Any,
) -> Iterator[FrameBatch]:
    """The frames of a source: of a file's part `fps` a second, as ringvision.data.video's `sample` gives
    them; of an example of a data set all frames (an image is one), the k-th at k/fps seconds. Those of a
    variant are altered.

    Args:
        source: what is read.
        fps: frames a second.
        size: pixels on a side; frames are cropped and scaled to squares.
        batch: frames in a piece; the last one may be shorter.
        limits: of what it may take to decode; None: the usual ones.
        decoder: as `sample` takes it.
        reading: further arguments of `sample`.

    Returns:
        pieces, one after another: frames uint8 [n, size, size, 3] and times float64 [n] in seconds.

    Raises:
        UserError: for arguments that make no sense.
        VideoError: for what cannot be read.
    """
    if source.dataset:
        if not (math.isfinite(fps) and fps > 0) or size < 1 or batch < 1:
            raise UserError(f"fps {fps} must be above 0, size {size} and batch {batch} at least 1")
        pieces = _batches(source, fps, size, batch, limits or Limits())
    else:
        asked: dict[str, Any] = {"fps": fps, "size": size, "batch": batch, "limits": limits}
        part: dict[str, Any] = {"start": source.start, "end": source.end}
        pieces = sample(source.path, decoder=decoder, **part, **asked, **reading)
    return altered(pieces, source, size) if source.variant else pieces


def content(source: VideoSource) -> tuple[str, int | None, int | None]:
    """sha256 in hex, then `stamp`, taken before. Of a file: its bytes; of an example: its frames as they are
    stored, their shape and dtype.

    Raises VideoError where no video can be read.
    """
    size, changed = stamp(source)
    if source.dataset:
        parts, *layout = stored(source)
        digest = hashlib.sha256(repr((*layout, "uint8")).encode())
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest(), size, changed
    identify(source.path)
    try:
        with open(source.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), size, changed
    except OSError as error:
        raise VideoError(
            f"{source.path} cannot be read: {error.strerror}; check the disk and its permissions", "missing"
        ) from None


def stamp(source: VideoSource) -> tuple[int | None, int | None]:
    """Size in bytes and time of change in ns of the file (of an example: its shard); None, None where it is
    missing.
    """
    try:
        status = os.stat(
            open_dataset(source.dataset).split.shard(source.index) if source.dataset else source.path
        )
    except (OSError, ValueError, UserError):
        return None, None
    return status.st_size, status.st_mtime_ns


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the file at `path` is a video by its first bytes, even one that is cut short."""
    try:
        identify(path)
    except VideoError as error:
        return error.kind == "truncated"
    return True


def _expand(given: str) -> Iterable[VideoSource]:
    if given.startswith("tfds:"):
        return examples(given)
    if ELSEWHERE.match(given):
        raise UserError(f"{given} is an address; nothing is fetched: download it, and give the file")
    suffix = Path(given).suffix.lower()
    if os.path.isdir(given):
        return map(file_source, _inside(os.path.abspath(given)))
    if not os.path.lexists(given) and any(letter in given for letter in "*?["):
        return _matching(given)
    if suffix in LISTINGS:
        return read_listing(os.path.abspath(given))
    if suffix in OTHER_LISTS and os.path.exists(given) and not is_video(given):
        raise UserError(
            f"{given} is no video, and a manifest is a .csv, .jsonl or .parquet file; convert it "
            "to one of these"
        )
    if not given:
        raise UserError("an input is empty; give a file, a folder, a pattern, a manifest, or tfds:NAME/SPLIT")
    return [file_source(given)]


def _inside(folder: str) -> list[Path]:
    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions")

    files = []
    for path, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(path, name) for name in names if not name.startswith(".")]
    return sorted(filter(_counts, files))


def _counts(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or is_video(path)


def _matching(pattern: str) -> Iterable[VideoSource]:
    """Manifests where the pattern ends like one, else videos. `**` enters no links to folders, so no circle
    of links holds it up.
    """
    parts = Path(os.path.abspath(pattern)).parts
    fixed = next(n for n in range(1, len(parts)) if not Path(*parts[: n + 1]).exists())
    rest = list(parts[fixed:]) + ["*"] * (parts[-1] == "**")
    try:
        found = sorted(set(Path(*parts[:fixed]).glob("/".join(rest))))
    except ValueError as error:
        raise UserError(f"the pattern {pattern} cannot be read ({error})") from None
    if not any(part.startswith(".") for part in rest):
        found = [path for path in found if not any(part.startswith(".") for part in path.parts[fixed:])]
    files = [path for path in found if not path.is_dir()]
    if not files:
        raise UserError(
            f"no file matches {pattern}; check the pattern, and quote it so that the shell leaves it alone"
        )
    if files[0].suffix.lower() in LISTINGS and Path(pattern).suffix == files[0].suffix:
        return itertools.chain.from_iterable(read_listing(str(path)) for path in files)
    videos = list(filter(_counts, files))
    if not videos:
        raise UserError(f"none of the {len(files)} files that match {pattern} is a video; check the pattern")
    return map(file_source, videos)


def _batches(source: VideoSource, fps: float, size: int, batch: int, limits: Limits) -> Iterator[FrameBatch]:
    from ringvision.data.video.decode import square

    squares = (square(frame, size) for frame in frames_of(source, limits))
    for first in itertools.count(0, batch):
        held = list(itertools.islice(squares, batch))
        if held:
            yield FrameBatch(np.stack(held), np.arange(first, first + len(held)) / fps)
        if len(held) < batch:
            return
