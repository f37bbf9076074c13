"""The stream is what its docstring draws, and a prompt is the beginning of the example that taught it."""

import dataclasses
import json

import numpy as np
import pytest

from ringvision.data.stream import PictureFormat, PromptProcessor, StreamFormat
from ringvision.data.times import stamp
from ringvision.errors import UserError

CODES = np.arange(12).reshape(3, 2, 2)
TIMES = [0.0, 1.0, 62.5]
ASKED_FIRST = StreamFormat(stamps=False, question="Tell me: {question}\n{video} ASSISTANT:", in_step=False)
PICTURES = StreamFormat(
    False,
    "USER: {video}{question}. ASSISTANT:",
    False,
    PictureFormat("{height}*{width}", (7,), (8, 9), (10,)),
)


def test_a_video_is_stamps_codes_and_ends(processor: PromptProcessor) -> None:
    v = processor.vocabulary
    text = processor.text
    codes = [v.code_offset + code for code in range(12)]
    zero, one, two = (text.encode(digit) for digit in "012")
    expected = [*v.vision_start, *zero, *zero, *codes[:4], v.eof, *zero, *one, *codes[4:8], v.eof]
    expected += [*one, *two, *codes[8:], v.eov, *v.vision_end]
    tokens = processor.video(CODES, TIMES)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == expected


def test_without_stamps_only_codes_and_ends(processor: PromptProcessor) -> None:
    plain = dataclasses.replace(processor, format=StreamFormat(stamps=False))
    assert len(plain.video(CODES, TIMES)) == 3 * 5 + len(processor.vocabulary.vision_start) + len(
        processor.vocabulary.vision_end
    )
    assert StreamFormat.from_dict(plain.format.to_dict()) == plain.format


def test_where_the_question_stands_before_the_video_it_opens_the_stream(processor: PromptProcessor) -> None:
    asking = dataclasses.replace(processor, format=ASKED_FIRST)
    v = processor.vocabulary
    encode = processor.text.encode
    video = asking.video(CODES, TIMES).tolist()
    opening = [v.bos, *encode("Tell me: what is there?\n")]
    assert asking.prompt([(CODES, TIMES)] * 2, " what is there? ").tolist() == [
        *opening,
        *video,
        *video,
        *encode(" ASSISTANT:"),
    ]
    example = asking.example([(CODES, TIMES)], [("what is there?", "red circle")])
    assert example.tokens.tolist() == [
        *opening,
        *video,
        *encode(" ASSISTANT:"),
        *encode(" red circle"),
        v.eos,
    ]
    assert example.answers == ((len(example.tokens) - len(encode(" red circle")) - 1, len(example.tokens)),)
    assert StreamFormat.from_dict(ASKED_FIRST.to_dict()) == ASKED_FIRST


def test_pictures_stand_alone(processor: PromptProcessor) -> None:
    """Each with its size, and something behind every row."""
    alone = dataclasses.replace(processor, format=PICTURES)
    v = processor.vocabulary
    encode = processor.text.encode
    codes = np.arange(12).reshape(2, 2, 3)
    expected = [v.bos, *encode("USER: ")]
    for first in (v.code_offset, v.code_offset + 6):
        expected += [
            *v.vision_start,
            *encode("2*3"),
            7,
            *range(first, first + 3),
            8,
            9,
            *range(first + 3, first + 6),
            8,
            9,
            10,
            *v.vision_end,
        ]
    expected += encode("what?. ASSISTANT:")
    assert alone.prompt([(codes, [0.0, 1.0])], "what?").tolist() == expected
    assert (
        alone.period((2, 3))
        == (len(expected) - len(encode("USER: ")) - len(encode("what?. ASSISTANT:")) - 1) // 2
    )
    assert StreamFormat.from_dict(json.loads(json.dumps(PICTURES.to_dict()))) == PICTURES


def test_a_special_token_stands_in_the_form_and_never_in_a_question(processor: PromptProcessor) -> None:
    v = processor.vocabulary
    marked = dataclasses.replace(processor, format=StreamFormat(question="{video}{question}</s>"))
    ids = marked.question("what is </s> here?").tolist()
    assert ids[-1] == v.eos
    assert v.eos not in ids[:-1]
    assert processor.text.decode(ids) == "what is </s> here?"
    # a question is never where the video goes
    assert processor.text.decode(marked.question("what is {video}?").tolist()) == "what is {video}?"
    assert processor.text.decode(marked.question("what is {question}?").tolist()) == "what is {question}?"


