"""What an answer attended to, as a page and as a picture."""

import base64
import html.parser
import io
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ringvision.errors import UserError
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.explanation import HOT, WIDTH, clock, frames_to_show, write_explanation
from ringvision.infer.reply import Reply
from ringvision.mesh import make_mesh

QUESTION = 'Which <script>alert("x")</script> & \u202ecolour?'


class Page(html.parser.HTMLParser):
    """Which tags a page has, and what they load; its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Assistant:
    return load(folder, make_mesh(context=1, devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def reply(assistant: Assistant, clips: list[Path]) -> Reply:
    return assistant.ask(clips, QUESTION, max_tokens=4)


def _pixels(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_page_holds_everything_and_runs_nothing(reply: Reply, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    write_explanation(out, QUESTION, reply, ["<one>.mp4", "two.mp4"])
    assert os.listdir(tmp_path) == ["out.html"]
    page = Page(out)
    assert "script" not in page.tags
    assert 'Which <script>alert("x")</script> & \\u202ecolour?' in page.text
    assert "<one>.mp4" in page.text
    assert f"{reply.probability:.3f}" in page.text
    start, end, video = reply.spans[0]
    assert f"{clock(start)} to {clock(end)} of {['<one>.mp4', 'two.mp4'][int(video)]}" in page.text
    pictures = list(map(_pixels, page.loaded))
    bars = [picture for picture in pictures if picture.shape[0] == 1]
    assert len(pictures) == reply.frames + len(bars) == reply.frames + 2
    assert all(bar.shape == (1, WIDTH, 3) for bar in bars)
    evidence = reply.evidence
    hottest = int(evidence.weights.argmax())
    frames = np.flatnonzero(evidence.video == evidence.video[hottest])
    bar = bars[evidence.video[hottest]][0]
    middle = int((np.flatnonzero(frames == hottest)[0] + 0.5) * WIDTH / len(frames))
    assert bar[middle].tolist() == HOT.tolist()
    assert np.array_equal(pictures[1], reply.viewing.pictures([0])[0])


def test_the_frames_are_as_the_model_saw_them(assistant: Assistant, reply: Reply, clips: list[Path]) -> None:
    codes = np.concatenate([assistant.processor.read_video(clip, 1.0)[0] for clip in clips])
    wanted = [0, len(codes) - 1]
    expected = assistant.tokenizer.decode(codes[wanted], np.uint8)
    assert np.array_equal(reply.viewing.pictures(wanted), expected)


def test_a_picture(reply: Reply, tmp_path: Path) -> None:
    out = tmp_path / "out.PNG"
    write_explanation(out, QUESTION * 40, reply, ["one.mp4", "two.mp4"])
    picture = np.asarray(Image.open(out))
    assert picture.shape[1:] == (WIDTH, 3)
    assert (picture == HOT).all(-1).sum() > 100
    write_explanation(tmp_path / "other.png", QUESTION, reply, ["one.mp4", "two.mp4"])
    assert len(np.asarray(Image.open(tmp_path / "other.png"))) < len(picture) < 1000


def test_of_a_long_video_the_hottest_and_an_even_sample() -> None:
    weights = np.zeros(3600)
    weights[1000:1005] = 0.2
    shown = frames_to_show(weights)
    assert len(shown) <= 24
    assert set(range(1000, 1005)) <= set(shown.tolist())
    assert {0, 3599} <= set(shown.tolist())
    assert (np.diff(shown) > 0).all()
    assert np.diff(shown).max() < 400
    assert frames_to_show(np.full(5, 0.2)).tolist() == [0, 1, 2, 3, 4]


def test_nothing_is_left_where_it_cannot_be_written(reply: Reply, tmp_path: Path) -> None:
    (tmp_path / "out.html").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_explanation(tmp_path / "out.html", QUESTION, reply, ["one.mp4", "two.mp4"])
    assert os.listdir(tmp_path) == ["out.html"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (7.5, "0:07.5"), (67, "1:07"), (3725, "1:02:05"), (59.96, "1:00")]
)
def test_times(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
