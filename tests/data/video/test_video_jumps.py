"""Sparse samples by PyAV: it goes on from key frames, and gives to the bit what decoding everything gives."""

import numpy as np
import pytest
from clips import numbered, read_numbers, with_edit_list, write_clip

from ringvision.data.video import Limits, VideoError, decode, sample
from ringvision.data.video.decode import Video
from ringvision.data.video.frame_stream import FrameStream

COUNT = 400
X265 = "log-level=none:pools=1:keyint=40:min-keyint=40:scenecut=0:bframes=3"
UNEVEN = np.cumsum(np.random.default_rng(1).integers(5, 120, COUNT)).tolist()
CLIPS = {
    "short.mp4": {"options": {"g": "40", "bf": "3"}},
    "short.mkv": {"options": {"g": "40", "bf": "3"}},
    "open.mp4": {"options": {"g": "40", "bf": "3", "x264-params": "open-gop=1"}},
    "open.mkv": {"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=1"}},
    "cra.mp4": {"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=1"}},
    "uneven.mp4": {"options": {"g": "40", "bf": "3"}, "milliseconds": UNEVEN},
    "uneven.mkv": {"options": {"g": "40", "bf": "3"}, "milliseconds": UNEVEN},
    "pieces.mp4": {"options": {"g": "40", "bf": "3"}, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "40", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "10"},
    },
    "all-key.mp4": {"options": {"g": "1"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "40", "bf": "2"}},
}

OPEN = {
    "open.mp4",
    "open.mkv",
    "cra.mp4",
    "mpeg4.mp4",
}  # decord gives wrong frames of these after a seek: not asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def read(monkeypatch):
    """Frames uint8 [n, 32, 32, 3] of a clip and how many were decoded for them."""

    def run(path, fps, *, jumps=True, start=0.0, end=float("inf")):
        decoded = []
        with monkeypatch.context() as patch:
            patch.setattr(Video, "_check_length", lambda self, count, duration: decoded.append(count))
            if not jumps:
                patch.setattr(decode, "SEEKS_BY_TIME", set())
            demuxer = "mov" if path.suffix == ".mp4" else "matroska"
            video = Video(str(path), path.name, demuxer, Limits())
            frames = np.stack(list(video.frames("av", fps, 32, start, end, 0, 2)))
        return frames, max(decoded)

    return run


@pytest.mark.parametrize("name", CLIPS)
def test_a_jump_changes_no_frame(folder, read, name):
    path = write_clip(folder / name, frames=COUNT, size=(64, 64), pictures=numbered(COUNT), **CLIPS[name])
    saved = 0
    for fps in (0.2, 0.31, 0.9, 1 / 7):
        for start in (0.0, 4.9):
            some, few = read(path, fps, start=start)
            every, most = read(path, fps, start=start, jumps=False)
            np.testing.assert_array_equal(some, every)
            saved += most - few
    assert saved > COUNT
    if "milliseconds" not in CLIPS[name]:
        every, _ = read(path, 1 / 7, jumps=False)
        np.testing.assert_array_equal(read_numbers(every), np.arange(0, COUNT, 210)[: len(every)])


def test_between_every_two_frames(folder, read):
    """Each frame of a stretch as the first wanted one: before, on and after key frames, with frames that are
    decoded out of order.
    """
    path = write_clip(
        folder / "each.mp4", frames=200, size=(64, 64), pictures=numbered(200), options={"g": "30", "bf": "3"}
    )
    for number in range(85, 125):
        for into in (0.0, 0.4, 0.97):
            frames, _ = read(path, 1.0, start=(number + into) / 30, end=(number + into) / 30 + 0.1)
            assert read_numbers(frames).tolist() == [number], (number, into)


def test_edit_lists(folder, read):
    whole = write_clip(
        folder / "whole.mp4",
        frames=COUNT,
        size=(64, 64),
        pictures=numbered(COUNT),
        options={"g": "40", "bf": "3"},
    )
    cut = with_edit_list(whole, folder / "cut.mp4", begin=1024 + 55 * 512, milliseconds=9500)
    some, few = read(cut, 0.25)
    every, most = read(cut, 0.25, jumps=False)
    np.testing.assert_array_equal(some, every)
    assert read_numbers(some).tolist() == [55, 175, 295]
    assert few < most


