"""A file that is read while it is written becomes the tokens of the whole file."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import jax
import numpy as np
import pytest

from ringvision.data.video import VideoError
from ringvision.errors import UserError
from ringvision.infer import follow as follow_module
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.follow import follow
from ringvision.mesh import make_mesh

CONTAINERS = {
    "ts": ("mpegts", {}),
    "mkv": ("matroska", {"live": "1", "cluster_time_limit": "500"}),
    "mp4": ("mp4", {"movflags": "empty_moov+default_base_moof+frag_every_frame"}),
}


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Assistant:
    return load(folder, make_mesh(context=1, devices=jax.devices()[:1]))


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[None]], None]:
    """The writer does a part of its work whenever the reader rests."""
    monkeypatch.setattr(follow_module, "RESTS", 0.0)
    monkeypatch.setattr(follow_module, "POLL", 0.01)

    def work(writer: Iterator[None]) -> None:
        def sleep(seconds: float) -> None:
            next(writer, None)
            time.sleep(seconds)

        class Clock:
            monotonic = staticmethod(time.monotonic)

        Clock.sleep = staticmethod(sleep)  # type: ignore[attr-defined]
        monkeypatch.setattr(follow_module, "time", Clock)

    return work


def _remuxed(clip: Path, place: Path, kind: str) -> Path:
    name, options = CONTAINERS[kind]
    path = place / f"whole.{kind}"
    with av.open(str(clip)) as source, av.open(str(path), "w", format=name, options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


def _write_in_parts(path: Path, data: bytes, parts: int) -> Iterator[None]:
    """Cut anywhere; an MP4 at the begin of a fragment, for one is written at once."""
    cuts = [round(number * len(data) / parts) for number in range(parts + 1)]
    if path.suffix == ".mp4":
        cuts = [0, *(data.rindex(b"moof", 0, cut) - 4 for cut in cuts[1:-1]), len(data)]
    for first, last in itertools.pairwise(cuts):
        with path.open("ab") as file:
            file.write(data[first:last])
        yield


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_file_that_grows(
    assistant: Assistant,
    clips: list[Path],
    tmp_path: Path,
    grow: Callable[[Iterator[None]], None],
    kind: str,
) -> None:
    whole = _remuxed(clips[0], tmp_path, kind)
    path = tmp_path / f"growing.{kind}"
    path.touch()
    grow(_write_in_parts(path, whole.read_bytes(), 7))
    session = assistant.session()
    reports: list[float] = []
    fault = follow(session, path, quiet=0.4, report=lambda seconds, size: reports.append(seconds))
    assert fault is None
    assert sum(0 < seconds < session.seconds for seconds in reports) >= 2  # it was read while it grew
    codes, times = assistant.processor.read_video(whole, 1.0)
    expected = assistant.processor.prompts.videos([(codes, times)])
    reply = session.ask("What?", max_tokens=2)
    assert np.array_equal(reply.viewing.prefix.tokens, expected)


def test_stopped_by_its_reader(assistant: Assistant, clips: list[Path], tmp_path: Path) -> None:
    """As by Ctrl-C: what is there is taken, and no time is waited."""
    path = _remuxed(clips[0], tmp_path, "ts")
    session = assistant.session()
    follow(session, path, quiet=1000, stop=lambda: True)
    assert session.frames == assistant.ask(path, "What?", max_tokens=1).frames


@pytest.mark.parametrize("how", ["shorter", "other", "gone"])
def test_a_file_that_shrinks(
    assistant: Assistant,
    clips: list[Path],
    tmp_path: Path,
    grow: Callable[[Iterator[None]], None],
    how: str,
) -> None:
    path = _remuxed(clips[0], tmp_path, "ts")

    def shrink() -> Iterator[None]:
        if how == "shorter":
            os.truncate(path, 1000)
        elif how == "gone":
            path.unlink()
        if how == "other":
            (tmp_path / "new").write_bytes(bytes(10**6))
            (tmp_path / "new").rename(path)
        yield

    grow(shrink())
    said = {"shorter": "has 1000 bytes and had", "other": "another file now", "gone": "no such file"}[how]
    with pytest.raises(UserError, match=said) as raised:
        follow(assistant.session(), path, quiet=1.0)
    assert "\n" not in str(raised.value)


def test_what_never_becomes_a_video(assistant: Assistant, tmp_path: Path) -> None:
    path = tmp_path / "notes.ts"
    path.write_text("no video")
    with pytest.raises(VideoError, match="is not a video"):
        follow(assistant.session(), path, quiet=0.1)
    with pytest.raises(UserError, match="no such file"):
        follow(assistant.session(), tmp_path / "absent.ts")
