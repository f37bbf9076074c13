import csv
import hashlib
import io
import json
import os
import shutil
import string
import sys
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from ringvision.data.video import Limits, VideoError, sample
from ringvision.data.video.decode import square
from ringvision.errors import UserError
from ringvision.tokenize import dataset, listing
from ringvision.tokenize.inputs import content, is_video, pictures, read_inputs, stamp
from ringvision.tokenize.source import Source

GIF = b"GIF89a" + bytes(20)


def put(path, data=GIF):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(folder, sources):
    return [os.path.relpath(source.name, folder) for source in sources]


@pytest.fixture
def tree(tmp_path):
    for name in ("b/2.mp4", "b/10.mkv", "a.MP4", "b/.hidden.mp4", ".cache/x.mp4", "b.webm", "b/deep/er/unnamed"):
        put(tmp_path / name)
    put(tmp_path / "b/notes.txt", b"not a video, and not named like one")
    return tmp_path


# Files, folders, patterns


def test_a_file_is_taken_as_it_is_even_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = put(tmp_path / "there.bin")
    found = read_inputs(["gone.mp4", there, "./sub/../gone.mp4"])
    assert found == [Source(str(tmp_path / "gone.mp4"), str(tmp_path / "gone.mp4")), Source(str(there), str(there))]


def test_a_folder_gives_its_videos_by_name_or_bytes_in_the_order_of_paths(tree):
    assert names(tree, read_inputs([tree])) == ["a.MP4", "b/10.mkv", "b/2.mp4", "b/deep/er/unnamed", "b.webm"]


def test_the_order_is_that_of_the_inputs_and_each_name_comes_once(tree):
    found = read_inputs([tree / "b.webm", tree / "b", tree, str(tree / "*.webm")])
    assert names(tree, found) == ["b.webm", "b/10.mkv", "b/2.mp4", "b/deep/er/unnamed", "a.MP4"]


def test_links_to_files_count_and_links_to_folders_are_not_entered(tree):
    (tree / "b/loop").symlink_to(tree)
    (tree / "b/other").symlink_to(tree / "b")
    (tree / "self.mp4").symlink_to(tree / "self.mp4")
    (tree / "dangling.mp4").symlink_to(tree / "gone.mp4")
    (tree / "linked").symlink_to(tree / "a.MP4")
    here = ["a.MP4", "b/10.mkv", "b/2.mp4", "b/deep/er/unnamed", "b.webm", "dangling.mp4", "linked", "self.mp4"]
    assert names(tree, read_inputs([tree])) == here
    assert names(tree, read_inputs([str(tree / "**")])) == here


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.mp4", []),
        ("b/*.mp4", ["b/2.mp4"]),
        ("b/*", ["b/10.mkv", "b/2.mp4"]),
        ("**/*.m*", ["b/10.mkv", "b/2.mp4"]),
        ("**/[0-9].mp?", ["b/2.mp4"]),
        ("**/.*.mp4", ["b/.hidden.mp4"]),
        ("**/e*/*", ["b/deep/er/unnamed"]),
    ],
)
def test_patterns(tree, pattern, found):
    if found:
        assert names(tree, read_inputs([str(tree / pattern)])) == found
    else:
        with pytest.raises(UserError, match="no file matches"):
            read_inputs([str(tree / pattern)])


def test_a_name_that_looks_like_a_pattern_is_a_file_where_it_exists(tmp_path):
    (tmp_path / "[old]").mkdir()
    for name in ("clip[1].mp4", "clip1.mp4", "[old]/x.mp4"):
        put(tmp_path / name)
    assert names(tmp_path, read_inputs([tmp_path / "clip[1].mp4", tmp_path / "[old]/*"])) == ["clip[1].mp4", "[old]/x.mp4"]


