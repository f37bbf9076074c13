"""Renders the videos of the world that the shipped tokenizer and model learn from, one frame a second.

    python scripts/draw_world.py runs/demo/videos --videos 28000

Writes `videos-00000.npz` and so on: frames uint8 [N, 64, 64, 3], lengths [videos], seeds [videos], and their
kind, as data/sources/world.py calls it. A file that is there already is left alone, so a run that was stopped
goes on where it stopped. `--held-out` takes the seeds that training never sees, `--more-colours` draws things
in more colours; `--frames FILE.npy` also gathers the frames of the first sixteen files for the tokenizer's
training.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from ringvision.data.sources.world import SCENES
from ringvision.data.world import HELD_OUT, encoded_frames


def draw(path: Path, seeds: range, kind: str) -> None:
    """The videos of these seeds, frames uint8 [N, 64, 64, 3] one after another, in one file. kind: of scenes,
    a key of SCENES.
    """
    videos = [encoded_frames(SCENES[kind](seed)) for seed in seeds]
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
    parser.add_argument("--chunk", type=int, default=500, help="videos a file")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--more-colours", action="store_true")
    parser.add_argument("--frames", type=Path, help="gather frames for the tokenizer's training here")
    arguments = parser.parse_args()
    kind = "more-colours:" if arguments.more_colours else "world:"
    arguments.out.mkdir(parents=True, exist_ok=True)
    first = arguments.first + (HELD_OUT if arguments.held_out else 0)
    for index, begin in enumerate(range(0, arguments.videos, arguments.chunk)):
        path = arguments.out / f"videos-{arguments.first // arguments.chunk + index:05d}.npz"
        if not path.exists():
            draw(path, range(first + begin, first + min(begin + arguments.chunk, arguments.videos)), kind)
            print(path, flush=True)
    if arguments.frames and not arguments.frames.exists():
        gather(sorted(arguments.out.glob("videos-?????.npz"))[:16], arguments.frames)


if __name__ == "__main__":
    main()
