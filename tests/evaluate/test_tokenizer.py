import io
import json

import numpy as np
import pytest

from ringvision.data.video import probe, sample
from ringvision.errors import UserError
from ringvision.evaluate import inception, lpips, tokenizer
from ringvision.evaluate.quality import l1, psnr, ssim
from ringvision.evaluate.tokenizer import evaluate_tokenizer

from .mean_colour import MeanColour, colours, write_clip


@pytest.fixture
def clips(tmp_path):
    return [
        write_clip(tmp_path / "long.mp4", colours(0, 40)),
        write_clip(tmp_path / "short.mp4", colours(1, 16)),
    ]


def reconstructed(path, fps):
    frames = np.concatenate([part.frames for part in sample(path, fps=fps, size=32)])
    codes = MeanColour().encode(frames)
    return frames, MeanColour().decode(codes, dtype=np.uint8), codes


def test_every_frame_counts_once(clips):
    result = evaluate_tokenizer(clips, tokenizer=MeanColour(), fps=4.0)
    frames, again, codes = (
        np.concatenate(both) for both in zip(*(reconstructed(path, 4.0) for path in clips))
    )
    assert (result["videos"], result["frames"], result["failed"]) == (2, 28, [])
    assert result["psnr"] == pytest.approx(psnr(frames, again).mean())
    error = ((frames.astype(float) - again) ** 2).mean()
    assert result["psnr_pooled"] == pytest.approx(10 * np.log10(255**2 / error))
    assert result["psnr_pooled"] < result["psnr"]
    assert result["ssim"] == pytest.approx(ssim(frames, again).mean())
    assert result["l1"] == pytest.approx(l1(frames, again).mean())
    counts = np.bincount(codes.ravel())
    shares = counts[counts > 0] / counts.sum()
    assert result["codes_used"] == len(shares)
    assert result["code_usage"] == len(shares) / 512
    assert result["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    first, second = result["per_video"]
    assert (first["source"], first["frames"], second["source"], second["frames"]) == (
        str(clips[0]),
        20,
        str(clips[1]),
        8,
    )
    assert first["psnr"] == pytest.approx(psnr(frames[:20], again[:20]).mean())
    pairs = np.diff(again.astype(float), axis=0) - np.diff(frames.astype(float), axis=0)
    flicker = np.sqrt((pairs**2).mean((1, 2, 3)))
    assert first["flicker"] == pytest.approx(flicker[:19].mean(), rel=1e-6)
    assert result["flicker"] == pytest.approx(np.delete(flicker, 19).mean(), rel=1e-6)
    assert "rfid" not in result and "lpips" not in result and result["out"] is None
    json.dumps(result, allow_nan=False)


def test_a_video_that_cannot_be_read_is_named_and_left_out(tmp_path, clips):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing of a video in here")
    missing = tmp_path / "missing.mp4"
    progress = io.StringIO()
    result = evaluate_tokenizer(
        [broken, clips[0], missing, clips[1]], tokenizer=MeanColour(), fps=4.0, progress=progress
    )
    whole = evaluate_tokenizer(clips, tokenizer=MeanColour(), fps=4.0)
    assert [(each["source"], each["kind"]) for each in result["failed"]] == [
        (str(broken), "not-video"),
        (str(missing), "missing"),
    ]
    assert "broken.mp4" in result["failed"][0]["message"]
    assert {**result, "failed": [], "seconds": 0} == {**whole, "seconds": 0}
    lines = progress.getvalue().splitlines()
    assert lines[0] == "1 of 4 videos, 0 frames, 1 failed"
    assert lines[3] == f"4 of 4 videos, 28 frames, {whole['psnr']:.1f} dB so far, 2 failed"


def test_what_was_seen_before_a_video_broke_off_is_in_no_figure(monkeypatch, clips):
    def breaks(path, **settings):
        parts = sample(path, **settings | {"batch": 4})
        yield next(parts)
        if path == clips[0]:
            raise tokenizer.VideoError("long.mp4 broke off", "damaged")
        yield from parts

    monkeypatch.setattr(tokenizer, "sample", breaks)
    result = evaluate_tokenizer(clips, tokenizer=MeanColour(), fps=4.0)
    monkeypatch.undo()
    alone = evaluate_tokenizer(clips[1:], tokenizer=MeanColour(), fps=4.0)
    assert result["failed"] == [{"source": str(clips[0]), "kind": "damaged", "message": "long.mp4 broke off"}]
    (video,) = result["per_video"]
    (same,) = alone["per_video"]
    assert video == pytest.approx(same)
    for name in (
        "videos",
        "frames",
        "psnr",
        "ssim",
        "l1",
        "codes_used",
        "perplexity",
        "flicker",
        "still_flicker",
        "codes_changed",
        "still",
    ):
        assert result[name] == pytest.approx(alone[name])


def test_the_written_video_shows_all_videos_in_turn(tmp_path, clips):
    out = tmp_path / "shown.mp4"
    result = evaluate_tokenizer(clips, tokenizer=MeanColour(), fps=4.0, out=out)
    assert result["out"] == str(out)
    info = probe(out)
    assert (info.width, info.height, info.num_frames, info.fps) == (520, 256, 28, 4.0)


def test_requests_that_make_no_sense(tmp_path, clips):
    missing = [tmp_path / "none.mp4", tmp_path / "neither.mp4"]
    out = tmp_path / "shown.mp4"
    with pytest.raises(UserError, match="none of the 2 videos could be read; the first: .*none.mp4"):
        evaluate_tokenizer(missing, tokenizer=MeanColour(), out=out)
    with pytest.raises(UserError, match="no video was given"):
        evaluate_tokenizer([], tokenizer=MeanColour())
    with pytest.raises(UserError, match="a limit of 0 videos"):
        evaluate_tokenizer(clips, tokenizer=MeanColour(), limit=0)
    with pytest.raises(UserError, match="--fps -1 was given"):
        evaluate_tokenizer(clips, tokenizer=MeanColour(), fps=-1, out=out)
    with pytest.raises(UserError, match="is not a file"):
        evaluate_tokenizer(clips, tokenizer=MeanColour(), inception=missing[0])

    class Tiny(MeanColour):
        size = 8

    with pytest.raises(UserError, match="8 pixels a side; at least 16"):
        evaluate_tokenizer(clips, tokenizer=Tiny())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mp4", "short.mp4"]


def test_limit(clips):
    assert [
        each["source"] for each in evaluate_tokenizer(clips, tokenizer=MeanColour(), limit=1)["per_video"]
    ] == [str(clips[0])]


def test_lpips_and_rfid(monkeypatch, lpips_weights, clips):
    """Inception is replaced by the mean colours of a frame, so that NumPy can compute the expected
    distance.
    """

    class Colours:
        def __init__(self, path):
            assert path == "inception.safetensors"

        def __call__(self, frames):
            return frames.mean((1, 2))

    monkeypatch.setattr(tokenizer, "Inception", Colours)
    monkeypatch.setattr(tokenizer, "WIDTH", 3)
    result = evaluate_tokenizer(
        clips, tokenizer=MeanColour(), inception="inception.safetensors", lpips=lpips_weights
    )
    frames, again, _ = (np.concatenate(both) for both in zip(*(reconstructed(path, 1.0) for path in clips)))
    one = frames.mean((1, 2))
    other = again.mean((1, 2))
    c1 = np.cov(one.T)
    c2 = np.cov(other.T)
    root = np.sqrt(np.linalg.eigvals(c1 @ c2).real).sum()
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * root
    assert result["rfid"] == pytest.approx(expected, rel=1e-6)
    distances = lpips.Lpips(lpips_weights)(frames, again)
    assert result["lpips"] == pytest.approx(distances.mean(), rel=1e-4)
    assert result["per_video"][1]["lpips"] == pytest.approx(distances[-2:].mean(), rel=1e-4)
    assert all("rfid" not in video for video in result["per_video"])
    assert inception.WIDTH == 2048
