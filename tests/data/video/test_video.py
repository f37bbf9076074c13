import os
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import frame_numbers, with_edit_list, write_clip

from ringvision.data.video import Limits, VideoError, probe, sample, sample_times
from ringvision.data.video.container import identify
from ringvision.data.video.decode import square
from ringvision.data.video.process import MOST_VIDEOS, POOL, DecodeProcess
from ringvision.data.video.times import shown_at
from ringvision.errors import UserError

UNEVEN = [0]
for step in np.random.default_rng(0).integers(10, 150, 89):
    UNEVEN.append(UNEVEN[-1] + int(step))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


def numbers(path, **settings):
    return np.concatenate([frame_numbers(batch.frames) for batch in sample(path, size=16, **settings)])


def test_probe_tells_the_header(clip):
    info = probe(clip)
    assert (info.width, info.height, info.num_frames, info.fps, info.rotation, info.codec) == (
        96,
        64,
        90,
        30.0,
        0,
        "h264",
    )
    assert info.duration == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("decoder", ["decord", "av"])
def test_constant_rate(clip, decoder):
    batches = list(sample(clip, fps=4, size=24, batch=5, decoder=decoder))
    assert [batch.frames.shape for batch in batches] == [(5, 24, 24, 3), (5, 24, 24, 3), (2, 24, 24, 3)]
    assert batches[0].frames.dtype == np.uint8
    times = np.concatenate([batch.times for batch in batches])
    np.testing.assert_allclose(times, np.arange(12) / 4)
    found = np.concatenate([frame_numbers(batch.frames) for batch in batches])
    np.testing.assert_array_equal(found, np.floor(times * 30 + 0.01))


@pytest.mark.parametrize("decoder", ["decord", "av"])
def test_every_frame_and_more(clip, decoder):
    np.testing.assert_array_equal(numbers(clip, fps=30, decoder=decoder), np.arange(90))
    np.testing.assert_array_equal(numbers(clip, fps=60, decoder=decoder), np.repeat(np.arange(90), 2))


@pytest.mark.parametrize("decoder", ["decord", "av"])
@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_variable_rate_is_read_by_the_clock(tmp_path, name, decoder):
    path = write_clip(tmp_path / name, milliseconds=UNEVEN)
    times = np.arange(int(UNEVEN[-1] / 1000 * 7)) / 7
    expected = [max(i for i, at in enumerate(UNEVEN) if at / 1000 <= t + 6e-4) for t in times]
    np.testing.assert_array_equal(numbers(path, fps=7, decoder=decoder)[: len(times)], expected)


def test_the_clock_begins_with_the_first_frame(tmp_path):
    path = write_clip(tmp_path / "late.mkv", milliseconds=[at + 5000 for at in UNEVEN])
    usual = write_clip(tmp_path / "usual.mkv", milliseconds=UNEVEN)
    np.testing.assert_array_equal(numbers(path, fps=3), numbers(usual, fps=3))
    assert probe(path).duration == pytest.approx(UNEVEN[-1] / 1000, abs=0.1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("h265.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1"}}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}}),
        ("long.mp4", {"options": {"g": "1000", "bf": "2"}}),
        ("ntsc.mkv", {"rate": Fraction(30000, 1001)}),
        ("odd.mp4", {"size": (98, 62)}),
        ("plain.avi", {"codec": "mpeg4", "options": {"bf": "0"}}),
    ],
)
def test_both_decoders_agree(tmp_path, name, settings):
    path = write_clip(tmp_path / name, **settings)
    for fps in (1, 7.5, 30):
        one, other = (
            np.concatenate([b.frames for b in sample(path, fps=fps, size=16, decoder=which)])
            for which in ("decord", "av")
        )
        assert one.shape == other.shape
        assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("b-frames.avi", {}),
        ("stream.ts", {"container": "mpegts"}),
        ("old.mpg", {"codec": "mpeg1video", "options": {"g": "1", "qmin": "1", "qmax": "1"}}),
        ("new.mp4", {"codec": "libsvtav1", "options": {"preset": "12"}}),
    ],
)
def test_what_decord_reads_wrongly_is_read_by_pyav(tmp_path, name, settings, capfd):
    path = write_clip(tmp_path / name, **settings)
    rounding = 1 if name in ("old.mpg", "new.mp4") else 0  # coarse codecs: a grey level off
    np.testing.assert_allclose(numbers(path, fps=2), [0, 15, 30, 45, 60, 75], atol=rounding)
    said = capfd.readouterr()
    assert "mmco" not in said.err
    assert not said.out
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_pictures_of_a_gif(tmp_path):
    path = write_clip(
        tmp_path / "moving.gif", codec="gif", frames=20, rate=10, pixels="rgb8", options={"gifflags": "0"}
    )
    assert [batch.frames.shape for batch in sample(path, fps=5, size=16)] == [(10, 16, 16, 3)]


