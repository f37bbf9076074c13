"""A damaged video gives the same pictures whenever it is read, and a whole one is not taken for damaged."""

import hashlib

import numpy as np
import pytest
from clips import numbered, write_clip

from ringvision.data.video import Unsteady, VideoError, sample


@pytest.fixture(scope="module", params=["libx264", "mpeg4"])
def whole(request, tmp_path_factory):
    moving = np.repeat(
        np.repeat(np.random.default_rng(0).integers(0, 256, (90, 8, 12, 3), np.uint8), 8, 1), 8, 2
    )
    return write_clip(
        tmp_path_factory.mktemp("whole") / f"{request.param}.mp4", codec=request.param, pictures=moving
    )


def damaged(whole, seed):
    """A copy with forty bytes of its frames changed."""
    data = bytearray(whole.read_bytes())
    random = np.random.default_rng(seed)
    start = data.index(b"mdat") + 2000
    for position in random.integers(start, start + (len(data) - start) // 2, 40):
        data[position] ^= int(random.integers(1, 256))
    path = whole.with_name(f"{whole.stem}-{seed}.mp4")
    path.write_bytes(data)
    return path


def read(path, **how):
    digest = hashlib.sha256()
    try:
        for batch in sample(path, fps=10, size=32, steady=True, **how):
            digest.update(batch.frames.tobytes())
    except VideoError as error:
        return error.kind
    return digest.hexdigest()


def test_faults_are_told_and_one_thread_always_gives_the_same(whole):
    for seed in range(3):
        path = damaged(whole, seed)
        with pytest.raises(Unsteady):
            read(path, threads=2)
        assert len({read(path, threads=1) for _ in range(4)}) == 1
        assert read(path, threads=1) != read(whole, threads=1)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "mpeg4"])
@pytest.mark.parametrize("fps", [10, 0.5])
def test_a_whole_video_has_none(tmp_path, codec, fps):
    path = write_clip(tmp_path / "clip.mkv", codec=codec, pictures=numbered(120), frames=120, size=(64, 64))
    quick = [batch.frames for batch in sample(path, fps=fps, size=64, steady=True, threads=2)]
    sure = [batch.frames for batch in sample(path, fps=fps, size=64, steady=True, threads=1)]
    np.testing.assert_array_equal(np.concatenate(quick), np.concatenate(sure))
