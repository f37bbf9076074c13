"""Files named like videos that try to have other files read: each is refused at once, before a process is
started, and none is followed.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest
from attacks import Bait, attacks, texts

from ringvision.data.video import Limits, VideoError, probe, sample
from ringvision.data.video.container import identify

MODULE = "ringvision.data.video.sample"

QUICK = Limits(seconds_a_frame=10.0)


@pytest.fixture(scope="module")
def bait(tmp_path_factory):
    bait = Bait(tmp_path_factory.mktemp("bait"))
    yield bait
    bait.close()


@pytest.fixture(scope="module")
def corpus(bait, tmp_path_factory):
    files = attacks(tmp_path_factory.mktemp("attacks"), bait)
    bait.touched()
    return files


def test_the_watch_notices(bait):
    assert bait.touched() == (0, 0)
    bait.path.read_bytes()
    socket.create_connection(bait.address.split(":")).close()
    reads, connections = bait.touched()
    assert reads > 0
    assert connections == 1
    assert bait.touched() == (0, 0)


def test_decord_alone_would_follow_a_playlist(bait, tmp_path):
    """The attacks are real: what decord does with a file that was not checked first."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(texts(bait)["playlist"])
    command = [sys.executable, "-c", "import decord, sys; decord.VideoReader(sys.argv[1])", str(path)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert bait.touched()[0] > 0


def test_each_is_refused_at_once_and_nothing_is_started(bait, corpus, monkeypatch):
    assert len(corpus) >= 40
    monkeypatch.setattr(sys.modules[MODULE], "POOL", None)
    for what, (path, _) in corpus.items():
        for read in (probe, sample, identify):
            began = time.perf_counter()
            with pytest.raises(VideoError) as caught:
                read(path)
            took = time.perf_counter() - began
            assert caught.value.kind in ("refused", "not-video"), f"{what}: {caught.value}"
            assert path.name in str(caught.value)
            assert took < 0.1, f"{what}: {took:.3f} s"
    assert bait.touched() == (0, 0)


@pytest.mark.parametrize("decoder", ["decord", "av"])
def test_nor_does_the_decoding_process_follow_any(bait, corpus, monkeypatch, decoder):
    """The second line of defence: the checks are passed by, and the file is called an ordinary MP4, MKV or
    AVI.
    """
    monkeypatch.setattr(sys.modules[MODULE], "refuse_large", lambda *_: None)
    read = 0
    kinds = set()
    for path, demuxer in corpus.values():
        monkeypatch.setattr(sys.modules[MODULE], "identify", lambda _, demuxer=demuxer: demuxer)
        try:
            read += len(next(sample(path, size=16, decoder=decoder, limits=QUICK)).frames)
        except VideoError as error:
            kinds.add(error.kind)
    assert kinds == {"damaged"}
    assert read >= 4  # the Matroska and AVI files are videos but for what they name
    assert bait.touched() == (0, 0)


def test_what_looks_like_two_kinds_of_file_is_refused(tmp_path):
    path = tmp_path / "large.mov"
    with open(path, "wb") as file:
        file.write(b"\n\n\n\nskip\nv=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n")
        file.truncate(0x0A0A0A0A)
    with pytest.raises(VideoError) as caught:
        identify(path)
    assert caught.value.kind == "refused"


def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    with pytest.raises(VideoError, match="not an ordinary file"):
        probe(path)
