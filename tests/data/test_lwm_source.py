"""LWM's training lines: the streams are those that LWM's own trainer builds (tests/fixtures/lwm_lines)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_tokenizer import byte_processor

from ringvision.data.sources import BadRecord, LwmData, LwmSource
from ringvision.data.stream import Example
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.errors import UserError

LINES = Path(__file__).parents[1] / "fixtures" / "lwm_lines"
EXPECTED = json.loads((LINES / "expected.json").read_text())
PROCESSOR = byte_processor()
SETTINGS: dict[str, dict[str, Any]] = {
    "one field": {},
    "joined": {"fields": "[title+text],<|eos|>,text"},
    "prepended": {"fields": "title,text", "prepend": "Read: ", "subfield_separator": "/"},
    "bare": {"add_bos": False, "add_eos": False},
    "plain": {"frame_tokens": 4},
    "two frames at most": {"frame_tokens": 4, "max_frames": 2},
    "the second order": {"frame_tokens": 4, "fields_index": 1},
}


def example(source: LwmSource, index: int) -> Example:
    return source.example(index, np.random.default_rng(0), 0)


def write(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def open_lines(path: Path, *records: Any, **settings: Any) -> LwmSource:
    settings = {"frame_tokens": 4, **settings}
    return LwmData(write(path, *records), **settings).open(PROCESSOR, 64)


@pytest.mark.parametrize("name", EXPECTED["text"])
def test_text_gives_lwms_stream(name: str) -> None:
    source = LwmData(str(LINES / "text.jsonl"), **SETTINGS[name]).open(PROCESSOR, 64)
    assert len(source) == len(EXPECTED["text"][name])
    for index, expected in enumerate(EXPECTED["text"][name]):
        made = example(source, index)
        assert made.tokens.tolist() == expected["tokens"]
        assert made.loss_mask.tolist() == expected["mask"]
        assert made.weight == sum(expected["mask"][1:])


@pytest.mark.parametrize("name", EXPECTED["vision"])
def test_vision_gives_lwms_stream(name: str) -> None:
    """The same ids; those of codes lie behind the text's here."""
    source = LwmData(str(LINES / "vision.jsonl"), **SETTINGS[name]).open(PROCESSOR, 64)
    assert (source.vision, len(source)) == (None, 6)
    for expected in EXPECTED["vision"][name]:
        made = example(source, expected["record"])
        vision = np.array(expected["vision"])
        wanted = np.array(expected["tokens"]) + PROCESSOR.vocabulary.text_size * vision
        assert made.tokens.tolist() == wanted.tolist()
        assert made.loss_mask.tolist() == expected["mask"]
        assert PROCESSOR.vocabulary.is_vision(made.tokens).tolist() == expected["vision"]


def test_halves_are_lwms_loss(tmp_path: Path) -> None:
    """Words count half together and codes half, however many there are of each."""
    codes = list(range(8))
    records = [
        {"fields": "text,vision", "text": "four", "vision": codes},
        {"fields": "[text],vision", "text": "four", "vision": codes},
        {"fields": "[vision],text", "text": "four", "vision": codes},
    ]
    source = open_lines(tmp_path / "a.jsonl", *records, counts="halves")
    for index, words_have_loss in enumerate((True, True, True)):
        made = example(source, index)
        vision = PROCESSOR.vocabulary.is_vision(made.tokens)
        assert made.loss_mask[vision].sum() == pytest.approx(0.5 * (index < 2))
        assert made.loss_mask[~vision].sum() == pytest.approx(0.5 * words_have_loss)  # eos is a word
        assert made.weight == pytest.approx(made.loss_mask.sum())


@pytest.mark.parametrize("frame_tokens", [None, 4])
def test_what_tokenize_wrote_for_lwm_is_read(tmp_path: Path, frame_tokens: int | None) -> None:
    """A line for every question; the grid of a record says how large a frame is."""
    codes = np.arange(8).reshape(2, 2, 2)
    asked = (("What?", "cat"), ("So?", "a"))
    videos = [
        TokenizedVideo("/a.mp4", "", codes, np.arange(2), 1.0, 64, "abc", "a cat", asked),
        TokenizedVideo("/b.mp4", "", codes[:1], np.arange(1), 1.0, 64, "abc", "a dog"),
        TokenizedVideo("/c.mp4", "", codes[1:], np.arange(1), 1.0, 64, "abc"),
    ]  # fmt: skip
    with TokenizedWriter(tmp_path, num_codes=8, format="jsonl") as writer:
        writer.add(videos)
    source = LwmData(str(tmp_path), frame_tokens=frame_tokens).open(PROCESSOR, 64)
    assert source.vision is not None
    assert (source.vision.tokenizer, source.vision.num_codes, source.vision.grid) == ("abc", 8, (2, 2))
    words = [PROCESSOR.text.decode(example(source, index).tokens.tolist()) for index in range(len(source))]
    assert words == [
        "What? <vision> </vision> cat",
        "So? <vision> </vision> a",
        "<vision> </vision> a dog",
        "<vision> </vision>",
    ]
    tokens = example(source, 0).tokens
    vocabulary = PROCESSOR.vocabulary
    seen = [int(token) - vocabulary.code_offset for token in tokens[vocabulary.is_vision(tokens)]]
    assert seen == [0, 1, 2, 3, 8, 4, 5, 6, 7, 9]


def test_bad_records_are_named(tmp_path: Path) -> None:
    good = {"text": "fine"}
    bad = {
        "has no 'text', only words": {"words": "x"},
        "text is a int, expected text": {"text": 3},
        "fields is no text": {"fields": 3, "text": "x"},
        "has no order": {"fields": [], "text": "x"},
        "vision has 3 codes, expected frames of 4": {"fields": "vision", "vision": [1, 2, 3]},
        "vision has 0 codes": {"fields": "vision", "vision": []},
        "no list of whole numbers": {"fields": "vision", "vision": [1, 2, 3, 4.5]},
        "is no list": {"fields": "vision", "vision": [True] * 4},
        "has the code 8, expected 0 to 7": {"fields": "vision", "vision": [1, 2, 3, 8]},
        "has the code -1": {"fields": "vision", "vision": [1, 2, 3, -1]},
        "code 1e\\+30|whole numbers": {"fields": "vision", "vision": [1, 2, 3, 10**30]},
    }
    source = open_lines(tmp_path / "a.jsonl", good, *bad.values())
    example(source, 0)
    for number, says in enumerate(bad, 2):
        with pytest.raises(BadRecord, match=f"a.jsonl, record {number}: .*{says}"):
            example(source, number - 1)


def test_a_source_of_bad_records_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record 1: it has no 'text', only q; .* \(and none of the 3 first"):
        open_lines(tmp_path / "a.jsonl", *[{"q": "x"}] * 3)
    problems = LwmData("a", fields="", frame_tokens=0, counts="all").problems()  # type: ignore[arg-type]
    assert [problem.split()[0] for problem in problems] == ["fields", "frame_tokens", "counts"]
