"""From a real video file to a streamed answer; a video is read once; what cannot be answered is said in one
line beforehand.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ringvision.data.video import probe
from ringvision.errors import UserError
from ringvision.infer import assistant as assistant_module
from ringvision.infer import processor as processor_module
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.engine import Rows
from ringvision.infer.prefix_cache import PrefixCache
from ringvision.infer.reply import finish as finish_of
from ringvision.infer.sampler import Sampler
from ringvision.mesh import make_mesh

QUESTION = "What colour was the circle?"


def _load(folder: Path, devices: int) -> Assistant:
    return load(folder, make_mesh(context=devices, devices=jax.devices()[:devices]))


@pytest.fixture(scope="module")
def alone(folder: Path) -> Assistant:
    return _load(folder, 1)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the test fail where a video is decoded or a file probed."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the video was read again")

    monkeypatch.setattr(processor_module, "sample", fail)
    monkeypatch.setattr(processor_module, "probe", fail)
    monkeypatch.setattr(assistant_module, "probe", fail)


def test_an_answer_and_how_it_came_about(alone: Assistant, clips: list[Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    reply = alone.ask(str(clips[0]), QUESTION, max_tokens=12, progress=lambda *step: seen.append(step))
    assert reply.frames == round(probe(clips[0]).duration)
    assert reply.video_tokens > reply.frames * alone.tokenizer.codes_per_frame
    assert reply.devices == 1
    assert set(reply.timings) == {"decode", "tokenize", "prefill"}
    assert seen[0] == ("frames", reply.frames, reply.frames)
    assert seen[-1][0] == "tokens"
    pieces = list(reply)
    assert "".join(pieces).strip() == reply.text == alone.text.decode(reply.tokens).strip()
    assert 1 <= len(reply.tokens) <= 12
    assert max(reply.tokens) < alone.text.size
    assert all(spent > 0 for spent in reply.timings.values())
    assert "generate" in reply.timings
    assert list(reply) == []


@pytest.mark.parametrize("devices", [2, 8])
def test_every_ring_gives_the_same_answer(
    folder: Path, alone: Assistant, clips: list[Path], devices: int
) -> None:
    spread = _load(folder, devices)
    expected = alone.ask(clips, QUESTION, max_tokens=10)
    found = spread.ask(clips, QUESTION, max_tokens=10)
    assert found.text == expected.text
    assert found.tokens == expected.tokens
    assert (found.devices, found.frames, found.video_tokens) == (
        devices,
        expected.frames,
        expected.video_tokens,
    )


def test_a_video_is_read_once(
    folder: Path, clips: list[Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assistant = _load(folder, 1)
    first = assistant.ask(clips[0], QUESTION, max_tokens=8)
    tokens = (first.text, first.tokens)[1]
    copy = tmp_path / "the same film.mp4"
    shutil.copy(clips[0], copy)
    request.getfixturevalue("unread")
    other = assistant.ask([copy], "Which came first, the red circle or the blue cross?", max_tokens=8)
    assert other.text is not None
    assert other.frames == first.frames
    again = assistant.ask(clips[0], QUESTION, max_tokens=8)
    assert (again.text, again.tokens) == (first.text, tokens)
    assert again.timings["decode"] == again.timings["tokenize"] == 0


def test_other_sampling_or_other_bytes_are_read_anew(
    alone: Assistant, clips: list[Path], tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    shutil.copy(clips[0], film)
    one = alone.ask(film, QUESTION, max_tokens=2)
    assert alone.ask(film, QUESTION, fps=0.5, max_tokens=2).frames == -(-one.frames // 2)
    shutil.copy(clips[1], film)
    assert alone.ask(film, QUESTION, max_tokens=2).frames == round(probe(clips[1]).duration)


def test_an_abandoned_answer_loses_nothing(
    folder: Path, clips: list[Path], request: pytest.FixtureRequest
) -> None:
    assistant = _load(folder, 1)
    reply = assistant.ask(clips[0], QUESTION, max_tokens=8)
    expected = reply.text
    request.getfixturevalue("unread")
    abandoned = assistant.ask(clips[0], QUESTION, max_tokens=8)
    next(iter(abandoned))
    del abandoned
    assert assistant.ask(clips[0], QUESTION, max_tokens=8).text == expected


def test_two_answers_at_once(folder: Path, clips: list[Path]) -> None:
    assistant = _load(folder, 1)
    expected = assistant.ask(clips[0], QUESTION, max_tokens=8).text
    one, other = (assistant.ask(clips[0], QUESTION, max_tokens=8) for _ in range(2))
    assert (other.text, one.text) == (expected, expected)


def test_without_memory_codes_are_made_again(folder: Path, clips: list[Path]) -> None:
    whole = _load(folder, 1)
    forgetful = Assistant(whole.model, whole.text, whole.tokenizer, remember=0)
    for _ in range(2):
        reply = forgetful.ask(clips[0], QUESTION, max_tokens=4)
        assert reply.text is not None
        assert reply.timings["decode"] > 0


def test_a_longer_second_question_compiles_nothing(
    folder: Path, clips: list[Path], compilations: list[str]
) -> None:
    assistant = _load(folder, 1)
    assert assistant.ask(clips[0], "What?", max_tokens=4).text is not None
    compilations.clear()
    assert assistant.ask(clips[0], QUESTION + " Tell me, please, at once.", max_tokens=9).text is not None
    assert assistant.ask(clips[1], QUESTION, max_tokens=4).text is not None
    assert compilations == []


def test_how_an_answer_ends_and_how_likely_it_is(alone: Assistant, clips: list[Path]) -> None:
    cut = alone.ask(clips[0], QUESTION, max_tokens=5)
    assert cut.finish in ("length", "stop", "empty")
    assert len(cut.log_probabilities) == len(cut.tokens)
    assert np.isclose(cut.probability, np.exp(np.sum(cut.log_probabilities)))
    assert 0 < cut.probability < 1
    whole = alone.ask(clips[0], QUESTION, max_tokens=20)
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 2]
    stopped = alone.ask(clips[0], QUESTION, max_tokens=20, stop=["no such text", stop])
    assert stopped.text == whole.text[: whole.text.index(stop)].strip()
    assert stopped.finish == ("stop" if stopped.text else "empty")
    assert alone.scheduler.alive == 0
    nothing = alone.ask(clips[0], QUESTION, max_tokens=20, stop=[whole.text[:1]])
    assert (nothing.text, nothing.finish) == ("", "empty")


@pytest.mark.parametrize(
    ("tokens", "said", "stopped", "finish"),
    [
        ([5, 6], "red", True, "stop"),
        ([5, 6], "red", False, "length"),
        ([5] * 20, "red red", False, "repeated"),
        ([5] * 20, "red red", True, "stop"),
        ([2], " ", True, "empty"),
        ([3], "", False, "empty"),
    ],
)
def test_the_four_ends(tokens: list[int], said: str, stopped: bool, finish: str) -> None:
    assert finish_of(tokens, said, stopped) == finish


QUESTIONS = [QUESTION, "What?", "Which came first, the red circle or the blue cross?", "How many were there?"]


@pytest.mark.parametrize(
    "axes", [{"context": 1}, {"context": 2, "data": 2}, {"context": 2, "tensor": 2}], ids=str
)
def test_questions_in_one_batch_are_answered_as_alone(
    folder: Path, alone: Assistant, clips: list[Path], axes: dict[str, int]
) -> None:
    assistant = load(folder, make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))]))
    replies = assistant.ask_many(clips[0], QUESTIONS, max_tokens=10)
    assert assistant.scheduler.alive > 1
    for question, reply in zip(QUESTIONS, replies):
        expected = alone.ask(clips[0], question, max_tokens=10)
        assert (reply.text, reply.tokens) == (expected.text, expected.tokens)
        assert (reply.frames, reply.video_tokens) == (expected.frames, expected.video_tokens)
    assert assistant.scheduler.alive == 0


def test_questions_of_which_one_cannot_be_asked(alone: Assistant, clips: list[Path]) -> None:
    with pytest.raises(UserError, match="no question was given"):
        alone.ask_many(clips[0], [])
    with pytest.raises(UserError, match="the question is empty"):
        alone.ask_many(clips[0], [QUESTION, " "])
    assert alone.scheduler.alive == 0


def test_a_dropped_answer_frees_its_row(alone: Assistant, clips: list[Path]) -> None:
    reply = alone.ask(clips[0], QUESTION, max_tokens=10)
    assert alone.scheduler.alive == 1
    next(iter(reply))
    del reply
    assert alone.scheduler.alive == 0
    unread = alone.ask(clips[0], QUESTION, max_tokens=10)
    assert alone.scheduler.alive == 1
    del unread
    assert alone.scheduler.alive == 0


def test_a_video_that_was_read_with_others_is_not_read_again(
    folder: Path, alone: Assistant, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two videos, then the first alone, and the other way round: what they share is a prefix."""
    assistant = _load(folder, 1)
    read: list[int] = []
    read_block = Rows._read_block

    def counting(rows: Rows, block: int, parts: dict[int, np.ndarray]) -> None:
        read.append(len(parts[0]))
        read_block(rows, block, parts)

    expected = [alone.ask(videos, QUESTION, max_tokens=6).text for videos in (clips, clips[:1])]
    for first, second in ((clips, clips[:1]), (clips[:1], clips)):
        assistant.prefixes = PrefixCache(1 << 30)
        assert assistant.ask(first, QUESTION, max_tokens=6).text == expected[len(first) == 1]
        read.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Rows, "_read_block", counting)
            reply = assistant.ask(second, QUESTION, max_tokens=6)
        assert reply.text == expected[len(second) == 1]
        asked = len(assistant.processor.prompts.question(QUESTION))
        own = 0 if second == clips[:1] else len(assistant.processor.prompts.videos(_codes(assistant, clips)))
        shared = len(assistant.processor.prompts.videos(_codes(assistant, clips[:1])))
        assert sum(read) == asked + (own - shared if own else 0)


