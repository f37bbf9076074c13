"""Text files, JSON lines and gzip, record by record whatever the size of blocks; what is said of bad ones."""

import gzip
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ringvision.data.records import byte_files, pieces, text_files
from ringvision.data.records.byte_files import GzipFile, PlainFile
from ringvision.data.records.pieces import PieceIndex
from ringvision.data.records.text_files import JsonLines, SeparatedText, WholeFiles
from ringvision.errors import UserError


def cut(data: bytes, separator: bytes) -> list[bytes]:
    """What PieceIndex should give."""
    return [piece for piece in data.split(separator) if piece.strip()]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few bytes, marks every few bytes, ."""
    monkeypatch.setattr(byte_files, "FIRST_BLOCK", 3)
    monkeypatch.setattr(byte_files, "LARGEST_BLOCK", 7)
    monkeypatch.setattr(byte_files, "APART", 16)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("separator", [b"\n", b"--", b"\n\n"])
@pytest.mark.usefixtures("small_blocks")
def test_pieces_are_those_of_split(tmp_path: Path, separator: bytes, packed: bool) -> None:
    """A separator across blocks, pieces of white space, an index with gaps, members one after another."""
    chance = random.Random(0)
    for number in range(40):
        data = b"".join(chance.choice([b"a", b"bc", b"-", b"\n", separator, b" "]) for _ in range(number * 4))
        path = tmp_path / f"{number}{'.gz' * packed}"
        half = len(data) // 2
        members = gzip.compress(data[:half]) + gzip.compress(data[half:]) + b"\0" * 5
        path.write_bytes(members if packed else data)
        found = PieceIndex(GzipFile(str(path), 8) if packed else PlainFile(str(path)), separator, 5)
        expected = cut(data, separator)
        assert len(found) == len(expected)
        order = list(range(len(found)))
        chance.shuffle(order)
        assert [found.read(index) for index in order] == [expected[index] for index in order]
        assert len(found._starts) <= 5
    assert found.stride > 1
    with pytest.raises(IndexError):
        found.read(len(found))


def test_a_large_gzip_file_is_read_from_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from its beginning: a read unpacks what lies between two marks."""
    monkeypatch.setattr(byte_files, "APART", 1 << 14)
    chance = random.Random(0)
    lines = [json.dumps({"n": n, "text": chance.randbytes(100).hex()}) for n in range(4000)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode(), 1))
    records = JsonLines(str(path))
    file = records._lines.file
    assert isinstance(file, GzipFile)
    assert len(file._marks) > 20
    for index in (3999, 0, 2000):
        assert records.read(index) == json.loads(lines[index])
        unpacked = next(file.blocks(records._lines._starts[index]))
        assert len(unpacked) < 1 << 17


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: data[:40] + b"\xff" * 20 + data[60:], "damaged"),
        (lambda data: b"text that is no gzip", "no gzip file"),
    ],
)
def test_a_damaged_gzip_file_is_said(tmp_path: Path, damage: Any, says: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(damage(gzip.compress(b'{"text": "one of many lines"}\n' * 500 + random.randbytes(500))))
    with pytest.raises(UserError, match=says):
        JsonLines(str(path))


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one", "n": 1}\r\n\n   \n{"text": "gr\xc3\xb6\xc3\x9fer"}')
    records = JsonLines(str(path))
    assert [records.read(index) for index in range(len(records))] == [
        {"text": "one", "n": 1},
        {"text": "größer"},
    ]
    assert records.fields == ("text", "n")
    assert records.where(1) == f"{path}, record 2"


@pytest.mark.parametrize(
    "line, says",
    [
        (b'{"text": ', "malformed JSON .*character 10"),
        (b"[1, 2]", "holds a list, expected an object"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": ' + b"[" * 100000, "record 2"),
        (b'{"text": ' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        (b'{"n": 1e999}', "too large"),
        (b'{"n": NaN}', "no number"),
        (b'{"n": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"n": [' + b"0," * 60 + b"0]}", "more than 50 values"),
        (b"x" * 3000, "longer than 0 MB"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, says: str) -> None:
    if says.startswith("more"):
        monkeypatch.setattr(text_files, "MOST_PARTS", 50)
    if says.startswith("longer"):
        monkeypatch.setattr(pieces, "MOST_BYTES", 2000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
    records = JsonLines(str(path))
    assert (len(records), records.read(0), records.read(2)) == (3, {"text": "one"}, {"text": "three"})
    with pytest.raises(UserError, match=says) as refused:
        records.read(1)
    assert str(refused.value).startswith(f"{path}, record 2: ") and "\n" not in str(refused.value)


def test_many_lines_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of thirty thousand lines with room for a thousand places, and a line without an end."""
    monkeypatch.setattr(pieces, "MOST_STARTS", 2000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' * 30_000 + b"x" * (8 << 20))
    tracemalloc.start()
    records = JsonLines(str(path), files=2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30 << 20
    assert len(records._lines._starts) <= 1024
    assert (len(records), records.read(29_999)) == (30_001, {"text": "a"})


def test_files_of_text_are_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    paths = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    records = WholeFiles("name", paths)
    assert (len(records), records.read(0), records.where(1)) == (2, {"text": "one\n\ntwo"}, paths[1])
    with pytest.raises(UserError, match=r"b.txt: byte 1 of it is not UTF-8"):
        records.read(1)
    parts = SeparatedText(paths[0], "\n\n")
    assert [parts.read(index) for index in range(len(parts))] == [{"text": "one"}, {"text": "two"}]
    assert parts.where(1) == f"{paths[0]}, document 2"
    monkeypatch.setattr(text_files, "MOST_BYTES", 2)
    with pytest.raises(UserError, match=r"a.txt has 0 MB.*separator"):
        WholeFiles("name", paths)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"a.txt cannot be read \(no such file"):
        records.read(0)
