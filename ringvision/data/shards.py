"""A folder of tokenized world videos to train on: codes only, since a seed is enough to draw the questions
again.

    codes-00000.npz   codes uint16 [frames, h, w] of all its videos one after another, times float32 [frames] in seconds,
                      lengths int64 [videos] in frames, seeds int64 [videos]
    codes-00001.npz   …
    shards.json       tokenizer (name), hash, grid [h, w], fps, num_codes; videos and frames in all; files: name, videos, frames

In: a video's codes, times and seed, one by one. Out: any video by its number. A file appears whole or not at
all, and counts from the moment that shards.json names it, so an interrupted writer goes on where it stopped.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ringvision.errors import UserError

INDEX = "shards.json"


@dataclass(frozen=True)
class ShardsInfo:
    """What all videos of a folder share. tokenizer, hash: who made the codes; grid (h, w); num_codes: below
    this is each code.
    """

    tokenizer: str
    hash: str
    grid: tuple[int, int]
    num_codes: int
    fps: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        if not 0 < self.num_codes <= 1 << 16:
            raise UserError(
                f"num_codes is {self.num_codes}; shards hold codes of 16 bits, so give 1 to {1 << 16}"
            )


class ShardWriter:
    """Adds videos to `folder`, `videos_per_file` to a file; opened again, it adds further files.

    UserError where the folder holds videos of another tokenizer, grid or rate.
    """

    def __init__(
        self, folder: str | os.PathLike[str], info: ShardsInfo, *, videos_per_file: int = 1024
    ) -> None:
        self.folder = Path(folder)
        self.info = info
        self.videos_per_file = videos_per_file
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files: list[dict[str, Any]] = []
        if (self.folder / INDEX).exists():
            there, self._files = _read_index(self.folder)
            if there != info:
                raise UserError(
                    f"{self.folder} holds videos of {there}, not of {info}; write into another folder"
                )
        self._videos: list[tuple[np.ndarray, np.ndarray, int]] = []

    def __len__(self) -> int:
        """Videos in the folder and in hand."""
        return sum(file["videos"] for file in self._files) + len(self._videos)

    def add(self, codes: np.ndarray, times: Sequence[float] | np.ndarray, seed: int) -> None:
        """codes int [T, h, w] in [0, num_codes), times [T] in seconds."""
        codes = np.asarray(codes)
        times = np.asarray(times, np.float32)
        if (
            codes.ndim != 3
            or codes.shape[1:] != self.info.grid
            or times.shape != codes.shape[:1]
            or not len(codes)
        ):
            h, w = self.info.grid
            raise UserError(
                f"codes {codes.shape} and times {times.shape}; give codes [T, {h}, {w}] and times "
                "[T], T of at least 1"
            )
        if codes.min() < 0 or codes.max() >= self.info.num_codes:
            raise UserError(
                f"codes from {codes.min()} to {codes.max()}; the tokenizer {self.info.tokenizer} has "
                f"{self.info.num_codes}"
            )
        self._videos.append((codes.astype(np.uint16), times, int(seed)))
        if len(self._videos) >= self.videos_per_file:
            self.flush()

    def flush(self) -> None:
        """Write what is in hand as one more file."""
        if not self._videos:
            return
        codes, times, seeds = zip(*self._videos, strict=True)
        name = f"codes-{len(self._files):05d}.npz"
        aside = self.folder / (name + ".partial")
        with aside.open("wb") as file:
            lengths = np.array([len(one) for one in codes], np.int64)
            np.savez(
                file,
                codes=np.concatenate(codes),
                times=np.concatenate(times),
                lengths=lengths,
                seeds=np.array(seeds, np.int64),
            )
        os.replace(aside, self.folder / name)
        self._files.append({"name": name, "videos": len(codes), "frames": int(lengths.sum())})
        self._videos = []
        _write_index(self.folder, self.info, self._files)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


class Shards:
    """Reads a folder of shards. A file's codes are read when one of its videos is first asked for, and stay
    in memory.

    info: what all videos share. lengths int64 [videos] in frames, seeds int64 [videos]. UserError where the
    folder is no such folder or a file is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.info, self._files = _read_index(self.folder)
        small = [self._read(file["name"], ("lengths", "seeds")) for file in self._files]
        for file, arrays in zip(self._files, small, strict=True):
            if len(arrays["lengths"]) != file["videos"] or int(arrays["lengths"].sum()) != file["frames"]:
                raise UserError(
                    f"{self.folder / file['name']} does not hold what {INDEX} says; write the folder again"
                )
        self.lengths = np.concatenate([np.zeros(0, np.int64), *(arrays["lengths"] for arrays in small)])
        self.seeds = np.concatenate([np.zeros(0, np.int64), *(arrays["seeds"] for arrays in small)])
        self._first = np.cumsum([0, *(file["videos"] for file in self._files)])
        self._starts = [np.cumsum([0, *arrays["lengths"]]) for arrays in small]
        self._loaded: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def video(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The video of this number -> (codes uint16 [T, h, w], times float32 [T])."""
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        start, stop = self._starts[number][index - self._first[number] :][:2]
        arrays = self._load(number)
        return arrays["codes"][start:stop], arrays["times"][start:stop]

    @cached_property
    def times(self) -> np.ndarray:
        """The times of all frames of all videos, in order: float32 [frames]."""
        return np.concatenate(
            [np.zeros(0, np.float32), *(self._load(number)["times"] for number in range(len(self._files)))]
        )

    def _load(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._loaded:
            name = self._files[number]["name"]
            frames = self._files[number]["frames"]
            arrays = self._read(name, ("codes", "times"))
            if arrays["codes"].shape != (frames, *self.info.grid) or arrays["times"].shape != (frames,):
                found = arrays["codes"].shape
                raise UserError(
                    f"{self.folder / name} holds codes {found}, {INDEX} says {frames} frames of "
                    f"{self.info.grid}"
                )
            self._loaded[number] = arrays
        return self._loaded[number]

    def _read(self, name: str, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
        try:
            with (self.folder / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in keys}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self.folder / name} is missing or damaged ({error}); write the folder again"
            ) from error


def _read_index(folder: Path) -> tuple[ShardsInfo, list[dict[str, Any]]]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        info = ShardsInfo(**{name: index[name] for name in ShardsInfo.__dataclass_fields__})
        return info, [
            {"name": str(file["name"]), "videos": int(file["videos"]), "frames": int(file["frames"])}
            for file in index["files"]
        ]
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {INDEX}; give a folder of code shards") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX} is damaged ({error}); write the folder again") from error


def _write_index(folder: Path, info: ShardsInfo, files: list[dict[str, Any]]) -> None:
    totals = {name: sum(file[name] for file in files) for name in ("videos", "frames")}
    index = {**asdict(info), **totals, "files": files}
    aside = folder / (INDEX + ".partial")
    aside.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, folder / INDEX)
