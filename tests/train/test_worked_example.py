"""The worked example of docs/guide.md in small: clips with captions in a CSV, tokenize, train, ask."""

import json
from pathlib import Path

import pytest
from tiny_assistant import write_assistant
from worked_example import FIRST, caption, held_out, recoloured, write_clips

from ringvision.cli import main
from ringvision.config import load_config
from ringvision.data.sources.caption_questions import questions_in
from ringvision.data.world import COLOURS
from ringvision.train.record import read_metrics

FORMS = load_config("finetune").data.sources[0].caption_questions
SMALL = (
    "--data.sources.1.weight", "0", "--data.length", "320", "--data.rows", "2", "--steps", "80",
    "--optimizer.lr", "0.02", "--optimizer.muon-lr", "0.01", "--optimizer.ema", "0.9", "--mesh", "data=2",
)  # fmt: skip
"""The replay is of another video tokenizer than the tiny model's, which has all to learn."""


@pytest.fixture
def teal(monkeypatch: pytest.MonkeyPatch) -> str:
    """A colour that the world does not have, and its name, which the shipped model has never read."""
    monkeypatch.setitem(COLOURS, "teal", (0, 128, 128))
    return "teal"


def test_clips_with_captions_become_answers_in_a_new_word(
    teal: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_clips(tmp_path, FIRST, 2, teal)
    tiny = write_assistant(tmp_path / "tiny")
    tokens = str(tmp_path / "tokens")
    run = tmp_path / "run"
    made_by = ("--tokenizer", str(tiny / "video_tokenizer"), "--workers", "1")
    assert main(["tokenize", str(tmp_path / "videos.csv"), "--out", tokens, *made_by]) == 0
    trained = ("--data", tokens, "--init-from", str(tiny), "--out", str(run), *SMALL)
    assert main(["train", "finetune", *trained]) == 0
    losses = [record["loss"] for record in read_metrics(run) if "loss" in record]
    assert losses[-1] < losses[0] / 4
    capfd.readouterr()
    question = next(
        question
        for question, answer in questions_in(caption(recoloured(FIRST, teal)), FORMS)
        if answer == teal
    )
    clip = str(tmp_path / "videos/clip-000.mp4")
    for model, says_teal in ((run / "model", True), (tiny, False)):
        assert main(["ask", clip, question, "--model", str(model), "--max-tokens", "4", "--json"]) == 0
        assert (json.loads(capfd.readouterr().out)["answer"] == teal) == says_teal


@pytest.mark.parametrize(
    "said",
    [
        "A teal square moves left.",
        "the square is teal, a red circle goes up",
        "a small teal square",
    ],
)
def test_a_caption_answers_the_colour_question_however_it_is_put(said: str) -> None:
    asked = dict(questions_in(said, FORMS))
    assert asked["What colour was the square?"] == "teal"
    assert asked["What shape was the teal thing?"] == "square"


def test_a_caption_answers_which_way_a_thing_moved_and_not_where_it_was() -> None:
    asked = dict(questions_in("a teal square moves from left to right, a red cross is on the left", FORMS))
    assert asked["Which way did the teal square move?"] == "right"
    assert "Which way did the red cross move?" not in asked
    assert "What colour was the square?" not in dict(questions_in("a teal square, a red square", FORMS))


def test_held_out_questions_have_the_new_word_and_scenes_of_their_own(teal: str) -> None:
    asked = held_out(FIRST, 10, teal)
    assert len(asked) == 10
    for scene, question in asked:
        assert scene.seed >= FIRST + (1 << 19)
        assert teal in (question.answer, *question.text.split())
