"""How examples lie on disk: ArrayRecord shards that TFDS and grain read without TensorFlow, or LWM's training
lines.

    Example -> encode -> bytes, one record a source -> write -> a shard of records -> read, count, stream ->
    bytes -> decode -> Example

A folder of tokens holds shards, numbered from 0, and metadata about all of them. Every record and shard is
the same bytes whoever makes it of the same examples. Record and shard carry checksums, so damage is told,
never decoded.
"""

import functools
import json
import os
import re
import shutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.errors import UserError
from ringvision.tokenize.example import Example

DATASET = "videos"
SPLIT = "train"
VERSION = "1.0.0"
# One record a group, so that one can be read without its neighbours. Compressed: what stands still in a video
# repeats its codes.
WRITER = "group_size:1,zstd:3"
# No threads, and nothing read that was not asked for.
READER = "readahead_buffer_size:0,max_parallelism:0"


def code_dtype(num_codes: int) -> np.dtype:
    """What codes of a tokenizer are kept as: uint16, or uint32 where there are more than 65536 of them."""
    return np.dtype(np.uint16 if num_codes <= 1 << 16 else np.uint32)


class Format(ABC):
    """One way to keep examples. What reads a file raises UserError, naming it, where it is damaged, cut short
    or no shard.
    """

    name: str
    pattern: re.Pattern[str]  # of its shards' names; group 1 is the number

    @abstractmethod
    def encode(self, example: Example) -> bytes:
        """One record, the same for the same example. UserError unless codes are uint16 or uint32
        (`code_dtype`) [T, h, w], T > 0, with a finite time for each frame.
        """

    @abstractmethod
    def decode(self, record: bytes) -> Example:
        """The example of a record, to the bit; its codes may be read-only."""

    @abstractmethod
    def file_name(self, shard: int) -> str:
        """The name of a shard's file."""

    @abstractmethod
    def write(self, path: str | os.PathLike[str], records: Sequence[bytes]) -> None:
        """Exactly this file, with these records in this order, safe on disk when it returns; a shard may be
        empty. Not atomic: write aside and rename. UserError where it cannot be written.
        """

    @abstractmethod
    def read(self, path: str | os.PathLike[str], places: Sequence[int] | None = None) -> list[bytes]:
        """The records at these places (from 0; all where None), in the order asked for, reading no others."""

    @abstractmethod
    def stream(self, path: str | os.PathLike[str]) -> Iterator[bytes]:
        """All records in order, one in memory at a time."""

    @abstractmethod
    def count(self, path: str | os.PathLike[str]) -> int:
        """How many records a shard holds."""

    @abstractmethod
    def write_metadata(
        self,
        folder: str | os.PathLike[str],
        lengths: Sequence[int],
        grid: tuple[int, int],
        num_codes: int,
        description: str = "",
    ) -> None:
        """What a reader must know of the whole folder. lengths: records of each shard, in the order of their
        numbers; grid: (h, w) of a frame's codes. Each file is replaced as a whole.
        """

    @abstractmethod
    def num_codes(self, folder: str | os.PathLike[str]) -> int | None:
        """How many codes the tokenizer has, by the folder's metadata; None where that is not there."""

    def shards(self, folder: str | os.PathLike[str]) -> list[Path]:
        """The shards of a folder in the order of their numbers."""
        found = ((self.pattern.fullmatch(path.name), path) for path in Path(folder).iterdir())
        return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


