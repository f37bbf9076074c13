import math
from pathlib import Path

import av
import numpy as np
import pytest

from ringvision.data.video import VideoError, probe, sample
from ringvision.errors import UserError
from ringvision.evaluate.reconstruction import code_usage, psnr, reconstruct, side_by_side, ssim


class MeanColour:
    """4x4 codes a frame: each a patch's mean colour in 512 steps."""

    size, num_codes = 32, 512

    def encode(self, frames):
        patches = frames.reshape(-1, 4, 8, 4, 8, 3).mean((2, 4)).astype(np.int32) >> 5
        return patches @ np.array([64, 8, 1], np.int32)

    def decode(self, codes, dtype=np.float32):
        assert dtype is np.uint8
        colours = np.stack([codes >> 6, codes >> 3 & 7, codes & 7], -1) * 32 + 16
        return colours.repeat(8, 1).repeat(8, 2).astype(np.uint8)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    colours = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"threads": "1", "preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in colours.repeat(16, 1).repeat(16, 2):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


def test_psnr():
    frames = np.full((2, 16, 16, 3), 100, np.uint8)
    assert psnr(frames, frames) == math.inf
    assert psnr(frames, frames + np.uint8(10)) == pytest.approx(10 * math.log10(255**2 / 100))
    assert psnr(frames, frames - np.uint8(10)) == psnr(frames, frames + np.uint8(10))


def test_ssim_is_the_published_formula():
    random = np.random.default_rng(3)
    frames = random.integers(0, 256, (1, 13, 12, 3), np.uint8)
    others = random.integers(0, 256, (1, 13, 12, 3), np.uint8)
    assert ssim(frames, frames) == pytest.approx(1.0)
    window = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    expected = []
    for channel in range(3):
        for row in range(3):
            for column in range(2):
                x, y = (each[0, row : row + 11, column : column + 11, channel].astype(float) for each in (frames, others))
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy, cov = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum(), (window * (x - mx) * (y - my)).sum()
                expected.append((2 * mx * my + 6.5025) * (2 * cov + 58.5225) / ((mx**2 + my**2 + 6.5025) * (vx + vy + 58.5225)))
    assert ssim(frames, others) == pytest.approx(np.mean(expected), abs=1e-9)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(frames[:, :10], others[:, :10])


def test_code_usage():
    assert code_usage(np.array([5, 5, 0, 0])) == (0.5, pytest.approx(2.0))
    assert code_usage(np.full(64, 7)) == (1.0, pytest.approx(64.0))
    assert code_usage(np.array([0, 9])) == (0.5, pytest.approx(1.0))


def test_side_by_side():
    sheet = side_by_side(np.zeros((63, 63, 3), np.uint8), np.full((63, 63, 3), 9, np.uint8))
    assert sheet.shape == (252, 512, 3)
    assert (sheet[:, :252] == 0).all()
    assert (sheet[:, 260:] == 9).all()


def test_reconstruct(tmp_path, clip):
    out, tokenizer = tmp_path / "both.mp4", MeanColour()
    result = reconstruct(clip, out, tokenizer, fps=4.0, batch=8)
    frames = np.concatenate([part.frames for part in sample(clip, fps=4.0, size=32)])
    codes = tokenizer.encode(frames)
    again = tokenizer.decode(codes, dtype=np.uint8)
    assert result["frames"] == len(frames) == 20
    assert result["psnr"] == pytest.approx(psnr(frames, again))
    assert result["ssim"] == pytest.approx(ssim(frames, again))
    assert result["code_usage"] == len(np.unique(codes)) / 512
    assert 1 < result["perplexity"] <= len(np.unique(codes))
    info = probe(out)
    assert (info.width, info.height, info.num_frames, info.codec, info.fps) == (520, 256, 20, "h264", 4.0)
    with av.open(str(out)) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert np.abs(shown - side_by_side(frames[0], again[0])).mean() < 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.mp4", "clip.mp4"]


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
