"""What a path names: files, folders, patterns, saved data sets; what is said where it names nothing good."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from ringvision.data.records import Records, open_records
from ringvision.errors import UserError


def texts(records: Records) -> list[Any]:
    return [records.read(index).get("text") for index in range(len(records))]


def put(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def lines(*texts: str) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def opened(path: Path | str, **settings: Any) -> list[Any]:
    return texts(open_records(str(path), columns=("text",), **settings))


def saved(folder: Path, *shards: list[str]) -> Path:
    """A data set as `datasets` saves it."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, shard in zip(names, shards):
        table = pyarrow.table({"text": shard})
        with (
            pyarrow.OSFile(str(folder / name), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as to,
        ):
            to.write_table(table)
    put(folder / "dataset_info.json", "{}")
    put(folder / "state.json", json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    put(tmp_path / "b.txt", "b")
    put(tmp_path / "a" / "a.md", "a")
    put(tmp_path / ".hidden.txt", "no")
    put(tmp_path / ".git" / "x.txt", "no")
    put(tmp_path / "about.json", "{}")
    put(tmp_path / "picture.png", "no")
    assert opened(tmp_path) == ["a", "b"]
    assert opened(tmp_path / "**" / "*.md") == ["a"]
    assert opened(tmp_path / "b.txt") == ["b"]
    put(tmp_path / "c.txt", "c--d")
    assert opened(tmp_path / "*.txt", separator="--") == ["b", "c", "d"]
    assert opened(put(tmp_path / "poem", "an ending that tells nothing")) == ["an ending that tells nothing"]


def test_formats(tmp_path: Path) -> None:
    put(tmp_path / "l" / "1.jsonl", lines("one", "two"))
    put(tmp_path / "l" / "2.jsonl.gz", gzip.compress(lines("three").encode()))
    assert opened(tmp_path / "l") == ["one", "two", "three"]
    assert opened(put(tmp_path / "l.json", lines("x"))) == ["x"]
    (tmp_path / "p").mkdir()
    for number in range(2):
        parquet.write_table(pyarrow.table({"text": [f"p{number}"]}), tmp_path / "p" / f"{number}.parquet")
    assert opened(tmp_path / "p") == ["p0", "p1"]


def test_what_datasets_saved(tmp_path: Path) -> None:
    assert opened(saved(tmp_path / "one", ["a", "b"], ["c"])) == ["a", "b", "c"]
    saved(tmp_path / "several" / "train", ["a"])
    saved(tmp_path / "several" / "test", ["t"])
    put(tmp_path / "several" / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    assert opened(tmp_path / "several") == ["a"]
    assert opened(tmp_path / "several", split="test") == ["t"]
    with pytest.raises(UserError, match="no split 'dev'; give one of train, test"):
        opened(tmp_path / "several", split="dev")


def test_what_state_json_names_stays_in_its_folder(tmp_path: Path) -> None:
    put(tmp_path / "secret.arrow", "x")
    folder = saved(tmp_path / "one", ["a"])
    for state in (
        {"_data_files": [{"filename": "../secret.arrow"}]},
        {"_data_files": [{"filename": str(tmp_path / "secret.arrow")}]},
        {"_data_files": [{"filename": 3}]},
        {"_data_files": ["x"]},
        {"_data_files": []},
        {},
    ):
        put(folder / "state.json", json.dumps(state))
        with pytest.raises(UserError, match="names"):
            opened(folder)


def test_a_data_set_of_tfds(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "n": tfds.features.Scalar(np.int64)})
    template = tfds.core.ShardedFileTemplate(
        data_dir=tmp_path, dataset_name="said", split="train", filetype_suffix="array_record"
    )
    writer = ArrayRecordWriter(str(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
    for number, text in enumerate(("größer", "")):
        writer.write(features.serialize_example({"text": text, "n": number}))
    writer.close()
    tfds.folder_dataset.write_metadata(
        data_dir=tmp_path,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(name="train", shard_lengths=[2], num_bytes=0, filename_template=template)
        ],
        filename_template=template,
        description="said",
        check_data=False,
    )
    records = open_records(f"tfds:{tmp_path}/train", columns=("text",))
    assert (texts(records), records.fields) == (["größer", ""], ("text",))
    assert records.where(1) == f"tfds:{tmp_path}/train, example 2"
    with pytest.raises(UserError, match="no such split"):
        open_records(f"tfds:{tmp_path}/test", columns=("text",))


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "mixed" / "a.txt", "a")
    put(tmp_path / "mixed" / "a.jsonl", lines("a"))
    put(tmp_path / "a.txt.zst", "x")
    put(tmp_path / "blank.jsonl", "\n \n")
    for path, settings, says in (
        ("none.jsonl", {}, "no such file or folder"),
        ("*.csv", {}, "no file of such a pattern"),
        ("empty", {}, r"holds no file of text; expected some that end in \.txt"),
        ("mixed", {}, r"several formats \(jsonl, txt\); .* such as .*mixed/\*\*/\*\.jsonl"),
        ("a.txt.zst", {}, "is packed; unpack it"),
        ("blank.jsonl", {}, "holds no record"),
        ("mixed/a.jsonl", {"separator": "x"}, "need no separator"),
    ):
        with pytest.raises(UserError, match=says) as refused:
            opened(tmp_path / path, **settings)
        assert "\n" not in str(refused.value)
