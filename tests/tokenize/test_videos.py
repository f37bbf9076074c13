import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from ringvision.data.tokenized import FORMATS
from ringvision.data.video import sample
from ringvision.errors import UserError
from ringvision.tokenize import library as library_module
from ringvision.tokenize import read_examples, tokenize_videos

ROOT = Path(__file__).parents[2]


class MeanColour:
    """4x4 codes a frame: each a patch's mean colour in 512 steps. Counts how many frames it saw, and can be
    made to stop.
    """

    size = 32
    grid = (4, 4)
    num_codes = 512
    hash = "mean-colour"

    def __init__(self, stop_after=None):
        self.frames = 0
        self.stop_after = stop_after

    def encode(self, frames):
        if self.stop_after is not None and self.frames >= self.stop_after:
            raise KeyboardInterrupt
        self.frames += len(frames)
        patches = frames.reshape(-1, 4, 8, 4, 8, 3).mean((2, 4)).astype(np.int32) >> 5
        return patches @ np.array([64, 8, 1], np.int32)


class Told:
    """A progress that remembers."""

    def __init__(self):
        self.sources = None
        self.frames = 0
        self.rows = {}

    def start(self, sources):
        self.sources = sources

    def encoded(self, frames):
        self.frames += frames

    def settled(self, row, worked):
        assert row.source not in self.rows, "told twice"
        self.rows[row.source] = (row.status, worked)


@pytest.fixture
def folder(tmp_path, film):
    """Five videos, of which d.mp4 has b.mp4's bytes."""
    folder = tmp_path / "videos"
    (folder / "inner").mkdir(parents=True)
    for index, name in enumerate(("a.mp4", "b.mp4", "c.mp4", "inner/e.mp4")):
        film(folder / name, seed=index)
    shutil.copy(folder / "b.mp4", folder / "d.mp4")
    (folder / "notes.txt").write_text("not a video, and not named like one")
    return folder


def run(inputs, out, tokenizer=None, **settings):
    settings = {"fps": 2.0, "batch": 3, "workers": 2, "shard_size": 2, **settings}
    return tokenize_videos(inputs, out, tokenizer or MeanColour(), **settings)


def rows(out, columns="source, status, kind, shard, record, frames, attempts"):
    with sqlite3.connect(out / "manifest.sqlite") as database:
        found = database.execute(f"SELECT {columns} FROM videos ORDER BY number").fetchall()
    database.close()
    return [(Path(source).name, *rest) for source, *rest in found]


def contents(out):
    """Everything that a reader sees."""
    return {
        path.name: path.read_bytes()
        for path in sorted(out.iterdir())
        if path.is_file() and path.name not in (".lock", "manifest.sqlite")
    }


def names(out):
    return [Path(example.source).name for example in read_examples(out)]


def figures(result):
    return tuple(result[name] for name in ("done", "failed", "pending", "frames"))


def test_every_video_becomes_a_record(tmp_path, folder):
    out = tmp_path / "out"
    tokenizer = MeanColour()
    told = Told()
    result = run([folder], out, tokenizer, progress=told)
    assert figures(result) == (5, 0, 0, 20)
    assert result["seconds"] > 0
    assert rows(out) == [
        ("a.mp4", "done", None, 0, 0, 4, 1),
        ("b.mp4", "done", None, 0, 1, 4, 1),
        ("c.mp4", "done", None, 1, 0, 4, 1),
        ("d.mp4", "done", None, 0, 1, 4, 0),
        ("e.mp4", "done", None, 2, 0, 4, 1),
    ]
    assert (told.sources, told.frames, len(told.rows)) == (5, 16, 5)
    assert sorted(contents(out)) == [
        "dataset_info.json",
        "features.json",
        *(f"videos-train.array_record-0000{n}" for n in range(3)),
    ]
    assert not list((out / ".work").iterdir())
    for example in read_examples(out):
        np.testing.assert_allclose(example.times, np.arange(4) / 2)
        np.testing.assert_array_equal(
            example.codes, tokenizer.encode(next(sample(example.source, fps=2.0, size=32)).frames)
        )
        assert (example.fps, example.size, example.tokenizer, example.codes.dtype) == (
            2.0,
            32,
            "mean-colour",
            np.uint16,
        )
    assert names(out) == ["a.mp4", "b.mp4", "c.mp4", "e.mp4"]


