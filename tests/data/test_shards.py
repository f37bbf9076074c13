"""What was written comes back by number; what is damaged is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from ringvision.data.shards import INDEX, Shards, ShardsInfo, ShardWriter
from ringvision.errors import UserError

INFO = ShardsInfo(tokenizer="none", hash="abc", grid=(2, 3), num_codes=1 << 16, fps=1.0)


def videos(count: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    random = np.random.default_rng(0)
    return [
        (random.integers(0, 1 << 16, (frames, 2, 3)), np.arange(frames) / 2, 10 * frames)
        for frames in range(1, count + 1)
    ]


def written(folder: Path, count: int) -> Shards:
    with ShardWriter(folder, INFO, videos_per_file=3) as writer:
        for video in videos(count):
            writer.add(*video)
    return Shards(folder)


def test_any_video_by_its_number(tmp_path: Path) -> None:
    shards = written(tmp_path, 8)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    assert shards.info == INFO
    for index in (7, 0, 3, 2, 6):
        codes, times, seed = videos(8)[index]
        found_codes, found_times = shards.video(index)
        np.testing.assert_array_equal(found_codes, codes)
        np.testing.assert_array_equal(found_times, times)
        assert (shards.lengths[index], shards.seeds[index]) == (len(codes), seed)
    assert len(shards.times) == shards.lengths.sum()
    with pytest.raises(IndexError):
        shards.video(8)


def test_a_writer_goes_on_where_one_stopped(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, INFO, videos_per_file=3) as writer:
        for video in videos(4):
            writer.add(*video)
    (tmp_path / "codes-00002.npz.partial").write_bytes(b"a kill in the middle")
    with ShardWriter(tmp_path, INFO, videos_per_file=3) as writer:
        assert len(writer) == 4
        for video in videos(7)[4:]:
            writer.add(*video)
    assert Shards(tmp_path).seeds.tolist() == [10, 20, 30, 40, 50, 60, 70]
    with pytest.raises(UserError, match="write into another folder"):
        ShardWriter(tmp_path, ShardsInfo("other", "abd", (2, 3), 1 << 16, 1.0))


def test_an_empty_folder_has_no_videos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a folder of code shards"):
        Shards(tmp_path)


def test_wrong_videos_are_refused_and_damaged_files_named(tmp_path: Path) -> None:
    shards = written(tmp_path, 5)
    with pytest.raises(UserError, match="give codes"):
        ShardWriter(tmp_path, INFO).add(np.zeros((2, 3, 3), int), [0, 1], 0)
    with pytest.raises(UserError, match="has 65536"):
        ShardWriter(tmp_path, INFO).add(np.full((1, 2, 3), 1 << 16), [0], 0)
    with pytest.raises(UserError, match="codes of 16 bits"):
        ShardsInfo("none", "", (2, 2), 1 << 17, 1.0)
    (tmp_path / "codes-00001.npz").write_bytes((tmp_path / "codes-00001.npz").read_bytes()[:200])
    with pytest.raises(UserError, match=r"codes-00001\.npz is missing or damaged"):
        shards.video(4)
    with pytest.raises(UserError, match=r"codes-00001\.npz is missing or damaged"):
        Shards(tmp_path)
    (tmp_path / "codes-00001.npz").write_bytes((tmp_path / "codes-00000.npz").read_bytes())
    with pytest.raises(UserError, match="does not hold what"):
        Shards(tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    del index["grid"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged"):
        Shards(tmp_path)
