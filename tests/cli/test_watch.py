"""`ringvision watch`: what it says of a run that goes on, has ended, or is none."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ringvision import cli
from ringvision.cli import watch
from ringvision.train.ledger import Ledger
from ringvision.train.record import Record

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def start(folder: Path, *, steps: int = 100) -> tuple[Record, Clock]:
    """A run at step 40 of 100 that takes two seconds a step."""
    now = Clock()
    ledger = Ledger(now)
    record = Record(folder, steps=steps, quiet=True, ledger=ledger)
    for step in range(10, 50, 10):
        with ledger.spend("stepping"):
            now.now += 20
        record.write(step, {"loss": 10 / step, "fill": 0.9})
        record.write(step, {"eval/all": step / 100})
    return record, now


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    record, _ = start(tmp_path / "run", steps=40)
    record.close()
    return tmp_path / "run"


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def test_a_run_that_goes_on(tmp_path, capsys, wide):
    record, _ = start(tmp_path)
    assert cli.main(["watch", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    record.close()
    assert err == ""
    headline, *rest = out.splitlines()
    assert headline.startswith(f"{tmp_path}: running, step 40 of 100, 0:02:00 left, written 0:00:0")
    assert any("loss  0.25" in line and "eval/all  0.4" in line for line in rest), "side by side"
    assert any("stepping" in line and "80.0 s" in line for line in rest)
    assert max(map(len, rest)) <= 120


def test_a_run_that_has_ended(ended, capsys):
    assert cli.main(["watch", str(ended), "--metrics", "fill"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith(f"{ended}: done, step 40 of 40\n")
    assert "fill  0.9" in out
    assert "at the last step: loss 0.25  eval/all 0.4" in out
    assert "left" not in out


def test_a_run_without_a_ledger_goes_by_the_clock(tmp_path, capsys):
    with Record(tmp_path, steps=30, quiet=True):
        lines = [{"step": step, "time": 1000.0 + 3 * step, "loss": 1.0} for step in (10, 20)]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert cli.main(["watch", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds_left"] == 30


def test_one_object_for_programs(ended, capsys):
    assert cli.main(["watch", str(ended), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run": str(ended),
        "state": "done",
        "step": 40,
        "steps": 40,
        "seconds_left": None,
        "metrics": {"loss": 0.25, "fill": 0.9, "eval/all": 0.4},
        "ledger": {"stepping": 80.0},
    }


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_a_picture(name, begins, ended, tmp_path, capsys):
    assert cli.main(["watch", str(ended), "--metrics", "loss,eval/all", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere is not a run's folder (no such folder); give the `out` of a run's config"),
        (["."], ". is not a run's folder (no metrics.jsonl in it)"),
        (["run", "--metrics", "los"], "no metric 'los': did you mean loss?"),
        (["run", "--metrics", "qqqqq"], "no metric 'qqqqq': there are loss, fill, eval/all"),
        (["run", "--out", "a.gif"], "a.gif ends in '.gif'; give a name that ends in .png or .svg"),
        (["run", "--folow"], "did you mean --follow?"),
        ([], "RUN"),
    ],
)
def test_a_wrong_request_is_one_line(words, says, ended, capsys, monkeypatch):
    monkeypatch.chdir(ended.parent)
    assert cli.main(["watch", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_a_run_that_has_written_nothing_yet(tmp_path, capsys):
    with Record(tmp_path, steps=9, quiet=True):
        assert cli.main(["watch", str(tmp_path)]) == 0
    assert "nothing is recorded yet" in capsys.readouterr().out


def test_a_metric_that_comes_later_is_waited_for(tmp_path, capsys):
    with Record(tmp_path, steps=9, quiet=True) as record:
        record.write(1, {"loss": 1.0})
        assert cli.main(["watch", str(tmp_path), "--metrics", "loss,eval/all"]) == 0
    out, _ = capsys.readouterr()
    assert "nothing is recorded yet of eval/all" in out
    assert "loss  1" in out


def test_a_run_of_before(ended, capsys):
    """Its folder has metrics alone."""
    (ended / "status.json").unlink()
    (ended / "ledger.json").unlink()
    assert cli.main(["watch", str(ended), "--follow"]) == 0
    assert "loss  0.25" in capsys.readouterr().out
    assert cli.main(["watch", str(ended), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("status.json", '{"state": "running\\u001b[2J", "step": 1, "steps": 2, "time": 3}'),
        ("status.json", '{"state": "running", "step": "1", "steps": 2, "time": 3}'),
        ("status.json", '{"state": "running", "step": 1, "steps": 2, "time": 1e308}'),
        ("status.json", "[" * 1000),
        ("status.json", "x" * 100_000),
        ("ledger.json", '{"stepping": "long", "\\u001b[2J": 5, "saving": NaN}'),
        ("metrics.jsonl", '{"step": 5, "\\u001b[2Jloss": 1.0, "eval": 1e300}'),
        ("metrics.jsonl", "\x00\xff"),
    ],
)
def test_a_folder_that_may_come_from_anybody(name, text, ended, capsys):
    (ended / name).write_text(text)
    assert cli.main(["watch", str(ended)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert cli.main(["watch", str(ended), "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_a_file_of_any_size_is_not_read(ended, capsys):
    with (ended / "metrics.jsonl").open("r+b") as file:
        file.truncate(1 << 40)
    assert cli.main(["watch", str(ended)]) == 2
    assert "expected at most" in capsys.readouterr().err


def test_following_ends_with_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watch, "LOOKED_AT_EVERY", 0.02)
    record, _ = start(tmp_path)

    def go_on():
        time.sleep(0.3)
        record.write(60, {"loss": 0.125})
        time.sleep(0.3)
        record.close()

    run = threading.Thread(target=go_on)
    run.start()
    assert cli.main(["watch", str(tmp_path), "--follow"]) == 0
    run.join()
    out, err = capsys.readouterr()
    assert [line.partition(", step ")[2].split()[0] for line in err.splitlines()] == ["40", "60"]
    assert out.startswith(f"{tmp_path}: stopped, step 60 of 100")
    assert "loss  0.125" in out


def test_following_on_a_terminal_draws_over_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watch, "LOOKED_AT_EVERY", 0.01)
    monkeypatch.setenv("COLUMNS", "170")
    monkeypatch.setenv("LINES", "13")
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes a terminal of stderr for rich
    monkeypatch.setenv("TERM", "xterm")
    record, _ = start(tmp_path)
    timer = threading.Timer(0.3, record.close)
    timer.start()
    assert cli.main(["watch", str(tmp_path), "--follow", "--json"]) == 0
    timer.join()
    out, err = capsys.readouterr()
    assert "\x1b[?1049h" in err
    assert "\x1b[?1049l" in err
    assert "running, step 40 of 100" in err
    assert "in all" in err, "where the time went stands below the curves, and there is room for both"
    assert json.loads(out)["state"] == "stopped"


def test_ctrl_c_leaves(tmp_path):
    record, _ = start(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "ringvision", "watch", str(tmp_path), "--follow"]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "FORCE_COLOR": ""}
    )
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    assert "running" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    record.close()
    assert process.returncode == 130
    assert err == "ringvision: interrupted\n"