def test_a_second_run_does_nothing_and_a_renamed_file_is_not_redone(tmp_path, folder):
    out = tmp_path / "out"
    run([folder], out)
    before = contents(out)
    (folder / "a.mp4").rename(folder / "z.mp4")
    tokenizer = MeanColour()
    told = Told()
    again = run([folder], out, tokenizer, progress=told)
    assert tokenizer.frames == 0
    assert not any(worked for _, worked in told.rows.values())
    assert figures(again) == (5, 0, 0, 20)
    assert contents(out) == before
    assert rows(out)[5][:5] == ("z.mp4", "done", None, 0, 0)


def test_a_changed_file_is_redone_and_the_rest_copied(tmp_path, folder, film):
    out = tmp_path / "out"
    anew = tmp_path / "anew"
    run([folder], out)
    film(folder / "b.mp4", seed=9)
    tokenizer = MeanColour()
    assert figures(run([folder], out, tokenizer)) == (5, 0, 0, 20)
    assert tokenizer.frames == 8, "b.mp4, and d.mp4 whose record b.mp4's was"
    run([folder], anew)
    assert contents(out) == contents(anew)
    assert rows(out, "source, shard, record, status, sha256") == rows(
        anew, "source, shard, record, status, sha256"
    )


@pytest.mark.parametrize("stop_after", [0, 3, 6, 9, 12, 15])
def test_interrupted_and_resumed_gives_the_same_bytes(tmp_path, folder, stop_after):
    whole = tmp_path / "whole"
    broken = tmp_path / "broken"
    run([folder], whole)
    with pytest.raises(KeyboardInterrupt):
        run([folder], broken, MeanColour(stop_after))
    with pytest.raises(KeyboardInterrupt):
        run([folder], broken, MeanColour(0))
    assert "pending" in {row[1] for row in rows(broken)}
    tokenizer = MeanColour()
    assert figures(run([folder], broken, tokenizer)) == (5, 0, 0, 20)
    assert contents(broken) == contents(whole)
    assert tokenizer.frames <= 16
    if stop_after == 15:
        assert tokenizer.frames <= 8, "what was ready was done again"


@pytest.mark.parametrize("moment", ["renaming", "noting", "sweeping"])
def test_a_crash_while_a_shard_is_put_in_place(tmp_path, folder, film, monkeypatch, moment):
    """The shard is one that is written anew, so what is only in the old one is at stake."""
    out = tmp_path / "out"
    whole = tmp_path / "whole"
    run([folder / "a.mp4"], out)

    class Crash(BaseException):
        pass

    def crash(*_, **__):
        raise Crash

    with monkeypatch.context() as patch:
        if moment == "renaming":
            patch.setattr(
                library_module.os,
                "replace",
                lambda one, two: os.rename(one, two) if "record" not in Path(two).suffix else crash(),
            )
        elif moment == "noting":
            patch.setattr(library_module.Library, "_note", crash)
        else:
            patch.setattr(library_module.Path, "unlink", crash)
        with pytest.raises(Crash):
            run([folder], out)
    assert figures(run([folder], out)) == (5, 0, 0, 20)
    run([folder], whole)
    assert contents(out) == contents(whole)


