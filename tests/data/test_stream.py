"""The stream is what its docstring draws, and a prompt is the beginning of the example that taught it."""

import dataclasses

import numpy as np
import pytest

from ringvision.data.stream import StreamFormat, Weaver, stamp
from ringvision.errors import UserError

CODES = np.arange(12).reshape(3, 2, 2)
TIMES = [0.0, 1.0, 62.5]


def test_a_video_is_stamps_codes_and_ends(weaver: Weaver) -> None:
    v, text = weaver.vocabulary, weaver.text
    codes = [v.code_offset + code for code in range(12)]
    zero, one, two = (text.encode(digit) for digit in "012")
    expected = [*v.vision_start, *zero, *zero, *codes[:4], v.eof, *zero, *one, *codes[4:8], v.eof]
    expected += [*one, *two, *codes[8:], v.eov, *v.vision_end]
    tokens = weaver.video(CODES, TIMES)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == expected


def test_without_stamps_only_codes_and_ends(weaver: Weaver) -> None:
    plain = dataclasses.replace(weaver, format=StreamFormat(stamps=False))
    assert len(plain.video(CODES, TIMES)) == 3 * 5 + len(weaver.vocabulary.vision_start) + len(weaver.vocabulary.vision_end)
    assert StreamFormat.from_dict(plain.format.to_dict()) == plain.format


def test_a_prompt_is_a_prefix_of_its_example(weaver: Weaver) -> None:
    example = weaver.example([(CODES, TIMES)], [("What was there?", "red circle"), ("When?", "12 seconds")])
    prompt = weaver.prompt([(CODES, TIMES)], "What was there?")
    assert example.tokens[: len(prompt)].tolist() == prompt.tolist()
    start, stop = example.answers[0]
    assert start == len(prompt)
    assert weaver.text.decode(example.tokens[start:stop]) == " red circle"
    assert example.tokens[stop - 1] == weaver.vocabulary.eos
    follow = np.concatenate([example.tokens[:stop], weaver.question("When?")])
    assert example.tokens[: len(follow)].tolist() == follow.tolist()


def test_loss_is_on_answers_and_every_answer_counts_the_same(weaver: Weaver) -> None:
    example = weaver.example([(CODES, TIMES)], [("What?", "red circle, blue square and a green ring"), ("When?", "12")])
    counted = np.zeros(len(example.tokens), bool)
    for start, stop in example.answers:
        counted[start:stop] = True
        assert example.loss_mask[start:stop].sum() == pytest.approx(1)
    assert not example.loss_mask[~counted].any()
    assert example.weight == 2


def test_the_video_can_count_beside_the_answers(weaver: Weaver) -> None:
    example = weaver.example([(CODES, TIMES)], [("What?", "red")], vision_weight=0.25)
    vision = weaver.vocabulary.is_vision(example.tokens)
    assert vision.sum() == 15
    assert example.loss_mask[vision].sum() == pytest.approx(0.25)
    assert example.loss_mask.sum() == pytest.approx(1.25)


@pytest.mark.parametrize("length", [10, 40, 300])
def test_frames_that_fit_are_the_most_that_do(weaver: Weaver, length: int) -> None:
    frames = weaver.frames_that_fit(length, "What was there?", grid=(2, 2), fps=2.0, answer_tokens=8)

    def need(frames: int) -> int:
        return len(weaver.prompt([(np.zeros((frames, 2, 2), int), np.arange(frames) / 2)], "What was there?")) + 8

    assert frames == 0 or need(frames) <= length
    assert need(frames + 1) > length


def test_a_stamp_is_a_minute_and_a_second_of_one_piece_each(weaver: Weaver) -> None:
    assert [stamp(seconds) for seconds in (0, 7.9, 6.9999999, 75, 3599.5, -0.01)] == [(0, 0), (0, 7), (0, 7), (1, 15), (59, 59), (0, 0)]
    assert {len(weaver.stamp(seconds)) for seconds in range(0, 6000, 7)} == {2}


def test_frames_of_every_video_begin_in_step(weaver: Weaver) -> None:
    """A token's position modulo the period tells its place in the frame, in the second video as in the first."""
    v, period = weaver.vocabulary, weaver.period((2, 2))
    assert period == 7
    tokens = weaver.videos([(CODES, TIMES), (CODES[:1], TIMES[:1]), (CODES, TIMES)])
    codes = np.flatnonzero((tokens >= v.code_offset) & (tokens < v.eof))
    places = (codes % period).reshape(-1, 4)
    assert (places == places[0]).all()
    assert weaver.text.decode(tokens[tokens < v.text_size]).strip(" ").count("  ") <= period


def test_errors_say_what_to_do(weaver: Weaver) -> None:
    with pytest.raises(UserError, match="one time a frame"):
        weaver.video(CODES, [0.0])
    with pytest.raises(UserError, match="T of at least 1"):
        weaver.video(CODES[:0], [])
    with pytest.raises(UserError, match="must hold"):
        StreamFormat(question="Q:")
