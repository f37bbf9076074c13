"""What `ringvision tokenize` claims, tried: kills, an hour of video, LWM's way beside it, and batches of
every size.

    python scripts/bench_tokenize.py --kills --hour --baseline --invariance --cache /var/tmp/bench
        --json tokenize.json

    --kills       a library of 300 little videos, one in five damaged (damaged_library.py), tokenized
                  undisturbed; again with 20 SIGKILLs at random moments, each followed by the same command;
                  and on Ray: every input accounted for, the same bytes, no process left
    --hour        an hour of 640x360 at 30 frames a second (drawn_videos.py), one frame a second: memory over
                  time, and wall time against `ffmpeg -vf fps=1` on the same file plus the VQGAN alone on as
                  many frames
    --baseline    frames a second and memory against LWM's way of doing it (lwm_baseline.py), on ten minutes
                  and an hour of that video and on a folder of 30 clips; and whether the codes are the same
    --invariance  codes of the same frames in batches of 1, 4, 16 and 64, by a network that takes 1 to 64 at
                  once, shuffled, on 1 and on 4 devices

Prints the machine and Markdown tables, the last of each part one of claims; exits with 1 where a claim does
not hold. Everything runs on CPUs, in processes of its own; memory is the resident memory of a command and all
that it started, added up (watched.py). What is timed takes turns, `--repeats` times, and medians are given.
`--cache` keeps the videos for the next run. Ray has to be installed for --kills (pip install
'ringvision[ray]'), and for --hour ffmpeg, on PATH or by pip install imageio-ffmpeg. Linux only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from drawn_videos import SIZE, write_clip, write_long
from machine import machine
from tokenize_kills import kills
from tokenize_report import QUIET, Part, contender, finished, say, table, tokenize
from watched import Watched, median

MODULES = (
    "array_record",
    "av",
    "decord",
    "jax",
    "jaxlib",
    "numpy",
    "ray",
    "ringvision",
    "tensorflow-datasets",
)
MB = 2**20
MOST_RESIDENT = 1.5e9
FLAT = 0.10
SLOWER = 1.15
FASTER = 3.0
LESS_MEMORY = 0.1
WARM_UP = 0.2
WIND_DOWN = 0.02
"""Parts of a run's time in which its memory need not be flat: its beginning and its end."""


# ---------------------------------------------------------------------------------------------------- an hour


def ffmpeg() -> list[str]:
    """Its path; a SystemExit where there is none."""
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            from imageio_ffmpeg import get_ffmpeg_exe

            found = get_ffmpeg_exe()
        except ImportError:
            raise SystemExit("--hour needs ffmpeg on PATH, or: pip install imageio-ffmpeg") from None
    return [found, "-nostdin", "-loglevel", "error"]


def long_video(cache: Path, minutes: int) -> Path:
    path = cache / f"{minutes}-minutes.mp4"
    if not path.exists():
        say(f"drawing {path.name}")
        write_long(path, minutes)
    return path


def hour(options: argparse.Namespace, cache: Path, scratch: Path) -> Part:
    part = Part(f"{options.minutes} minutes of 640x360 at 1 frame a second")
    program = ffmpeg()
    frames = options.minutes * 60
    video = long_video(cache, options.minutes)
    version = (
        subprocess.run([program[0], "-version"], capture_output=True, text=True)
        .stdout.split(" Copyright")[0]
        .strip()
    )
    walls: dict[str, list[float]] = {"ringvision": [], "ffmpeg": [], "vqgan": []}
    busy: dict[str, list[float]] = {name: [] for name in walls}
    traces = []
    for turn in range(options.repeats):
        say(f"{part.title}: turn {turn + 1}")
        run = tokenize(video, scratch / f"hour-{turn}")
        run.watch()
        made = json.loads(finished(run))
        if (made["done"], made["frames"]) != (1, frames):
            part.claim("all frames are there", f"{made['frames']} of {frames}", False)
        walls["ringvision"].append(run.seconds)
        busy["ringvision"].append(run.processor_seconds)
        traces.append(run)
        decode = Watched([*program, "-i", video, "-an", "-vf", "fps=1", "-f", "null", "-"])
        decode.watch()
        finished(decode)
        walls["ffmpeg"].append(decode.seconds)
        busy["ffmpeg"].append(decode.processor_seconds)
        alone, _ = contender("vqgan", "--frames", str(frames))
        walls["vqgan"].append(alone["seconds"])
        busy["vqgan"].append(alone["processor_seconds"])
    _times(part, version, walls, busy)
    _memory(part, traces)
    return part


