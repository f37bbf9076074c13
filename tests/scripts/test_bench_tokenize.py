"""The trials of tokenize on little libraries: claims that hold are found to hold, and what does not hold is
found out.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_tokenize  # noqa: E402
from damaged_library import DAMAGES, make_library  # noqa: E402
from drawn_videos import write_clip  # noqa: E402
from watched import Watched, left  # noqa: E402


def claims(part: bench_tokenize.Part) -> dict[str, tuple[str, bool]]:
    return {what: (found, holds) for what, found, holds in part.claims}


@pytest.mark.long
def test_kills_and_resumes_on_both_engines(tmp_path):
    command = [
        sys.executable,
        SCRIPTS / "bench_tokenize.py",
        "--kills",
        "--videos",
        "20",
        "--kill-count",
        "2",
    ]
    done = subprocess.run(
        [*command, "--json", tmp_path / "kills.json"], capture_output=True, text=True, timeout=240
    )
    found = {
        what: (found, holds)
        for what, found, holds in json.loads((tmp_path / "kills.json").read_text())["parts"]["kills"][
            "claims"
        ]
    }
    assert len(found) == 11
    assert done.returncode == 0, (found, done.stderr[-2000:])
    assert found["manifest rows = inputs"] == ("20 of 20", True)
    assert found["SIGKILLs while it ran"] == ("2", True)


def test_a_library_is_the_same_every_time_and_one_in_five_is_damaged(tmp_path):
    damages = [make_library(tmp_path / name, 30) for name in ("one", "two")]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert damages[0] == damages[1] and len(one) == 30 and one == two
    assert {damage for damage in damages[0].values() if damage} == set(DAMAGES)
    numbers = [number // 5 for number, damage in enumerate(damages[0].values()) if damage]
    assert numbers == list(range(6))


@pytest.mark.parametrize("growth, flat", [(1.0, True), (1.3, False)])
def test_memory_that_grows_is_found(growth, flat):
    times = np.linspace(0, 100, 1001)
    sizes = 500e6 * (1 + (growth - 1) * times / 100)
    run = SimpleNamespace(
        seconds=100.0,
        samples=list(zip(times.tolist(), sizes.tolist())),
        peak=lambda: int(sizes.max()),
        thinned=list,
    )
    part = bench_tokenize.Part("memory")
    bench_tokenize._memory(part, [run])
    assert claims(part)["memory flat within 10% after warm-up"][1] is flat
    assert claims(part)["under 1.5 GB in all"][1]


def test_memory_of_children_is_seen_and_who_is_left_is_found():
    sleeper = "import time; held = bytearray(60 << 20); time.sleep(60)"
    starter = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeper!r}]).wait()"
    run = Watched([sys.executable, "-c", starter], every=0.02)
    assert run.watch(until=lambda: run.peak() > 60 << 20 or run.seconds > 20)
    assert run.peak() > 60 << 20
    run.kill()
    assert run.status == -9
    ends = time.monotonic() + 20
    (line,) = left(run.mark)
    assert "bytearray" in line
    subprocess.run(["kill", "-9", line.split()[0]], check=True)
    while left(run.mark) and time.monotonic() < ends:
        time.sleep(0.02)
    assert not left(run.mark)


def test_the_baseline_gives_the_same_codes(tmp_path):
    clips = [tmp_path / f"{seed}.mp4" for seed in range(2)]
    for seed, clip in enumerate(clips):
        write_clip(
            clip,
            "libx264",
            frames=60 + 30 * seed,
            rate=30,
            size=(160, 96),
            seed=seed,
            options={"preset": "ultrafast"},
        )
    options = argparse.Namespace(repeats=1, batches=[4])
    part = bench_tokenize.Part("baseline")
    bench_tokenize._speeds(part, options, "2 clips", clips, tmp_path)
    assert claims(part)["2 clips: the same codes as the baseline"] == (f"{5 * 16} of {5 * 16}", True)
    assert all(
        speed > 0 for speeds in part.figures["2 clips"]["frames_a_second"].values() for speed in speeds
    )


def test_nothing_chosen_is_refused():
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench_tokenize.py"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "--invariance" in done.stderr
