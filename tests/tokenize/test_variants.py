"""Altered copies: little is changed, alike all through a video, and the same whenever it is read."""

import shutil

import numpy as np
import pytest

from ringvision.data.video import FrameBatch
from ringvision.tokenize import read_examples, tokenize_videos
from ringvision.tokenize.source import VideoSource
from ringvision.tokenize.variants import BRIGHTNESS, NOISE, SLOPE, TINT, Alteration, altered, with_variants

SIZE = 32


class Corners:
    """2x2 codes a frame: each quarter's mean grey."""

    size = SIZE
    grid = (2, 2)
    num_codes = 256
    hash = "corners"

    def encode(self, frames):
        return frames.reshape(-1, 2, 16, 2, 16, 3).mean((2, 4, 5)).astype(np.int32)


def source(variant, name="/videos/a.mp4"):
    return VideoSource(f"{name}#variant={variant}", name, variant=variant)


def square(left=12, top=12):
    """A white square of 8 pixels on grey."""
    frame = np.full((SIZE, SIZE, 3), 90, np.uint8)
    frame[top : top + 8, left : left + 8] = 220
    return frame


def test_a_copy_shows_the_same_a_little_otherwise():
    frames = np.stack([square(), square(left=4)])
    most = BRIGHTNESS + TINT + SLOPE / 2 + 0.08 * 130 + 4.5 * NOISE
    for variant in range(1, 30):
        (copy,) = altered([FrameBatch(frames, np.arange(2.0))], source(variant), SIZE)
        assert copy.frames.shape == frames.shape and copy.frames.dtype == np.uint8
        assert not np.array_equal(copy.frames, frames)
        for before, after in zip(frames, copy.frames, strict=True):
            lit = after[14:18].mean((0, 2)) > 150
            where = np.flatnonzero(lit).mean()
            assert abs(where - np.flatnonzero(before[15, :, 0] > 150).mean()) < 1.6
            flat = np.abs(after[:6].astype(int) - before[:6])  # above the square
            assert flat.max() <= most + 1


def test_all_frames_of_a_copy_are_altered_alike_but_for_noise():
    frames = np.repeat(square()[None], 40, 0)
    (copy,) = altered([FrameBatch(frames, np.arange(40.0))], source(3), SIZE)
    spread = copy.frames.astype(float).std(0)
    assert abs(spread.mean() - NOISE) < 0.3
    assert np.abs(copy.frames[:20].mean(0) - copy.frames[20:].mean(0)).max() < 5 * NOISE / np.sqrt(10)


def test_it_does_not_depend_on_how_frames_come_or_where_the_file_lies():
    frames = np.stack([square(left=n) for n in range(9)])
    times = np.arange(9.0)
    at_once = list(altered([FrameBatch(frames, times)], source(2), SIZE))
    parts = [FrameBatch(frames[a:b], times[a:b]) for a, b in ((0, 2), (2, 7), (7, 9))]
    in_parts = list(altered(parts, source(2, "/elsewhere/a.mp4"), SIZE))
    np.testing.assert_array_equal(at_once[0].frames, np.concatenate([one.frames for one in in_parts]))
    np.testing.assert_array_equal(times, np.concatenate([one.times for one in in_parts]))
    others = [source(3), source(2, "/videos/b.mp4")]
    for other in others:
        assert not np.array_equal(at_once[0].frames, next(altered(parts, other, SIZE)).frames[:9])


@pytest.mark.parametrize(("shift", "left"), [((0, 0), 12), ((3, 0), 15), ((-2, 0), 10)])
def test_a_shift_moves_things(shift, left):
    alteration = Alteration(SIZE, 1.0, shift, 1.0, np.zeros((SIZE, SIZE, 3), np.float32), (0,))
    (moved,) = alteration.apply(square()[None], 0)
    np.testing.assert_allclose(moved.astype(float), square(left=left), atol=6 * NOISE)


def test_every_source_is_followed_by_its_copies():
    named = with_variants([VideoSource("a"), VideoSource("b", caption="two")], 2)
    assert [one.name for one in named] == [
        "a",
        "a#variant=1",
        "a#variant=2",
        "b",
        "b#variant=1",
        "b#variant=2",
    ]
    assert [one.variant for one in named] == [0, 1, 2] * 2
    assert {one.caption for one in named[3:]} == {"two"}


def test_copies_are_records_with_what_the_original_says(tmp_path, film):
    film(tmp_path / "a.mp4", seed=1)
    (tmp_path / "list.csv").write_text("path,caption\na.mp4,colours\n")
    out = tmp_path / "out"
    result = tokenize_videos([tmp_path / "list.csv"], out, Corners(), variants=3)
    assert result["done"] == 4
    records = list(read_examples(out))
    assert [one.caption for one in records] == ["colours"] * 4
    assert len({one.codes.tobytes() for one in records}) == 4
    assert len({one.sha256 for one in records}) == 1

    plain = tmp_path / "plain"
    tokenize_videos([tmp_path / "list.csv"], plain, Corners())
    (only,) = read_examples(plain)
    np.testing.assert_array_equal(only.codes, records[0].codes)

    # more of them are added, and what is there stays
    assert tokenize_videos([tmp_path / "list.csv"], plain, Corners(), variants=3)["done"] == 4
    assert [one.codes.tobytes() for one in read_examples(plain)] == [one.codes.tobytes() for one in records]


def test_a_lost_manifest_knows_copies_by_their_records(tmp_path, film):
    """Shards whose database is gone are not taken for what they are not."""
    film(tmp_path / "a.mp4", seed=1)
    out = tmp_path / "out"
    tokenize_videos([tmp_path / "a.mp4"], out, Corners(), variants=2)
    before = [one.codes.tobytes() for one in read_examples(out)]
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy/videos-train.array_record-00000").unlink()
    tokenize_videos([tmp_path / "a.mp4"], tmp_path / "copy", Corners(), variants=2)
    assert [one.codes.tobytes() for one in read_examples(tmp_path / "copy")] == before
