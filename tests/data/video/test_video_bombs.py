"""Small files that ask for much memory or time: refused by their headers, in under a second and 200 MB, the
decoding process with them.
"""

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips import write_clip

from ringvision.data.video import Limits, VideoError, VideoInfo, probe, sample
from ringvision.data.video.container import identify

SECONDS = 1.0
MEGABYTES = 200
LIMIT = ("limit",) * 3
DAMAGED = ("damaged",) * 3
READ = ("",) * 3


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """What it is: (file, what it comes to in `probe`, and in `sample` by PyAV and by itself: a kind of
    VideoError, or "" for none).

    Where nothing comes of a lie, because nothing is allocated on its word, the video is read.
    """
    folder = tmp_path_factory.mktemp("bombs")
    mp4 = write_clip(folder / "clip.mp4", frames=30).read_bytes()
    gif = write_clip(folder / "clip.gif", codec="gif", frames=3, rate=10, pixels="rgb8").read_bytes()
    avi = write_clip(folder / "clip.avi", codec="mpeg4", options={"bf": "0"}, frames=10).read_bytes()
    webm = write_clip(folder / "clip.webm", codec="libvpx", frames=10, options={"cpu-used": "8"}).read_bytes()
    side = (16383).to_bytes(2, "little")
    start = webm.index(b"\x9d\x01\x2a") + 3
    forged = {
        "8192x8192 mp4": (changed(mp4, b"stsd", 44, (8192).to_bytes(2, "big") * 2), LIMIT),
        "65535x65535 mp4": (changed(mp4, b"stsd", 44, b"\xff" * 4), LIMIT),
        "2^31 samples of their own sizes": (changed(mp4, b"stsz", 12, (1 << 31).to_bytes(4, "big")), DAMAGED),
        "2^31 samples of one size": (
            changed(mp4, b"stsz", 8, (1).to_bytes(4, "big") + (1 << 31).to_bytes(4, "big")),
            DAMAGED,
        ),
        "2^32 - 1 entries of times": (changed(mp4, b"stts", 8, b"\xff" * 4), DAMAGED),
        "one sample that lasts for ever": (
            changed(mp4, b"stts", 16, b"\x7f" + b"\xff" * 3),
            ("", "limit", "limit"),
        ),
        "2^32 - 1 frames at one time": (changed(mp4, b"stts", 12, b"\xff" * 4), LIMIT),
        "2^32 - 1 chunks": (changed(mp4, b"stco", 8, b"\xff" * 4), READ),
        "2^32 - 1 samples a chunk": (changed(mp4, b"stsc", 16, b"\xff" * 4), READ),
        "a movie that lasts for ever": (changed(mp4, b"mvhd", 20, b"\xff\xff\xff\xf0"), READ),
        "a track that lasts for ever": (changed(mp4, b"mdhd", 20, b"\xff\xff\xff\xf0"), LIMIT),
        "an edit list without end": (changed(mp4, b"elst", 8, b"\xff" * 4), READ),
        "65535x65535 gif": (gif[:6] + b"\xff" * 4 + gif[10:], LIMIT),
        "a picture of a gif beyond its screen": (changed(gif, b"\x2c", 5, b"\xff" * 4), READ),
        "65536x65536 avi": (changed(avi, b"strf", 12, (65536).to_bytes(4, "little") * 2), LIMIT),
        "an avi upside down": (
            changed(
                avi, b"strf", 12, (64).to_bytes(4, "little") + (-(1 << 31)).to_bytes(4, "little", signed=True)
            ),
            LIMIT,
        ),
        "webm whose pictures are larger than it says": (
            webm[:start] + side + side + webm[start + 4 :],
            ("", "damaged", "damaged"),
        ),
    }
    files = {}
    for number, (what, (content, kinds)) in enumerate(forged.items()):
        path = folder / f"bomb-{number}"
        path.write_bytes(content)
        files[what] = (path, kinds)
    return files