def _codes(assistant: Assistant, clips: list[Path]) -> list[Any]:
    return [assistant.processor.read_video(clip, 1.0) for clip in clips]


def test_answers_in_threads(alone: Assistant, clips: list[Path]) -> None:
    """Questions about two videos from six threads at once, each several times."""
    asked = [(clip, question) for clip in clips for question in QUESTIONS[:3]]
    expected = [alone.ask(clip, question, max_tokens=8).text for clip, question in asked]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda one: alone.ask(*one, max_tokens=8).text, asked * 3))
    assert found == expected * 3
    assert alone.scheduler.alive == 0


def test_a_seed_decides_a_drawn_answer(alone: Assistant, clips: list[Path]) -> None:
    def draw(seed: int) -> list[int]:
        reply = alone.ask(clips[0], QUESTION, sampler=Sampler(temperature=2.0, seed=seed), max_tokens=10)
        assert reply.text is not None
        return reply.tokens

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("videos", "question", "said"),
    [
        ([], QUESTION, "no video"),
        (["x.mp4"], "  ", "the question is empty"),
        (["x.mp4"], "Why? " * 400, "the question has"),
    ],
)
def test_impossible_requests_are_refused_before_any_file_is_opened(
    alone: Assistant, videos: list[str], question: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        alone.ask(videos, question)


def test_a_video_too_long_says_which_fps_fits(
    alone: Assistant, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded before it was refused")

    with monkeypatch.context() as patched:
        patched.setattr(processor_module, "sample", fail)
        with pytest.raises(UserError, match=r"--fps ([\d.]+)") as raised:
            alone.ask(clips[0], QUESTION, fps=7.0)
    assert clips[0].name in str(raised.value)
    assert "frames" in str(raised.value)
    fitting = float(str(raised.value).split("--fps ")[1].split()[0])
    assert alone.ask(clips[0], QUESTION, fps=fitting, max_tokens=16).frames >= 2
    with pytest.raises(UserError, match="fewer videos"):
        alone.ask(clips * 40, QUESTION)


def test_no_file_and_no_video(alone: Assistant, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.mp4"):
        alone.ask(tmp_path / "absent.mp4", QUESTION)
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    with pytest.raises(UserError, match=r"text\.mp4"):
        alone.ask(text, QUESTION)
    with pytest.raises(UserError, match="max_tokens"):
        alone.ask(text, QUESTION, max_tokens=0)
    with pytest.raises(UserError, match="fps"):
        alone.ask(text, QUESTION, fps=0)


def test_a_folder_that_is_no_assistant(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = broken / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "video_tokenizer": "none-such"}))
    with pytest.raises(UserError, match="none-such"):
        load(broken)
    config.write_text(
        json.dumps({name: value for name, value in settings.items() if name != "video_tokenizer"})
    )
    with pytest.raises(UserError, match="names no video_tokenizer"):
        load(broken)
    (broken / "text.model").unlink()
    config.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"text\.model"):
        load(broken)
