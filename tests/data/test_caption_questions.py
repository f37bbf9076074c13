"""Questions whose answers stand in a caption."""

import json
from pathlib import Path

import numpy as np
import pytest

from ringvision.config import load_config
from ringvision.data.sources import CaptionQuestion, TokenizedData
from ringvision.data.sources.caption_questions import questions_in
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter

DISH = CaptionQuestion(r"(?P<cook>\w+) cooks (?P<dish>\w+)", "What does {cook} cook?", "{dish}")


def test_a_caption_answers_each_question_whose_form_it_has() -> None:
    colour = CaptionQuestion(r"(?P<colour>red) (?P<thing>\w+)", "What colour is the {thing}?", "{colour}")
    said = "Ann cooks soup in a red pot, and Bob cooks rice."
    assert questions_in(said, [DISH, colour]) == [
        ("What does ann cook?", "soup"),
        ("What does bob cook?", "rice"),
        ("What colour is the pot?", "red"),
    ]
    assert questions_in("nothing is said", [DISH, colour]) == []


def test_two_answers_to_one_question_are_none_and_an_earlier_form_goes_before() -> None:
    vaguely = CaptionQuestion(r"(?P<cook>ann|bob)", "What does {cook} cook?", "something")
    assert questions_in("Ann cooks soup. Ann cooks rice.", [DISH, vaguely]) == []
    assert questions_in("Ann cooks soup. Bob eats.", [DISH, vaguely]) == [
        ("What does ann cook?", "soup"),
        ("What does bob cook?", "something"),
    ]


@pytest.mark.parametrize(
    ("form", "named"),
    [
        (CaptionQuestion("(", "What?", "this"), "regular expression"),
        (CaptionQuestion("(?P<dish>soup)", "What?", "{cook}"), "{dish}"),
        (CaptionQuestion("soup", "What {", "this"), "none"),
    ],
)
def test_a_form_that_cannot_be_used_is_named(form: CaptionQuestion, named: str) -> None:
    (problem,) = TokenizedData(folder="x", caption_questions=(DISH, form)).problems()
    assert problem.startswith("caption_questions.1.") and named in problem


def test_a_record_s_own_answer_counts_and_its_caption_answers_the_rest(tmp_path: Path) -> None:
    codes = np.zeros((2, 2, 2), np.uint16)
    video = TokenizedVideo(
        "a.mp4", "0", codes, np.arange(2.0), 1.0, 64, "0",
        caption="Ann cooks soup. Bob cooks rice.",
        qa=(("What does ann cook?", "broth"),),
    )  # fmt: skip
    with TokenizedWriter(tmp_path, num_codes=4) as writer:
        writer.add([video])
    videos = TokenizedData(folder=str(tmp_path), caption_questions=(DISH,)).open_videos()
    assert [one[1:] for one in videos.questions(0, 0, 2)] == [
        ("What does ann cook?", "broth"),
        ("What does bob cook?", "rice"),
        ("What happens in the video?", video.caption),
    ]


def test_a_config_with_such_questions_comes_back_from_json() -> None:
    config = load_config("finetune")
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
