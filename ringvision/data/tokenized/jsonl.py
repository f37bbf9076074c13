"""Tokenized videos as the lines that LWM's trainer reads, JSON with a checksum each."""

import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.tokenized.format import (
    DATASET,
    SPLIT,
    FolderMetadata,
    Format,
    checked_arrays,
    checked_indices,
    damaged_file,
    damaged_record,
    open_shard,
    read_metadata,
    replacing_files,
    unwritable_file,
)
from ringvision.data.tokenized.video import TokenizedVideo


class Jsonl(Format):
    """The lines that LWM's trainer reads (type json_vision, fields_from_example fields), a line for every
    question of a source.

    "fields" says what follows what, and what is in brackets has no loss. "vision" holds the codes of all
    frames one after another, without end-of-frame. LWM leaves other keys alone; they make `decode` possible.
    tokens.json says how to set LWM's flags for this tokenizer.
    """

    name = "jsonl"
    pattern = re.compile(rf"{DATASET}-{SPLIT}-(\d{{5,}})\.jsonl")
    _first = b'{"part": [0, '
    _checksum = b', "crc32": '

    def encode(self, video: TokenizedVideo) -> bytes:
        codes, times = checked_arrays(video)
        known = {
            "vision": codes.ravel().tolist(),
            "caption": video.caption,
            "source": video.source,
            "sha256": video.sha256,
            "times": times.tolist(),
            "fps": float(video.fps),
            "size": int(video.size),
            "grid": list(codes.shape[1:]),
            "dtype": codes.dtype.name,
            "tokenizer": video.tokenizer,
        }
        shared = json.dumps(known, allow_nan=False)[1:]
        turns: list[dict[str, Any]] = [
            {"fields": "[question],[vision],answer", "question": question, "answer": answer}
            for question, answer in video.qa
        ] or [{"fields": "[vision],caption" if video.caption else "vision"}]
        lines = []
        for part, turn in enumerate(turns):
            body = f"{json.dumps({'part': [part, len(turns)], **turn})[:-1]}, {shared[:-1]}".encode()
            lines.append(body + self._checksum + b"%d}\n" % zlib.crc32(body))
        return b"".join(lines)

    def decode(self, record: bytes) -> TokenizedVideo:
        try:
            lines = [self._line(line) for line in record.splitlines()]
            if [line["part"] for line in lines] != [[part, len(lines)] for part in range(len(lines))]:
                raise ValueError("questions are missing")
            known = lines[0]
            return TokenizedVideo(
                source=known["source"],
                sha256=known["sha256"],
                codes=np.asarray(known["vision"], np.dtype(known["dtype"])).reshape(-1, *known["grid"]),
                times=np.asarray(known["times"], np.float64),
                fps=float(known["fps"]),
                size=int(known["size"]),
                tokenizer=known["tokenizer"],
                caption=known["caption"],
                qa=tuple((line["question"], line["answer"]) for line in lines if "question" in line),
            )
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
            raise damaged_record(self.name, error) from None

    def _line(self, line: bytes) -> dict[str, Any]:
        body, _, checksum = line.rpartition(self._checksum)
        if checksum != b"%d}" % zlib.crc32(body):
            raise ValueError("its checksum is another one")
        return json.loads(body + b"}")

    def file_name(self, shard: int) -> str:
        return f"{DATASET}-{SPLIT}-{shard:05d}.jsonl"

    def write(self, path: str | os.PathLike[str], records: Sequence[bytes]) -> None:
        try:
            with open(path, "wb") as file:
                file.writelines(records)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable_file(path, error) from None

    def read(self, path: str | os.PathLike[str], indices: Sequence[int] | None = None) -> list[bytes]:
        with open_shard(path) as file:
            starts = [*self._starts(path, file), file.tell()]
            records = []
            for index in checked_indices(path, indices, len(starts) - 1):
                file.seek(starts[index])
                records.append(file.read(starts[index + 1] - starts[index]))
            return records

    def stream(self, path: str | os.PathLike[str]) -> Iterator[bytes]:
        with open_shard(path) as file:
            record: list[bytes] = []
            for line in self._lines(path, file):
                if record and line.startswith(self._first):
                    yield b"".join(record)
                    record = []
                record.append(line)
            if record:
                yield b"".join(record)

    def count(self, path: str | os.PathLike[str]) -> int:
        with open_shard(path) as file:
            return sum(1 for _ in self._starts(path, file))

    def _starts(self, path: str | os.PathLike[str], file: Any) -> Iterator[int]:
        """Where in the file each record begins; leaves the file at its end."""
        offset = 0
        for line in self._lines(path, file):
            if line.startswith(self._first):
                yield offset
            offset += len(line)

    def _lines(self, path: str | os.PathLike[str], file: Any) -> Iterator[bytes]:
        for number, line in enumerate(file):
            if (
                not line.startswith(b'{"part": [')
                or not line.endswith(b"}\n")
                or (number == 0 and not line.startswith(self._first))
            ):
                raise damaged_file(path, f"line {number + 1} is cut short or not one of a tokenized video")
            yield line

    def write_metadata(self, folder: str | os.PathLike[str], metadata: FolderMetadata) -> None:
        flags = {
            "fields_from_example": "fields",
            "n_tokens_per_frame": metadata.grid[0] * metadata.grid[1],
            "eof_token": metadata.num_codes,
            "eov_token": metadata.num_codes + 1,
        }
        held = {
            "description": metadata.description,
            "grid": list(metadata.grid),
            "num_codes": metadata.num_codes,
            "lengths": list(metadata.lengths),
            "vision_text_processor": flags,
        }
        with replacing_files(folder) as aside:
            (aside / "tokens.json").write_text(json.dumps(held, indent=2) + "\n")

    def num_codes(self, folder: str | os.PathLike[str]) -> int | None:
        return read_metadata(Path(folder) / "tokens.json", lambda held: held["num_codes"])
