"""A run's record survives being stopped: later steps are forgotten, earlier ones kept."""

import json
import os
import struct
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from ringvision.errors import UserError
from ringvision.train.ledger import Ledger
from ringvision.train.progress import ProgressBar
from ringvision.train.record import METRICS, Record, read_metrics


def events(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard's files of a run say, in the order of their making: (step, name, value); a start of
    TensorBoard's session is named "".
    """
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                found.append((event.step, "", 0.0))
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def fill(file: IO[Any]) -> None:
    """The disk under a file that is open has no room left."""
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), file.fileno())


def test_a_resumed_record_drops_what_came_after(tmp_path: Path) -> None:
    with Record(tmp_path, quiet=True) as record:
        for step in range(1, 6):
            record.write(step, {"loss": 1.0 / step})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 6, "lo')
    with Record(tmp_path, step=3, quiet=True) as record:
        record.write(4, {"loss": 9.0})
        assert record.read("loss") == ([1, 2, 3, 4], [1.0, 0.5, 1.0 / 3, 9.0])
    with Record(tmp_path, quiet=True):
        assert read_metrics(tmp_path) == []


def test_a_record_that_rolls_back_drops_what_came_after(tmp_path: Path) -> None:
    with Record(tmp_path, quiet=True) as record:
        for step in range(1, 6):
            record.write(step, {"loss": step})
        record.rolled_back(2)
        record.write(3, {"loss": 0.5})
        assert record.read("loss") == ([1, 2, 3], [1, 2, 0.5])
    with Record(tmp_path, step=2, quiet=True):
        assert json.loads((tmp_path / "status.json").read_text())["step"] == 2
    assert events(tmp_path) == [
        (1, "", 0),
        *((step, "loss", step) for step in range(1, 6)),
        (3, "", 0),  # from here on TensorBoard hides the steps from 3 that it has read
        (3, "loss", 0.5),
        (3, "", 0),
    ]


def test_curves_become_a_picture(tmp_path: Path) -> None:
    with Record(tmp_path, quiet=True) as record:
        for step in range(1, 4):
            record.write(step, {"loss": step, "eval/colour": 1})
        record.curves_png(tmp_path / "curves.png", ["loss", "eval/colour", "absent"])
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(UserError, match="absent"):
            record.curves_png(tmp_path / "none.png", ["absent"])


def test_one_plain_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Record(tmp_path) as record:
        record.write(7, {"loss": 0.123456, "tokens/s": 12345.6})
    assert capsys.readouterr().err == "step 7  loss 0.1235  tokens/s 12346\n"


def test_books_and_status_lie_beside_the_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    ledger = Ledger(lambda: now[0], {"stepping": 100.0})

    def status() -> tuple[str, int, int]:
        found = json.loads((tmp_path / "status.json").read_text())
        return found["state"], found["step"], found["steps"]

    with Record(tmp_path, step=10, steps=20, ledger=ledger) as record:
        assert status() == ("running", 10, 20)
        with ledger.spend("stepping"):
            now[0] = 5.0
        record.write(15, {"loss": 1.0})
        assert status() == ("running", 15, 20)
        assert json.loads((tmp_path / "ledger.json").read_text()) == {"stepping": 105.0}
        record.advance(16)
    assert status() == ("stopped", 16, 20)
    assert read_metrics(tmp_path)[-1]["elapsed"] == 105.0
    assert "stepping" in capsys.readouterr().err
    with Record(tmp_path, step=16, steps=20, quiet=True) as record:
        record.advance(20)
    assert status() == ("done", 20, 20)
    with pytest.raises(KeyboardInterrupt), Record(tmp_path, step=20, steps=20, quiet=True):
        raise KeyboardInterrupt
    assert status() == ("stopped", 20, 20)


def test_of_several_processes_one_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Record(tmp_path, quiet=True) as first:
        first.write(1, {"loss": 1.0})
        with Record(tmp_path, steps=9, ledger=Ledger(), wandb="never", main=False) as second:
            second.write(1, {"loss": 2.0})
            second.advance(2)
            second.say("nobody hears this")
            second.rolled_back(0)
            second.curves_png(tmp_path / "curves.png", ["loss"])
        first.write(2, {"loss": 3.0})
    assert [record["loss"] for record in read_metrics(tmp_path)] == [1.0, 3.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [METRICS, "status.json", "tensorboard"]
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_where_the_steps_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Record(tmp_path, steps=5) as record:
        assert isinstance(record._progress, ProgressBar)
        record.write(3, {"loss": 1.0})
    assert "3/5" in capsys.readouterr().err
    with Record(tmp_path) as record:
        assert not isinstance(record._progress, ProgressBar)
    with Record(tmp_path, steps=5, quiet=True):
        pass
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left on device; make room"), Record(tmp_path) as record:
        record.write(1, {"loss": 1.0})
        fill(record._metrics._lines)
        record.write(2, {"loss": 1.0})


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Record(tmp_path / "file" / "run")


def test_a_run_goes_on_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ringvision.train.event_file.FLUSHED", 0.0)
    with Record(tmp_path) as record:
        fill(record._events._file._writer)
        for step in range(1, 40):
            record.write(step, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 39
    said = [line for line in capsys.readouterr().err.splitlines() if "No space left" in line]
    assert 1 <= len(said) <= 2