def _times(part: Part, version: str, walls: dict[str, list[float]], busy: dict[str, list[float]]) -> None:
    ours, decode, vqgan = (median(walls[name]) for name in ("ringvision", "ffmpeg", "vqgan"))
    what = {
        "ringvision": "ringvision tokenize, the whole command",
        "ffmpeg": f"ffmpeg -vf fps=1 ({version})",
        "vqgan": "the VQGAN alone",
    }
    rows = [[what[name], f"{median(walls[name]):.1f}", f"{median(busy[name]):.1f}"] for name in walls]
    part.text.append(table(["", "s", "CPU s"], rows))
    allowed = decode + vqgan
    found = f"{ours:.1f} s against {decode:.1f} + {vqgan:.1f} s: {ours / allowed:.2f} times"
    part.claim(
        f"no slower than ffmpeg and the VQGAN one after the other, within {SLOWER - 1:.0%}",
        found,
        ours <= SLOWER * allowed,
    )
    part.figures |= {"seconds": walls, "processor_seconds": busy, "ffmpeg": version}


def _memory(part: Part, runs: list[Watched]) -> None:
    rows = []
    flat = []
    most = []
    for run in runs:
        times, sizes = (np.array(column, float) for column in zip(*run.samples))
        first = WARM_UP * run.seconds
        last = (1 - WIND_DOWN) * run.seconds
        halves = [
            sizes[(times >= a) & (times < b)]
            for a, b in ((first, (first + last) / 2), ((first + last) / 2, last))
        ]
        steady = np.concatenate(halves)
        change = float(np.median(halves[1]) / np.median(halves[0]) - 1)
        swing = float(abs(steady / np.median(steady) - 1).max())
        flat.append(max(abs(change), swing))
        most.append(run.peak())
        rows.append(
            [
                f"{size / MB:.0f}"
                for size in (steady[0], *map(np.median, halves), steady.min(), steady.max(), run.peak())
            ]
        )
        rows[-1] += [f"{change:+.1%}", f"{swing:.1%}"]
    head = [
        "after warm-up, MB",
        "median, first half",
        "median, second half",
        "least",
        "most",
        "peak of all",
        "change",
        "furthest from the median",
    ]
    part.text.append(table(head, rows))
    part.claim(f"memory flat within {FLAT:.0%} after warm-up", f"{max(flat):.1%}", max(flat) <= FLAT)
    part.claim(
        f"under {MOST_RESIDENT / 1e9:g} GB in all", f"{max(most) / 1e9:.2f} GB", max(most) < MOST_RESIDENT
    )
    part.figures |= {
        "memory_peak": most,
        "memory_over_time": [run.thinned() for run in runs],
        "warm_up": WARM_UP,
        "wind_down": WIND_DOWN,
    }


# ----------------------------------------------------------------------------------------------- the baseline