class ArrayRecord(Format):
    """A record is a tf.train.Example with the features of features.json; dataset_info.json lets
    tfds.builder_from_directory open it.

    Codes, times and fps are kept as the bytes of their arrays: a tf.train.Example would round them to
    float32, and takes longer to read.
    """

    name = "array_record"
    pattern = re.compile(rf"{DATASET}-{SPLIT}\.array_record-(\d{{5,}})")

    def encode(self, example: Example) -> bytes:
        import tensorflow_datasets as tfds

        codes, times = _checked(example)
        features = _features(codes.shape[1:], codes.dtype.name)
        values = {
            "source": _utf8(example.source),
            "sha256": _utf8(example.sha256),
            "codes": codes,
            "grid": np.asarray(codes.shape[1:], np.int32),
            "times": times,
            "fps": np.asarray(example.fps, np.float64),
            "size": np.int32(example.size),
            "caption": _utf8(example.caption),
            "qa": [{"question": _utf8(question), "answer": _utf8(answer)} for question, answer in example.qa],
            "tokenizer": _utf8(example.tokenizer),
        }
        serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
        # features.serialize_example leaves the order of the fields to a hash table
        return serializer.get_tf_example(features.encode_example(values)).SerializeToString(
            deterministic=True
        )

    def decode(self, record: bytes) -> Example:
        from google.protobuf.message import DecodeError

        try:
            values = _features(None, "uint8").deserialize_example_np(record)
            grid = values["grid"]
            times = values["times"]
            cells = int(grid[0]) * int(grid[1]) * len(times)
            dtype = {2: np.uint16, 4: np.uint32}[len(values["codes"]) // cells]
            return Example(
                source=_text(values["source"]),
                sha256=_text(values["sha256"]),
                codes=values["codes"].view(dtype).reshape(len(times), *grid),
                times=times,
                fps=float(values["fps"]),
                size=int(values["size"]),
                tokenizer=_text(values["tokenizer"]),
                caption=_text(values["caption"]),
                qa=tuple(
                    (_text(question), _text(answer))
                    for question, answer in zip(values["qa"]["question"], values["qa"]["answer"])
                ),
            )
        except (DecodeError, ValueError, TypeError, LookupError, AttributeError, ZeroDivisionError) as error:
            raise _bad_record(self.name, error) from None

    def file_name(self, shard: int) -> str:
        return f"{DATASET}-{SPLIT}.array_record-{shard:05d}"

    def write(self, path: str | os.PathLike[str], records: Sequence[bytes]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        try:
            writer = ArrayRecordWriter(os.path.abspath(path), WRITER)
            for record in records:
                writer.write(record)
            writer.close()
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            raise _unwritable(path, error) from None

    def read(self, path: str | os.PathLike[str], places: Sequence[int] | None = None) -> list[bytes]:
        with _opened(path) as reader:
            count = reader.num_records()
            wanted = _within(path, places, count)
            return reader.read(wanted) if wanted else []

    def stream(self, path: str | os.PathLike[str]) -> Iterator[bytes]:
        with _opened(path) as reader:
            for place in range(reader.num_records()):
                yield reader.read([place])[0]

    def count(self, path: str | os.PathLike[str]) -> int:
        with _opened(path) as reader:
            return reader.num_records()

    def write_metadata(
        self,
        folder: str | os.PathLike[str],
        lengths: Sequence[int],
        grid: tuple[int, int],
        num_codes: int,
        description: str = "",
    ) -> None:
        import tensorflow_datasets as tfds

        files = [Path(folder) / self.file_name(shard) for shard in range(len(lengths))]
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
            dataset_name=DATASET,
            split=SPLIT,
            filetype_suffix=self.name,
        )
        split = tfds.core.SplitInfo(
            name=SPLIT,
            shard_lengths=list(lengths),
            num_bytes=sum(file.stat().st_size for file in files if file.exists()),
            filename_template=template,
        )
        info = tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name=DATASET, version=tfds.core.Version(VERSION), data_dir=os.fspath(folder), module_name=""
            ),
            features=_features(tuple(grid), code_dtype(num_codes).name, num_codes),
            description=description,
        )
        info.set_file_format(self.name)
        info.set_splits(tfds.core.SplitDict([split]))
        with _replacing(folder) as aside:
            info.write_to_directory(aside)

    def num_codes(self, folder: str | os.PathLike[str]) -> int | None:
        described = _metadata(
            Path(folder) / "features.json",
            lambda held: held["featuresDict"]["features"]["codes"]["tensor"]["maximum"],
        )
        return None if described is None else int(described) + 1


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

    def encode(self, example: Example) -> bytes:
        codes, times = _checked(example)
        known = {
            "vision": codes.ravel().tolist(),
            "caption": example.caption,
            "source": example.source,
            "sha256": example.sha256,
            "times": times.tolist(),
            "fps": float(example.fps),
            "size": int(example.size),
            "grid": list(codes.shape[1:]),
            "dtype": codes.dtype.name,
            "tokenizer": example.tokenizer,
        }
        shared = json.dumps(known, allow_nan=False)[1:]
        turns: list[dict[str, Any]] = [
            {"fields": "[question],[vision],answer", "question": question, "answer": answer}
            for question, answer in example.qa
        ] or [{"fields": "[vision],caption" if example.caption else "vision"}]
        lines = []
        for part, turn in enumerate(turns):
            body = f"{json.dumps({'part': [part, len(turns)], **turn})[:-1]}, {shared[:-1]}".encode()
            lines.append(body + self._checksum + b"%d}\n" % zlib.crc32(body))
        return b"".join(lines)

    def decode(self, record: bytes) -> Example:
        try:
            lines = [self._line(line) for line in record.splitlines()]
            if [line["part"] for line in lines] != [[part, len(lines)] for part in range(len(lines))]:
                raise ValueError("questions are missing")
            known = lines[0]
            return Example(
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
            raise _bad_record(self.name, error) from None

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
            raise _unwritable(path, error) from None

    def read(self, path: str | os.PathLike[str], places: Sequence[int] | None = None) -> list[bytes]:
        with _readable(path) as file:
            starts = [*self._starts(path, file), file.tell()]
            records = []
            for place in _within(path, places, len(starts) - 1):
                file.seek(starts[place])
                records.append(file.read(starts[place + 1] - starts[place]))
            return records

    def stream(self, path: str | os.PathLike[str]) -> Iterator[bytes]:
        with _readable(path) as file:
            record: list[bytes] = []
            for line in self._lines(path, file):
                if record and line.startswith(self._first):
                    yield b"".join(record)
                    record = []
                record.append(line)
            if record:
                yield b"".join(record)

    def count(self, path: str | os.PathLike[str]) -> int:
        with _readable(path) as file:
            return sum(1 for _ in self._starts(path, file))

    def _starts(self, path: str | os.PathLike[str], file: Any) -> Iterator[int]:
        """Where in the file each record begins; leaves the file at its end."""
        place = 0
        for line in self._lines(path, file):
            if line.startswith(self._first):
                yield place
            place += len(line)

    def _lines(self, path: str | os.PathLike[str], file: Any) -> Iterator[bytes]:
        for number, line in enumerate(file):
            if (
                not line.startswith(b'{"part": [')
                or not line.endswith(b"}\n")
                or (number == 0 and not line.startswith(self._first))
            ):
                raise _damaged(path, f"line {number + 1} is cut short or not one of a tokenized video")
            yield line

    def write_metadata(
        self,
        folder: str | os.PathLike[str],
        lengths: Sequence[int],
        grid: tuple[int, int],
        num_codes: int,
        description: str = "",
    ) -> None:
        flags = {
            "fields_from_example": "fields",
            "n_tokens_per_frame": grid[0] * grid[1],
            "eof_token": num_codes,
            "eov_token": num_codes + 1,
        }
        held = {
            "description": description,
            "grid": list(grid),
            "num_codes": num_codes,
            "lengths": list(lengths),
            "vision_text_processor": flags,
        }
        with _replacing(folder) as aside:
            (aside / "tokens.json").write_text(json.dumps(held, indent=2) + "\n")

    def num_codes(self, folder: str | os.PathLike[str]) -> int | None:
        return _metadata(Path(folder) / "tokens.json", lambda held: held["num_codes"])


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


@functools.lru_cache(maxsize=8)
def _features(grid: tuple[int, int] | None, dtype: str, num_codes: int | None = None) -> Any:
    """TFDS's features of a record; without a grid codes are flat."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    return kinds.FeaturesDict(
        {
            "source": kinds.Text(
                doc="file's path, with #t=START,END for a part of it, or tfds:NAME/SPLIT#INDEX"
            ),
            "sha256": kinds.Text(doc="SHA-256 of the file"),
            "codes": kinds.Tensor(
                shape=(None, *(grid or ())),
                dtype=np.dtype(dtype),
                encoding="bytes",
                minimum=None if num_codes is None else 0,
                maximum=None if num_codes is None else num_codes - 1,
                doc="the tokenizer's codes, frame by frame, row by row",
            ),
            "grid": kinds.Tensor(shape=(2,), dtype=np.int32, doc="rows and columns of a frame's codes"),
            "times": kinds.Tensor(
                shape=(None,),
                dtype=np.float64,
                encoding="bytes",
                doc="seconds from the file's beginning, one a frame",
            ),
            "fps": kinds.Tensor(
                shape=(), dtype=np.float64, encoding="bytes", doc="frames asked for a second"
            ),
            "size": kinds.Scalar(dtype=np.int32, doc="pixels a side of the frames that were encoded"),
            "caption": kinds.Text(),
            "qa": kinds.Sequence({"question": kinds.Text(), "answer": kinds.Text()}),
            "tokenizer": kinds.Text(doc="SHA-256 of the tokenizer's config and weights"),
        }
    )


def _checked(example: Example) -> tuple[np.ndarray, np.ndarray]:
    codes = np.ascontiguousarray(example.codes)
    times = np.ascontiguousarray(example.times, np.float64)
    if codes.dtype not in (np.uint16, np.uint32) or codes.ndim != 3 or not codes.size:
        raise UserError(
            f"{example.source} has codes of {codes.dtype} {list(codes.shape)}; expected uint16 or "
            "uint32 [T, h, w], T > 0"
        )
    if times.shape != codes.shape[:1] or not np.isfinite(times).all():
        raise UserError(
            f"{example.source} has times {list(times.shape)} for {len(codes)} frames; expected a "
            "finite one for each"
        )
    return codes, times


def _utf8(text: str) -> bytes:
    """Names of files that are no UTF-8 are surrogates in Python: kept, so that they come back."""
    return text.encode("utf-8", "surrogatepass")


def _text(held: bytes) -> str:
    return held.decode("utf-8", "surrogatepass")


def _within(path: str | os.PathLike[str], places: Sequence[int] | None, count: int) -> list[int]:
    wanted = list(range(count)) if places is None else [int(place) for place in places]
    if wanted and not (min(wanted) >= 0 and max(wanted) < count):
        raise _damaged(path, f"place {max(wanted, key=abs)} was asked for and it holds {count} examples")
    return wanted


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    from array_record.python.array_record_module import ArrayRecordReader

    with _readable(path):
        pass
    try:
        with closing(ArrayRecordReader(os.path.abspath(path), READER)) as reader:
            yield reader
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        raise _damaged(path, str(error).splitlines()[0][:200]) from None


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[Any]:
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
def _replacing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder inside; what was written there takes its place when the block ends well. A kill leaves nothing
    that the next call does not take away.
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
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _metadata(path: Path, wanted: Any) -> int | None:
    try:
        return wanted(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise _damaged(path, f"no num_codes there, {type(error).__name__}") from None


def _bad_record(format: str, error: Exception) -> UserError:
    return UserError(
        f"a record is damaged, or none of {format} ({type(error).__name__}: "
        f"{str(error)[:120]!r}); tokenize its video again"
    )


def _damaged(path: str | os.PathLike[str], why: str) -> UserError:
    return UserError(
        f"{path} is damaged or of another format ({why}); remove it and run the same command again"
    )


def _unwritable(path: str | os.PathLike[str], error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:200]
    return UserError(f"{path} cannot be written ({reason}); make room, or give a folder that can")