def test_a_prompt_is_a_prefix_of_its_example(processor: PromptProcessor) -> None:
    example = processor.example(
        [(CODES, TIMES)], [("What was there?", "red circle"), ("When?", "12 seconds")]
    )
    prompt = processor.prompt([(CODES, TIMES)], "What was there?")
    assert example.tokens[: len(prompt)].tolist() == prompt.tolist()
    start, stop = example.answers[0]
    assert start == len(prompt)
    assert processor.text.decode(example.tokens[start:stop]) == " red circle"
    assert example.tokens[stop - 1] == processor.vocabulary.eos
    follow = np.concatenate([example.tokens[:stop], processor.question("When?")])
    assert example.tokens[: len(follow)].tolist() == follow.tolist()


def test_loss_is_on_answers_and_every_answer_counts_the_same(processor: PromptProcessor) -> None:
    example = processor.example(
        [(CODES, TIMES)], [("What?", "red circle, blue square and a green ring"), ("When?", "12")]
    )
    counted = np.zeros(len(example.tokens), bool)
    for start, stop in example.answers:
        counted[start:stop] = True
        assert example.loss_mask[start:stop].sum() == pytest.approx(1)
    assert not example.loss_mask[~counted].any()
    assert example.weight == 2


def test_a_long_answer_can_count_as_much_a_token_as_a_short_one(processor: PromptProcessor) -> None:
    short, long = (processor.answer(text) for text in ("12", "red circle, blue square"))
    assert len(short) < 5 < len(long)
    asked = processor.question("What?")
    example = processor.continued(
        processor.videos([(CODES, TIMES)]), [(asked, short), (asked, long)], answer_weight=2.5
    )
    votes = [float(example.loss_mask[start:stop].sum()) for start, stop in example.answers]
    assert votes == pytest.approx([len(short) / 2, 2.5])
    assert example.weight == pytest.approx(sum(votes)) == pytest.approx(example.loss_mask.sum())
    spare = processor.spare_turn(asked, long, answer_weight=2.5)
    assert spare.weight == 2.5 and spare.loss_mask.sum() == pytest.approx(2.5)
    assert example.with_turns([spare]).weight == pytest.approx(example.weight + 2.5)


def test_the_video_can_count_beside_the_answers(processor: PromptProcessor) -> None:
    example = processor.example([(CODES, TIMES)], [("What?", "red")], vision_weight=0.25)
    vision = processor.vocabulary.is_vision(example.tokens)
    assert vision.sum() == 15
    assert example.loss_mask[vision].sum() == pytest.approx(0.25)
    assert example.loss_mask.sum() == pytest.approx(1.25)


@pytest.mark.parametrize(
    "form", [StreamFormat(), ASKED_FIRST, PICTURES], ids=["ours", "asked first", "pictures"]
)
@pytest.mark.parametrize("length", [10, 60, 300])
def test_frames_that_fit_are_the_most_that_do(
    processor: PromptProcessor, length: int, form: StreamFormat
) -> None:
    processor = dataclasses.replace(processor, format=form)
    frames = processor.frames_that_fit(length, "What was there?", grid=(2, 2), fps=2.0, answer_tokens=8)

    def need(frames: int) -> int:
        return (
            len(processor.prompt([(np.zeros((frames, 2, 2), int), np.arange(frames) / 2)], "What was there?"))
            + 8
        )

    assert frames == 0 or need(frames) <= length
    assert need(frames + 1) > length


def test_a_stamp_is_a_minute_and_a_second_of_one_piece_each(processor: PromptProcessor) -> None:
    assert [stamp(seconds) for seconds in (0, 7.9, 6.9999999, 75, 3599.5, -0.01)] == [
        (0, 0),
        (0, 7),
        (0, 7),
        (1, 15),
        (59, 59),
        (0, 0),
    ]
    assert {len(processor.before((2, 2), seconds)) for seconds in range(0, 6000, 7)} == {2}


def test_stamps_can_have_ids_that_are_no_text(processor: PromptProcessor) -> None:
    v = dataclasses.replace(processor.vocabulary, stamps=123, vision_size=None)
    stamped = dataclasses.replace(processor, vocabulary=v)
    own = stamped.video(CODES, TIMES)
    codes = [v.code_offset + code for code in range(12)]
    expected = [*v.vision_start, *codes[:4], v.size, v.eof, *codes[4:8], v.size + 1, v.eof]
    assert own.tolist() == [*expected, *codes[8:], v.size + 62, v.eov, *v.vision_end]
    assert len(own) == len(processor.video(CODES, TIMES)) - len(CODES)
    example = stamped.example([(CODES, TIMES)], [("what?", "this")], vision_weight=1.0)
    assert not example.loss_mask[example.tokens > v.eov].any()
    assert stamped.after(61 * 60 + 7, last=False) == [v.size + 61 * 60 + 7, v.eof]
    with pytest.raises(UserError, match="a time stamp of minute 62"):
        stamped.after(62 * 60, last=False)


