"""Examples back to words and frames."""

import numpy as np
import pytest
from byte_tokenizer import byte_processor

from ringvision.data import transcript
from ringvision.data.stream import Example, PictureFormat, PromptProcessor, StreamFormat
from ringvision.data.transcript import frames, words

CODES = np.arange(8).reshape(2, 2, 2)
VIDEO = (CODES, np.arange(2.0))
OURS = byte_processor()
PICTURE = PictureFormat("{height}*{width}", (3,), (4,), (5,))
PROCESSORS = {
    "ours": OURS,
    "without stamps": PromptProcessor(OURS.text, OURS.vocabulary, StreamFormat(stamps=False)),
    "pictures": PromptProcessor(OURS.text, OURS.vocabulary, StreamFormat(stamps=False, picture=PICTURE)),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("grid", [(2, 2), None])
def test_frames_come_back(name: str, grid: tuple[int, int] | None) -> None:
    processor = PROCESSORS[name]
    tokens = processor.example([VIDEO], [("what?", "a")]).tokens
    found = frames(processor, tokens, grid)
    if name == "pictures" and grid is None:
        assert found is None  # nothing says where a frame ends
        return
    assert found is not None
    np.testing.assert_array_equal(found, CODES)
    assert frames(processor, processor.example([], [("what?", "a")]).tokens, grid) is None
    assert frames(processor, tokens, (3, 3)) is None


def test_words_show_what_counts() -> None:
    processor = PROCESSORS["ours"]
    example = processor.example([VIDEO], [("what?", "größer"), ("and?", "b")])
    assert words(processor, example) == (
        "<s>[video of 2 frames] USER: what? ASSISTANT:«  größer</s>» USER: and? ASSISTANT:«  b</s>»"
    )
    example = processor.example([VIDEO], [("q", "a")], vision_weight=1.0)
    assert words(processor, example).startswith("<s>«[video of 2 frames]» USER: q")
    pictures = PROCESSORS["pictures"]
    assert words(pictures, pictures.example([VIDEO], [])) == "<s>[video of 1 frame][video of 1 frame]"


def test_a_long_text_shows_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "LONGEST", 20)
    tokens = np.array(PROCESSORS["ours"].text.encode("a" * 30 + "b" * 30), np.int32)
    shown = words(PROCESSORS["ours"], Example(tokens, np.zeros(len(tokens), np.float32)))
    assert shown == " aaaaaaaaa [41 characters] bbbbbbbbbb"