def test_shards_that_are_lost_or_damaged_are_made_again(tmp_path, folder):
    out = tmp_path / "out"
    run([folder], out)
    before = contents(out)
    (out / "videos-train.array_record-00001").unlink()
    damaged = bytearray(before["videos-train.array_record-00000"])
    damaged[len(damaged) // 2] ^= 255
    damaged[70_000:70_100] = bytes(100)
    (out / "videos-train.array_record-00000").write_bytes(damaged)
    assert figures(run([folder], out)) == (5, 0, 0, 20)
    assert contents(out) == before
    os.utime(out / "videos-train.array_record-00002")
    tokenizer = MeanColour()
    run([folder], out, tokenizer)
    assert tokenizer.frames == 0, "only its time changed"


def test_a_failed_video_is_named_and_does_not_stop_the_others(tmp_path, folder):
    out = tmp_path / "out"
    whole = tmp_path / "whole"
    data = (folder / "a.mp4").read_bytes()
    (folder / "bad.mp4").write_text("no video")
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "cut too.mp4").write_bytes(data[: len(data) // 2])
    inputs = [folder, folder / "missing.mp4"]
    assert figures(run(inputs, out)) == (5, 4, 0, 20)
    failed = {row[0]: row[1:] for row in rows(out, "source, kind, message, attempts, shard") if row[1]}
    assert {name: row[0] for name, row in failed.items()} == {
        "bad.mp4": "not-video",
        "cut.mp4": "truncated",
        "cut too.mp4": "truncated",
        "missing.mp4": "missing",
    }
    assert all(name in row[1] and row[2:] == (1, None) for name, row in failed.items())
    tokenizer = MeanColour()
    assert figures(run(inputs, out, tokenizer)) == (5, 4, 0, 20)
    assert tokenizer.frames == 0
    assert all(row[1] == 1 for row in rows(out, "source, attempts") if row[0] in failed), (
        "failed ones were tried again"
    )
    (folder / "cut.mp4").write_bytes(data)
    (folder / "cut too.mp4").write_bytes((folder / "c.mp4").read_bytes()[:-1])
    assert figures(run(inputs, out, retry_failed=True)) == (6, 3, 0, 24)
    assert {row[0]: row[1] for row in rows(out, "source, attempts") if row[0] in failed} == dict.fromkeys(
        failed, 2
    ) | {"cut.mp4": 1}
    run(inputs, whole)
    assert contents(out) == contents(whole)


def test_a_failed_one_that_succeeds_later_takes_its_place(tmp_path, folder, monkeypatch):
    """As if it had never failed; what lies behind it in the shard moves."""
    out = tmp_path / "out"
    whole = tmp_path / "whole"
    truncate = (folder / "a.mp4").read_bytes()
    (folder / "a.mp4").write_bytes(truncate[:-10])
    assert figures(run([folder], out)) == (4, 1, 0, 16)
    assert names(out) == ["b.mp4", "c.mp4", "e.mp4"]
    (folder / "a.mp4").write_bytes(truncate)
    assert figures(run([folder], out)) == (5, 0, 0, 20)
    run([folder], whole)
    assert contents(out) == contents(whole)
    assert rows(out, "source, shard, record") == rows(whole, "source, shard, record")


def test_inputs_can_be_added(tmp_path, folder):
    out = tmp_path / "out"
    whole = tmp_path / "whole"
    order = [folder / name for name in ("c.mp4", "a.mp4", "d.mp4", "inner", "b.mp4")]
    for more in range(1, 6):
        run(order[more - 1 : more], out)
    run(order, whole)
    assert contents(out) == contents(whole)
    assert names(out) == ["c.mp4", "a.mp4", "d.mp4", "e.mp4"]


def test_what_a_manifest_says_goes_into_the_records(tmp_path, folder):
    listed = tmp_path / "list.csv"
    out = tmp_path / "out"
    lines = [
        "path,start,end,caption,question,answer",
        f"{folder}/a.mp4,,,colours,,",
        f"{folder}/a.mp4,0.5,1.5,,what?,colours",
    ]
    listed.write_text("\n".join(lines))
    assert figures(run([listed], out)) == (2, 0, 0, 6)
    whole, part = read_examples(out)
    assert (whole.caption, whole.qa) == ("colours", ())
    assert (part.caption, part.qa, len(part.codes)) == ("", (("what?", "colours"),), 2)
    np.testing.assert_array_equal(part.codes, whole.codes[1:3])
    listed.write_text("\n".join([*lines[:2], lines[2].replace("colours", "many colours")]))
    tokenizer = MeanColour()
    assert figures(run([listed], out, tokenizer)) == (2, 0, 0, 6)
    assert tokenizer.frames == 2
    assert [example.qa for example in read_examples(out)] == [(), (("what?", "many colours"),)]


@pytest.mark.parametrize(
    "settings", [{"batch": 1}, {"batch": 64}, {"workers": 1}, {"workers": 5}, {"decoder": "av"}]
)
def test_how_the_work_is_done_changes_nothing(tmp_path, folder, settings):
    run([folder], tmp_path / "one")
    run([folder], tmp_path / "other", **settings)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_ray_gives_the_same_bytes(tmp_path, folder):
    pytest.importorskip("ray").cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (folder / "bad.mp4").write_text("no video")
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:-10])
    told = Told()
    here = run([folder], tmp_path / "local")
    there = run([folder], tmp_path / "ray", engine="ray", progress=told)
    assert figures(here) == figures(there) == (5, 2, 0, 20)
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")
    assert rows(tmp_path / "local") == rows(tmp_path / "ray")
    assert told.frames == 16


