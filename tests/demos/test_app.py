"""The page, driven as a browser drives it: over HTTP, on this machine alone."""

import gc
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import gradio_client
import jax
import pytest
from tiny_assistant import write_assistant, write_clip

from ringvision import shipped
from ringvision.errors import UserError
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.explanation import spans_in_words
from ringvision.mesh import make_mesh

# Gradio leaves event loops open; they are found in the client's teardown, not in another test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
QUESTION = "What colour was the circle?"


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ringvision_demo", shipped.folder("demos") / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    folder = write_assistant(tmp_path_factory.mktemp("assistant"))
    return load(folder, make_mesh(context=1, devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a-small_clip.mp4")
    (folder / "clips.json").write_text(
        json.dumps({"a-small_clip.mp4": {"ask": {"Which digit was on the card?": "4"}}})
    )
    return folder


@pytest.fixture(scope="module")
def client(
    app: ModuleType, assistant: Assistant, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[gradio_client.Client]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        blocks = app.page(assistant, clips)
        address = app.serve(blocks, None, clips=clips, wait=False)
        assert address.startswith("http://127.0.0.1:")
        yield gradio_client.Client(address, verbose=False)
        blocks.close()
        gc.collect()


def _file(path: Path) -> object:
    return gradio_client.handle_file(path)


def test_the_answer_streams(client: gradio_client.Client, assistant: Assistant, clips: Path) -> None:
    clip = clips / "a-small_clip.mp4"
    job = client.submit(_file(clip), QUESTION, 1.0, 0.0, api_name="/ask")
    answer, notes, status = job.result(timeout=120)
    expected = assistant.ask(clip, QUESTION)
    assert answer == expected.text
    assert f"attended most to: {spans_in_words(expected.evidence, ['clip'])}." in notes
    assert "Take care" not in notes
    assert f"{expected.frames} frames" in status
    assert "generate" in status
    steps = job.outputs()
    assert steps[0] == ("", "", "Reading the video …")
    assert len(steps) > 3


def test_what_it_was_not_trained_for_is_said_before_the_answer_ends(
    client: gradio_client.Client, clips: Path
) -> None:
    job = client.submit(
        _file(clips / "a-small_clip.mp4"), "What was there at 2:30?", 1.0, 0.0, api_name="/ask"
    )
    job.result(timeout=120)
    steps = job.outputs()
    said = "Take care: the question is about 2:30, and the video ends at 0:"
    assert said in steps[1][1] and said in steps[-1][1]
    assert "attended" not in steps[1][1] and "attended" in steps[-1][1]


def test_notes_hold_no_html_but_their_own(app: ModuleType) -> None:
    hostile = '<img src=x onerror="alert(1)">'
    said = app.notes([f"without {hostile}", "& more"], f"0:01 to 0:02 of {hostile}")
    tags = {word.split()[0].strip("</>") for word in re.findall(r"<[^>]*>", said)}
    assert tags == {"div", "p"}
    assert "&lt;img" in said and "&amp; more" in said
    assert app.notes([]) == ""


def test_the_frames_that_the_model_sees_are_shown(
    client: gradio_client.Client, assistant: Assistant, clips: Path
) -> None:
    frames, seen = client.predict(_file(clips / "a-small_clip.mp4"), 1.0, api_name="/look")
    assert [frame["caption"] for frame in frames][:2] == ["0 s", "1 s"]
    assert f"the model sees {len(frames)} frames, all shown" in seen
    few, seen = client.predict(_file(clips / "a-small_clip.mp4"), 8.0, api_name="/look")
    number = int(seen.split("the model sees ")[1].split()[0])
    every = -(-number // 48)
    assert every > 1
    assert len(few) == -(-number // every) <= 48
    assert f"one in {every} shown" in seen


@pytest.mark.parametrize(
    ("content", "question", "said"),
    [("not a video", QUESTION, "fake.mp4"), (None, "  ", "the question is empty")],
)
def test_mistakes_are_explained(
    client: gradio_client.Client, clips: Path, tmp_path: Path, content: str | None, question: str, said: str
) -> None:
    path = clips / "a-small_clip.mp4"
    if content is not None:
        path = tmp_path / "fake.mp4"
        path.write_text(content)
    with pytest.raises(Exception, match=said) as raised:
        client.predict(_file(path), question, 1.0, 0.0, api_name="/ask")
    assert "Traceback" not in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_no_video(client: gradio_client.Client) -> None:
    with pytest.raises(Exception, match="Choose a video first"):
        client.predict(None, QUESTION, 1.0, 0.0, api_name="/ask")


def test_nothing_is_fetched_from_elsewhere(client: gradio_client.Client) -> None:
    import urllib.request

    with urllib.request.urlopen(client.src) as page:
        text = page.read().decode()
    assert "fonts.googleapis" not in text
    assert "RingVision" in text


def test_a_port_in_use_is_said(app: ModuleType, client: gradio_client.Client) -> None:
    import gradio

    with (
        gradio.Blocks(analytics_enabled=False) as blocks,
        pytest.raises(UserError, match="choose another with --port"),
    ):
        app.serve(blocks, int(client.src.rstrip("/").rsplit(":", 1)[1]), wait=False)


def test_examples_come_with_a_question(app: ModuleType, clips: Path, tmp_path: Path) -> None:
    assert app._examples(clips) == [[str(clips / "a-small_clip.mp4"), "Which digit was on the card?"]]
    assert app._examples(tmp_path) == []
    (tmp_path / "mine.mp4").touch()
    assert app._examples(tmp_path) == [[str(tmp_path / "mine.mp4"), app.QUESTIONS[0]]]
