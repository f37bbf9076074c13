"""Files, folders and patterns become sources; what a file's frames and checksum are."""

import hashlib
import os
import sys

import numpy as np
import pytest
from listed import GIF, names, put, write

from ringvision.data.video import VideoError, sample
from ringvision.errors import UserError
from ringvision.tokenize.inputs import content, is_video, pictures, read_inputs, stamp
from ringvision.tokenize.source import VideoSource


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b/2.mp4",
        "b/10.mkv",
        "a.MP4",
        "b/.hidden.mp4",
        ".cache/x.mp4",
        "b.webm",
        "b/deep/er/unnamed",
    ):
        put(tmp_path / name)
    put(tmp_path / "b/notes.txt", b"not a video, and not named like one")
    return tmp_path


def test_a_file_is_taken_as_it_is_even_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = put(tmp_path / "there.bin")
    found = read_inputs(["gone.mp4", there, "./sub/../gone.mp4"])
    assert found == [
        VideoSource(str(tmp_path / "gone.mp4"), str(tmp_path / "gone.mp4")),
        VideoSource(str(there), str(there)),
    ]


def test_a_folder_gives_its_videos_by_name_or_bytes_in_the_order_of_paths(tree):
    assert names(tree, read_inputs([tree])) == ["a.MP4", "b/10.mkv", "b/2.mp4", "b/deep/er/unnamed", "b.webm"]


def test_the_order_is_that_of_the_inputs_and_each_name_comes_once(tree):
    found = read_inputs([tree / "b.webm", tree / "b", tree, str(tree / "*.webm")])
    assert names(tree, found) == ["b.webm", "b/10.mkv", "b/2.mp4", "b/deep/er/unnamed", "a.MP4"]


def test_links_to_files_count_and_links_to_folders_are_not_entered(tree):
    (tree / "b/loop").symlink_to(tree)
    (tree / "b/other").symlink_to(tree / "b")
    (tree / "self.mp4").symlink_to(tree / "self.mp4")
    (tree / "dangling.mp4").symlink_to(tree / "gone.mp4")
    (tree / "linked").symlink_to(tree / "a.MP4")
    here = [
        "a.MP4",
        "b/10.mkv",
        "b/2.mp4",
        "b/deep/er/unnamed",
        "b.webm",
        "dangling.mp4",
        "linked",
        "self.mp4",
    ]
    assert names(tree, read_inputs([tree])) == here
    assert names(tree, read_inputs([str(tree / "**")])) == here


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.mp4", []),
        ("b/*.mp4", ["b/2.mp4"]),
        ("b/*", ["b/10.mkv", "b/2.mp4"]),
        ("**/*.m*", ["b/10.mkv", "b/2.mp4"]),
        ("**/[0-9].mp?", ["b/2.mp4"]),
        ("**/.*.mp4", ["b/.hidden.mp4"]),
        ("**/e*/*", ["b/deep/er/unnamed"]),
    ],
)
def test_patterns(tree, pattern, found):
    if found:
        assert names(tree, read_inputs([str(tree / pattern)])) == found
    else:
        with pytest.raises(UserError, match="no file matches"):
            read_inputs([str(tree / pattern)])


def test_a_name_that_looks_like_a_pattern_is_a_file_where_it_exists(tmp_path):
    (tmp_path / "[old]").mkdir()
    for name in ("clip[1].mp4", "clip1.mp4", "[old]/x.mp4"):
        put(tmp_path / name)
    assert names(tmp_path, read_inputs([tmp_path / "clip[1].mp4", tmp_path / "[old]/*"])) == [
        "clip[1].mp4",
        "[old]/x.mp4",
    ]


