"""A run's record survives being stopped: later steps are forgotten, earlier ones kept."""

from pathlib import Path

import pytest

from ringvision.errors import UserError
from ringvision.train.record import METRICS, Record, read_metrics


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
