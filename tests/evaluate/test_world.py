"""The score of an assistant that knows, of one that is blind, and that both are asked about scenes no
training saw.
"""

import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from ringvision.data.world import HELD_OUT, KINDS, Question, make_scene, questions
from ringvision.errors import UserError
from ringvision.evaluate.world import BlindModel, choose_examples, evaluate_world, normalise


class Knowing:
    """Knows the scene by the name of its file and, for a given kind, answers wrongly."""

    def __init__(self, wrong_kind: str | None = None) -> None:
        self.wrong_kind = wrong_kind
        self.videos = Counter[str]()

    def ask(self, videos: Any, question: str, fps: float = 1.0) -> Any:
        (path,) = videos
        self.videos[path.name] += 1
        with av.open(str(path)) as file:
            assert file.streams.video[0].codec_context.name == "h264"
        asked = next(q for q in questions(make_scene(int(Path(path).stem))) if q.text == question)
        return SimpleNamespace(
            text="no idea" if asked.kind == self.wrong_kind else f" {asked.answer.upper()}. "
        )


def test_scores_by_kind() -> None:
    assistant = Knowing(wrong_kind="time")
    said = io.StringIO()
    wrong = []
    report = evaluate_world(assistant, examples=18, seed=1, blind_scenes=50, progress=said, wrong=wrong)
    assert set(report["kinds"]) == set(KINDS)
    for kind, score in report["kinds"].items():
        assert score["examples"] == 2
        assert score["accuracy"] == (kind != "time")
        assert 0 < score["chance"] <= 0.5 and 0 <= score["blind"] <= 1
    assert report["overall"] == pytest.approx(16 / 18)
    assert [(example.question.kind, answer) for example, answer in wrong] == [("time", "no idea")] * 2
    assert "18 of 18 examples" in said.getvalue()
    assert assistant.videos.total() == 18 and len(assistant.videos) < 10


def test_examples_are_held_out_balanced_and_repeatable() -> None:
    chosen = choose_examples(100, seed=0)
    assert all(example.scene.seed >= HELD_OUT for example in chosen)
    counts = Counter(example.question.kind for example in chosen)
    assert (
        set(counts) == set(KINDS)
        and max(counts.values()) - min(counts.values()) <= 1
        and counts.total() == 100
    )
    assert len({(example.scene.seed, example.question.kind) for example in chosen}) == 100
    assert chosen == choose_examples(100, seed=0)
    assert not {example.scene.seed for example in chosen} & {
        example.scene.seed for example in choose_examples(100, seed=1)
    }


def test_the_blind_model_learns_words_forms_and_kinds() -> None:
    order = [
        Question("order", f"Which came first, the {one} circle or the {other} cross?", f"the {one} circle")
        for one in ("red", "blue", "green")
        for other in ("white", "yellow")
    ]
    seen = [
        *order,
        *[Question("count", "How many things were there at 1 second?", "2")] * 6,
        Question("count", "How many now?", "3"),
    ]
    blind = BlindModel(seen)
    assert (
        blind.answer(Question("order", "Which came first, the white square or the red cross?", ""))
        == "the white square"
    )
    assert blind.answer(Question("count", "How many things were there at 1 second?", "")) == "2"
    assert blind.answer(Question("count", "Words never seen?", "")) == "2"
    assert blind.answer(Question("never", "Nor this kind?", "")) == ""


def test_guessing_scores_low_by_construction() -> None:
    blind = BlindModel(question for seed in range(500) for question in questions(make_scene(seed)))
    asked = [example.question for example in choose_examples(270, seed=7)]
    assert (
        sum(normalise(blind.answer(question)) == normalise(question.answer) for question in asked)
        / len(asked)
        < 0.4
    )


@pytest.mark.parametrize(("given", "same"), [(" The  Red circle.", "the red circle"), ("3", "3"), ("", "")])
def test_normalising(given: str, same: str) -> None:
    assert normalise(given) == same


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(UserError, match="at least 9"):
        choose_examples(3, seed=0)
    with pytest.raises(UserError, match="seed -1"):
        choose_examples(20, seed=-1)
