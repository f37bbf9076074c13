"""A file that appears whole or not at all, and holds the frames that were appended."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ringvision.data.video.writer import GAP, MOST_ON_A_SHEET, video_writer
from ringvision.errors import UserError


def _frames(count: int, size: int = 16) -> np.ndarray:
    """Plain frames, each of a grey of its own."""
    return np.broadcast_to(
        np.linspace(30, 220, count).astype(np.uint8)[:, None, None, None], (count, size, size, 3)
    )


def _write(out: Path, frames: np.ndarray, fps: float = 4.0, at_once: int = 3) -> None:
    with video_writer(out, len(frames), fps) as append:
        for start in range(0, len(frames), at_once):
            append(frames[start : start + at_once])


@pytest.mark.parametrize(("size", "shown"), [(16, 256), (15, 256), (301, 302)])
def test_a_film_shows_every_frame_in_its_time(tmp_path: Path, size: int, shown: int) -> None:
    frames = _frames(7, size)
    _write(tmp_path / "clip.mp4", frames)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == 4
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert back.shape == (7, shown, shown, 3)
    assert np.abs(back.mean((1, 2, 3)) - frames.mean((1, 2, 3))).max() < 3


def test_one_frame_is_a_picture_to_the_pixel(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    _write(tmp_path / "one.png", frame)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), frame[0])


def test_several_frames_stand_in_rows_of_eight(tmp_path: Path) -> None:
    frames = _frames(10)
    _write(tmp_path / "sheet.PNG", frames)
    sheet = np.asarray(Image.open(tmp_path / "sheet.PNG"))
    step = 16 + GAP
    assert sheet.shape == (2 * step - GAP, 8 * step - GAP, 3)
    for index, frame in enumerate(frames):
        top = index // 8 * step
        left = index % 8 * step
        assert np.array_equal(sheet[top : top + 16, left : left + 16], frame)
    assert (sheet[step:, 2 * step :] == 255).all()


@pytest.mark.parametrize("name", ["clip.mp4", "sheet.png"])
def test_what_fails_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.write_bytes(b"before")

    def fail() -> None:
        with video_writer(out, 5, 1.0) as append:
            append(_frames(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert out.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "frames", "fps", "said"),
    [
        ("clip.gif", 1, 1.0, r"suffix '\.gif'; give the name of an \.mp4"),
        ("clip", 1, 1.0, "suffix ''"),
        ("absent/clip.mp4", 1, 1.0, "is not a folder; make it first"),
        ("folder.mp4", 1, 1.0, "is a folder"),
        ("sheet.png", MOST_ON_A_SHEET + 1, 1.0, r"at most 64: write an \.mp4"),
        ("clip.mp4", 1, 0.0, "--fps 0 was given"),
        ("clip.mp4", 1, float("nan"), "--fps nan was given"),
    ],
)
def test_what_cannot_be_written_is_said_before_any_frame(
    tmp_path: Path, name: str, frames: int, fps: float, said: str
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UserError, match=said), video_writer(tmp_path / name, frames, fps):
        raise AssertionError("begun")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mp4"]


def test_a_place_that_refuses_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="cannot be written"),
        video_writer(tmp_path / ("x" * 300 + ".png"), 1, 1.0),
    ):
        raise AssertionError("begun")
