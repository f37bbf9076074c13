"""The benchmark of reading text gives a line a format."""

import sys

import bench_records
import pytest


def test_a_line_for_every_format(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_records.py", "--megabytes", "1"])
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(bench_records, "READS", 10)
    monkeypatch.setattr(bench_records, "ROUNDS", 1)
    bench_records.main()
    out = capsys.readouterr().out
    assert all(f"\n| {name} | " in out for name in ("jsonl", "jsonl.gz", "parquet", "arrow"))
    assert "A row of 512 tokens from a.jsonl: " in out
