"""Questions about long videos by kind: who knows is right, each video is read once, and a run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringvision.data.world import LONG_KINDS, long_chance
from ringvision.errors import UserError
from ringvision.evaluate.long_world import evaluate_long_world, long_tasks


class Knowing:
    """Knows what is right by the name of the file, but for one kind of question."""

    def __init__(self, tasks: Any, wrong: str = "", stops: int = -1):
        self.tasks = {task.name: task for task in tasks}
        self.asked: list[str] = []
        self.wrong = wrong
        self.stops = stops

    def ask(self, videos: Any, question: str, fps: float = 1.0) -> Any:
        (path,) = videos
        if len(self.asked) == self.stops:
            raise ValueError
        self.asked.append(path.stem)
        (asking,) = [one for one in self.tasks[path.stem].askings if one.text == question]
        return SimpleNamespace(text="no idea" if asking.kind == self.wrong else asking.answer)


def test_scores_by_kind_and_a_run_that_goes_on(tmp_path: Path) -> None:
    tasks = long_tasks(20, 26, 3)
    assistant = Knowing(tasks, wrong="glance", stops=9)

    def evaluate(assistant: Knowing, out: Path) -> dict[str, Any]:
        return evaluate_long_world(assistant, 20, 26, 3, out=out, blind_scenes=40, progress=None)

    with pytest.raises(ValueError):
        evaluate(assistant, tmp_path / "parts")
    rest = Knowing(tasks, wrong="glance")
    result = evaluate(rest, tmp_path / "parts")
    assert len(rest.asked) == 26 - 9
    whole = Knowing(tasks, wrong="glance")
    assert evaluate(whole, tmp_path / "whole") == result
    assert whole.asked == sorted(whole.asked, key=whole.asked.index)  # video by video
    for name in ("results.jsonl", "result.json", "result.md"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert set(result["kinds"]) == set(LONG_KINDS) and result["examples"] == 26
    for kind, score in result["kinds"].items():
        assert (score["accuracy"], score["examples"]) == (float(kind != "glance"), 2)
        assert score["chance"] == long_chance(kind, 20) and 0 <= score["blind"] <= 1
    assert "| glance | 0.0% |" in (tmp_path / "whole" / "result.md").read_text()
    assert result["record"]["seconds"] == 20


def test_kinds_are_asked_evenly_and_once_a_video() -> None:
    tasks = long_tasks(60, 40, 0)
    kinds = [asking.kind for task in tasks for asking in task.askings]
    assert {kinds.count(kind) for kind in LONG_KINDS} == {3, 4} and len(kinds) == 40
    assert all(len({one.kind for one in task.askings}) == len(task.askings) for task in tasks)
    assert [task.name for task in tasks] == [task.name for task in long_tasks(60, 40, 0)]
    assert not {task.name for task in tasks} & {task.name for task in long_tasks(60, 40, 1)}


@pytest.mark.parametrize(
    ("seconds", "examples", "seed", "says"),
    [(60, 12, 0, "at least 13"), (60, 13, -1, "seed -1"), (14, 13, 0, "14 seconds"), (7201, 13, 0, "7200")],
)
def test_what_cannot_be_asked_is_said(seconds: int, examples: int, seed: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        long_tasks(seconds, examples, seed)