def test_parts_and_limits(tmp_path, folder):
    for part in (1, 2):
        run([folder], tmp_path / str(part), part=(part, 2))
    assert (names(tmp_path / "1"), names(tmp_path / "2")) == (["a.mp4", "c.mp4", "e.mp4"], ["b.mp4"])
    assert figures(run([folder], tmp_path / "few", limit=2)) == (2, 0, 0, 8)
    run([folder], tmp_path / "few")
    run([folder], tmp_path / "all")
    assert contents(tmp_path / "few") == contents(tmp_path / "all")


def test_lwm_lines(tmp_path, folder):
    out = tmp_path / "out"
    run([folder], out, format="jsonl")
    assert [path.name for path in FORMATS["jsonl"].shards(out)] == [
        f"videos-train-0000{n}.jsonl" for n in range(3)
    ]
    assert names(out) == ["a.mp4", "b.mp4", "c.mp4", "e.mp4"]


def test_requests_that_cannot_be_carried_out(tmp_path, folder):
    out = tmp_path / "out"
    run([folder], out)
    for settings, words in (
        ({"fps": 1.0}, "fps 2.0 there and 1.0 now"),
        ({"shard_size": 3}, "shard_size 2 there and 3 now"),
        ({"format": "jsonl"}, "format array_record there and jsonl now"),
    ):
        with pytest.raises(UserError, match=words):
            run([folder], out, **settings)
    with pytest.raises(UserError, match="no video among"):
        run([tmp_path / "out"], tmp_path / "other")
    for name in ("fps", "batch", "workers", "shard_size", "limit"):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is 0"):
            run([folder], tmp_path / "other", **{name: 0})
    with pytest.raises(UserError, match="--size is 64"):
        run([folder], tmp_path / "other", size=64)
    assert not (tmp_path / "other").exists()


def test_two_runs_do_not_share_a_folder(tmp_path, folder):
    out = tmp_path / "out"

    class Another(Told):
        def settled(self, row, worked):
            with pytest.raises(UserError, match="another run"):
                run([folder], out)
            super().settled(row, worked)

    assert figures(run([folder], out, progress=Another())) == (5, 0, 0, 20)


def test_a_run_killed_while_it_notes_its_settings_goes_on(tmp_path, folder, monkeypatch):
    class Dying(sqlite3.Connection):
        def executemany(self, statement, parameters):
            self.execute(statement, next(iter(parameters)))
            raise KeyboardInterrupt

    connect = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Dying))
        with pytest.raises(KeyboardInterrupt):
            run([folder / "a.mp4"], tmp_path / "out")
    assert figures(run([folder / "a.mp4"], tmp_path / "out")) == (1, 0, 0, 4)


def test_killed_and_resumed_gives_the_same_bytes_and_leaves_nothing_running(tmp_path, folder):
    """With SIGKILL, at moments spread over the run."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        from test_videos import MeanColour, run
        class Slow(MeanColour):
            def encode(self, frames):
                time.sleep(0.05)
                return super().encode(frames)
        print("begun", flush=True)
        run([{str(folder)!r}], __import__("pathlib").Path(sys.argv[1]), Slow())
        """)
    )
    whole = tmp_path / "whole"
    broken = tmp_path / "broken"
    run([folder], whole)
    killed = 0
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for attempt in range(12):
        process = subprocess.Popen([sys.executable, program, broken], stdout=subprocess.PIPE, env=environment)
        assert process.stdout.readline() == b"begun\n"
        with pytest.raises(subprocess.TimeoutExpired) if attempt < 4 else contextlib.nullcontext():
            process.wait(0.15 + 0.1 * attempt if attempt < 4 else 30)
        killed += process.poll() is None
        process.kill()
        process.wait()
        process.stdout.close()
        if process.returncode == 0:
            break
    assert killed >= 4
    assert process.returncode == 0
    assert contents(broken) == contents(whole)
    assert {row[1] for row in rows(broken)} == {"done"}
    until = time.monotonic() + 5
    while (left := _decoders_of(process.pid)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def _decoders_of(parent):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"ringvision.data.video.child" in words and words[-2] == str(parent).encode():
            found.append(path)
    return found