def test_a_pattern_may_name_manifests(tmp_path):
    put(tmp_path / "1.csv", b"path\nx.mp4\n")
    put(tmp_path / "2.csv", b"path\ny.mp4\n")
    assert names(tmp_path, read_inputs([str(tmp_path / "*.csv")])) == ["x.mp4", "y.mp4"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("https://example.org/a.mp4", "is an address; nothing is fetched"),
        ("rtsp://camera/1", "is an address"),
        ("", "an input is empty"),
        ("list.txt", "a manifest is a .csv, .jsonl or .parquet file"),
        ("empty", "there is no video among the inputs"),
        ("**x/*.mp4", "cannot be read"),
        ("*.txt", "none of the 1 files that match .* is a video"),
        ("gone.csv", "gone.csv cannot be read .no such file"),
        ("folder.csv/gone.jsonl", "cannot be read"),
    ],
)
def test_inputs_that_are_refused(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    put(tmp_path / "list.txt", b"a.mp4\n")
    if sys.version_info >= (3, 13) and given.startswith("**x"):
        words = "no file matches"
    with pytest.raises(UserError, match=words) as refused:
        read_inputs([given])
    assert "\n" not in str(refused.value)


def test_a_video_named_like_a_list_is_a_video(tmp_path):
    assert names(tmp_path, read_inputs([put(tmp_path / "video.txt")])) == ["video.txt"]


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    put(tmp_path / os.fsdecode(b"\xff.mp4"))
    with pytest.raises(UserError, match=r"\\udcff.mp4' is not UTF-8; rename"):
        read_inputs([tmp_path])


def test_a_folder_that_cannot_be_listed_is_said(tree, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot be listed .Permission denied"):
        read_inputs([tree])


def test_what_is_a_video(tmp_path):
    assert is_video(put(tmp_path / "x"))
    assert is_video(put(tmp_path / "cut", b"RIFF\xff\xff\x00\x00AVI LIST" + bytes(50)))
    assert not is_video(put(tmp_path / "y.mp4", b"#EXTM3U\nsecret.mp4\n"))
    assert not is_video(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    assert not is_video(tmp_path / "pipe")


# Manifests


def write(path, rows):
    """Rows (dicts, qa a list of pairs) as a manifest of the kind that the path's suffix names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({name: json.dumps(value) if name == "qa" else value for name, value in row.items()} for row in rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["path", "video", "file"])
def test_a_manifest_names_parts_captions_and_questions(tmp_path, suffix, column):
    rows = [
        {column: "a.mp4", "caption": 'A red, "round" ball\nrolls', "id": 1},
        {column: "../b.mp4", "start": 1.5, "end": 90.0, "question": "Whose?", "answer": "Ours"},
        {column: "/c.mp4", "start": 2.0, "qa": [["What?", "A ball"], ["Where?", "Hier, in Köln"]]},
        {column: "a.mp4", "end": 2.0},
    ]
    a, b, c = str(tmp_path / "m/a.mp4"), str(tmp_path / "b.mp4"), "/c.mp4"
    (tmp_path / "m").mkdir()
    assert read_inputs([write(tmp_path / f"m/list{suffix}", rows)]) == [
        Source(a, a, caption='A red, "round" ball\nrolls'),
        Source(f"{b}#t=1.5,90", b, 1.5, 90.0, qa=(("Whose?", "Ours"),)),
        Source(f"{c}#t=2,", c, 2.0, qa=(("What?", "A ball"), ("Where?", "Hier, in Köln"))),
        Source(f"{a}#t=0,2", a, 0.0, 2.0),
    ]


def test_rows_of_one_part_are_gathered_wherever_they_stand(tmp_path):
    put(tmp_path / "a.mp4")
    rows = [
        {"path": "a.mp4", "caption": "one", "question": "Q", "answer": "A"},
        {"path": "b.mp4", "caption": "other"},
        {"path": "./a.mp4", "caption": "two", "qa": [{"question": "Q2", "answer": "A2"}, {"question": "Q", "answer": "A"}]},
        {"path": "a.mp4", "start": 0, "caption": "one"},
        {"path": "a.mp4", "end": 1, "caption": "part"},
    ]
    found = read_inputs([tmp_path, write(tmp_path / "list.jsonl", rows)])
    assert [(os.path.basename(source.name), source.caption, source.qa) for source in found] == [
        ("a.mp4", "one\ntwo", (("Q", "A"), ("Q2", "A2"))),
        ("b.mp4", "other", ()),
        ("a.mp4#t=0,1", "part", ()),
    ]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        (" 7.25 ", 7.25),
        ("0:07", 7),
        ("90:00", 5400),
        ("1:02:03", 3723),
        ("01:02:03.5", 3723.5),
        ("1e2", 100),
        ("-0.0", 0),
        ("", 0),
        (" ", 0),
    ],
)
def test_times(tmp_path, said, seconds):
    (source,) = read_inputs([put(tmp_path / "list.csv", f"path,start\na.mp4,{said}\n".encode())])
    assert source.start == seconds
    assert source.name.endswith(f"a.mp4#t={seconds:g}," if seconds else "a.mp4")


def test_a_manifest_of_another_program_is_read(tmp_path):
    put(tmp_path / "list.csv", b"\xef\xbb\xbf Path , url\r\n\r\na.mp4,http://x\r\nb.mp4,\r\n")
    assert names(tmp_path, read_inputs([tmp_path / "list.csv"])) == ["a.mp4", "b.mp4"]
    put(tmp_path / "LIST.JSONL", b'\n{"Video": "a.mp4", "start": null, "end": null, "caption": null, "qa": null}\n')
    assert names(tmp_path, read_inputs([tmp_path / "LIST.JSONL"])) == ["a.mp4"]


def test_a_csv_field_may_be_longer_than_the_csv_module_lets_it(tmp_path):
    before = csv.field_size_limit()
    (source,) = read_inputs([write(tmp_path / "list.csv", [{"path": "a.mp4", "caption": "x" * 200_000}])])
    assert len(source.caption) == 200_000 and csv.field_size_limit() == before


def test_two_things_of_one_name_are_refused(tmp_path):
    part = write(tmp_path / "list.jsonl", [{"path": "a.mp4", "end": 2}])
    with pytest.raises(UserError, match="are both called"):
        read_inputs([put(tmp_path / "a.mp4#t=0,2"), part])


BAD = [
    ("csv", b"", "holds no row"),
    ("csv", b"path,start\n", "holds no row"),
    ("csv", b"name;start\nx;1\n", r"line 1: no path among the columns \['name;start'\]; .* path, video or file"),
    ("csv", b"path,end,end\nx,1,2\n", "line 1: a column comes twice"),
    ("csv", b"path,start\na.mp4,1\n\nb.mp4,1,2\n", "line 4: 3 fields where the first line names 2"),
    ("csv", b'path,caption\n"a.mp4","x\ny"\n"b.mp4"z,\n', "line 4: .* expected comma-separated values"),
    ("csv", b'path,caption\na.mp4,"never closed\n', "expected comma-separated values"),
    ("csv", b"path\na.mp4\nb\xe9.mp4\n", "line 3: byte 2 of it is not UTF-8"),
    ("csv", "path\na.mp4\n".encode("utf-16"), "line 1: byte 1 of it is not UTF-8"),
    ("csv", b"path,caption\n ,x\n", "line 2, column path: ' '; expected the path of a video"),
    ("csv", b"path\na\0b.mp4\n", "line 2, column path: .*; expected the path"),
    ("csv", b"path\nHTTP://x/a.mp4\n", "line 2, column path: 'HTTP://x/a.mp4'; expected a file; nothing is fetched"),
    ("csv", b"video\ntfds:mnist\n", "line 2, column video: 'tfds:mnist'; expected a file"),
    ("csv", b'path,caption,end\na.mp4,"x\ny",1\nb.mp4,,soon\n', "line 4, column end: 'soon'; expected seconds from 0 on, or H:MM:SS"),
    ("csv", b"path,start\na.mp4,nan\n", "line 2, column start: 'nan'; expected seconds"),
    ("csv", b"path,start\na.mp4,1_0\n", "line 2, column start: '1_0'; expected seconds"),
    ("csv", b"path,start\na.mp4,-1\n", "line 2, column start: '-1'; expected seconds from 0"),
    ("csv", b"path,start\na.mp4,1:75\n", "line 2, column start: '1:75'; expected seconds"),
    ("csv", b"path,end\na.mp4,1e999\n", "line 2, column end: '1e999'; expected seconds"),
    ("csv", b"path,start,end\na.mp4,2,0:02\n", "line 2, column end: '0:02'; expected a time after start, 2$"),
    ("csv", b"path,end\na.mp4,0\n", "line 2, column end: '0'; expected a time after start, 0$"),
    ("csv", b"path,question\na.mp4,Why?\n", "line 2, column answer: None; expected a text, because"),
    ("csv", b"path,question,answer\na.mp4,,So\n", "line 2, column question: ''; expected a text"),
    ("csv", b'path,qa\na.mp4,"[[""q""]]"\n', r"line 2, column qa: \['q'\]; expected a list of"),
    ("csv", b'path,qa\na.mp4,"{""question"": ""q"", ""answer"": ""a""}"\n', "line 2, column qa: .*; expected a list of"),
    ("csv", b'path,qa\na.mp4,"[["\n', "line 2, column qa: malformed JSON"),
    ("jsonl", b"\n \n", "holds no row"),
    ("jsonl", b'{"path": "a.mp4"}\n\n{"path": }\n', r"line 3: malformed JSON \(Expecting value, character 10\)"),
    ("jsonl", b'["a.mp4"]\n', r"line 1: \['a.mp4'\] where an object was expected"),
    ("jsonl", b'{"url": "a.mp4"}\n', r"line 1: no path among the columns \['url'\]"),
    ("jsonl", b'{"path": 3}\n', "line 1, column path: 3; expected text"),
    ("jsonl", b'{"path": "a", "caption": ["x"]}\n', r"line 1, column caption: \['x'\]; expected text"),
    ("jsonl", b'{"path": "\\ud800.mp4"}\n', "line 1, column path: .*; expected text in Unicode"),
    ("jsonl", b'{"path": "a", "start": NaN}\n', "line 1, column start: nan; expected seconds"),
    ("jsonl", b'{"path": "a", "start": true}\n', "line 1, column start: True; expected seconds"),
    ("jsonl", b'{"path": "a", "end": 1' + b"0" * 400 + b"}\n", "line 1, column end: 10+.*; expected seconds"),
    ("jsonl", b'{"path": "a", "end": 1' + b"0" * 5000 + b"}\n", "line 1: JSON with a number too long"),
    ("jsonl", b'{"path": ' + b"[" * 100_000 + b"\n", "line 1: JSON with .* lists too deep"),
    ("jsonl", b'{"path": "a", "qa": [{"question": "q", "answer": 1}]}\n', "line 1, column qa: .*; expected a list of"),
    ("jsonl", b'{"path": "a", "qa": 3}\n', "line 1, column qa: 3; expected a list of"),
    ("jsonl", b'{"path": "a\xff"}\n', "line 1: byte 12 of it is not UTF-8"),
    ("parquet", b"path\na.mp4\n", "cannot be read as Parquet"),
    ("parquet", b"", "cannot be read as Parquet"),
    ("parquet", {"name": ["a.mp4"]}, r"no path among the columns \['name'\]"),
    ("parquet", {"path": pa.array([], pa.string())}, "holds no row"),
    ("parquet", {"path": ["a.mp4", None]}, "row 2, column path: None; expected the path"),
    ("parquet", {"path": ["a.mp4"], "start": [float("nan")]}, "row 1, column start: nan; expected seconds"),
    ("parquet", {"path": [b"a.mp4"]}, "row 1, column path: b'a.mp4'; expected text"),
    ("parquet", {"path": ["a", "b"], "start": [1, 1], "end": [2, 1]}, "row 2, column end: 1; expected a time after start, 1"),
]


@pytest.mark.parametrize(("suffix", "held", "words"), BAD)
def test_a_bad_manifest_is_refused_by_file_line_and_column(tmp_path, monkeypatch, suffix, held, words):
    path = tmp_path / f"list.{suffix}"
    if isinstance(held, bytes):
        path.write_bytes(held)
    else:
        parquet.write_table(pa.table(held), path)
    opened, really = [], open
    monkeypatch.setattr("builtins.open", lambda *asked, **more: opened.append(really(*asked, **more)) or opened[-1])
    with pytest.raises(UserError, match=words) as refused:
        read_inputs([path])
    assert all(file.closed for file in opened) and (opened or suffix == "parquet")
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value) and len(str(refused.value)) < len(str(path)) + 300


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_line_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(listing, "MOST_BYTES_A_LINE", 1000)
    put(tmp_path / f"list.{suffix}", (b'path,caption\n"a.mp4","' if suffix == "csv" else b'{"path": "a.mp4"}\n{') + b"x" * 2000)
    with pytest.raises(UserError, match="line 2: longer than 1000 bytes"):
        read_inputs([tmp_path / f"list.{suffix}"])


def test_a_quote_never_closed_does_not_gather_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MOST_BYTES_A_LINE", 1000)
    put(tmp_path / "list.csv", b'path,caption\na.mp4,"x\n' + b"b.mp4,y\n" * 1000)
    with pytest.raises(UserError, match=r"line 1\d\d: field larger than field limit"):
        read_inputs([tmp_path / "list.csv"])


def test_a_parquet_file_of_too_many_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MOST_ROWS", 2)
    with pytest.raises(UserError, match="says it has 3 rows; at most 2"):
        read_inputs([write(tmp_path / "list.parquet", [{"path": "a"}] * 3)])


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SAID = TEXTS.filter(str.strip)
ROWS = st.fixed_dictionaries(
    {"path": st.text(string.ascii_letters + "äß ,;'\"#%-", min_size=1).filter(str.strip)},
    optional={
        "start": st.floats(0, 1000),
        "end": st.floats(1001, 1e6),
        "caption": TEXTS,
        "qa": st.lists(st.tuples(SAID, SAID).map(list), max_size=3),
    },
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=5), suffix=st.sampled_from([".csv", ".jsonl"]))
def test_what_is_written_is_what_is_read(tmp_path_factory, rows, suffix):
    path = write(tmp_path_factory.mktemp("round") / f"list{suffix}", rows)
    expected = {}
    for row in rows:
        part = (str(path.parent / row["path"]), row.get("start", 0.0), row.get("end"))
        captions, pairs = expected.setdefault(part, ([], []))
        if row.get("caption", "").strip() and row["caption"] not in captions:
            captions.append(row["caption"])
        pairs += [pair for pair in dict.fromkeys(map(tuple, row.get("qa", []))) if pair not in pairs]
    found = read_inputs([path])
    assert [(source.path, source.start, source.end) for source in found] == list(expected)
    assert [(source.caption, source.qa) for source in found] == [
        ("\n".join(captions), tuple(pairs)) for captions, pairs in expected.values()
    ]
    assert len({source.name for source in found}) == len(found)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200), suffix=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_no_manifest_gives_anything_but_sources_or_a_user_error(tmp_path_factory, data, suffix):
    path = put(tmp_path_factory.mktemp("any") / f"list.{suffix}", b"path,start,end\n" + data if suffix == "csv" else data)
    try:
        found = read_inputs([path])
    except UserError as error:
        found, message = [], str(error)
        assert str(path) in message
    assert all(isinstance(source, Source) for source in found)


# Frames and checksums of files


def test_a_file_gives_what_sample_gives_of_its_part(tmp_path, film):
    film(tmp_path / "a.mp4", seed=1)
    (whole, part) = read_inputs([tmp_path / "a.mp4", write(tmp_path / "list.csv", [{"path": "a.mp4", "start": 0.5, "end": 1.5}])])
    for source, options, count in ((whole, {}, 8), (part, {"start": 0.5, "end": 1.5}, 4)):
        for decoder in ("auto", "av"):
            given = list(pictures(source, fps=4.0, size=32, batch=3, limits=None, decoder=decoder))
            wanted = list(sample(tmp_path / "a.mp4", fps=4.0, size=32, batch=3, decoder=decoder, **options))
            assert [len(batch.frames) for batch in given] == [3] * (count // 3) + [count % 3]
            for one, other in zip(given, wanted, strict=True):
                np.testing.assert_array_equal(one.frames, other.frames)
                np.testing.assert_array_equal(one.times, other.times)
    assert given[0].times[0] == 0.5


def test_the_checksum_is_of_the_files_bytes_and_the_stamp_of_what_the_disk_says(tmp_path):
    (source,) = read_inputs([put(tmp_path / "a.mp4")])
    os.utime(source.path, ns=(5, 7_000_000_001))
    assert stamp(source) == (26, 7_000_000_001)
    assert content(source) == (hashlib.sha256(GIF).hexdigest(), 26, 7_000_000_001)


def test_no_checksum_of_what_is_no_video(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.mp4")
    put(tmp_path / "list.mp4", b"#EXTM3U\nx")
    for name, kind in (("gone.mp4", "missing"), ("pipe.mp4", "not-video"), ("list.mp4", "refused")):
        (source,) = read_inputs([tmp_path / name])
        with pytest.raises(VideoError) as failed:
            content(source)
        assert failed.value.kind == kind
    assert stamp(Source("gone", str(tmp_path / "gone.mp4"))) == stamp(Source("odd", "a\0b")) == (None, None)

    (source,) = read_inputs([put(tmp_path / "a.mp4")])
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(VideoError, match="a.mp4 cannot be read: Input/output error") as failed:
        content(source)
    assert failed.value.kind == "missing"


# Data sets of TFDS


def features_of(**kept):
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(kept)


def write_dataset(folder, features, shards, split="train"):
    """ArrayRecord shards of examples and TFDS's own metadata of them, without TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name="drawn", split=split, filetype_suffix="array_record")
    for number, shard in enumerate(shards):
        writer = ArrayRecordWriter(str(template.sharded_filepath(shard_index=number, num_shards=len(shards))), "group_size:1")
        for example in shard:
            writer.write(features.serialize_example(example))
        writer.close()
    info = tfds.core.SplitInfo(name=split, shard_lengths=[len(shard) for shard in shards], num_bytes=0, filename_template=template)
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[info], filename_template=template, description="drawn", check_data=False
    )
    return folder


def png(picture, **options):
    held = io.BytesIO()
    Image.fromarray(picture).save(held, options.pop("format", "PNG"), **options)
    return held.getvalue()


def edit(path, change):
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def frames_of(source, **options):
    batches = list(pictures(source, **({"fps": 2.0, "size": 8, "batch": 3, "limits": Limits()} | options)))
    return np.concatenate([batch.frames for batch in batches]), np.concatenate([batch.times for batch in batches]), batches


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def videos(tmp_path, rng):
    """Tensors [T, 12, 16, 3] with captions in two shards and an empty one between; the clips."""
    import tensorflow_datasets as tfds

    features = features_of(video=tfds.features.Tensor(shape=(None, 12, 16, 3), dtype=np.uint8), caption=tfds.features.Text())
    clips = [rng.integers(0, 256, (length, 12, 16, 3), np.uint8) for length in (4, 1, 3)]
    examples = [{"video": clip, "caption": f"clip {number}, größer"} for number, clip in enumerate(clips)]
    return write_dataset(tmp_path / "drawn", features, [examples[:2], [], examples[2:]]), clips


def test_an_example_is_a_source_and_its_frames_are_all_sampled(videos):
    import tensorflow_datasets as tfds

    folder, clips = videos
    found = read_inputs([f"tfds:{folder}/train"])
    whole = f"tfds:{folder}/train"
    assert found == [Source(f"{whole}#{n}", dataset=whole, index=n, caption=f"clip {n}, größer") for n in range(3)]
    theirs = tfds.builder_from_directory(str(folder)).as_data_source(split="train")
    for source, clip, example in zip(found, clips, theirs, strict=True):
        np.testing.assert_array_equal(clip, example["video"])
        frames, times, batches = frames_of(source)
        np.testing.assert_array_equal(frames, [square(picture, 8) for picture in clip])
        np.testing.assert_array_equal(times, np.arange(len(clip)) / 2)
        assert [len(batch.frames) for batch in batches] == [3] * (len(clip) // 3) + [len(clip) % 3] * (len(clip) % 3 > 0)
    assert "tensorflow" not in sys.modules


def test_a_data_set_is_named_by_folder_split_or_slice(videos, monkeypatch):
    folder, _ = videos
    monkeypatch.chdir(folder.parent)
    whole = read_inputs([f"tfds:{folder}/train"])
    assert (
        read_inputs([f"tfds:{folder}"])
        == read_inputs(["tfds:drawn"])
        == read_inputs([f"tfds:{folder}/train", "tfds:./drawn/train"])
        == whole
    )
    (last,) = read_inputs([f"tfds:{folder}/train[2:]"])
    assert last.caption == whole[2].caption and content(last) == content(whole[2])
    np.testing.assert_array_equal(frames_of(last)[0], frames_of(whole[2])[0])


def test_a_data_set_is_found_by_name_config_and_version_where_tfds_keeps_it(videos, tmp_path, monkeypatch):
    from tensorflow_datasets.core.utils import file_utils

    monkeypatch.setattr(file_utils, "list_data_dirs", lambda: [tmp_path / "kept"])
    for place in ("one/1.9.0", "one/1.10.0", "several/small/1.0.0", "several/large/1.0.0"):
        shutil.copytree(videos[0], tmp_path / "kept" / place)
    edit(tmp_path / "kept/one/1.9.0/dataset_info.json", lambda info: info["splits"][0].update(name="old"))
    for name in ("one", "one/train", "one:1.10.0/train", "several/small/train"):
        assert len(read_inputs([f"tfds:{name}"])) == 3
    for name, words in (
        ("one:1.9.0/train", "no such split .*give one of old"),
        ("several/train", "several configs; give tfds:several/CONFIG/SPLIT, with one of large, small"),
        ("one:3.0.0/train", "prepare it .tfds build one:3.0.0 --file_format=array_record"),
        ("two", "prepare it .tfds build two "),
        ("../one/train", "give tfds:NAME.*or give tfds:FOLDER/SPLIT"),
    ):
        with pytest.raises(UserError, match=words):
            read_inputs([f"tfds:{name}"])


def as_video(features):
    """What TFDS writes for features.Video, which it makes itself with TensorFlow alone; on the disk it is a sequence of pictures."""
    held = features["featuresDict"]["features"]["video"]
    dimensions = ["-1", *held["sequence"]["feature"]["image"]["shape"]["dimensions"]]
    held["pythonClassName"] = "tensorflow_datasets.core.features.video_feature.Video"
    del held["sequence"]
    held["video"] = {"shape": {"dimensions": dimensions}, "dtype": "uint8", "encodingFormat": "png"}


@pytest.mark.parametrize("video", [True, False], ids=["Video", "Sequence"])
def test_videos_of_encoded_pictures(tmp_path, rng, video):
    import tensorflow_datasets as tfds

    clips = [rng.integers(0, 256, (length, 10, 9, 3), np.uint8) for length in (5, 2)]
    features = features_of(
        video=tfds.features.Sequence(tfds.features.Image(shape=(10, 9, 3))),
        image=tfds.features.Image(shape=(10, 9, 3)),
        label=tfds.features.ClassLabel(names=["falling", "rolling ball"]),
    )
    examples = [{"video": [png(f) for f in clip], "image": png(clip[0]), "label": n} for n, clip in enumerate(clips)]
    folder = write_dataset(tmp_path / "clips", features, [examples])
    if video:
        edit(folder / "features.json", as_video)
    found = read_inputs([f"tfds:{folder}"])
    assert [source.caption for source in found] == ["falling", "rolling ball"]
    for source, clip in zip(found, clips, strict=True):
        frames, times, _ = frames_of(source, fps=4.0, size=5)
        np.testing.assert_array_equal(frames, [square(picture, 5) for picture in clip])
        np.testing.assert_array_equal(times, np.arange(len(clip)) / 4)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_an_image_is_a_video_of_one_frame_whatever_its_colours(tmp_path, rng, mode):
    import tensorflow_datasets as tfds

    drawn = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).convert(mode)
    held = io.BytesIO()
    drawn.save(held, "PNG")
    channels = {"L": 1, "RGBA": 4}.get(mode, 3)
    features = features_of(image=tfds.features.Image(shape=(None, None, channels)), text=tfds.features.Sequence(tfds.features.Text()))
    folder = write_dataset(tmp_path / "images", features, [[{"image": held.getvalue(), "text": ["one", "two", "one"]}]])
    (source,) = read_inputs([f"tfds:{folder}/train"])
    assert source.caption == "one\ntwo"
    frames, times, _ = frames_of(source)
    np.testing.assert_array_equal(frames, np.asarray(drawn.convert("RGB"))[None])
    assert times.tolist() == [0.0]


def stored(folder, shape, encoding, frames):
    """One example with a tensor in one of TFDS's other layouts, which it serialises and does not read back itself."""
    import tensorflow_datasets as tfds

    features = features_of(frames=tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=encoding))
    return read_inputs([f"tfds:{write_dataset(folder, features, [[{'frames': frames}]])}"])[0]


@pytest.mark.parametrize(
    ("shape", "encoding", "held"),
    [
        ((None, 8, 8, 1), "none", (2, 8, 8, 1)),
        ((8, 8, 1), "none", (8, 8, 1)),
        ((None, 8, 3), "none", (8, 8, 3)),
        ((None, 8, 8, 3), "bytes", (2, 8, 8, 3)),
        ((None, 8, 8, 3), "zlib", (2, 8, 8, 3)),
        ((None, None, None, 3), "zlib", (2, 8, 8, 3)),
        ((None, None, 1), "bytes", (8, 8, 1)),
    ],
)
def test_tensors_however_they_are_stored(tmp_path, rng, shape, encoding, held):
    frames = rng.integers(0, 256, held, np.uint8)
    source = stored(tmp_path / "stored", shape, encoding, frames)
    wanted = (frames if len(held) == 4 else frames[None]).repeat(3 // held[-1], -1)
    np.testing.assert_array_equal(frames_of(source)[0], wanted)


def test_the_checksum_of_an_example_is_of_its_frames_shape_and_nothing_else(tmp_path, rng):
    import tensorflow_datasets as tfds

    frames = rng.integers(0, 256, (2, 8, 6, 3), np.uint8)
    other = frames.copy()
    other[1, 7, 5, 2] ^= 1
    sums = []
    for number, held in enumerate([frames, other, frames.reshape(2, 6, 8, 3)]):
        features = features_of(frames=tfds.features.Tensor(shape=(None, *held.shape[1:]), dtype=np.uint8), caption=tfds.features.Text())
        folder = write_dataset(tmp_path / str(number), features, [[{"frames": held, "caption": "a"}], [{"frames": held, "caption": "b"}]])
        first, second = read_inputs([f"tfds:{folder}"])
        assert content(first)[0] == content(second)[0]
        (shard,) = folder.glob("*-00001-of-00002")
        assert content(second)[1:] == stamp(second) == (shard.stat().st_size, shard.stat().st_mtime_ns)
        sums.append(content(first)[0])
    assert len(set(sums)) == 3 and all(len(digest) == 64 for digest in sums)


def damage(features):
    features["featuresDict"]["features"]["video"] = {"pythonClassName": "canary_of_features.Loud", "tensor": {}}


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("features.json", damage, "no video or image of uint8 among its features .caption, video."),
        ("features.json", lambda held: held.clear(), "features.json is not TFDS's .'featuresDict'.*prepare"),
        ("features.json", lambda held: held.update(featuresDict={"features": {"video": 3}}), "features.json is not TFDS's"),
        ("dataset_info.json", lambda held: held.update(splits=3), "dataset_info.json is not TFDS's"),
        (
            "dataset_info.json",
            lambda held: held.update(fileFormat="tfrecord"),
            "keeps its examples as tfrecord; .*--file_format=array_record",
        ),
        ("dataset_info.json", lambda held: held["splits"][0].update(shardLengths=["0"]), "holds no example"),
        ("dataset_info.json", lambda held: held["splits"][0].update(filepathTemplate="../{DATASET}-{SHARD_INDEX}"), "holds no example in"),
        ("dataset_info.json", lambda held: held["splits"][0].update(name="test"), "no such split.*give one of test"),
    ],
)
def test_a_data_set_that_is_not_as_it_should_be_is_refused_and_runs_nothing(videos, monkeypatch, file, change, words):
    folder, _ = videos
    put(folder.parent / "canary_of_features.py", b"raise SystemExit('a module that features.json names was imported')")
    monkeypatch.syspath_prepend(folder.parent)
    edit(folder / file, change)
    with pytest.raises(UserError, match=words) as refused:
        read_inputs([f"tfds:{folder}/train"])
    assert "\n" not in str(refused.value)


