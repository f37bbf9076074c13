"""RULER: who reads the text knows, prompts are as long as asked, and scores are RULER's."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.evaluate.earlier import read_earlier
from ringvision.evaluate.ruler import KIND, LENGTHS, RulerSettings, evaluate_ruler, lengths_read
from ringvision.evaluate.ruler_tasks import TASKS, RulerExample, fit

SMALL = RulerSettings(lengths=(1024, 2048), examples=2)


class Words:
    """A tokenizer whose tokens are words, and a model that finds out what is asked without reading ahead:
    from the text alone, each kind of task in a way of its own.
    """

    hash = "words"
    max_length = 2048

    def __init__(self, stops: int = -1) -> None:
        self.asked: list[str] = []
        self.stops = stops

    def tokens(self, prompt: str, opening: str = "") -> np.ndarray:
        self.prompt = f"{prompt}\n{opening}"
        return np.array([hash(word) & 0xFFFF for word in self.prompt.split()])

    def complete(self, tokens: np.ndarray, max_tokens: int) -> str:
        if len(self.asked) == self.stops:
            raise KeyError
        assert len(tokens) == len(self.prompt.split())
        self.asked.append(self.prompt)
        return self.answer(self.prompt)

    def answer(self, prompt: str) -> str:
        text, question = (
            prompt.rsplit("Question:", 1) if "Question:" in prompt else prompt.rsplit("\nWhat", 1)
        )
        if "VAR" in text:
            (value,) = re.findall(r"value (\d{5}) in", question)
            known = {value}
            for name, is_ in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", text):
                known |= {name} if is_ in known else set()
            return " ".join(known - {value})
        if "numbered" in text:
            words = re.findall(r"\d+\. (\w+)", text.rsplit("numbered", 1)[1])
            return " ".join(word for word, _ in Counter(words).most_common(10))
        if "code" in text:
            words = text.split("no word.")[1].split()
            return " ".join(word for word, _ in Counter(words).most_common(4)[1:])
        known = re.findall(r"a magic \w+ of (\S+) is (\S+)\.", text)
        return ", ".join(value for name, value in known if re.search(rf"{name}\b", question))


class Silent(Words):
    def answer(self, prompt: str) -> str:
        return ""


class Half(Words):
    """Right at 1,024 tokens, and half right beyond."""

    def answer(self, prompt: str) -> str:
        whole = super().answer(prompt)
        if len(prompt.split()) < 1024:
            return whole
        words = re.split(r"[ ,]+", whole)
        return " ".join(words[: len(words) // 2])


def test_who_reads_knows_and_a_run_goes_on(tmp_path: Path) -> None:
    whole = evaluate_ruler(Words(), SMALL, out=tmp_path / "whole", command="ringvision x", progress=None)
    assert whole["effective_length"] == 2048 and whole["average"] == 1.0
    assert [cell["tokens"] for cell in whole["lengths"]] == [1024, 2048]
    for cell in whole["lengths"]:
        assert cell["tasks"] == dict.fromkeys(TASKS, 1.0) and cell["examples"] == 22
    with pytest.raises(KeyError):
        evaluate_ruler(Words(stops=5), SMALL, out=tmp_path / "parts", progress=None)
    again = Words()
    evaluate_ruler(again, SMALL, out=tmp_path / "parts", command="ringvision x", progress=None)
    assert len(again.asked) == 44 - 5
    results = (tmp_path / "parts" / "results.jsonl").read_bytes()
    assert results == (tmp_path / "whole" / "results.jsonl").read_bytes()
    text = (tmp_path / "whole" / "result.md").read_text()
    assert "| task | 1024 | 2048 |" in text and "| niah_multiquery | 100.0% | 100.0% |" in text
    assert "Effective length (average of at least 85.6%): 2048 tokens." in text and "`ringvision x`" in text
    assert (tmp_path / "whole" / "heatmap.png").read_bytes()[:4] == b"\x89PNG"


def test_who_says_nothing_has_no_effective_length() -> None:
    result = evaluate_ruler(Silent(), SMALL, progress=None)
    assert result["effective_length"] is None and result["average"] == 0.0


def test_the_effective_length_and_the_averages_are_those_of_ruler() -> None:
    """The published table's row of LWM-Text-Chat-1M has 82.3 78.4 73.7 69.1 68.1 65.0, and 69.9 and 75.7 as
    its weighted averages.
    """
    from ringvision.evaluate import ruler
    from ringvision.evaluate.result_log import ResultLog

    published = (0.823, 0.784, 0.737, 0.691, 0.681, 0.650)
    settings = RulerSettings(lengths=LENGTHS, tasks=("vt",), examples=1)
    log = ResultLog(None, {})
    for length, score in zip(LENGTHS, published):
        log.add({"key": str(length), "length": length, "task": "vt", "score": score})
    result = ruler._scores(settings, log)
    assert round(result["weighted_increasing"], 3) == 0.699
    assert round(result["weighted_decreasing"], 3) == 0.757
    assert result["effective_length"] is None
    log.add({"key": "16384", "length": 16384, "task": "vt", "score": 0.856})
    assert ruler._scores(settings, log)["effective_length"] == 16384


def test_half_of_what_was_asked_is_half_a_point() -> None:
    result = evaluate_ruler(Half(), RulerSettings((1024, 2048), ("niah_multivalue", "cwe"), 2), progress=None)
    assert [cell["average"] for cell in result["lengths"]] == [1.0, 0.5]
    assert result["effective_length"] == 1024
    assert RulerExample("", "", ("Abc", "12")).score("it is abc, or 3") == 0.5
    assert RulerExample("", "", ("12",)).score("0123") == 1.0  # RULER takes parts of words


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("length", [1024, 4096])
def test_prompts_fill_their_length_and_no_more(name: str, length: int) -> None:
    task = TASKS[name]

    def measure(example: RulerExample) -> int:
        return len(f"{example.prompt}\n{example.opening}".split())

    size = fit(task, [3], length, measure)
    used = measure(task.make(np.random.default_rng([3]), size, length)) + task.answer_tokens
    assert 0.96 * length < used <= length
    assert fit(task, [3], 60, measure) == task.least
    one, other = (task.make(np.random.default_rng(4), size, length) for _ in range(2))
    assert one == other
    assert all(answer in one.prompt for answer in one.answers)


def test_needles_are_hidden_once_and_names_are_no_others() -> None:
    example = TASKS["niah_multikey_2"].make(np.random.default_rng(0), 5000, 131072)
    (name,) = re.findall(r"magic number of (\S+) in the text above", example.prompt)
    assert example.prompt.count(f"of {name} is ") == 1
    example = TASKS["niah_multivalue"].make(np.random.default_rng(0), 50, 4096)
    assert len(set(example.answers)) == 4
    example = TASKS["niah_multiquery"].make(np.random.default_rng(0), 50, 4096)
    asked = example.opening.removeprefix("The magic numbers of ").removesuffix(" in the text are")
    names = re.split(", | and ", asked)
    found = dict(re.findall(r"a magic number of (\S+) is (\S+)\.", example.prompt))
    assert [found[name] for name in names] == list(example.answers) and len(names) == 4


def test_words_of_a_list_come_as_often_as_ruler_has_them() -> None:
    example = TASKS["cwe"].make(np.random.default_rng(1), 500, 4096)
    listed = Counter(re.findall(r"\d+\. (\w+)", example.prompt.rsplit("numbered", 1)[1]))
    assert {listed[word] for word in example.answers} == {30} and set(listed.values()) == {30, 3}
    example = TASKS["fwe"].make(np.random.default_rng(1), 2000, 4096)
    coded = Counter(example.prompt.split("no word.")[1].split("\n\n")[0].split())
    assert [coded[word] for word in ("...", *example.answers)] == [1215, 303, 135, 75]


def test_a_run_stands_beside_earlier_ones(tmp_path: Path) -> None:
    settings = RulerSettings(lengths=(1024,), tasks=("vt",), examples=1)
    evaluate_ruler(Silent(), settings, out=tmp_path / "a", progress=None)
    evaluate_ruler(
        Words(),
        settings,
        out=tmp_path / "b",
        earlier=read_earlier([str(tmp_path / "a")], KIND),
        progress=None,
    )
    text = (tmp_path / "b" / "result.md").read_text()
    assert f"| | this run | {tmp_path / 'a'} |" in text and "| 1024 tokens | 100.0% | 0.0% |" in text
    (tmp_path / "a" / "result.json").write_text('{"record": {"kind": "qa"}}')
    with pytest.raises(UserError, match="of kind 'qa'; expected 'ruler'"):
        evaluate_ruler(Words(), settings, earlier=read_earlier([str(tmp_path / "a")], KIND), progress=None)
    with pytest.raises(UserError, match="it is no file"):
        evaluate_ruler(Words(), settings, earlier=read_earlier([str(tmp_path / "c")], KIND), progress=None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lengths": (1000,)}, "at least 1024"),
        ({"lengths": ()}, "at least one"),
        ({"tasks": ("vt", "vt")}, "each once"),
        ({"tasks": ("vtt",)}, "did you mean vt?"),
        ({"examples": 0}, "examples 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_what_cannot_be_asked_is_said(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        RulerSettings(**settings)


def test_what_the_model_cannot_read_is_said_first() -> None:
    model = Words()
    with pytest.raises(UserError, match="4096 tokens was given, and the model reads 2048"):
        evaluate_ruler(model, RulerSettings(lengths=(1024, 4096)), progress=None)
    twice = Words()
    twice.tokens = lambda prompt, opening="": np.zeros(4 * len(prompt.split()), int)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"vt takes at least \d+ tokens .* more than the 1024"):
        evaluate_ruler(twice, RulerSettings(lengths=(1024,)), progress=None)
    assert model.asked == [] and twice.asked == []
    assert lengths_read(20000) == (4096, 8192, 16384)
    with pytest.raises(UserError, match="begins at 4096"):
        lengths_read(4095)
