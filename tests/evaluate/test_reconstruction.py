from pathlib import Path

import av
import numpy as np
import pytest

from ringvision.data.video import VideoError, probe, sample
from ringvision.errors import UserError
from ringvision.evaluate.quality import ssim
from ringvision.evaluate.reconstruction import reconstruct
from ringvision.evaluate.side_by_side import comparison_writer, side_by_side

from .mean_colour import MeanColour, colours, write_clip


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", colours(0, 40))


def test_side_by_side():
    sheet = side_by_side(np.zeros((63, 63, 3), np.uint8), np.full((63, 63, 3), 9, np.uint8))
    assert sheet.shape == (252, 512, 3)
    assert (sheet[:, :252] == 0).all()
    assert (sheet[:, 260:] == 9).all()


def test_reconstruct(tmp_path, clip):
    out = tmp_path / "both.mp4"
    tokenizer = MeanColour()
    result = reconstruct(clip, out, tokenizer, fps=4.0, batch=8)
    frames = np.concatenate([part.frames for part in sample(clip, fps=4.0, size=32)])
    codes = tokenizer.encode(frames)
    again = tokenizer.decode(codes, dtype=np.uint8)
    assert result["frames"] == len(frames) == 20
    assert result["psnr"] == pytest.approx(
        10 * np.log10(255**2 / ((frames.astype(float) - again) ** 2).mean())
    )
    assert result["ssim"] == pytest.approx(ssim(frames, again).mean())
    assert result["code_usage"] == len(np.unique(codes)) / 512
    assert 1 < result["perplexity"] <= len(np.unique(codes))
    info = probe(out)
    assert (info.width, info.height, info.num_frames, info.codec, info.fps) == (520, 256, 20, "h264", 4.0)
    with av.open(str(out)) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert np.abs(shown - side_by_side(frames[0], again[0])).mean() < 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.mp4", "clip.mp4"]


def test_a_video_of_very_few_frames_a_second(tmp_path):
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    with comparison_writer(tmp_path / "slow.mp4", 1e-5) as show:
        show(frames, frames)
    assert probe(tmp_path / "slow.mp4").num_frames == 2
    with (
        pytest.raises(UserError, match="--fps nan was given"),
        comparison_writer(tmp_path / "none.mp4", float("nan")),
    ):
        pass


def test_nothing_half_written(tmp_path, clip):
    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    with pytest.raises(VideoError):
        reconstruct(tmp_path / "none.mp4", tmp_path / "out.mp4", MeanColour())

    class Fails(MeanColour):
        def decode(self, codes, dtype=np.float32):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reconstruct(clip, tmp_path / "out.mp4", Fails())
    with pytest.raises(UserError, match="is a folder"):
        reconstruct(clip, tmp_path, MeanColour())
    with pytest.raises(UserError, match="make it first"):
        reconstruct(clip, tmp_path / "nowhere" / "out.mp4", MeanColour())
    assert names() == ["clip.mp4"]
    old = Path(tmp_path / "out.mp4")
    old.write_bytes(b"old")
    with pytest.raises(VideoError):
        reconstruct(tmp_path / "none.mp4", old, MeanColour())
    assert old.read_bytes() == b"old"
