"""Renders the videos of the world that the shipped tokenizer and model learn from, one frame a second.

    python scripts/draw_world.py runs/demo/videos --videos 28000
    python scripts/draw_world.py runs/long/videos --videos 200 --long 960

Writes `videos-00000.npz` and so on: frames uint8 [N, 64, 64, 3], lengths [videos], seeds [videos], and what
their sources begin with, as data/sources/world.py has it: `world:`, `more-colours:` or `long:SECONDS:`. A
file that is there already is left alone, so a run that was stopped goes on where it stopped. `--held-out`
takes the seeds that training never sees, `--more-colours` draws things in more colours, `--long SECONDS`
draws long videos; `--frames FILE.npy` also gathers the frames of the first sixteen files for the tokenizer's
training.

A second takes 12 kB, an hour 44 MB. A file holds at most MOST_FRAMES frames, about 200 MB, or a single video.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from ringvision.data.sources.world import SCENES, read_source
from ringvision.data.world import HELD_OUT, MAX_LONG_SECONDS, MIN_LONG_SECONDS, encoded_frames

MOST_FRAMES = 16384


def draw(path: Path, seeds: range, kind: str) -> None:
    """The videos of these seeds, frames uint8 [N, 64, 64, 3] one after another, in one file. kind: what comes
    before the seed in their sources.
    """
    videos = []
    for seed in seeds:
        name, numbers = read_source(f"{kind}{seed}")
        videos.append(encoded_frames(SCENES[name].make(*numbers)))
    aside = path.with_suffix(".part.npz")
    np.savez(
        aside,
        frames=np.concatenate(videos),
        lengths=np.array([len(video) for video in videos]),
        seeds=np.array(seeds),
        kind=np.array(kind),
    )
    os.replace(aside, path)


def gather(paths: list[Path], out: Path) -> None:
    """The frames of some files, shuffled, as one array uint8 [F, 64, 64, 3]."""
    frames = np.concatenate([np.load(path)["frames"] for path in paths])
    np.random.default_rng(0).shuffle(frames)
    aside = out.with_suffix(".part.npy")
    np.save(aside, frames)
    os.replace(aside, out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--videos", type=int, default=28000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--chunk", type=int, help="videos a file (default: 500, fewer long ones)")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--more-colours", action="store_true")
    parser.add_argument("--long", type=int, metavar="SECONDS", help="long videos, of so many seconds each")
    parser.add_argument("--frames", type=Path, help="gather frames for the tokenizer's training here")
    arguments = parser.parse_args()
    if arguments.long is not None and arguments.more_colours:
        parser.error("give --long or --more-colours, not both")
    if arguments.long is not None and not MIN_LONG_SECONDS <= arguments.long <= MAX_LONG_SECONDS:
        parser.error(f"--long {arguments.long}: expected {MIN_LONG_SECONDS} to {MAX_LONG_SECONDS} seconds")
    chunk = arguments.chunk or 500
    kind = "more-colours:" if arguments.more_colours else "world:"
    if arguments.long is not None:
        kind = f"long:{arguments.long}:"
        chunk = arguments.chunk or max(1, min(500, MOST_FRAMES // arguments.long))
    arguments.out.mkdir(parents=True, exist_ok=True)
    first = arguments.first + (HELD_OUT if arguments.held_out else 0)
    for index, begin in enumerate(range(0, arguments.videos, chunk)):
        path = arguments.out / f"videos-{arguments.first // chunk + index:05d}.npz"
        if not path.exists():
            draw(path, range(first + begin, first + min(begin + chunk, arguments.videos)), kind)
            print(path, flush=True)
    if arguments.frames and not arguments.frames.exists():
        gather(sorted(arguments.out.glob("videos-?????.npz"))[:16], arguments.frames)


if __name__ == "__main__":
    main()