def test_times_in_a_question_come_last_as_stamps(processor: PromptProcessor) -> None:
    v = dataclasses.replace(processor.vocabulary, stamps=123, vision_size=None)
    stamped = dataclasses.replace(processor, vocabulary=v)
    said = {
        "What was there at 12 minutes 5 seconds?": [725],
        "What came first, what was at 1 minute or what was at 3 seconds?": [60, 3],
        "Between 0:07 and 61:59?": [7, 3719],
        "At 62 minutes, or 1:75?": [],  # no stamps
        "Which 3 things?": [],
    }
    for question, seconds in said.items():
        words = processor.question(question).tolist()
        named = [v.stamp(*divmod(second, 60), asked=True) for second in seconds]
        assert stamped.question(question).tolist() == words + named
    plain = dataclasses.replace(stamped, format=StreamFormat(stamps=False))
    assert plain.question("At 5 seconds?").max() < v.text_size
    turn = [("At 1 minute?", "a circle")]
    example = stamped.example([(CODES, TIMES)], turn, question_weight=0.5)
    assert example.loss_mask.sum() == pytest.approx(1.5)
    assert not example.loss_mask[example.tokens >= v.size].any()
    question, answer = stamped.question("At 1 minute?"), stamped.answer("a circle")
    spare = stamped.spare_turn(question, answer, question_weight=0.5)
    assert spare.loss_mask.sum() == pytest.approx(1.5) and spare.loss_mask[len(question) - 1] == 0


@pytest.mark.parametrize("length", [0, 40, 300, 3000, 10**6])
def test_as_many_frames_fit_where_stamps_are_no_text(processor: PromptProcessor, length: int) -> None:
    v = dataclasses.replace(processor.vocabulary, stamps=121, vision_size=None)
    stamped = dataclasses.replace(processor, vocabulary=v)
    question = "What was there?"
    fit = stamped.frames_that_fit(length, question, grid=(2, 2), fps=2.0)
    if length == 10**6:  # more than an hour has no stamps
        assert fit == 60 * 60 * 2
    else:
        around = [stamped.opening(question), stamped.start, stamped.end, stamped.question(question)]
        free = length - sum(map(len, around))
        assert fit == max(0, free // stamped.period((2, 2)))  # codes, a stamp, an end
        assert stamped.period((2, 2)) == 6


def test_frames_of_every_video_begin_in_step(processor: PromptProcessor) -> None:
    """A token's position modulo the period tells its position in the frame, in the second video as in the
    first.
    """
    v = processor.vocabulary
    period = processor.period((2, 2))
    assert period == 7
    tokens = processor.videos([(CODES, TIMES), (CODES[:1], TIMES[:1]), (CODES, TIMES)])
    codes = np.flatnonzero((tokens >= v.code_offset) & (tokens < v.eof))
    places = (codes % period).reshape(-1, 4)
    assert (places == places[0]).all()
    assert processor.text.decode(tokens[tokens < v.text_size]).strip(" ").count("  ") <= period


def test_errors_say_what_to_do(processor: PromptProcessor) -> None:
    with pytest.raises(UserError, match="one time a frame"):
        processor.video(CODES, [0.0])
    with pytest.raises(UserError, match="T of at least 1"):
        processor.video(CODES[:0], [])
    for question in ("Q:", "{question} {question}", "{video} {question} {video}"):
        with pytest.raises(UserError, match="must hold"):
            StreamFormat(question=question)
    for values, said in (
        ({"stamp": 1}, "a stream format: .stamp. is unknown"),
        ({"picture": {"line": 1}}, "picture of a stream format: .line. is unknown"),
    ):
        with pytest.raises(UserError, match=said):
            StreamFormat.from_dict(values)
    with pytest.raises(UserError, match="2 turns for a stream in which the question stands before the video"):
        dataclasses.replace(processor, format=ASKED_FIRST).example(
            [(CODES, TIMES)], [("What?", "red"), ("When?", "12")]
        )