def changed(content: bytes, name: bytes, behind: int, value: bytes) -> bytes:
    """The bytes of a file with `value` written `behind` bytes after the beginning of the first `name`."""
    at = content.index(name) + behind
    return content[:at] + value + content[at + len(value) :]


SCRIPT = """
import json, resource, sys, time
from ringvision.data.video import VideoError, probe, sample
from ringvision.data.video.process import POOL

for path in sys.argv[1:]:
    for read in (probe, lambda path: next(sample(path, decoder="av")), lambda path: next(sample(path))):
        began, kind = time.perf_counter(), ""
        try:
            read(path)
        except VideoError as error:
            kind = error.kind
        seconds = time.perf_counter() - began
        POOL.close()
        mine = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        most = int(mine.split()[1]) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(json.dumps([kind, seconds, most / 1024]))
"""


def test_each_is_over_in_a_second_and_takes_little_memory(bombs):
    """With a new decoding process each time, and all of what the one that asks has loaded."""
    paths = [str(path) for path, _ in bombs.values()]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths], capture_output=True, text=True, check=True, env=environment
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3 * len(bombs)
    for number, (what, (_, kinds)) in enumerate(bombs.items()):
        three = lines[3 * number : 3 * number + 3]
        assert tuple(kind for kind, _, _ in three) == kinds, what
        for _, seconds, megabytes in three:
            assert seconds < SECONDS, f"{what}: {seconds:.2f} s"
            assert megabytes < MEGABYTES, f"{what}: {megabytes:.0f} MB"


def test_a_header_of_very_many_pieces_takes_no_longer(tmp_path):
    """Nested, side by side, and overlapping boxes, a few MB of each."""
    free = struct.pack(">I4s", 8, b"free")
    moov = struct.pack(">I4s", 16, b"moov")
    first = struct.pack(">I4s", 16, b"ftyp") + b"isom" + bytes(4)
    depth = b"".join(struct.pack(">I4s", 8 * (200_000 - level), b"moov") for level in range(200_000))
    for number, pieces in enumerate(
        (free * 500_000, depth, (moov + free) * 200_000, (moov + moov) * 200_000)
    ):
        path = tmp_path / f"pieces-{number}.mp4"
        path.write_bytes(first + pieces)
        began = time.process_time()
        with contextlib.suppress(VideoError):
            identify(path)
        assert time.process_time() - began < SECONDS
        with pytest.raises(VideoError) as caught:
            probe(path)
        assert caught.value.kind == "damaged"


def test_4k_is_read_by_default(tmp_path):
    whole = write_clip(tmp_path / "4k.mp4", frames=2, size=(4096, 2160), options={"preset": "ultrafast"})
    assert next(sample(whole, size=16)).frames.shape == (1, 16, 16, 3)
    Limits().check("square", VideoInfo("square", 4096, 4096, 1, 1.0, 1.0, 0, "h264", "mov"))
    with pytest.raises(VideoError):
        Limits().check("bomb", VideoInfo("bomb", 8192, 8192, 1, 1.0, 1.0, 0, "h264", "mov"))


def test_a_stream_that_grows_on_the_way_is_not_followed(tmp_path):
    """Each limit is asked again before a decoder allocates: pictures that the header did not tell of are not
    decoded.
    """
    whole = write_clip(
        tmp_path / "clip.webm", codec="libvpx", frames=3, options={"cpu-used": "8", "g": "1"}
    ).read_bytes()
    at = whole.rindex(b"\x9d\x01\x2a") + 3
    path = tmp_path / "grows.webm"
    path.write_bytes(whole[:at] + (16383).to_bytes(2, "little") * 2 + whole[at + 4 :])
    for decoder in ("av", "auto"):
        with pytest.raises(VideoError) as caught:
            list(sample(path, fps=30, size=16, decoder=decoder))
        assert caught.value.kind == "damaged"
