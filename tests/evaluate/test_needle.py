"""The card in a long video: an assistant that knows scores everything and one that lies nothing, and a run
that was stopped goes on to the same results.
"""

import io
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from ringvision.data.world import HELD_OUT, NO_CARD, time_words
from ringvision.errors import Interrupted, UserError
from ringvision.evaluate.needle import DIGIT, WHEN, NeedleSettings, evaluate_needle, needle_tasks

SMALL = NeedleSettings(lengths=(15, 20), depths=3, seeds=2)


class Knowing:
    """Knows what is right by the name of the file. stops: the number of the question at which it raises."""

    def __init__(self, settings: NeedleSettings = SMALL, stops: int = -1, by: type[BaseException] = KeyError):
        self.tasks = {task.name: task for task in needle_tasks(settings)}
        self.asked: list[tuple[str, str]] = []
        self.stops = stops
        self.by = by

    def ask(self, videos: Any, question: str, fps: float = 1.0) -> Any:
        (path,) = videos
        if len(self.asked) == self.stops:
            raise self.by
        self.asked.append((path.stem, question))
        (asking,) = [one for one in self.tasks[path.stem].askings if one.text == question]
        return SimpleNamespace(text=self.say(asking.answer), frames=self.frames(path), video_tokens=99)

    def frames(self, path: Path) -> int:
        with av.open(str(path)) as file:
            assert file.streams.video[0].codec_context.name == "h264"
            return sum(1 for _ in file.decode(video=0))

    def say(self, answer: str) -> str:
        return f" {answer.upper()}. "


class Lying(Knowing):
    """Never saw a card, and says so."""

    def say(self, answer: str) -> str:
        return NO_CARD


class Late(Knowing):
    """Says every time three seconds late."""

    def say(self, answer: str) -> str:
        seconds = re.fullmatch(r"(\d+) seconds?", answer)
        return f"{int(seconds[1]) + 3} seconds" if seconds else answer


def test_who_knows_scores_everything_by_length_and_depth(tmp_path: Path) -> None:
    said = io.StringIO()
    assistant = Knowing()
    result = evaluate_needle(assistant, SMALL, out=tmp_path / "out", command="ringvision x", progress=said)
    assert result["accuracy"] == result["when"] == result["no_card"] == 1.0
    assert [(cell["seconds"], cell["depth"]) for cell in result["cells"]] == [
        (seconds, depth) for seconds in (15, 20) for depth in (0.0, 0.5, 1.0)
    ]
    assert all(cell["accuracy"] == cell["when"] == 1.0 and cell["examples"] == 2 for cell in result["cells"])
    assert result["chance"] == 1 / 11
    record = result["record"]
    assert record["read"] == {"15": {"frames": 15, "tokens": 99}, "20": {"frames": 20, "tokens": 99}}
    assert (record["fps"], record["pixels"], record["seed"]) == (1.0, 128, 0)
    assert {"command", "ringvision", "jax", "python"} == record["runs"][0].keys()
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    text = (tmp_path / "out" / "result.md").read_text()
    assert "| depth | 15 seconds | 20 seconds |" in text and "| 50% | 100.0% | 100.0% |" in text
    assert "`ringvision x`" in text
    assert (tmp_path / "out" / "heatmap.png").read_bytes()[:4] == b"\x89PNG"
    assert "26 of 26 questions, 100.0% right, 0:00:00 left" in said.getvalue()
    # every video is asked all its questions before the next
    names = [name for name, _ in assistant.asked]
    assert sorted(set(names), key=names.index) == list(dict.fromkeys(names)) and len(names) == 26
    assert Counter(question for _, question in assistant.asked) == {DIGIT: 14, WHEN: 12}


def test_who_never_saw_a_card_is_right_where_there_is_none() -> None:
    result = evaluate_needle(Lying(), SMALL, progress=None)
    assert (result["accuracy"], result["when"], result["no_card"]) == (0.0, 0.0, 1.0)


def test_times_may_be_two_seconds_off() -> None:
    result = evaluate_needle(Late(), SMALL, progress=None)
    assert (result["accuracy"], result["when"]) == (1.0, 0.0)