def test_examples_that_are_gone_or_damaged_fail_alone(videos):
    folder, _ = videos
    found = read_inputs([f"tfds:{folder}/train"])
    dataset.open_dataset.cache_clear()
    first, _, last = sorted(folder.glob("*.array_record*"))
    first.unlink()
    for action in (content, frames_of):
        with pytest.raises(VideoError) as failed:
            action(found[0])
        assert failed.value.kind == "missing"
    assert stamp(found[0]) == (None, None)
    assert len(frames_of(found[2])[0]) == 3

    dataset.open_dataset.cache_clear()
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(VideoError) as failed:
        frames_of(found[2])
    assert failed.value.kind == "damaged"
    dataset.open_dataset.cache_clear()
    (folder / "features.json").unlink()
    with pytest.raises(VideoError) as failed:
        content(found[2])
    assert failed.value.kind == "missing" and stamp(found[2]) == (None, None)


def bomb(width, height):
    """A PNG of a few bytes that says it is width x height."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    rest = b"IDAT" + zlib.compress(b"")
    chunks = b"".join((len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (head, rest, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (bomb(9000, 10), "limit"),
        (bomb(60_000, 60_000), "limit"),
        (bomb(10, 10), "damaged"),
        (b"GIF8", "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "damaged"),
        (png(np.zeros((4, 4), np.uint16)), "not-video"),
        (None, "empty"),
    ],
)
def test_pictures_that_are_not_decoded(tmp_path, held, kind):
    import tensorflow_datasets as tfds

    features = features_of(video=tfds.features.Sequence(tfds.features.Image()))
    folder = write_dataset(tmp_path / "bad", features, [[{"video": [] if held is None else [held]}]])
    (source,) = read_inputs([f"tfds:{folder}"])
    with pytest.raises(VideoError) as failed:
        frames_of(source)
    assert failed.value.kind == kind and str(failed.value).startswith(source.name)


def test_examples_are_held_to_the_limits(tmp_path, videos):
    source = read_inputs([f"tfds:{videos[0]}"])[0]
    big = stored(tmp_path / "big", (None, None, None, 3), "zlib", np.zeros((2, 400, 400, 3), np.uint8))
    for one, limit in ((source, {"max_frames": 3}), (source, {"max_side": 15}), (big, {"max_pixels": 159_999}), (big, {"max_frames": 1})):
        with pytest.raises(VideoError) as failed:
            frames_of(one, limits=Limits(**limit))
        assert failed.value.kind == "limit"
    with pytest.raises(VideoError, match="its frames are damaged"):
        frames_of(big, limits=Limits(memory=100_000))
    for wrong in ({"fps": 0.0}, {"fps": float("nan")}, {"size": 0}, {"batch": 0}):
        with pytest.raises(UserError, match="at least 1"):
            frames_of(source, **wrong)