def test_a_pattern_may_name_manifests(tmp_path):
    put(tmp_path / "1.csv", b"path\nx.mp4\n")
    put(tmp_path / "2.csv", b"path\ny.mp4\n")
    assert names(tmp_path, read_inputs([str(tmp_path / "*.csv")])) == ["x.mp4", "y.mp4"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("https://example.org/a.mp4", "is an address; nothing is fetched"),
        ("rtsp://camera/1", "is an address"),
        ("", "an input is empty"),
        ("list.txt", "a manifest is a .csv, .jsonl or .parquet file"),
        ("empty", "there is no video among the inputs"),
        ("**x/*.mp4", "cannot be read"),
        ("*.txt", "none of the 1 files that match .* is a video"),
        ("gone.csv", "gone.csv cannot be read .no such file"),
        ("folder.csv/gone.jsonl", "cannot be read"),
    ],
)
def test_inputs_that_are_refused(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    put(tmp_path / "list.txt", b"a.mp4\n")
    if sys.version_info >= (3, 13) and given.startswith("**x"):
        words = "no file matches"
    with pytest.raises(UserError, match=words) as refused:
        read_inputs([given])
    assert "\n" not in str(refused.value)


def test_a_video_named_like_a_list_is_a_video(tmp_path):
    assert names(tmp_path, read_inputs([put(tmp_path / "video.txt")])) == ["video.txt"]


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    put(tmp_path / os.fsdecode(b"\xff.mp4"))
    with pytest.raises(UserError, match=r"\\udcff.mp4' is not UTF-8; rename"):
        read_inputs([tmp_path])


def test_a_folder_that_cannot_be_listed_is_said(tree, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot be listed .Permission denied"):
        read_inputs([tree])


def test_what_is_a_video(tmp_path):
    assert is_video(put(tmp_path / "x"))
    assert is_video(put(tmp_path / "cut", b"RIFF\xff\xff\x00\x00AVI LIST" + bytes(50)))
    assert not is_video(put(tmp_path / "y.mp4", b"#EXTM3U\nsecret.mp4\n"))
    assert not is_video(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    assert not is_video(tmp_path / "pipe")


def test_a_file_gives_what_sample_gives_of_its_part(tmp_path, film):
    film(tmp_path / "a.mp4", seed=1)
    (whole, part) = read_inputs(
        [tmp_path / "a.mp4", write(tmp_path / "list.csv", [{"path": "a.mp4", "start": 0.5, "end": 1.5}])]
    )
    for source, options, count in ((whole, {}, 8), (part, {"start": 0.5, "end": 1.5}, 4)):
        for decoder in ("auto", "av"):
            given = list(pictures(source, fps=4.0, size=32, batch=3, limits=None, decoder=decoder))
            wanted = list(sample(tmp_path / "a.mp4", fps=4.0, size=32, batch=3, decoder=decoder, **options))
            assert [len(batch.frames) for batch in given] == [3] * (count // 3) + [count % 3]
            for one, other in zip(given, wanted, strict=True):
                np.testing.assert_array_equal(one.frames, other.frames)
                np.testing.assert_array_equal(one.times, other.times)
    assert given[0].times[0] == 0.5


def test_the_checksum_is_of_the_files_bytes_and_the_stamp_of_what_the_disk_says(tmp_path):
    (source,) = read_inputs([put(tmp_path / "a.mp4")])
    os.utime(source.path, ns=(5, 7_000_000_001))
    assert stamp(source) == (26, 7_000_000_001)
    assert content(source) == (hashlib.sha256(GIF).hexdigest(), 26, 7_000_000_001)


def test_no_checksum_of_what_is_no_video(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.mp4")
    put(tmp_path / "list.mp4", b"#EXTM3U\nx")
    for name, kind in (("gone.mp4", "missing"), ("pipe.mp4", "not-video"), ("list.mp4", "refused")):
        (source,) = read_inputs([tmp_path / name])
        with pytest.raises(VideoError) as failed:
            content(source)
        assert failed.value.kind == kind
    assert (
        stamp(VideoSource("gone", str(tmp_path / "gone.mp4")))
        == stamp(VideoSource("odd", "a\0b"))
        == (None, None)
    )

    (source,) = read_inputs([put(tmp_path / "a.mp4")])
    monkeypatch.setattr(
        hashlib, "file_digest", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(VideoError, match="a.mp4 cannot be read: Input/output error") as failed:
        content(source)
    assert failed.value.kind == "missing"