def test_where_a_seek_lands_too_late_all_is_decoded(folder, read, monkeypatch):
    """Intra refresh: a decoder that begins in the middle shows nothing until every part of the picture was
    renewed.
    """
    options = {"g": "100", "bf": "0", "x264-params": "intra-refresh=1"}
    path = write_clip(
        folder / "refresh.mp4", frames=COUNT, size=(64, 64), pictures=numbered(COUNT), options=options
    )
    again = []
    monkeypatch.setattr(
        FrameStream, "_restart", lambda self, usual=FrameStream._restart: (again.append(1), usual(self))
    )
    for fps in (0.25, 0.15, 0.29, 0.31):
        np.testing.assert_array_equal(read(path, fps)[0], read(path, fps, jumps=False)[0])
    land = FrameStream._seek
    monkeypatch.setattr(
        FrameStream, "_seek", lambda self, aim, key, wanted: land(self, aim, key, wanted) and False
    )
    again.clear()
    np.testing.assert_array_equal(
        read(path.with_name("short.mp4"), 0.2)[0], read(path.with_name("short.mp4"), 0.2, jumps=False)[0]
    )
    assert again == [1]


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "uneven-long.mp4"])
def test_frames_that_nobody_refers_to_or_sees_are_not_decoded(folder, read, name):
    uneven = {"milliseconds": UNEVEN} if "uneven" in name else {}
    options = {"g": "1000", "bf": "3", "x264-params": "b-pyramid=none"}
    path = write_clip(
        folder / name, frames=COUNT, size=(64, 64), pictures=numbered(COUNT), options=options, **uneven
    )
    for fps in (1, 2.9, 7.3, 10, 15):
        some, few = read(path, fps, start=0.37)
        every, most = read(path, fps, start=0.37, jumps=False)
        np.testing.assert_array_equal(some, every)
        assert most == COUNT
        if fps == 1:
            assert few < 0.5 * COUNT


def test_a_frame_that_is_lost_on_the_way_brings_all_back(folder, read, monkeypatch):
    """A decoder that drops a frame it was asked for, because others were left out: what comes then is what
    decoding everything gives.
    """
    path = write_clip(
        folder / "lost.mp4",
        frames=COUNT,
        size=(64, 64),
        pictures=numbered(COUNT),
        options={"g": "1000", "bf": "3"},
    )
    every, _ = read(path, 2, jumps=False)
    whole = FrameStream._decoded
    again = []
    monkeypatch.setattr(
        FrameStream, "_restart", lambda self, usual=FrameStream._restart: (again.append(1), usual(self))
    )

    def forgetful(self):
        for frame in whole(self):
            number = int(read_numbers(frame.to_ndarray(format="rgb24")[None])[0])
            if not (self.skips and number == 150):
                yield frame

    monkeypatch.setattr(FrameStream, "_decoded", forgetful)
    some, _ = read(path, 2)
    np.testing.assert_array_equal(some, every)
    assert again == [1]


@pytest.mark.parametrize("name", CLIPS)
def test_both_decoders_agree_however_sparse_or_dense(folder, name):
    path = folder / name
    if not path.exists():
        write_clip(path, frames=COUNT, size=(64, 64), pictures=numbered(COUNT), **CLIPS[name])
    for fps in (0.2, 0.9, 3, 10):
        one = np.concatenate([batch.frames for batch in sample(path, fps=fps, size=64, decoder="av")])
        usual = np.concatenate([batch.frames for batch in sample(path, fps=fps, size=64)])
        np.testing.assert_array_equal(read_numbers(usual), read_numbers(one))
        if name in OPEN:
            with pytest.raises(VideoError, match="refer to one another"):
                next(sample(path, fps=fps, size=64, decoder="decord"))
        else:
            other = np.concatenate(
                [batch.frames for batch in sample(path, fps=fps, size=64, decoder="decord")]
            )
            assert one.shape == other.shape
            assert np.abs(one.astype(int) - other).max() <= 1
