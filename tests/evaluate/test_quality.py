import math

import numpy as np
import pytest

from ringvision.evaluate.quality import Quality, code_usage, l1, psnr, ssim


def test_psnr_and_l1_of_each_frame():
    frames = np.full((3, 16, 16, 3), 100, np.uint8)
    others = frames + np.array([10, 0, 2], np.uint8)[:, None, None, None]
    expected = [10 * math.log10(255**2 / 100), 100, 10 * math.log10(255**2 / 4)]
    assert psnr(frames, others).tolist() == pytest.approx(expected)
    assert psnr(others, frames).tolist() == pytest.approx(expected)
    assert l1(others, frames).tolist() == l1(frames, others).tolist() == [10, 0, 2]
    with pytest.raises(ValueError, match="same shape"):
        psnr(frames, others[:2])


def test_ssim_is_the_published_formula():
    random = np.random.default_rng(3)
    frames = random.integers(0, 256, (2, 13, 12, 3), np.uint8)
    others = random.integers(0, 256, (2, 13, 12, 3), np.uint8)
    assert ssim(frames, frames).tolist() == pytest.approx([1.0, 1.0])
    window = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    expected = []
    for channel in range(3):
        for row in range(3):
            for column in range(2):
                x, y = (
                    each[1, row : row + 11, column : column + 11, channel].astype(float)
                    for each in (frames, others)
                )
                mx = (window * x).sum()
                my = (window * y).sum()
                vx = (window * (x - mx) ** 2).sum()
                vy = (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                expected.append(
                    (2 * mx * my + 6.5025)
                    * (2 * cov + 58.5225)
                    / ((mx**2 + my**2 + 6.5025) * (vx + vy + 58.5225))
                )
    assert ssim(frames, others)[1] == pytest.approx(np.mean(expected), abs=1e-9)
    assert ssim(frames, others)[0] != pytest.approx(np.mean(expected), abs=1e-3)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(frames[:, :10], others[:, :10])


def test_code_usage():
    assert code_usage(np.array([5, 5, 0, 0])) == (0.5, pytest.approx(2.0))
    assert code_usage(np.full(64, 7)) == (1.0, pytest.approx(64.0))
    assert code_usage(np.array([0, 9])) == (0.5, pytest.approx(1.0))


def measured(frames, again, codes):
    quality = Quality(8)
    quality.add(frames, again, codes)
    return quality.figures()


STILL = np.broadcast_to(np.random.default_rng(0).integers(0, 200, (16, 16, 3), np.uint8), (5, 16, 16, 3))
SAME = np.broadcast_to(np.arange(4).reshape(2, 2), (5, 2, 2))


def test_a_still_video_reconstructed_steadily_does_not_flicker():
    figures = measured(STILL, STILL + np.uint8(40), SAME)  # wrong, but always as wrong
    assert figures["l1"] == 40
    assert [
        figures[name]
        for name in ("flicker", "still_flicker", "codes_changed", "still_codes_changed", "still")
    ] == [0, 0, 0, 0, 1]


def test_flicker_that_is_put_in_comes_out():
    again = STILL.copy()
    codes = SAME.copy()
    again[1::2] += 12  # every frame differs from the one before by 12 everywhere
    codes[1::2] += 4
    figures = measured(STILL, again, codes)
    assert (figures["flicker"], figures["still_flicker"]) == (12, 12)
    assert (figures["codes_changed"], figures["still_codes_changed"]) == (1, 1)
    again = STILL.copy()
    codes = SAME.copy()
    again[2:, :8, :8] += 12  # one patch of four, in one pair of four
    codes[2:, 0, 0] = 7
    figures = measured(STILL, again, codes)
    assert figures["flicker"] == pytest.approx(math.sqrt(144 / 4) / 4)
    assert figures["still_flicker"] == pytest.approx(12 / 16)
    assert (figures["codes_changed"], figures["still_codes_changed"]) == (1 / 16, 1 / 16)


def test_what_moves_as_the_original_does_not_flicker():
    frames = STILL.copy()
    codes = SAME.copy()
    frames[2:, :8, :8] += 50
    codes[2:, 0, 0] = 7
    figures = measured(frames, frames - np.uint8(0), codes)
    assert (figures["flicker"], figures["still_flicker"]) == (0, 0)
    assert figures["still"] == 15 / 16
    assert (figures["codes_changed"], figures["still_codes_changed"]) == (1 / 16, 0)
    frozen = measured(
        frames, STILL, SAME
    )  # a reconstruction that leaves a movement out is wrong there, not where nothing moves
    assert (frozen["flicker"], frozen["still_flicker"]) == (pytest.approx(50 / 2 / 4), 0)


def test_noise_of_two_grey_levels_is_still_and_three_are_not():
    for step, still in ((2, 1), (3, 0)):
        frames = STILL[:2] + np.array([0, step], np.uint8)[:, None, None, None]
        figures = measured(frames, frames, SAME[:2])
        assert figures["still"] == still
        assert figures["still_flicker"] == (0 if still else None)


def test_parts_and_videos_add_up():
    random = np.random.default_rng(5)
    frames, again = random.integers(0, 256, (2, 9, 16, 16, 3), np.uint8)
    codes = random.integers(0, 8, (9, 2, 2))
    whole = measured(frames, again, codes)
    parts = Quality(8)
    for part in (slice(0, 4), slice(4, 5), slice(5, 9)):
        parts.add(frames[part], again[part], codes[part])
    assert parts.figures() == pytest.approx(whole)
    assert whole["codes_changed"] == (codes[1:] != codes[:-1]).mean()
    movement = (np.diff(again.astype(float), axis=0) - np.diff(frames.astype(float), axis=0)) ** 2
    assert whole["flicker"] == pytest.approx(np.sqrt(movement.mean((1, 2, 3))).mean())
    both = Quality(8)  # two videos: the step from one to the other is no flicker
    for part in (slice(0, 4), slice(4, 9)):
        video = Quality(8)
        video.add(frames[part], again[part], codes[part], lpips=np.arange(9.0)[part])
        both.include(video)
    assert both.figures()["frames"] == 9
    assert both.figures()["lpips"] == 4
    assert both.figures()["psnr"] == pytest.approx(psnr(frames, again).mean())
    assert both.figures()["flicker"] == pytest.approx(
        np.sqrt(movement.mean((1, 2, 3)))[[0, 1, 2, 4, 5, 6, 7]].mean()
    )
    assert both.figures()["codes_used"] == len(np.unique(codes))


def test_one_frame_has_no_flicker_to_speak_of():
    figures = measured(STILL[:1], STILL[:1], SAME[:1])
    assert [
        figures[name]
        for name in ("flicker", "still", "codes_changed", "still_flicker", "still_codes_changed")
    ] == [None] * 5
    assert figures["psnr"] == figures["psnr_pooled"] == 100
