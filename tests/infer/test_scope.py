"""What a model was not trained for is said, in one line each, and it answers all the same."""

import json
import shutil
from pathlib import Path

import jax
import pytest

from ringvision import shipped
from ringvision.data.world import (
    HELD_OUT,
    example_questions,
    long_questions,
    make_long_scene,
    make_scene,
    questions,
)
from ringvision.errors import UserError
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.scope import latest_time, strange_words, warnings
from ringvision.mesh import make_mesh
from ringvision.model_folder import Knows, read_config

KNOWS = Knows.from_dict(read_config(shipped.model())["knows"])
OTHERS = [
    "What is the man in the red shirt doing?",
    "What colour was the car?",
    "Which way did the red car move?",
    "How many people are in the room?",
    "How many cars were there at 2 seconds?",
    "Which came first, the yellow car or the blue cross?",
    "What number was on the jersey?",
    "Who won the match?",
    "Summarise the lecture in three sentences.",
    "Describe the video.",
    "What is happening?",
    "Where was this filmed?",
    "What shape is the table?",
    "What came next after the explosion?",
    "When did the music stop?",
    "Why?",
    "Was ist zu sehen?",
]


@pytest.fixture(scope="module")
def long() -> Knows:
    return Knows("videos", example_questions(3600), 3600)


def test_held_out_questions_are_not_strange(long: Knows) -> None:
    """The shipped model's, about clips; and with those about long videos, of these, too."""
    asked = [question.text for seed in range(150) for question in questions(make_scene(HELD_OUT + seed))]
    assert len(asked) > 2000
    assert {text for text in asked if strange_words(KNOWS, text)} == set()
    asked = [q.text for seed in range(15) for q in long_questions(make_long_scene(HELD_OUT + seed, 600))]
    assert len(asked) > 200
    assert {text for text in asked if strange_words(long, text)} == set()


def test_ordinary_questions_are_strange(long: Knows) -> None:
    assert [question for question in OTHERS if not strange_words(KNOWS, question)] == []
    assert [question for question in OTHERS if not strange_words(long, question)] == []


def test_the_strange_words_are_named_and_what_can_be_asked() -> None:
    assert strange_words(KNOWS, "What COLOUR was the car, or the car's wheel, at 1999 seconds?") == [
        "car",
        "wheel",
    ]
    (line,) = warnings(KNOWS, "What colour was the car?", seconds=12, fps=1, known_fps=1)
    assert '"car"' in line
    assert KNOWS.about in line
    assert KNOWS.questions["colour"][0] in line
    assert "\n" not in line
    assert warnings(KNOWS, "Which digit was on the card?", seconds=12, fps=1, known_fps=1) == []
    assert strange_words(Knows("videos", {}, 12), "anything") == []


def test_longer_than_proven_and_another_rate() -> None:
    longer = KNOWS.seconds + 1
    (line,) = warnings(KNOWS, "Which digit was on the card?", seconds=longer, fps=1, known_fps=1)
    assert f"{longer:g} seconds long" in line
    assert f"up to {KNOWS.seconds:g}" in line
    (line,) = warnings(KNOWS, "Which digit was on the card?", seconds=12, fps=0.5, known_fps=1)
    assert "0.5 frames a second" in line
    assert warnings(None, "Who won?", seconds=1e5, fps=7, known_fps=1) == []


@pytest.mark.parametrize(
    ("question", "seconds"),
    [
        ("What was there at 70 minutes?", 4200),
        ("What was there in the 70th minute?", 4140),
        ("What was there at 12 minutes 5 seconds?", 725),
        ("at 1 hour, 2 minutes and 3 seconds", 3723),
        ("What was there at 0 seconds?", 0),
        ("between 5 seconds and 1 minute", 60),
        ("from minute 3 to minute 2", 180),
        ("at 1:10:05", 4205),
        ("at 70:00", 4200),
        ("Which digit was on card 70?", None),
        ("What came next?", None),
    ],
)
def test_the_latest_time_of_a_question(question: str, seconds: float | None) -> None:
    assert latest_time(question) == seconds


def test_a_time_behind_the_end_is_said_whatever_the_model() -> None:
    (line,) = warnings(None, "What was there at 70 minutes?", seconds=3600, fps=1, known_fps=None)
    assert line == "the question is about 70:00, and the video ends at 60:00"
    assert (
        warnings(None, "What was there at 59 minutes 59 seconds?", seconds=3600, fps=1, known_fps=None) == []
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"about": ""}, "about is not a sentence"),
        ({"about": "two\nlines"}, "about is not a sentence"),
        ({"about": "x" * 301}, "about is not a sentence"),
        ({"seconds": 0}, "seconds is not a number"),
        ({"seconds": True}, "seconds is not a number"),
        ({"seconds": "12"}, "seconds is not a number"),
        ({"questions": []}, "questions is not an object"),
        ({"questions": {"a": []}}, "questions is not an object"),
        ({"questions": {"a": ["x\u202e"]}}, "questions is not an object"),
        ({"questions": {"a": ["what?"] * 65}}, "questions is not an object"),
        ({"questions": {str(n): ["what?"] for n in range(65)}}, "questions is not an object"),
        ({"more": 1}, "is no object of"),
    ],
)
def test_a_damaged_config_is_one_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        Knows.from_dict({**KNOWS.to_dict(), **changes})
    assert "\n" not in str(raised.value)
    assert Knows.from_dict(KNOWS.to_dict()) == KNOWS


@pytest.fixture(scope="module")
def knowing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    """The tiny assistant, which says that it was trained for what the shipped one was."""
    place = tmp_path_factory.mktemp("knowing") / "model"
    shutil.copytree(folder, place)
    settings = json.loads((place / "config.json").read_text())
    knows = Knows(KNOWS.about, KNOWS.questions, 8.0)
    (place / "config.json").write_text(json.dumps({**settings, "fps": 1.0, "knows": knows.to_dict()}))
    return load(place, make_mesh(context=1, devices=jax.devices()[:1]))


def test_an_assistant_warns_and_answers(knowing: Assistant, clips: list[Path]) -> None:
    reply = knowing.ask(clips[0], "Who was in the car at 3 minutes?", max_tokens=3)
    assert reply.frames > 8
    assert len(reply.warnings) == 3
    assert reply.tokens == [] != [reply.text]
    assert len(reply.tokens) > 0
    reply = knowing.ask(clips[0], "What colour was the circle?", fps=0.5, max_tokens=3)
    assert [line.split(" and ")[0] for line in reply.warnings] == [
        f"the video is {reply.frames * 2} seconds long,",
        "0.5 frames a second are read,",
    ]


def test_a_hint_leads_nowhere_else(knowing: Assistant, clips: list[Path]) -> None:
    """Where fewer frames a second would fit, but the model was trained on more."""
    with pytest.raises(UserError, match="ask with --fps 1$"):
        knowing.ask(clips[0], "What?", fps=7.0)
    knowing.processor.known_fps = 3.0
    with pytest.raises(UserError, match="give a shorter video, for this model was trained on 3 a second"):
        knowing.ask(clips[0], "What?", fps=7.0)
