"""Manifests: CSV, JSON lines and Parquet, read row by row or refused by line and column."""

import csv
import os
import string

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listed import names, put, write
from pyarrow import parquet

from ringvision.errors import UserError
from ringvision.tokenize import listing
from ringvision.tokenize.inputs import read_inputs
from ringvision.tokenize.source import VideoSource


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["path", "video", "file"])
def test_a_manifest_names_parts_captions_and_questions(tmp_path, suffix, column):
    rows = [
        {column: "a.mp4", "caption": 'A red, "round" ball\nrolls', "id": 1},
        {column: "../b.mp4", "start": 1.5, "end": 90.0, "question": "Whose?", "answer": "Ours"},
        {column: "/c.mp4", "start": 2.0, "qa": [["What?", "A ball"], ["Where?", "Hier, in Köln"]]},
        {column: "a.mp4", "end": 2.0},
    ]
    a = str(tmp_path / "m/a.mp4")
    b = str(tmp_path / "b.mp4")
    c = "/c.mp4"
    (tmp_path / "m").mkdir()
    assert read_inputs([write(tmp_path / f"m/list{suffix}", rows)]) == [
        VideoSource(a, a, caption='A red, "round" ball\nrolls'),
        VideoSource(f"{b}#t=1.5,90", b, 1.5, 90.0, qa=(("Whose?", "Ours"),)),
        VideoSource(f"{c}#t=2,", c, 2.0, qa=(("What?", "A ball"), ("Where?", "Hier, in Köln"))),
        VideoSource(f"{a}#t=0,2", a, 0.0, 2.0),
    ]


def test_rows_of_one_part_are_gathered_wherever_they_stand(tmp_path):
    put(tmp_path / "a.mp4")
    rows = [
        {"path": "a.mp4", "caption": "one", "question": "Q", "answer": "A"},
        {"path": "b.mp4", "caption": "other"},
        {
            "path": "./a.mp4",
            "caption": "two",
            "qa": [{"question": "Q2", "answer": "A2"}, {"question": "Q", "answer": "A"}],
        },
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
    put(
        tmp_path / "LIST.JSONL",
        b'\n{"Video": "a.mp4", "start": null, "end": null, "caption": null, "qa": null}\n',
    )
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
    (
        "csv",
        b"name;start\nx;1\n",
        r"line 1: no path among the columns \['name;start'\]; .* path, video or file",
    ),
    ("csv", b"path,end,end\nx,1,2\n", "line 1: a column comes twice"),
    ("csv", b"path,start\na.mp4,1\n\nb.mp4,1,2\n", "line 4: 3 fields where the first line names 2"),
    ("csv", b'path,caption\n"a.mp4","x\ny"\n"b.mp4"z,\n', "line 4: .* expected comma-separated values"),
    ("csv", b'path,caption\na.mp4,"never closed\n', "expected comma-separated values"),
    ("csv", b"path\na.mp4\nb\xe9.mp4\n", "line 3: byte 2 of it is not UTF-8"),
    ("csv", "path\na.mp4\n".encode("utf-16"), "line 1: byte 1 of it is not UTF-8"),
    ("csv", b"path,caption\n ,x\n", "line 2, column path: ' '; expected the path of a video"),
    ("csv", b"path\na\0b.mp4\n", "line 2, column path: .*; expected the path"),
    (
        "csv",
        b"path\nHTTP://x/a.mp4\n",
        "line 2, column path: 'HTTP://x/a.mp4'; expected a file; nothing is fetched",
    ),
    ("csv", b"video\ntfds:mnist\n", "line 2, column video: 'tfds:mnist'; expected a file"),
    (
        "csv",
        b'path,caption,end\na.mp4,"x\ny",1\nb.mp4,,soon\n',
        "line 4, column end: 'soon'; expected seconds from 0 on, or H:MM:SS",
    ),
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
    (
        "csv",
        b'path,qa\na.mp4,"{""question"": ""q"", ""answer"": ""a""}"\n',
        "line 2, column qa: .*; expected a list of",
    ),
    ("csv", b'path,qa\na.mp4,"[["\n', "line 2, column qa: malformed JSON"),
    ("jsonl", b"\n \n", "holds no row"),
    (
        "jsonl",
        b'{"path": "a.mp4"}\n\n{"path": }\n',
        r"line 3: malformed JSON \(Expecting value, character 10\)",
    ),
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
    (
        "jsonl",
        b'{"path": "a", "qa": [{"question": "q", "answer": 1}]}\n',
        "line 1, column qa: .*; expected a list of",
    ),
    ("jsonl", b'{"path": "a", "qa": 3}\n', "line 1, column qa: 3; expected a list of"),
    ("jsonl", b'{"path": "a\xff"}\n', "line 1: byte 12 of it is not UTF-8"),
    ("parquet", b"path\na.mp4\n", "cannot be read as Parquet"),
    ("parquet", b"", "cannot be read as Parquet"),
    ("parquet", {"name": ["a.mp4"]}, r"no path among the columns \['name'\]"),
    ("parquet", {"path": pa.array([], pa.string())}, "holds no row"),
    ("parquet", {"path": ["a.mp4", None]}, "row 2, column path: None; expected the path"),
    ("parquet", {"path": ["a.mp4"], "start": [float("nan")]}, "row 1, column start: nan; expected seconds"),
    ("parquet", {"path": [b"a.mp4"]}, "row 1, column path: b'a.mp4'; expected text"),
    (
        "parquet",
        {"path": ["a", "b"], "start": [1, 1], "end": [2, 1]},
        "row 2, column end: 1; expected a time after start, 1",
    ),
]


@pytest.mark.parametrize(("suffix", "held", "words"), BAD)
def test_a_bad_manifest_is_refused_by_file_line_and_column(tmp_path, monkeypatch, suffix, held, words):
    path = tmp_path / f"list.{suffix}"
    if isinstance(held, bytes):
        path.write_bytes(held)
    else:
        parquet.write_table(pa.table(held), path)
    opened = []
    really = open
    monkeypatch.setattr(
        "builtins.open", lambda *asked, **more: opened.append(really(*asked, **more)) or opened[-1]
    )
    with pytest.raises(UserError, match=words) as refused:
        read_inputs([path])
    assert all(file.closed for file in opened) and (opened or suffix == "parquet")
    assert (
        str(refused.value).startswith(str(path))
        and "\n" not in str(refused.value)
        and len(str(refused.value)) < len(str(path)) + 300
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_line_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(listing, "MOST_BYTES_A_LINE", 1000)
    put(
        tmp_path / f"list.{suffix}",
        (b'path,caption\n"a.mp4","' if suffix == "csv" else b'{"path": "a.mp4"}\n{') + b"x" * 2000,
    )
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
    path = put(
        tmp_path_factory.mktemp("any") / f"list.{suffix}",
        b"path,start,end\n" + data if suffix == "csv" else data,
    )
    try:
        found = read_inputs([path])
    except UserError as error:
        found = []
        message = str(error)
        assert str(path) in message
    assert all(isinstance(source, VideoSource) for source in found)
