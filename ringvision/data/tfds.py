"""A data set that TFDS prepared as ArrayRecord, read without TensorFlow: examples by number, as the features
that were stored.

    tfds:NAME[/CONFIG][:VERSION]/SPLIT  or  tfds:FOLDER/SPLIT  --open_split-->  Split

Records are read by the layout that features.json states, without importing what it names. Nothing is
downloaded.
"""

import itertools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringvision.errors import UserError

VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
DATASET = re.compile(r"(\w+)(?:/([\w.-]+))?(?::(\d+\.\d+\.\d+))?", re.ASCII)
PREFIX = "tfds:"


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set.

    folder: where it was prepared. records[i]: the i-th example's bytes. shards: (file, how many are read of
    it).
    """

    folder: str
    records: Any
    shards: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.records)

    def shard(self, index: int) -> str:
        """The file that holds an example."""
        ends = itertools.accumulate(count for _, count in self.shards)
        return next(file for (file, _), end in zip(self.shards, ends) if index < end)

    def example(self, index: int) -> Any:
        """The features, by name, of tf.train.Example. UserError where the record is damaged or missing."""
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            return tf_example_pb2.Example.FromString(self.records[index]).features.feature
        except (OSError, RuntimeError, ValueError, IndexError, DecodeError) as error:
            raise UserError(
                f"{self.shard(index)}: {first_line(error)}; copy or prepare the data set again"
            ) from None

    def features(self) -> dict[str, Any]:
        """What features.json says of each feature, by name. UserError where it is not TFDS's."""
        try:
            held = json.loads(Path(self.folder, "features.json").read_text("utf-8"))
            found = held["featuresDict"]["features"]
            return dict(found.items())
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise not_features(self.folder, error) from None


def not_features(folder: str, error: Exception) -> UserError:
    """What is said of a features.json that cannot be understood."""
    return UserError(
        f"{folder}/features.json is not TFDS's ({first_line(error)}); prepare the data set "
        "again with TFDS 4.9"
    )


def split_name(given: str) -> tuple[str, str, str]:
    """What tfds: names: a folder that holds dataset_info.json or else ""; the name; the split, train where
    none is named.
    """
    name = given.removeprefix(PREFIX)
    front, _, last = name.rpartition("/")
    for path, split in ((name, "train"), (front, last)):
        folder = os.path.abspath(os.path.expanduser(path))
        if path and os.path.exists(os.path.join(folder, "dataset_info.json")):
            return folder, path, split
    return ("", front, last) if front else ("", name, "train")


def open_split(whole: str) -> Split:
    """Opens `tfds:NAME/SPLIT`. UserError where TFDS prepared none here, or not as ArrayRecord."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from tensorflow_datasets.core.dataset_info import read_from_json

    folder, name, split = split_name(whole)
    folder = folder or _prepared(whole, name)
    try:
        info = read_from_json(os.path.join(folder, "dataset_info.json"))
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=info.name, filetype_suffix=info.file_format
        )
        splits = tfds.core.SplitDict.from_proto(info.splits, template)
    except Exception as error:  # whatever TFDS makes of a file that is none of its own
        raise UserError(
            f"{folder}/dataset_info.json is not TFDS's ({first_line(error)}); prepare the data set again"
        ) from None
    if info.file_format != "array_record":
        raise UserError(
            f"{folder} keeps its examples as {info.file_format or 'nothing'}; prepare it with "
            "--file_format=array_record"
        )
    try:
        files = [(os.fspath(part.filename), part) for part in splits[split].file_instructions if part.take]
    except Exception as error:
        raise UserError(
            f"{whole}: no such split ({first_line(error)}); give one of {', '.join(splits)}"
        ) from None
    if not files or any(os.path.dirname(file) != folder for file, _ in files):
        raise UserError(
            f"{whole} holds no example in {folder}; give another split, or prepare the data set again"
        )
    shards = [(file, part.take) for file, part in files]
    return Split(folder, ArrayRecordDataSource([part for _, part in files]), shards)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return f"{(str(error) or type(error).__name__).splitlines()[0]:.200}"


def kinds(feature: dict[str, Any]) -> list[str]:
    """The classes of a feature, from the outside: Sequence(Text) gives Sequence, Text."""
    module, _, kind = feature.get("pythonClassName", "").rpartition(".")
    inner = feature.get("sequence", {}).get("feature")
    return [
        kind if module.startswith("tensorflow_datasets.core.features.") else "",
        *(kinds(inner) if inner else []),
    ]


def _prepared(whole: str, name: str) -> str:
    """The folder of a data set that TFDS prepared here: the newest version where none is named."""
    from tensorflow_datasets.core.utils.file_utils import list_data_dirs

    asked = DATASET.fullmatch(name)
    dataset, config, version = asked.groups() if asked else ("", "", "")
    folders = [Path(folder, dataset, config or "") for folder in list_data_dirs()] if asked else []
    infos = [
        info
        for folder in folders
        for depth in ("*", "*/*")
        for info in folder.glob(f"{depth}/dataset_info.json")
    ]
    found = [
        info.parent
        for info in infos
        if VERSION.fullmatch(info.parent.name) and version in (None, info.parent.name)
    ]
    if not found:
        advice = (
            f"prepare it (tfds build {name} --file_format=array_record)"
            if asked
            else "give tfds:NAME[/CONFIG][:VERSION]/SPLIT"
        )
        raise UserError(
            f"{whole} is not among the data sets of TFDS here; {advice}, or give "
            "tfds:FOLDER/SPLIT, where dataset_info.json is"
        )
    if len({path.parent for path in found}) > 1:
        configs = ", ".join(sorted({path.parent.name for path in found}))
        raise UserError(
            f"{whole} has several configs; give tfds:{dataset}/CONFIG/SPLIT, with one of {configs}"
        )
    return str(max(found, key=lambda path: [int(number) for number in path.name.split(".")]))
