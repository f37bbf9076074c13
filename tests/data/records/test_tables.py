"""Arrow and Parquet, row by row: from disk, from memory, and by way of the cache folder."""

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ringvision.data.records import tables
from ringvision.data.records.tables import ArrowTable, cache_folder, open_parquet
from ringvision.errors import UserError

ROWS = pyarrow.table(
    {
        "id": list(range(50)),
        "text": [f"row {n}, größer" if n % 7 else None for n in range(50)],
        "messages": [[{"role": "user", "content": f"{n}"}] * (n % 3) for n in range(50)],
    }
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def write_arrow(path: Path, table: pyarrow.Table = ROWS, compression: str | None = None) -> Path:
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with (
        pyarrow.OSFile(str(path), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema, options=options) as to,
    ):
        to.write_table(table, max_chunksize=8)
    return path


def test_rows_of_an_arrow_file(tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "a.arrow")
    table = ArrowTable(str(path), path, ["text"])
    assert (len(table), table.fields) == (50, ("id", "text", "messages"))
    assert [table.read(n) for n in (49, 0, 8)] == [{"text": ROWS["text"][n].as_py()} for n in (49, 0, 8)]
    chat = ArrowTable(str(path), path, ["messages"])
    assert chat.read(5) == {"messages": [{"role": "user", "content": "5"}] * 2}
    with pytest.raises(IndexError):
        table.read(50)


@pytest.mark.parametrize("kept", [1 << 28, 0])
def test_rows_of_a_parquet_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, kept: int
) -> None:
    """From memory where it is small; else from a copy, made once, and anew where the file changes."""
    monkeypatch.setattr(tables, "KEPT_BYTES", kept)
    path = tmp_path / "a.parquet"
    parquet.write_table(ROWS, path, row_group_size=16)
    for _ in range(2):
        table = open_parquet(str(path), ["text"])
        assert (len(table), table.fields) == (50, ("id", "text", "messages"))
        assert [table.read(n)["text"] for n in range(50)] == ROWS["text"].to_pylist()
    assert len(list(cache.glob("*"))) == (0 if kept else 1)
    parquet.write_table(ROWS.slice(0, 20), path)
    assert len(open_parquet(str(path), ["text"])) == 20
    assert open_parquet(str(path), ["messages"]).read(2) == {"messages": ROWS["messages"][2].as_py()}


def test_damaged_tables_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, opened in (
        ("a.parquet", open_parquet),
        ("a.arrow", lambda path, columns: ArrowTable(path, path, columns)),
    ):
        path = tmp_path / name
        with pytest.raises(UserError, match="cannot be read"):
            opened(str(path), ["text"])
        path.write_bytes(b"this is no table at all" * 100)
        with pytest.raises(UserError, match=f"{name} cannot be read as") as refused:
            opened(str(path), ["text"])
        assert "\n" not in str(refused.value)
    whole = write_arrow(tmp_path / "cut.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read as Arrow"):
        ArrowTable("cut.arrow", tmp_path / "cut.arrow", ["text"])
    many = pyarrow.table({"text": ["a" * 1000] * 1000})
    monkeypatch.setattr(tables, "MOST_UNPACKED", 1 << 17)
    with pytest.raises(UserError, match="compressed Arrow"):
        ArrowTable("bomb", write_arrow(tmp_path / "bomb.arrow", many, "zstd"), ["text"])
    assert len(ArrowTable("plain", write_arrow(tmp_path / "plain.arrow", many), ["text"])) == 1000


def test_a_row_beyond_the_file_is_not_followed(tmp_path: Path) -> None:
    """Every byte that says where a text lies is changed in turn: a text, or one line; never a crash."""
    table = pyarrow.table({"text": ["first", "second", "third", "fourth"]})
    path = write_arrow(tmp_path / "a.arrow", table)
    whole = path.read_bytes()
    start = whole.index(b"\x00\x00\x00\x00\x05\x00\x00\x00\x0b\x00\x00\x00\x10\x00\x00\x00\x16")
    refused = 0
    for place in range(start, start + 20):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x70]) + whole[place + 1 :])
        for row in range(4):
            try:
                ArrowTable("a.arrow", path, ["text"]).read(row)
            except UserError:
                refused += 1
    assert refused > 20


def test_a_cache_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "KEPT_BYTES", 0)
    (tmp_path / "cache").write_text("a file")
    parquet.write_table(ROWS, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="cannot be written.*XDG_CACHE_HOME"):
        open_parquet(str(tmp_path / "a.parquet"), ["text"])
