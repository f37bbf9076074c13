"""A run's metrics on disk: cut back where it goes back, and read from any file."""

import json
import math
from pathlib import Path

import pytest

from ringvision.train.metrics_file import METRICS, MetricsFile, lost_seconds, read_metrics


def written(folder: Path, marks: list[tuple[int, float]]) -> None:
    file = MetricsFile(folder, 0)
    for step, elapsed in marks:
        file.write(step, {"loss": 1.0}, elapsed=elapsed)
    file.close()


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    file = MetricsFile(tmp_path, 0)
    file.write(1, {"loss": math.nan, "norm": math.inf, "rate": 0.5})
    file.close()
    line = json.loads((tmp_path / METRICS).read_text(), parse_constant=pytest.fail)
    assert (line["loss"], line["norm"], line["rate"]) == (None, None, 0.5)
    (read,) = read_metrics(tmp_path)
    assert math.isnan(read["loss"])
    assert math.isnan(read["norm"])


def test_a_run_that_goes_back_forgets_later_steps(tmp_path):
    file = MetricsFile(tmp_path, 0)
    for step in range(1, 6):
        file.write(step, {"loss": step})
    kept = (tmp_path / METRICS).read_text().splitlines()[:2]
    file.rolled_back(2)
    file.write(3, {"loss": 30})
    file.close()
    assert (tmp_path / METRICS).read_text().splitlines()[:2] == kept
    assert [(record["step"], record["loss"]) for record in read_metrics(tmp_path)] == [
        (1, 1),
        (2, 2),
        (3, 30),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 7, "lo',
        b"[" * 100_000,
        b'{"step": 1' + b"0" * 5000 + b"}",
        b'{"step": 10000000000000000000000}',
        b'{"step": -1}',
        b'{"step": true}',
        b'{"step": "3"}',
        b"[1]",
        b"17",
        b"\xff\xfe\x00",
        b"x" * (3 << 20),
    ],
    ids=lambda line: repr(line[:12]),
)
def test_a_line_that_is_no_record_is_left_out(line, tmp_path):
    (tmp_path / METRICS).write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    MetricsFile(tmp_path, 2).close()
    assert (tmp_path / METRICS).read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    big = "1" + "0" * 400
    (tmp_path / METRICS).write_text(f'{{"step": 1, "a": "x", "b": [1], "c": true, "d": {big}, "e": 2}}\n')
    (record,) = read_metrics(tmp_path)
    assert record.keys() == {"step", "d", "e"}
    assert math.isnan(record["d"])


def test_a_folder_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []
    assert lost_seconds(tmp_path, 10) == 0


@pytest.mark.parametrize(
    ("step", "lost"),
    [
        (0, 90),  # no checkpoint: all that it did
        (5, 75),  # half-way to the first line
        (10, 60),
        (15, 45),  # between two lines
        (30, 0),
        (31, 0),
    ],
)
def test_what_a_kill_cost_is_counted_from_its_checkpoint(step, lost, tmp_path):
    written(tmp_path, [(10, 30.0), (10, 30.0), (20, 60.0), (30, 90.0)])
    assert lost_seconds(tmp_path, step) == pytest.approx(lost)


def test_two_kills_after_one_checkpoint_cost_both(tmp_path):
    """The second process goes on from 20 with the books of the checkpoint, 60 s, and 30 s that were lost."""
    written(tmp_path, [(10, 30.0), (20, 60.0), (30, 90.0)])
    assert lost_seconds(tmp_path, 20) == 30
    file = MetricsFile(tmp_path, 20)
    file.write(25, {"loss": 1}, elapsed=60 + 30 + 15)
    file.close()
    assert lost_seconds(tmp_path, 20) == 45


def test_a_run_without_a_ledger_lost_nothing_that_is_known(tmp_path):
    file = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3):
        file.write(step, {"loss": 1})
    file.close()
    assert lost_seconds(tmp_path, 1) == 0