def test_edit_lists(tmp_path, clip):
    cut = with_edit_list(clip, tmp_path / "cut.mp4", begin=1024 + 12 * 512, milliseconds=2500)
    np.testing.assert_array_equal(numbers(cut, fps=2), [12, 27, 42, 57, 72])
    short = with_edit_list(clip, tmp_path / "short.mp4", begin=1024, milliseconds=1500)
    np.testing.assert_array_equal(numbers(short, fps=2), [0, 15, 30])


@pytest.mark.parametrize("decoder", ["decord", "av"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation(tmp_path, rotation, decoder):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:20, :30] = 255, 0, 0
    path = write_clip(
        tmp_path / "turned.mp4", pictures=np.repeat(picture[None], 5, 0), frames=5, rotation=rotation
    )
    frames = next(sample(path, fps=1, size=64, decoder=decoder)).frames
    turned = np.rot90(picture, rotation // 90)
    np.testing.assert_allclose(frames[0], square(turned, 64), atol=40)
    info = probe(path)
    assert (info.height, info.width) == turned.shape[:2]
    assert info.rotation == (360 - rotation) % 360


def test_start_and_end(clip):
    for decoder in ("decord", "av"):
        batch = next(sample(clip, fps=2, size=16, start=1.0, end=2.4, decoder=decoder))
        np.testing.assert_allclose(batch.times, [1.0, 1.5, 2.0])
        np.testing.assert_array_equal(frame_numbers(batch.frames), [30, 45, 60])
    with pytest.raises(VideoError, match="no frame from 9"):
        next(sample(clip, start=9.0))


def test_sample_times():
    np.testing.assert_allclose(sample_times(3.0, 1.0), [0, 1, 2])
    np.testing.assert_allclose(sample_times(3.002, 1.0), [0, 1, 2])
    np.testing.assert_allclose(sample_times(3.2, 2.0), np.arange(7) / 2)
    np.testing.assert_allclose(sample_times(0.0, 1.0), [0])
    np.testing.assert_array_equal(
        shown_at(np.array([0.0, 0.033, 0.067, 0.1]), np.array([0, 1 / 30, 2 / 30, 0.0999, 5])),
        [0, 1, 2, 3, 3],
    )


def test_square_is_the_mean_of_the_middle():
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    middle = picture[:, 16:80].reshape(16, 4, 16, 4, 3).mean((1, 3))
    np.testing.assert_allclose(square(picture, 16), middle, atol=0.51)
    np.testing.assert_array_equal(square(picture[:, :64], 64), picture[:, :64])
    assert square(picture, 100).shape == (100, 100, 3)


def test_the_name_does_not_matter(tmp_path, clip):
    renamed = tmp_path / "no: suffix,\n but 'quotes'"
    renamed.write_bytes(clip.read_bytes())
    assert probe(renamed).codec == "h264"
    assert identify(renamed) == "mov"


def bad_files(folder: Path, clip: Path) -> dict[str, tuple[Path, str]]:
    data = clip.read_bytes()

    def made(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    mkv = write_clip(folder / "whole.mkv", frames=10).read_bytes()
    (folder / "dir.mp4").mkdir()
    canary = made("canary.txt", b"secret")
    return {
        "missing": (folder / "none.mp4", "missing"),
        "folder": (folder / "dir.mp4", "not-video"),
        "empty": (made("empty.mp4", b""), "empty"),
        "text": (made("text.mp4", b"It was a dark and stormy night.\n" * 20), "not-video"),
        "noise": (made("noise.mp4", np.random.default_rng(2).bytes(5000)), "not-video"),
        "picture": (made("picture.mp4", b"\x89PNG\r\n\x1a\n" + bytes(100)), "not-video"),
        "tail cut off": (made("cut.mp4", data[: len(data) // 2]), "truncated"),
        "no index": (made("no-index.mp4", data[: data.index(b"moov") - 4]), "damaged"),
        "mkv cut off": (made("cut.mkv", mkv[: len(mkv) // 2]), "truncated"),
        "first bytes only": (made("head.mp4", data[:20]), "truncated"),
        "no frames": (empty_mp4(folder / "zero.mp4"), "damaged"),
        "sound": (sound_only(folder / "sound.mp4"), "not-video"),
        "playlist": (made("list.mp4", f"#EXTM3U\n#EXTINF:1,\n{canary}\n".encode()), "refused"),
        "concat": (made("concat.mkv", f"ffconcat version 1.0\nfile {canary}\n".encode()), "refused"),
        "sdp": (
            made("sdp.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
            "refused",
        ),
    }


def empty_mp4(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.width = 64
        stream.height = 64
        stream.pix_fmt = "yuv420p"
        file.start_encoding()
    return path


def sound_only(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def test_bad_files_are_one_clear_line(tmp_path, clip, capfd):
    for what, (path, kind) in bad_files(tmp_path, clip).items():
        for read in (probe, lambda path: list(sample(path))):
            with pytest.raises(VideoError) as caught:
                read(path)
            message = str(caught.value)
            assert caught.value.kind == kind, f"{what}: {message}"
            assert path.name in message
            assert "\n" not in message
            assert any(word in message for word in ("give ", "again", "copy ")), message
    assert capfd.readouterr() == ("", "")


def test_limits_are_checked_before_decoding(clip):
    for limits, said in (
        (Limits(max_side=80), "96x64"),
        (Limits(max_pixels=96 * 64 - 1), "96x64"),
        (Limits(max_frames=89), "90 frames"),
        (Limits(max_duration=2.5), "3 seconds"),
    ):
        for read in (lambda limits: probe(clip, limits), lambda limits: next(sample(clip, limits=limits))):
            with pytest.raises(VideoError, match=said) as caught:
                read(limits)
            assert caught.value.kind == "limit"


def test_a_header_that_says_too_little(tmp_path, clip):
    """300 frames behind a header of 90 would be caught by counting; a header of 8192x8192 before anything is
    decoded.
    """
    data = bytearray(clip.read_bytes())
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    data[at : at + 4] = (16384).to_bytes(2, "big") * 2
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(data)
    began = time.monotonic()
    with pytest.raises(VideoError, match="16384x16384"):
        probe(bomb)
    assert time.monotonic() - began < 10


def test_arguments_that_make_no_sense(clip):
    for settings in (
        {"fps": 0},
        {"fps": float("nan")},
        {"size": 0},
        {"batch": 0},
        {"start": 2.0, "end": 1.0},
        {"decoder": "vlc"},
    ):
        with pytest.raises(UserError):
            sample(clip, **settings)
    with pytest.raises(UserError, match="memory"):
        Limits(memory=0)


def test_one_process_serves_many_videos(clip):
    list(sample(clip))
    before = POOL.idle[-1].child.pid
    began = time.monotonic()
    for _ in range(20):
        list(sample(clip))
    assert POOL.idle[-1].child.pid == before
    POOL.idle[-1].videos = MOST_VIDEOS - 1
    list(sample(clip))
    assert not Path(f"/proc/{before}").exists()
    assert time.monotonic() - began < 20


def test_a_video_left_early_leaves_the_process_ready(clip):
    for count in range(5):
        frames = sample(clip, fps=30, batch=4)
        for _ in range(count):
            next(frames)
        frames.close()
    alive = POOL.idle[-1].child.pid
    np.testing.assert_array_equal(numbers(clip, fps=1), [0, 30, 60])
    assert POOL.idle[-1].child.pid == alive


def test_two_videos_at_once(clip):
    pairs = list(zip(sample(clip, fps=10, batch=3), sample(clip, fps=10, batch=3, decoder="av"), strict=True))
    assert len(pairs) == 10
    for one, other in pairs:
        np.testing.assert_array_equal(one.frames, other.frames)
    found = []
    threads = [threading.Thread(target=lambda: found.append(numbers(clip, fps=5))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all((each == found[0]).all() for each in found)


def test_the_decoder_dies(clip):
    """Under decord once: PyAV goes on from where it was. Under PyAV: one clear line, and the next video is
    read.
    """
    frames = sample(clip, fps=30, batch=4)
    seen = [next(frames)]
    os.killpg(find_child(), signal.SIGKILL)
    seen += frames
    np.testing.assert_array_equal(
        np.concatenate([frame_numbers(batch.frames) for batch in seen]), np.arange(90)
    )
    frames = sample(clip, fps=30, batch=4, decoder="av")
    next(frames)
    os.killpg(find_child(), signal.SIGKILL)
    with pytest.raises(VideoError, match="SIGKILL") as caught:
        list(frames)
    assert caught.value.kind == "crash"
    np.testing.assert_array_equal(numbers(clip, fps=1), [0, 30, 60])


def test_a_decoder_that_hangs_is_killed(clip):
    probe(clip)  # starts a process, which on a busy machine takes longer than the deadline below
    frames = sample(clip, fps=30, batch=4, decoder="av", limits=Limits(seconds_a_frame=2.0))
    next(frames)
    child = find_child()
    os.kill(child, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(VideoError, match="no frame in 2 seconds") as caught:
        list(frames)
    assert caught.value.kind == "deadline"
    assert time.monotonic() - began < 20
    assert not Path(f"/proc/{child}").exists()


def find_child() -> int:
    """The decoding process that was started last."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    ours = [
        int(pid)
        for pid in children
        if b"ringvision.data.video.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    idle = {process.child.pid for process in POOL.idle}
    return next(pid for pid in reversed(ours) if pid not in idle)


def test_the_child_never_imports_jax_and_ends_with_its_parent(clip):
    list(sample(clip))
    process = POOL.take()
    maps = Path(f"/proc/{process.child.pid}/maps").read_text()
    assert "decord" in maps
    assert "jax" not in maps
    process.child.stdin.close()
    assert process.child.wait(5) == 0
    process.kill()


def test_memory_is_limited(tmp_path):
    path = write_clip(tmp_path / "large.mp4", frames=3, size=(1920, 1080), options={"preset": "ultrafast"})
    assert len(list(sample(path, fps=30))) == 1
    process = DecodeProcess()
    POOL.idle.append(process)
    with pytest.raises(VideoError):
        list(sample(path, fps=30, limits=Limits(memory=300 << 20)))
    assert len(list(sample(path, fps=30))) == 1
