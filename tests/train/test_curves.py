"""Curves as pictures and as letters: the right form, whatever the values."""

import math

import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.train.curves import SHOWN, curves_of, draw_picture, selected, terminal_curve


def dots(lines: list[str]) -> np.ndarray:
    """The dots of Braille letters behind the axis, bool [4 * rows, 2 * columns], the highest row first."""
    letters = [line.partition("│")[2] for line in lines[1:-1]]
    columns = max(map(len, letters))
    found = np.zeros((4 * len(letters), 2 * columns), bool)
    places = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1))  # by bit, of one letter
    for row, line in enumerate(letters):
        for column, letter in enumerate(line):
            for bit, (down, right) in enumerate(places):
                code = 0 if letter == " " else ord(letter) - 0x2800
                found[4 * row + down, 2 * column + right] = code >> bit & 1
    return found


def test_a_rising_line_rises():
    steps = list(range(0, 1001, 10))
    lines = terminal_curve("loss", (steps, [step / 10 for step in steps]), width=50, height=6)
    assert lines[0] == "loss  100"
    assert lines[1].startswith("100 │")
    assert lines[6].startswith("  0 │")
    assert lines[7].startswith("    └0")
    assert lines[7].endswith("1000")
    assert max(map(len, lines)) == 50
    shown = dots(lines)
    heights = shown.shape[0] - 1 - shown.argmax(axis=0)
    assert shown.any(axis=0).all(), "no column without a dot"
    assert heights[0] == 0
    assert heights[-1] == shown.shape[0] - 1
    assert (np.diff(heights) >= 0).all()


def test_a_long_run_keeps_its_spikes():
    values = np.ones(20_000)
    values[12_345] = 9
    lines = terminal_curve("loss", (list(range(20_000)), values.tolist()), width=60)
    shown = dots(lines)
    (column,) = set(np.flatnonzero(shown[0]).tolist())
    assert column == round(12_345 / 19_999 * (shown.shape[1] - 1))


@pytest.mark.parametrize(
    ("steps", "values", "lines"),
    [
        ([5], [2.0], 7),
        ([5, 6, 7], [2.0, 2.0, 2.0], 7),
        ([5, 6], [math.nan, math.inf], 1),
        ([5, 6, 7], [1.0, math.nan, 3.0], 7),
        ([5, 6], [-1e308, 1e308], 7),
    ],
)
def test_whatever_the_values(steps, values, lines):
    assert len(terminal_curve("loss", (steps, values), width=40)) == lines


def test_those_that_matter_come_first():
    names = ["zeta", "step_time", "loss", "gradient_norm", "a", "b", "c", "loss"]
    assert selected(names) == ["loss", "gradient_norm", "zeta", "step_time", "a", "b"]
    assert len(selected(names)) == SHOWN


def test_records_become_curves():
    records = [
        {"step": 1, "time": 3.0, "elapsed": 1.0, "loss": 2.0},
        {"step": 2, "loss": 1.0, "eval/all": 0.5},
    ]
    assert curves_of(records) == {"loss": ([1, 2], [2.0, 1.0]), "eval/all": ([2], [0.5])}


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_pictures(name, begins, tmp_path):
    draw_picture(tmp_path / name, {"loss": ([1, 2, 3], [3.0, math.nan, 1.0]), "$\\frac": ([1], [2.0])})
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(("name", "says"), [("a.jpg", ".png or .svg"), ("none/a.png", "cannot be written")])
def test_pictures_that_cannot_be(name, says, tmp_path):
    with pytest.raises(UserError, match=says):
        draw_picture(tmp_path / name, {"loss": ([1], [1.0])})
