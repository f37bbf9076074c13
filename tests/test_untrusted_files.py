"""Untrusted JSON is read in little memory, with finite numbers, or gives one clear error."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from ringvision.errors import UserError
from ringvision.untrusted_files import MOST_BYTES, read_object


def test_an_object_is_read_and_a_number_too_long_becomes_a_float(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": [1, {"b": "é"}], "model_max_length": 10**30, "eps": 1e-6}))
    assert read_object(path, "look elsewhere") == {
        "a": [1, {"b": "é"}],
        "model_max_length": 1e30,
        "eps": 1e-6,
    }
    assert isinstance(read_object(path, "")["model_max_length"], float)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe{", "cannot be read as JSON"),
        (b"null", "holds a NoneType"),
        (b"7", "holds a int"),
        (b'{"a": 1e400}', "too large"),
        (b'{"a": -1e400}', "too large"),
        (b'{"a": 1' + b"0" * 400 + b"}", "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested more than 64"),
        (b'{"a":' * 100_000, "cannot be read as JSON"),
    ],
)
def test_what_is_no_settings_is_an_error(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as raised:
        read_object(path, "look elsewhere")
    assert str(raised.value).endswith("; look elsewhere") and str(raised.value).isprintable()


@pytest.mark.parametrize("part", [b"[],", b'"ab",', b"1e1,", b'{"":0},'])
def test_what_would_fill_memory_is_not_parsed(part: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a":[' + part * ((MOST_BYTES - 20) // len(part)) + b"0]}")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more than 2097152 values"):
            read_object(path, "look elsewhere")
        assert tracemalloc.get_traced_memory()[1] < 2 * MOST_BYTES
    finally:
        tracemalloc.stop()


def test_only_a_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2 << 30)
    for name, said in (
        ("pipe", "no file"),
        ("zero", "no file"),
        ("loop", "no file"),
        ("absent", "no file"),
        ("large", "expected at most"),
    ):
        with pytest.raises(UserError, match=said):
            read_object(tmp_path / name, "look elsewhere")
