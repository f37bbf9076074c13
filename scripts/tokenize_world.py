"""Turns the drawn films into the codes that the transformer learns from.

    python scripts/tokenize_world.py runs/demo/films runs/demo/codes --tokenizer world-16

Each `films-NNNNN.npz` becomes one file of code shards, in order. Films that the shards hold already are
passed over, so a run that was stopped, or that drew more films since, goes on where it was.
"""

import argparse
from pathlib import Path

import numpy as np

from ringvision import shipped
from ringvision.data.shards import ShardsInfo, ShardWriter
from ringvision.video_tokenizer import load_video_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("films", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", required=True)
    arguments = parser.parse_args()
    tokenizer = load_video_tokenizer(shipped.tokenizer(arguments.tokenizer))
    info = ShardsInfo(tokenizer.name, tokenizer.hash, tokenizer.grid, tokenizer.num_codes, 1.0)
    with ShardWriter(arguments.out, info, videos_per_file=1 << 30) as writer:
        there = len(writer)
        for path in sorted(arguments.films.glob("films-?????.npz")):
            with np.load(path) as films:
                lengths = films["lengths"]
                seeds = films["seeds"]
                if there >= len(lengths):
                    there -= len(lengths)
                    continue
                codes = np.split(tokenizer.encode(films["frames"]), np.cumsum(lengths)[:-1])
            for video, seed in zip(codes, seeds, strict=True):
                writer.add(video, np.arange(len(video)), int(seed))
            writer.flush()
            print(path.name, len(writer), "videos", flush=True)


if __name__ == "__main__":
    main()
