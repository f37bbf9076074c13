"""The number in a long text: who reads it knows, who guesses does not; texts are as long as asked."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ringvision.errors import UserError
from ringvision.evaluate.text_needle import (
    TextNeedleSettings,
    TextQuestion,
    evaluate_text_needle,
    make_text,
    text_tasks,
)

SMALL = TextNeedleSettings(lengths=(200, 300), depths=3, seeds=2)
BOTH = TextQuestion("several", "", (7421, 1111), ("Oslo", "Lima"), (2222,))


class Words:
    """A tokenizer whose tokens are words."""

    def encode(self, text: str) -> list[str]:
        return text.split()


class Reader:
    """Finds the numbers in what it is told."""

    text = Words()

    def __init__(self, stops: int = -1):
        self.said = 0
        self.stops = stops

    def clear(self) -> None: ...

    def say(self, text: str) -> Iterator[str]:
        if self.said == self.stops:
            raise KeyError
        self.said += 1
        known = dict(re.findall(r"The magic number of (\w+) is (\d{4})\.", text))
        question = text.rsplit("\n\n", 1)[1]
        if "how many" in question:
            yield f"There are {len(known)}."
            return
        for city in re.findall("|".join(known), question):
            yield f"{known[city]} "


class Guesser(Reader):
    def say(self, text: str) -> Iterator[str]:
        yield "1234, or forty"


def test_who_reads_knows_and_a_run_goes_on(tmp_path: Path) -> None:
    whole = evaluate_text_needle(Reader(), SMALL, out=tmp_path / "whole", progress=None)
    assert whole["accuracy"] == whole["several"] == whole["counting"] == 1.0
    assert [(cell["tokens"], cell["depth"], cell["examples"]) for cell in whole["cells"]] == [
        (tokens, depth, 2) for tokens in (200, 300) for depth in (0.0, 0.5, 1.0)
    ]
    with pytest.raises(KeyError):
        evaluate_text_needle(Reader(stops=5), SMALL, out=tmp_path / "parts", progress=None)
    assert evaluate_text_needle(Reader(), SMALL, out=tmp_path / "parts", progress=None) == whole
    for name in ("results.jsonl", "result.json", "result.md"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    text = (tmp_path / "whole" / "result.md").read_text()
    assert "| depth | 200 | 300 |" in text and "| 2 of 4 | 100.0% | 100.0% |" in text
    assert (tmp_path / "whole" / "heatmap.png").exists()


def test_who_guesses_knows_nothing() -> None:
    result = evaluate_text_needle(Guesser(), SMALL, progress=None)
    assert result["accuracy"] == result["several"] == result["counting"] == 0.0


def test_texts_are_as_long_as_asked_and_needles_stand_where_they_should() -> None:
    for task in text_tasks(TextNeedleSettings(lengths=(200, 1000), depths=5, seeds=3)):
        text, tokens = make_text(task, Words())
        assert task.tokens - 15 < tokens <= task.tokens and tokens == len(text.split())
        assert make_text(task, Words()) == (text, tokens)
        found = re.findall(r"The magic number of (\w+) is (\d{4})\.", text)
        assert sorted(found) == sorted((city, str(number)) for city, number, _ in task.needles)
        assert len(re.findall(r"\d{4}", text)) == len(found)
        if task.depth is not None:
            assert abs(text.index("The magic") / len(text) - task.depth) < 0.12
            assert task.depth != 0 or text.startswith("The magic")
    counts = [task.questions[0].numbers for task in text_tasks(SMALL) if task.questions[0].kind == "counting"]
    assert all(1 <= count <= 6 for (count,) in counts)


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (TextQuestion("single", "", (7421,)), "The magic number of Oslo is 7421.", True),
        (TextQuestion("single", "", (7421,)), "7,421", True),
        (TextQuestion("single", "", (7421,)), "17421", False),
        (BOTH, "7421 and 1111", True),
        (BOTH, "Lima: 1111, Oslo: 7421", True),
        (BOTH, "The numbers of Oslo and Lima are 7421 and 1111.", True),
        (BOTH, "The numbers of Oslo and Lima are 1111 and 7421.", False),
        (BOTH, "1111 and 7421", False),
        (BOTH, "7421", False),
        (BOTH, "7421, 1111, 2222", False),
        (TextQuestion("counting", "", (3,)), "Three cities.", True),
        (TextQuestion("counting", "", (3,)), "3", True),
        (TextQuestion("counting", "", (3,)), "4, or 3", False),
        (TextQuestion("counting", "", (3,)), "", False),
    ],
)
def test_what_counts_as_an_answer(question: TextQuestion, answer: str, right: bool) -> None:
    assert question.is_right(answer) == right


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"lengths": (199,)}, "at least 200"), ({"lengths": (300, 300)}, "each once"),
     ({"depths": 0}, "depths 0"), ({"seeds": 0}, "seeds 0"), ({"seed": -1}, "seed -1")],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        TextNeedleSettings(**settings)


def test_what_the_model_cannot_read_is_said_first() -> None:
    reader = Reader()
    reader.model = SimpleNamespace(config=SimpleNamespace(max_length=450), hash="x")
    with pytest.raises(UserError, match="300 tokens does not fit the 450"):
        evaluate_text_needle(reader, SMALL, progress=None)
    assert reader.said == 0
