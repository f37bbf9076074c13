"""A video that grows is at every moment the video so far, read at once: the same tokens and answers."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from ringvision.data.video import sample
from ringvision.errors import UserError
from ringvision.infer import live
from ringvision.infer.assistant import Assistant, load
from ringvision.mesh import make_mesh

QUESTION = "What colour was the circle?"


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Assistant:
    return load(folder, make_mesh(context=2, devices=jax.devices()[:2]))


def _frames(assistant: Assistant, clip: Path) -> tuple[np.ndarray, np.ndarray]:
    batches = list(sample(clip, fps=1.0, size=assistant.tokenizer.size))
    return np.concatenate([x.frames for x in batches]), np.concatenate([x.times for x in batches])


@pytest.mark.parametrize("read_at_once", [1, 100, 256])
def test_frames_that_come_one_by_one(
    assistant: Assistant, clips: list[Path], read_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked half-way and at the end; a frame at a time, then several."""
    monkeypatch.setattr(live, "READ_AT_ONCE", read_at_once)
    frames, times = _frames(assistant, clips[0])
    session = assistant.session()
    half = len(frames) // 2
    for number in range(half):
        session.add(frames[number : number + 1], times[number : number + 1])
    assert (session.frames, session.seconds) == (half, float(half))
    between = session.ask(QUESTION, max_tokens=8)
    codes, _ = assistant.processor.read_video(clips[0], 1.0)
    expected = assistant.processor.prompts.videos([(codes[:half], times[:half])])
    assert np.array_equal(between.viewing.prefix.tokens, expected)
    first = session.ask("How many?", max_tokens=8)
    session.add(frames[half:], times[half:])  # while two answers are on their way
    alone = assistant.session()
    alone.add(frames[:half], times[:half])
    assert alone.ask(QUESTION, max_tokens=8).text == between.text
    assert first.text == alone.ask("How many?", max_tokens=8).text
    whole = assistant.ask(clips[0], QUESTION, max_tokens=8)
    grown = session.ask(QUESTION, max_tokens=8)
    assert (grown.text, grown.tokens) == (whole.text, whole.tokens)
    assert np.allclose(grown.log_probabilities, whole.log_probabilities, atol=1e-4)
    assert (grown.frames, grown.video_tokens) == (whole.frames, whole.video_tokens)
    assert np.array_equal(grown.viewing.prefix.tokens, whole.viewing.prefix.tokens)
    assert grown.spans == whole.spans
    again = session.ask(QUESTION, max_tokens=8)
    assert again.tokens == [] != again.text
    assert again.text == whole.text
    assert again.viewing.prefix is grown.viewing.prefix


def test_a_file_that_is_gone_on_with(assistant: Assistant, clips: list[Path]) -> None:
    session = assistant.session(clips[0])
    whole = assistant.ask(clips[0], QUESTION, max_tokens=8)
    assert session.frames == whole.frames
    assert session.ask(QUESTION, max_tokens=8).text == whole.text
    frames = np.zeros((1, 50, 40, 3), np.uint8)
    session.add(frames, [session.seconds + 2.5])
    assert session.seconds == whole.frames + 3.5
    later = session.ask("What was there at 2 minutes?", max_tokens=4)
    assert later.frames == whole.frames + 1
    assert "the video ends" in later.warnings[0]
    assert later.evidence.start[-1] == whole.frames + 2.5


def test_what_cannot_be_added_changes_nothing(assistant: Assistant, clips: list[Path]) -> None:
    frames, _ = _frames(assistant, clips[0])
    session = assistant.session(fps=2.0)
    with pytest.raises(UserError, match="no frame yet"):
        session.ask(QUESTION)
    session.add(frames[:2], [1.0, 3.0])
    expected = session.ask(QUESTION, max_tokens=6).text
    for wrong, moments, said in [
        (frames[:1], [3.0], "behind one of second 3"),
        (frames[:2], [5.0, 5.0], "increase"),
        (frames[:2], [4.0, np.nan], "increase"),
        (frames[:2], [5.0], "give one for each"),
        (frames[:0], [], "expected uint8"),
        (frames[:1].astype(np.float32), [5.0], "expected uint8"),
        (frames[0], [5.0], "expected uint8"),
        (np.repeat(frames[:1], 40, axis=0), np.arange(40) + 5.0, "2 frames are there and 40 more do not fit"),
    ]:
        with pytest.raises(UserError, match=said) as raised:
            session.add(wrong, moments)
        assert "\n" not in str(raised.value)
        assert session.frames == 2
    assert session.seconds == 3.5
    assert session.ask(QUESTION, max_tokens=6).text == expected
    with pytest.raises(UserError, match="question is empty"):
        session.ask(" ")


def test_a_model_that_is_asked_first_has_no_session(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = assistant.processor.prompts
    first = replace(prompts, format=replace(prompts.format, question="{question} {video} ANSWER:"))
    monkeypatch.setattr(assistant.processor, "prompts", first)
    with pytest.raises(UserError, match="before the video"):
        assistant.session()
