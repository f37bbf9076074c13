"""Writes a folder of tokenized videos shard by shard, for those who have the codes already.

    [TokenizedVideo, ...] -> TokenizedWriter.add -> one more shard; metadata when the writer is closed

`ringvision tokenize` does not use it: its shards follow from the rows of a manifest and are written anew
where those change (tokenize/library.py). Here shards are only added. A shard appears whole or not at all, so
a process that was killed goes on after the last shard that is there.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ringvision.data.tokenized import (
    FORMATS,
    FolderMetadata,
    TokenizedVideo,
    code_dtype,
    format_named,
    format_of,
)
from ringvision.errors import UserError


class TokenizedWriter:
    """Adds shards to `folder`, which is made where it is missing.

    Args:
        folder: where the shards go.
        num_codes: how many codes the tokenizer has.
        format: "array_record" or "jsonl".
        description: of the whole folder, for people.

    Raises:
        UserError: where there is no such format, or the folder holds shards of another one or of a tokenizer
            with another number of codes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        num_codes: int,
        format: str = "array_record",
        description: str = "",
    ) -> None:
        self.folder = Path(folder)
        self.num_codes = num_codes
        self.format = format_named(format)
        self.description = description
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lengths = list[int]()
        """How many videos each shard holds."""
        self._first: TokenizedVideo | None = None
        if any(known.shards(self.folder) for known in FORMATS.values()):
            self._continue()

    def add(self, videos: Sequence[TokenizedVideo]) -> None:
        """Write one more shard of these videos; their codes are kept in as few bytes as num_codes needs.

        UserError where a video was made by another tokenizer, frame rate or grid than those before it, or one
        of its codes is not below num_codes.
        """
        records = []
        for video in videos:
            self._check(video)
            codes = np.asarray(video.codes).astype(code_dtype(self.num_codes))
            known = {name: value for name, value in vars(video).items() if name != "codes"}
            records.append(self.format.encode(TokenizedVideo(codes=codes, **known)))
        path = self.folder / self.format.file_name(len(self.lengths))
        aside = path.with_name(f".{path.name}.partial")
        self.format.write(aside, records)
        os.replace(aside, path)
        self.lengths.append(len(records))

    def close(self) -> None:
        """Write the folder's metadata, of all shards that are there."""
        if self._first is not None:
            height, width = self._first.codes.shape[1:]
            metadata = FolderMetadata(self.lengths, (height, width), self.num_codes, self.description)
            self.format.write_metadata(self.folder, metadata)

    def __enter__(self) -> "TokenizedWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _continue(self) -> None:
        there = format_of(self.folder)
        paths = there.shards(self.folder)
        held = there.num_codes(self.folder)
        expected = [self.folder / self.format.file_name(shard) for shard in range(len(paths))]
        if paths != expected or held not in (None, self.num_codes):
            raise UserError(
                f"{self.folder} holds {there.name} shards of {held} codes, not {self.format.name} shards of "
                f"{self.num_codes} numbered without a gap; write into another folder"
            )
        self.lengths = [self.format.count(path) for path in paths]
        filled = next((path for path, length in zip(paths, self.lengths, strict=True) if length), None)
        if filled is not None:
            self._first = self.format.decode(self.format.read(filled, [0])[0])

    def _check(self, video: TokenizedVideo) -> None:
        first = self._first = self._first or video
        for name, found, there in (
            ("tokenizer", video.tokenizer, first.tokenizer),
            ("frames a second", video.fps, first.fps),
            ("grid", np.shape(video.codes)[1:], first.codes.shape[1:]),
        ):
            if found != there:
                raise UserError(
                    f"{video.source} has {name} {found}, {self.folder} holds videos of {there}; write into "
                    "another folder"
                )
        codes = np.asarray(video.codes)
        if codes.size and not 0 <= codes.min() <= codes.max() < self.num_codes:
            raise UserError(
                f"{video.source} has codes from {codes.min()} to {codes.max()}; the tokenizer has "
                f"{self.num_codes}"
            )
