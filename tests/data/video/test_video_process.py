"""What a decoding process that was taken over might send: none of it harms the one that asked."""

import os
import textwrap

import numpy as np
import pytest
from clips import write_clip

from ringvision.data.video import Limits, VideoError, VideoInfo, probe, sample
from ringvision.data.video.process import POOL, RING_BYTES, DecodeProcess

HEADER = VideoInfo("x", 96, 64, 90, 3.0, 30.0, 0, "h264", "mov").to_dict()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture
def taken_over(tmp_path, monkeypatch):
    """Makes the next process one that runs the given lines; `send(kind, body)`, `ring` and `header` are there
    for them.
    """
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def start(lines: str) -> DecodeProcess:
        begin = """
            import fcntl, json, os, struct, sys, time
            ring = int(sys.argv[2])
            def send(kind, body=b"", length=None):
                os.write(1, kind + struct.pack("<I", len(body) if length is None else length) + body)
            os.read(0, 65536)
        """
        code = textwrap.dedent(begin) + f"header = json.dumps({HEADER!r}).encode()\n" + textwrap.dedent(lines)
        (tmp_path / "taken_over.py").write_text(code)
        POOL.close()
        process = DecodeProcess("taken_over")
        POOL.idle.append(process)
        return process

    yield start
    POOL.close()


@pytest.mark.parametrize(
    "lines",
    [
        "send(b'I', header, 1 << 31)",
        "send(b'Z')",
        "send(b'I', b'no json')",
        "send(b'I', b'[' * 60000)",
        "send(b'I', b'[]')",
        "send(b'I', json.dumps({'path': 1}).encode())",
        "send(b'I', json.dumps(json.loads(header) | {'width': '96'}).encode())",
        "send(b'E', b'{}')",
        "send(b'E', json.dumps({'message': ['x'], 'kind': 'damaged'}).encode())",
        "send(b'E', json.dumps({'message': 'x', 'kind': 'nonsense'}).encode())",
        "send(b'I', header); send(b'I', header)",
        "send(b'I', header); send(b'U', header)",
        "send(b'F')",
        "os.write(1, b'I')",
    ],
)
def test_nonsense_is_a_dead_decoder(clip, taken_over, lines):
    process = taken_over(lines)
    with pytest.raises(VideoError) as caught:
        list(sample(clip, decoder="av"))
    assert caught.value.kind == "crash"
    assert not process.alive
    assert probe(clip).width == 96


def test_pictures_without_end(clip, taken_over):
    taken_over("send(b'I', header)\nwhile True: send(b'F')")
    with pytest.raises(VideoError) as caught:
        for _ in sample(clip, decoder="av", limits=Limits(max_duration=50.0, seconds_a_frame=20.0)):
            pass
    assert caught.value.kind == "crash"


def test_a_process_that_does_not_listen(clip, taken_over):
    taken_over("send(b'I', header)\nwhile True: send(b'F')")
    with pytest.raises(VideoError, match="stopped listening"):
        for _ in sample(clip, fps=1000, size=1, batch=1, decoder="av"):
            pass


def test_a_message_is_one_line_whatever_it_holds(clip, taken_over):
    taken_over(r"send(b'E', json.dumps({'message': 'a\nb\x1b[2J', 'kind': 'damaged'}).encode())")
    with pytest.raises(VideoError) as caught:
        list(sample(clip, decoder="av"))
    assert str(caught.value) == "a b [2J"


def test_the_ring_cannot_be_cut_or_grown(clip, taken_over):
    taken_over("""
        for size in (0, 1 << 40):
            try:
                os.ftruncate(ring, size)
                send(b"E", json.dumps({"message": "cut", "kind": "damaged"}).encode())
            except PermissionError:
                pass
        send(b"I", header)
        os.pwrite(ring, bytes([7]) * 12, 0)
        send(b"F")
        send(b"D")
    """)
    (batch,) = sample(clip, size=2, decoder="av")
    np.testing.assert_array_equal(batch.frames, np.full((1, 2, 2, 3), 7))


def test_batches_are_the_callers_own(clip):
    kept = list(sample(clip, fps=30, size=16, batch=3))
    copies = [batch.frames.copy() for batch in kept]
    again = list(sample(clip, fps=30, size=16, batch=3))
    for batch, copy, other in zip(kept, copies, again, strict=True):
        np.testing.assert_array_equal(batch.frames, copy)
        np.testing.assert_array_equal(batch.frames, other.frames)
        batch.frames[:] = 0


def test_pictures_larger_than_half_the_ring_are_refused_and_the_largest_is_read(tmp_path):
    path = write_clip(tmp_path / "few.mp4", frames=3)
    frames = np.concatenate([batch.frames for batch in sample(path, fps=30, size=4096, batch=1)])
    assert frames.shape == (3, 4096, 4096, 3)
    assert 2 * frames[0].nbytes <= RING_BYTES
    np.testing.assert_allclose(frames[:, ::999, ::999].mean((1, 2, 3)), [20, 22, 24], atol=1)


def test_descriptors_are_given_back(clip):
    list(sample(clip))
    POOL.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        list(sample(clip))
        POOL.close()
    assert len(os.listdir("/proc/self/fd")) == before