def test_a_run_that_was_stopped_goes_on_to_the_same_results(tmp_path: Path) -> None:
    whole = evaluate_needle(Knowing(), SMALL, out=tmp_path / "whole", progress=None)
    with pytest.raises(KeyError):
        evaluate_needle(Knowing(stops=7), SMALL, out=tmp_path / "parts", progress=None)
    results = tmp_path / "parts" / "results.jsonl"
    assert len(results.read_bytes().splitlines()) == 7
    with results.open("ab") as file:
        file.write(b'{"key": "15-1-0/nee')  # what a write leaves that was cut short
    assistant = Knowing()
    said = io.StringIO()
    again = evaluate_needle(assistant, SMALL, out=tmp_path / "parts", progress=said)
    assert len(assistant.asked) == 26 - 7 and "7 of 26 questions were answered before" in said.getvalue()
    assert again == whole
    assert results.read_bytes() == (tmp_path / "whole" / "results.jsonl").read_bytes()
    nothing_left = Knowing()
    assert evaluate_needle(nothing_left, SMALL, out=tmp_path / "parts", progress=None) == whole
    assert nothing_left.asked == []


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="3 answers are in .*the same command goes on"):
        evaluate_needle(Knowing(stops=3, by=KeyboardInterrupt), SMALL, out=tmp_path / "out", progress=None)


def test_other_settings_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        evaluate_needle(Knowing(stops=2), SMALL, out=tmp_path, progress=None)
    other = NeedleSettings(lengths=(15,), depths=3, seeds=2)
    with pytest.raises(UserError, match=r"lengths is \[15, 20\] there and is \[15\] here"):
        evaluate_needle(Knowing(other), other, out=tmp_path, progress=None)
    (tmp_path / "results.jsonl").write_text("not a row\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        evaluate_needle(Knowing(), SMALL, out=tmp_path, progress=None)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        evaluate_needle(Knowing(), SMALL, out=tmp_path, progress=None)
    with pytest.raises(UserError, match="cannot be written"):
        evaluate_needle(Knowing(), SMALL, out=tmp_path / "thesis.txt", progress=None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_card_stands_where_it_should_and_nowhere_else() -> None:
    settings = NeedleSettings(lengths=(100,), depths=5, seeds=10)
    tasks = needle_tasks(settings)
    assert len({task.name for task in tasks}) == len(tasks) == 50 + 10
    for task in tasks:
        scene = task.make()
        assert scene.seed >= HELD_OUT and scene.duration == 100
        shown = [second for second in scene.seconds if scene.card_at(second)]
        if task.fields["depth"] is None:
            assert shown == [] and task.askings[0].answer == NO_CARD
        else:
            assert shown == [round(task.fields["depth"] * 99)]
            assert task.askings[0].answer == str(scene.cards[0].digit)
            assert task.askings[1].answer == time_words(shown[0])
    digits = Counter(task.askings[0].answer for task in tasks if task.fields["depth"] == 0.25)
    assert digits == dict.fromkeys("0123456789", 1)
    assert NeedleSettings(depths=1).places == (0.5,)
    other = needle_tasks(NeedleSettings(lengths=(100,), depths=5, seeds=10, seed=1))
    assert not {task.fields["seed"] for task in tasks} & {task.fields["seed"] for task in other}
    assert all(
        task.askings[0].kind == "needle" for task in needle_tasks(NeedleSettings((15,), 1, 1, absent=False))
    )


def test_more_frames_a_second_are_written_where_more_are_read() -> None:
    settings = NeedleSettings(lengths=(15,), depths=1, seeds=1, fps=2.0, absent=False)
    result = evaluate_needle(Knowing(settings), settings, progress=None)
    assert result["record"]["read"] == {"15": {"frames": 30, "tokens": 99}}
    assert result["no_card"] is None and result["no_card_cells"] == []


def test_what_the_assistant_cannot_read_is_said_before_anything_is_drawn() -> None:
    def check_videos(paths: Any, durations: Any, question: str, fps: float) -> None:
        raise UserError(f"{paths[0]}: {durations[0]:g} s, {question} at {fps:g}")

    assistant = Knowing()
    assistant.processor = SimpleNamespace(check_videos=check_videos)
    with pytest.raises(UserError, match=r"a video of 20 seconds: 20 s, When .* at 1"):
        evaluate_needle(assistant, SMALL, progress=None)
    assert assistant.asked == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lengths": (14,)}, "14 seconds was given; expected 15 to 7200"),
        ({"lengths": ()}, "at least one"),
        ({"lengths": (60, 60)}, "each once"),
        ({"depths": 0}, "depths 0"),
        ({"seeds": 0}, "seeds 0"),
        ({"seed": -1}, "seed -1"),
        ({"fps": 0.5}, "at least 1"),
        ({"fps": float("nan")}, "at least 1"),
    ],
)
def test_what_cannot_be_asked_is_said(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        NeedleSettings(**settings)
