"""What every format of tokenized videos on disk has in common.

    TokenizedVideo -> encode -> bytes, one record a video -> write -> a shard of records
                   -> read, count, stream -> bytes -> decode -> TokenizedVideo

A folder of tokenized videos holds shards, numbered from 0, and metadata about all of them. Every record and
shard is the same bytes whoever makes it of the same videos. Record and shard carry checksums, so damage is
reported, never decoded.
"""

import json
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.tokenized.video import TokenizedVideo
from ringvision.errors import UserError

DATASET = "videos"
SPLIT = "train"


def code_dtype(num_codes: int) -> np.dtype:
    """What codes of a tokenizer are kept as: uint16, or uint32 where there are more than 65536 of them."""
    return np.dtype(np.uint16 if num_codes <= 1 << 16 else np.uint32)


@dataclass(frozen=True)
class FolderMetadata:
    """What a reader must know of a whole folder.

    lengths: records of each shard, in the order of their numbers. grid: (h, w) of a frame's codes.
    num_codes: how many codes the tokenizer has. description: for people.
    """

    lengths: Sequence[int]
    grid: tuple[int, int]
    num_codes: int
    description: str = ""


class Format(ABC):
    """One way to keep tokenized videos. What reads a file raises UserError, naming it, where it is damaged,
    cut short or no shard.
    """

    name: str
    pattern: re.Pattern[str]  # of its shards' names; group 1 is the number

    @abstractmethod
    def encode(self, video: TokenizedVideo) -> bytes:
        """One record, the same for the same video. UserError unless codes are uint16 or uint32 (`code_dtype`)
        [T, h, w], T > 0, with a finite time for each frame.
        """

    @abstractmethod
    def decode(self, record: bytes) -> TokenizedVideo:
        """The video of a record, to the bit; its codes may be read-only."""

    @abstractmethod
    def file_name(self, shard: int) -> str:
        """The name of a shard's file."""

    @abstractmethod
    def write(self, path: str | os.PathLike[str], records: Sequence[bytes]) -> None:
        """Exactly this file, with these records in this order, safe on disk when it returns; a shard may be
        empty. Not atomic: write aside and rename. UserError where it cannot be written.
        """

    @abstractmethod
    def read(self, path: str | os.PathLike[str], indices: Sequence[int] | None = None) -> list[bytes]:
        """The records of these indices (from 0; all where None), in the order asked for, reading no
        others.
        """

    @abstractmethod
    def stream(self, path: str | os.PathLike[str]) -> Iterator[bytes]:
        """All records in order, one in memory at a time."""

    @abstractmethod
    def count(self, path: str | os.PathLike[str]) -> int:
        """How many records a shard holds."""

    @abstractmethod
    def write_metadata(self, folder: str | os.PathLike[str], metadata: FolderMetadata) -> None:
        """Write the metadata beside the shards; each file is replaced as a whole. UserError where the folder
        cannot be written.
        """

    @abstractmethod
    def num_codes(self, folder: str | os.PathLike[str]) -> int | None:
        """How many codes the tokenizer has, by the folder's metadata; None where that is not there."""

    def shards(self, folder: str | os.PathLike[str]) -> list[Path]:
        """The shards of a folder in the order of their numbers."""
        found = ((self.pattern.fullmatch(path.name), path) for path in Path(folder).iterdir())
        return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


# ------------------------------------------------------------------------------------- what formats share


def checked_arrays(video: TokenizedVideo) -> tuple[np.ndarray, np.ndarray]:
    """-> (codes uint16 or uint32 [T, h, w], times float64 [T]), each in one piece. UserError for others."""
    codes = np.ascontiguousarray(video.codes)
    times = np.ascontiguousarray(video.times, np.float64)
    if codes.dtype not in (np.uint16, np.uint32) or codes.ndim != 3 or not codes.size:
        raise UserError(
            f"{video.source} has codes of {codes.dtype} {list(codes.shape)}; expected uint16 or "
            "uint32 [T, h, w], T > 0"
        )
    if times.shape != codes.shape[:1] or not np.isfinite(times).all():
        raise UserError(
            f"{video.source} has times {list(times.shape)} for {len(codes)} frames; expected a "
            "finite one for each"
        )
    return codes, times


def checked_indices(path: str | os.PathLike[str], indices: Sequence[int] | None, count: int) -> list[int]:
    """The indices as a list, all of `count` where None. UserError where one is not in the shard."""
    wanted = list(range(count)) if indices is None else [int(index) for index in indices]
    if wanted and not (min(wanted) >= 0 and max(wanted) < count):
        raise damaged_file(path, f"record {max(wanted, key=abs)} was asked for and it holds {count} records")
    return wanted


@contextmanager
def open_shard(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The file, open to be read as bytes. UserError where it is no file or cannot be read."""
    try:
        if not os.path.isfile(path):
            raise UserError(f"{path} is no file; give a shard that ringvision tokenize wrote")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); see to its permissions and to the disk"
        ) from None


@contextmanager
def replacing_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder inside; its files replace those of `folder` when the block ends well. What a killed process
    leaves there is removed by the next call.
    """
    aside = Path(folder) / ".metadata.partial"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        yield aside
        for path in sorted(aside.iterdir()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            os.replace(path, Path(folder) / path.name)
    except OSError as error:
        raise unwritable_file(folder, error) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_metadata(path: Path, wanted: Any) -> int | None:
    """`wanted` of the JSON in a file; None where there is no such file. UserError where it is damaged."""
    try:
        return wanted(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise damaged_file(path, f"no num_codes there, {type(error).__name__}") from None


def damaged_record(format: str, error: Exception) -> UserError:
    return UserError(
        f"a record is damaged, or none of {format} ({type(error).__name__}: "
        f"{str(error)[:120]!r}); tokenize its video again"
    )


def damaged_file(path: str | os.PathLike[str], why: str) -> UserError:
    return UserError(
        f"{path} is damaged or of another format ({why}); remove it and run the same command again"
    )


def unwritable_file(path: str | os.PathLike[str], error: Exception) -> UserError:
    lines = str(error).splitlines() or [type(error).__name__]  # array_record raises some without a message
    reason = getattr(error, "strerror", None) or lines[0][:200]
    return UserError(f"{path} cannot be written ({reason}); make room, or give a folder that can")
