"""A bar for people, lines for logs, and the time that is left for both."""

import io

import pytest
from rich.console import Console

from ringvision.train.progress import Pace, PlainLines, ProgressBar, clock, seconds_left, short


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_that_of_the_steps_done_since_the_first():
    now = Clock()
    pace = Pace(now)
    assert pace.left(100) == ""
    now.now = 500  # compiled meanwhile
    pace.mark(1)
    assert pace.left(100) == ""
    for step in range(2, 12):
        now.now += 2
        pace.mark(step)
    assert seconds_left(pace.marks, 100) == 2 * 89
    assert pace.left(100) == "0:02:58 left"
    assert seconds_left(pace.marks, 5) == 0
    pace.mark(100)  # at once
    assert pace.left(100) == ""


def test_a_run_that_goes_back_starts_its_pace_anew():
    now = Clock()
    pace = Pace(now)
    for step in range(10, 20):
        now.now += 1
        pace.mark(step)
    pace.mark(12)
    assert list(pace.marks) == [(12, now.now)]


def test_marks_are_a_second_apart_at_least_and_not_too_many():
    now = Clock()
    pace = Pace(now)
    for step in range(3000):
        now.now += 0.5
        pace.mark(step)
    assert len(pace.marks) == 600
    assert pace.marks[-1][1] - pace.marks[0][1] == 599


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00:00"), (59.6, "0:01:00"), (360000, "100:00:00")])
def test_clock(seconds, shown):
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, "0.1235"),
        (12345.6, "12346"),
        (-3, "-3"),
        (1e-5, "1e-05"),
        (-1e300, "-1e+300"),
        (float("nan"), "nan"),
    ],
)
def test_short(value, shown):
    assert short(value) == shown


def test_a_log_says_of_how_many_steps(capsys):
    lines = PlainLines(20)
    lines.advance(6)
    lines.write(7, {"loss": 0.5, "tokens_per_second": 4096.0}, None)
    lines.write(7, {"eval/all": 0.5}, "all 50 %")
    lines.say("saved")
    lines.close()
    assert capsys.readouterr() == (
        "",
        "step 7 of 20  loss 0.5  tokens_per_second 4096\nstep 7 of 20  all 50 %\nsaved\n",
    )


def test_a_terminal_has_a_bar_and_what_is_said_above_it():
    screen = io.StringIO()
    doing = ["compiling"]
    now = Clock()
    console = Console(file=screen, force_terminal=True, width=120)
    bar = ProgressBar(5, 50, lambda: doing[0], console, now)
    bar.say("a [bold]line[/bold]")
    assert "a [bold]line[/bold]\n" in screen.getvalue(), "it is no markup"
    assert "compiling" in screen.getvalue()
    doing[0] = "stepping"
    bar.advance(6)
    now.now = 10
    bar.write(11, {"loss": 0.25, "tokens_per_second": 5120.0, "gradient_norm": 3.0}, None)
    bar.write(11, {"eval/all": 0.5}, "all 50 %")
    bar.close()
    assert "step 11  all 50 %\n" in screen.getvalue()
    last = next(line for line in reversed(screen.getvalue().splitlines()) if "/50" in line)
    assert "11/50" in last
    assert "loss 0.25  tokens/s 5120" in last
    assert "0:01:18 left" in last
    assert "gradient" not in last
    assert "stepping" not in last
