import shutil
import sqlite3

import numpy as np
import pytest

from ringvision.data.video import sample
from ringvision.errors import UserError
from ringvision.tokenize import read_codes, tokenize_videos


class MeanColour:
    """4x4 codes a frame: each a patch's mean colour in 512 steps. Counts how many frames it saw."""

    size, num_codes, hash = 32, 512, "mean-colour"

    def __init__(self):
        self.frames = 0
        self.stop_after = None

    def encode(self, frames):
        if self.stop_after is not None and self.frames >= self.stop_after:
            raise KeyboardInterrupt
        self.frames += len(frames)
        patches = frames.reshape(-1, 4, 8, 4, 8, 3).mean((2, 4)).astype(np.int32) >> 5
        return patches @ np.array([64, 8, 1], np.int32)


@pytest.fixture
def library(tmp_path, film):
    folder = tmp_path / "library"
    (folder / "inner").mkdir(parents=True)
    for index, name in enumerate(("a.mp4", "b.mp4", "inner/c.mp4")):
        film(folder / name, seed=index)
    (folder / "notes.txt").write_text("not a video, and not named like one")
    return folder


def rows(out):
    with sqlite3.connect(out / "manifest.sqlite") as database:
        found = database.execute("SELECT source, status, kind, message, sha256, frames, attempts FROM videos ORDER BY source").fetchall()
    database.close()
    return found


def contents(out):
    return {path.name: path.read_bytes() for path in sorted((out / "codes").iterdir())}


def test_every_video_becomes_codes(tmp_path, library):
    tokenizer, out = MeanColour(), tmp_path / "out"
    seen = []
    result = tokenize_videos([library], out, tokenizer, fps=2.0, batch=3, progress=lambda source, row: seen.append((source, row["status"])))
    assert {name: result[name] for name in ("done", "failed", "pending", "frames")} == {"done": 3, "failed": 0, "pending": 0, "frames": 12}
    assert result["seconds"] > 0
    assert seen == [(str(library / name), "done") for name in ("a.mp4", "b.mp4", "inner/c.mp4")]
    for source, status, _, _, sha256, frames, attempts in rows(out):
        assert (status, frames, attempts) == ("done", 4, 1)
        codes, times = read_codes(out / "codes" / f"{sha256}.npz")
        np.testing.assert_allclose(times, np.arange(4) / 2)
        np.testing.assert_array_equal(codes, tokenizer.encode(next(sample(source, fps=2.0, size=32)).frames))
        assert codes.dtype == np.int32


def test_a_second_run_does_nothing_and_a_renamed_file_is_not_redone(tmp_path, library):
    tokenizer, out = MeanColour(), tmp_path / "out"
    first = tokenize_videos([library], out, tokenizer)
    frames, before = tokenizer.frames, contents(out)
    (library / "a.mp4").rename(library / "z.mp4")
    shutil.copy(library / "b.mp4", library / "copy.mp4")
    again = tokenize_videos([library], out, tokenizer)
    assert tokenizer.frames == frames
    assert contents(out) == before
    assert (again["done"], again["frames"]) == (4, first["frames"] + 2)


def test_a_changed_file_and_a_lost_result_are_redone(tmp_path, library, film):
    tokenizer, out = MeanColour(), tmp_path / "out"
    tokenize_videos([library], out, tokenizer)
    before = contents(out)
    film(library / "a.mp4", seed=9)
    lost = rows(out)[1][4]
    (out / "codes" / f"{lost}.npz").unlink()
    result = tokenize_videos([library], out, tokenizer)
    assert result["done"] == 3
    assert contents(out).items() >= {f"{lost}.npz": before[f"{lost}.npz"]}.items()
    assert len(contents(out)) == 4


def test_interrupted_and_resumed_gives_the_same_bytes(tmp_path, library):
    whole, broken, tokenizer = tmp_path / "whole", tmp_path / "broken", MeanColour()
    tokenize_videos([library], whole, tokenizer)
    tokenizer.frames, tokenizer.stop_after = 0, 3
    with pytest.raises(KeyboardInterrupt):
        tokenize_videos([library], broken, tokenizer)
    assert [row[1] for row in rows(broken)] == ["done", "done", "pending"]
    tokenizer.stop_after = None
    assert tokenize_videos([library], broken, tokenizer)["done"] == 3
    assert contents(broken) == contents(whole)


def test_a_failed_video_is_named_and_does_not_stop_the_others(tmp_path, library):
    tokenizer, out = MeanColour(), tmp_path / "out"
    (library / "bad.mp4").write_text("no video")
    data = (library / "a.mp4").read_bytes()
    (library / "cut.mp4").write_bytes(data[: len(data) // 2])
    inputs = [library, library / "missing.mp4"]
    result = tokenize_videos(inputs, out, tokenizer)
    assert (result["done"], result["failed"], result["pending"]) == (3, 3, 0)
    failed = {
        source.rsplit("/", 1)[1]: (kind, message, attempts)
        for source, status, kind, message, _, _, attempts in rows(out)
        if status == "failed"
    }
    assert {name: kind for name, (kind, _, _) in failed.items()} == {
        "bad.mp4": "not-video",
        "cut.mp4": "truncated",
        "missing.mp4": "missing",
    }
    assert all(name in message for name, (_, message, _) in failed.items())
    tokenize_videos(inputs, out, tokenizer)
    assert all(row[6] == 1 for row in rows(out))
    (library / "cut.mp4").write_bytes(data)
    assert tokenize_videos(inputs, out, tokenizer, retry_failed=True)["failed"] == 2
    assert {row[0].rsplit("/", 1)[1]: row[6] for row in rows(out) if row[6] > 1} == {"bad.mp4": 2, "cut.mp4": 2, "missing.mp4": 2}


def test_requests_that_cannot_be_carried_out(tmp_path, library):
    out = tmp_path / "out"
    tokenize_videos([library], out, MeanColour())
    with pytest.raises(UserError, match=r"fps 1\.0 there and 2\.0 now"):
        tokenize_videos([library], out, MeanColour(), fps=2.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no video"):
        tokenize_videos([tmp_path / "empty"], out, MeanColour())
    with pytest.raises(UserError, match="cannot be written"):
        tokenize_videos([library], library / "a.mp4", MeanColour())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match="cannot be read"):
        tokenize_videos([library], tmp_path / "broken", MeanColour())


def test_one_run_at_a_time(tmp_path, library):
    out = tmp_path / "out"

    def another(source, row):
        with pytest.raises(UserError, match="another run"):
            tokenize_videos([library], out, MeanColour())

    assert tokenize_videos([library], out, MeanColour(), progress=another)["done"] == 3
