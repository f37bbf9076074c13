"""Long videos are drawn into files of bounded size, tokenized, and asked about by their source."""

import sys
from pathlib import Path

import draw_world
import numpy as np
import pytest
import tokenize_world

from ringvision.data.sources import WorldVideos
from ringvision.data.world import HELD_OUT, long_questions, make_long_scene


def test_long_videos_are_drawn_and_tokenized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(draw_world, "MOST_FRAMES", 50)
    videos = tmp_path / "videos"
    request = ["draw_world", str(videos), "--long", "20", "--videos", "3", "--held-out"]
    monkeypatch.setattr(sys, "argv", request)
    draw_world.main()
    files = sorted(videos.iterdir())
    assert [file.name for file in files] == ["videos-00000.npz", "videos-00001.npz"]
    with np.load(files[0]) as held:
        assert held["frames"].shape == (40, 64, 64, 3) and held["lengths"].tolist() == [20, 20]
        assert str(held["kind"]) == "long:20:"
    codes = tmp_path / "codes"
    monkeypatch.setattr(sys, "argv", ["tokenize_world", str(videos), str(codes), "--tokenizer", "world-16"])
    tokenize_world.main()
    found = WorldVideos(codes)
    assert found.scenes == [("long:", (20, HELD_OUT + seed)) for seed in range(3)]
    asked = [tuple(one) for one in found.questions(2, 0, 20)]
    scene = make_long_scene(HELD_OUT + 2, 20)
    assert asked == [(one.kind, one.text, one.answer) for one in long_questions(scene)]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--long", "14"], "expected 15 to 7200"), (["--long", "60", "--more-colours"], "not both")],
)
def test_what_cannot_be_drawn_is_said(
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_world", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit, match="2"):
        draw_world.main()
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()
