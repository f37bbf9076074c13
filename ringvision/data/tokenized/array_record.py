"""ArrayRecord shards of tokenized videos, with the metadata by which TFDS and grain read them without
TensorFlow.

TokenizedVideo -> tf.train.Example with the features of features.json -> one record of an ArrayRecord file
"""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
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
    code_dtype,
    damaged_file,
    damaged_record,
    open_shard,
    read_metadata,
    replacing_files,
    unwritable_file,
)
from ringvision.data.tokenized.video import TokenizedVideo

VERSION = "1.0.0"
# One record a group, so that one can be read without its neighbours. Compressed: what stands still in a video
# repeats its codes.
WRITER = "group_size:1,zstd:3"
# No threads, and nothing read that was not asked for.
READER = "readahead_buffer_size:0,max_parallelism:0"


_TEXTS = ("source", "sha256", "caption", "tokenizer")
_ARRAYS = ("codes", "times", "fps")
"""Features that are kept as the bytes of an array."""


class ArrayRecord(Format):
    """A record is a tf.train.Example with the features of features.json; dataset_info.json lets
    tfds.builder_from_directory open it.

    Codes, times and fps are kept as the bytes of their arrays: a tf.train.Example would round them to
    float32, and takes longer to read.
    """

    name = "array_record"
    pattern = re.compile(rf"{DATASET}-{SPLIT}\.array_record-(\d{{5,}})")

    def encode(self, video: TokenizedVideo) -> bytes:
        import tensorflow_datasets as tfds

        codes, times = checked_arrays(video)
        features = _features(codes.shape[1:], codes.dtype.name)
        values = {
            "source": _utf8(video.source),
            "sha256": _utf8(video.sha256),
            "codes": codes,
            "grid": np.asarray(codes.shape[1:], np.int32),
            "times": times,
            "fps": np.asarray(video.fps, np.float64),
            "size": np.int32(video.size),
            "caption": _utf8(video.caption),
            "qa": [{"question": _utf8(question), "answer": _utf8(answer)} for question, answer in video.qa],
            "tokenizer": _utf8(video.tokenizer),
        }
        serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
        # features.serialize_example leaves the order of the fields to a hash table
        return serializer.get_tf_example(features.encode_example(values)).SerializeToString(
            deterministic=True
        )

    def decode(self, record: bytes) -> TokenizedVideo:
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        # TFDS's own deserializer gives the same and takes 40 times as long.
        try:
            features = tf_example_pb2.Example.FromString(record).features.feature
            held = {name: features[name].bytes_list.value for name in _TEXTS + _ARRAYS}
            rows, columns = features["grid"].int64_list.value
            times = np.frombuffer(held["times"][0], np.float64)
            dtype = {2: np.uint16, 4: np.uint32}[len(held["codes"][0]) // (rows * columns * len(times))]
            questions = (features[name].bytes_list.value for name in ("qa/question", "qa/answer"))
            source, sha256, caption, tokenizer = (_text(held[name][0]) for name in _TEXTS)
            return TokenizedVideo(
                source=source,
                sha256=sha256,
                codes=np.frombuffer(held["codes"][0], dtype).reshape(len(times), rows, columns),
                times=times,
                fps=float(np.frombuffer(held["fps"][0], np.float64).item()),
                size=int(features["size"].int64_list.value[0]),
                tokenizer=tokenizer,
                caption=caption,
                qa=tuple(
                    (_text(question), _text(answer)) for question, answer in zip(*questions, strict=True)
                ),
            )
        except (DecodeError, ValueError, TypeError, LookupError, ZeroDivisionError) as error:
            raise damaged_record(self.name, error) from None

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
            raise unwritable_file(path, error) from None

    def read(self, path: str | os.PathLike[str], indices: Sequence[int] | None = None) -> list[bytes]:
        with _opened(path) as reader:
            count = reader.num_records()
            wanted = checked_indices(path, indices, count)
            return reader.read(wanted) if wanted else []

    def stream(self, path: str | os.PathLike[str]) -> Iterator[bytes]:
        with _opened(path) as reader:
            for index in range(reader.num_records()):
                yield reader.read([index])[0]

    def count(self, path: str | os.PathLike[str]) -> int:
        with _opened(path) as reader:
            return reader.num_records()

    def write_metadata(self, folder: str | os.PathLike[str], metadata: FolderMetadata) -> None:
        import tensorflow_datasets as tfds

        files = [Path(folder) / self.file_name(shard) for shard in range(len(metadata.lengths))]
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
            dataset_name=DATASET,
            split=SPLIT,
            filetype_suffix=self.name,
        )
        split = tfds.core.SplitInfo(
            name=SPLIT,
            shard_lengths=list(metadata.lengths),
            num_bytes=sum(file.stat().st_size for file in files if file.exists()),
            filename_template=template,
        )
        num_codes = metadata.num_codes
        info = tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name=DATASET, version=tfds.core.Version(VERSION), data_dir=os.fspath(folder), module_name=""
            ),
            features=_features(tuple(metadata.grid), code_dtype(num_codes).name, num_codes),
            description=metadata.description,
        )
        info.set_file_format(self.name)
        info.set_splits(tfds.core.SplitDict([split]))
        with replacing_files(folder) as aside:
            info.write_to_directory(aside)

    def num_codes(self, folder: str | os.PathLike[str]) -> int | None:
        described = read_metadata(
            Path(folder) / "features.json",
            lambda held: held["featuresDict"]["features"]["codes"]["tensor"]["maximum"],
        )
        return None if described is None else int(described) + 1


@functools.lru_cache(maxsize=8)
def _features(grid: tuple[int, int], dtype: str, num_codes: int | None = None) -> Any:
    """TFDS's features of a record."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    return kinds.FeaturesDict(
        {
            "source": kinds.Text(
                doc="file's path, with #t=START,END for a part of it, or tfds:NAME/SPLIT#INDEX, or world:SEED"
            ),
            "sha256": kinds.Text(doc="SHA-256 of the file"),
            "codes": kinds.Tensor(
                shape=(None, *grid),
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


def _utf8(text: str) -> bytes:
    """Names of files that are no UTF-8 are surrogates in Python: kept, so that they come back."""
    return text.encode("utf-8", "surrogatepass")


def _text(held: bytes) -> str:
    return held.decode("utf-8", "surrogatepass")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    from array_record.python.array_record_module import ArrayRecordReader

    with open_shard(path):
        pass
    try:
        with closing(ArrayRecordReader(os.path.abspath(path), READER)) as reader:
            yield reader
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        lines = str(error).splitlines() or ["no message"]  # array_record raises some without one
        raise damaged_file(path, lines[0][:200]) from None