def baseline(options: argparse.Namespace, cache: Path, scratch: Path) -> Part:
    part = Part("Against LWM's way: every frame in memory, one at a time through the VQGAN")
    folder = cache / f"clips-{options.clips}"
    clips = [folder / f"clip-{number:02d}.mp4" for number in range(options.clips)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        if not clip.exists():
            write_clip(
                clip,
                "libx264",
                frames=30 * (5 + number % 6),
                rate=30,
                size=SIZE,
                seed=number,
                options={"preset": "veryfast"},
            )
    short = min(options.speed_minutes, options.minutes)
    works = {f"{short} minutes": [long_video(cache, short)], f"{options.clips} clips": clips}
    for what, videos in works.items():
        _speeds(part, options, what, videos, scratch)
    _hour_of_both(part, long_video(cache, options.minutes), options.minutes, scratch)
    _vqgans(part, options)
    return part


def _vqgans(part: Part, options: argparse.Namespace) -> None:
    """The VQGAN alone, as both use it: how much of a difference can come from there."""
    ways = {"one at a time": ("1", "1"), "16 at a time, 64 handed over": ("16", "64")}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, (network, batch) in ways.items():
            made, _ = contender("vqgan", "--frames", "3600", "--network-batch", network, "--batch", batch)
            speeds[name].append(made["frames"] / made["seconds"])
    rows = [[name, f"{median(each):.0f}"] for name, each in speeds.items()]
    part.text += ["The VQGAN alone, on frames that are in memory:", table(["", "frames a second"], rows)]
    part.figures["vqgan"] = speeds


def _speeds(part: Part, options: argparse.Namespace, what: str, videos: list[Path], scratch: Path) -> None:
    """Frames a second of both, in turn."""
    ways = {"LWM's way": ("lwm", 1)} | {
        f"ringvision, batch {batch}": ("ringvision", batch) for batch in options.batches
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, int] = {}
    for turn in range(options.repeats):
        say(f"{part.title}, {what}: turn {turn + 1}")
        for name, (who, batch) in ways.items():
            out = scratch / f"{who}-{batch}-{len(videos)}-{turn}"
            made, run = contender(who, *videos, "--out", out, "--batch", str(batch))
            speeds[name].append(made["frames"] / made["seconds"])
            peaks[name] = max(peaks.get(name, 0), run.peak())
    theirs = median(speeds["LWM's way"])
    rows = [
        [name, f"{median(each):.1f}", f"{median(each) / theirs:.2f}", f"{peaks[name] / MB:.0f}"]
        for name, each in speeds.items()
    ]
    part.text += [f"{what}, 640x360 at 30 frames a second, one frame a second taken:"]
    part.text += [table(["", "frames a second", "× LWM's way", "peak of resident memory, MB"], rows)]
    ratio = min(median(speeds[name]) for name in ways if name != "LWM's way") / theirs
    part.claim(
        f"{what}: at least {FASTER:g} times the frames a second", f"{ratio:.2f} times", ratio >= FASTER
    )
    batch = options.batches[0]
    same, total = _agreement(
        videos, scratch / f"lwm-1-{len(videos)}-0", scratch / f"ringvision-{batch}-{len(videos)}-0"
    )
    part.claim(f"{what}: the same codes as the baseline", f"{same} of {total}", same == total > 0)
    part.figures[what] = {"frames_a_second": speeds, "peak": peaks, "same_codes": [same, total]}


def _agreement(videos: list[Path], lwm: Path, ours: Path) -> tuple[int, int]:
    """Codes that are equal, and how many there are of whichever has more."""
    from ringvision.tokenize import read_examples

    there = {Path(example.source).name: example.codes for example in read_examples(ours)}
    same = total = 0
    with np.load(lwm / "codes.npz") as held:
        for video in videos:
            a = held[video.name]
            b = there.get(video.name, np.zeros((0, *held[video.name].shape[1:]), int))
            both = min(len(a), len(b))
            same = same + int((a[:both] == b[:both]).sum())
            total = total + max(a.size, b.size)
    return same, total


def _hour_of_both(part: Part, video: Path, minutes: int, scratch: Path) -> None:
    """Memory of both, once. What does not fit is measured on as many minutes as do, and taken to grow with
    them.
    """
    need = 2 * 60 * minutes * SIZE[0] * SIZE[1] * 3
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if need > 0.7 * free:
        raise SystemExit(
            f"LWM's way needs {need / 1e9:.1f} GB for {minutes} minutes and {free / 1e9:.1f} are "
            "free; give fewer --minutes"
        )
    say(f"{part.title}: memory on {minutes} minutes")
    theirs, lwm = contender("lwm", video, "--out", scratch / "lwm-hour")
    ours, run = contender("ringvision", video, "--out", scratch / "ringvision-hour")
    rows = [
        [name, f"{made['frames'] / made['seconds']:.1f}", f"{made['seconds']:.1f}", f"{seen.peak() / MB:.0f}"]
        for name, made, seen in (("LWM's way", theirs, lwm), ("ringvision, batch 64", ours, run))
    ]
    part.text += [
        f"{minutes} minutes:",
        table(["", "frames a second", "s", "peak of resident memory, MB"], rows),
    ]
    share = run.peak() / lwm.peak()
    found = f"{run.peak() / MB:.0f} of {lwm.peak() / MB:.0f} MB: {share:.1%}"
    part.claim(f"{minutes} minutes: less than {LESS_MEMORY:.0%} of its memory", found, share < LESS_MEMORY)
    part.figures["memory"] = {
        "lwm": lwm.thinned(),
        "ringvision": run.thinned(),
        "peaks": [lwm.peak(), run.peak()],
    }


# ------------------------------------------------------------------------------------------------- invariance


def invariance(options: argparse.Namespace, cache: Path, scratch: Path) -> Part:
    from ringvision.data.world import HELD_OUT, encoded_frames, make_scene

    part = Part("Codes and batches")
    seed = HELD_OUT
    videos = []
    while sum(map(len, videos)) < options.frames:
        videos.append(encoded_frames(make_scene(seed)))
        seed += 1
    noise = np.random.default_rng(0).integers(0, 256, (options.frames // 4, *videos[0].shape[1:]), np.uint8)
    frames = np.concatenate([*videos, noise])[: options.frames + len(noise)]
    order = np.random.default_rng(1).permutation(len(frames))
    np.save(scratch / "frames.npy", frames)
    np.save(scratch / "shuffled.npy", frames[order])
    reference = _codes(scratch, "frames", 16, 16, 1)
    rows = []
    for devices in (1, 4):
        for network, batches in ((16, (1, 4, 16, 64)), (1, (64,)), (4, (64,)), (64, (64,))):
            for batch in batches:
                for name in ("frames", "shuffled"):
                    say(f"{part.title}: {name}, batch {batch}, network {network}, devices {devices}")
                    codes = _codes(scratch, name, batch, network, devices)
                    wanted = reference if name == "frames" else reference[order]
                    rows.append([devices, network, batch, name == "shuffled", int((codes != wanted).sum())])
    shown = [
        [devices, network, batch, "yes" if mixed else "", differ]
        for devices, network, batch, mixed, differ in rows
    ]
    part.text.append(
        f"{len(frames)} frames, {reference.size} codes, {len(np.unique(reference))} different ones:"
    )
    part.text.append(
        table(["devices", "the network's batch", "--batch", "shuffled", "codes that differ"], shown)
    )
    differ = sum(row[-1] for row in rows if row[1] == 16)
    part.claim("codes do not depend on --batch, order or devices", f"{differ} differ", differ == 0)
    differ = sum(row[-1] for row in rows if row[1] != 16)
    part.claim("nor on how many frames go through the network at once", f"{differ} differ", differ == 0)
    part.figures["rows"] = rows
    return part


def _codes(scratch: Path, name: str, batch: int, network: int, devices: int) -> np.ndarray:
    settings = ["--batch", str(batch), "--network-batch", str(network), "--devices", str(devices)]
    contender("codes", scratch / f"{name}.npy", "--out", scratch / "codes", *settings)
    return np.load(scratch / "codes" / "codes.npy")


PARTS = {"kills": kills, "hour": hour, "baseline": baseline, "invariance": invariance}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in PARTS:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--videos", type=int, default=300, help="of --kills")
    parser.add_argument("--kill-count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--minutes", type=int, default=60, help="of --hour and --baseline")
    parser.add_argument("--speed-minutes", type=int, default=10, help="on which --baseline compares speeds")
    parser.add_argument("--clips", type=int, default=30, help="of --baseline")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[16, 64], help="of ringvision in --baseline"
    )
    parser.add_argument(
        "--frames", type=int, default=1024, help="of --invariance, to which a quarter of noise is added"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="where videos are kept for the next run")
    parser.add_argument("--json", type=Path, help="everything measured")
    options = parser.parse_args()
    chosen = [name for name in PARTS if getattr(options, name)]
    if not chosen:
        parser.error(f"choose at least one of {', '.join(f'--{name}' for name in PARTS)}")
    os.environ.update(QUIET)
    report: dict[str, Any] = {"machine": machine(MODULES), "parts": {}}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), flush=True)
    held = True
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="bench-tokenize-") as scratch:
            cache = options.cache or Path(scratch) / "cache"
            cache.mkdir(parents=True, exist_ok=True)
            part = PARTS[name](options, cache, Path(scratch))
        print(f"\n{part.markdown()}", flush=True)
        report["parts"][name] = asdict(part)
        held &= all(holds for _, _, holds in part.claims)
        if options.json:  # after every part, so that what was measured is not lost
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
