"""Turns the rendered videos of the world into the codes that the transformer learns from, as `ringvision
tokenize` would write them.

    python scripts/tokenize_world.py runs/demo/videos runs/demo/codes --tokenizer world-16
    ringvision tokens inspect runs/demo/codes

Each `videos-NNNNN.npz` becomes one shard, in order; the source of a record is `world:SEED`,
`more-colours:SEED` or `long:SECONDS:SEED`, as draw_world.py drew it. Files whose shard is there already are
passed over, so a run that was stopped, or that rendered more videos since, goes on where it was.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from ringvision import shipped
from ringvision.data.tokenized import FORMATS, TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.video_tokenizer import VideoTokenizer, load_video_tokenizer


def tokenized(path: Path, tokenizer: VideoTokenizer) -> list[TokenizedVideo]:
    """The videos of one file, one frame a second; their sha256 is that of the frames' bytes."""
    with np.load(path) as held:
        frames = held["frames"]
        ends = np.cumsum(held["lengths"])[:-1]
        seeds = held["seeds"].tolist()
        kind = str(held["kind"])
    pairs = zip(np.split(frames, ends), np.split(tokenizer.encode(frames), ends), strict=True)
    return [
        TokenizedVideo(
            source=f"{kind}{seed}",
            sha256=hashlib.sha256(video.tobytes()).hexdigest(),
            codes=codes,
            times=np.arange(len(video), dtype=np.float64),
            fps=1.0,
            size=tokenizer.size,
            tokenizer=tokenizer.hash,
        )
        for seed, (video, codes) in zip(seeds, pairs, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--format", default="array_record", choices=FORMATS)
    arguments = parser.parse_args()
    tokenizer = load_video_tokenizer(shipped.tokenizer(arguments.tokenizer))
    description = f"videos of ringvision.data.world by {tokenizer.name}, one frame a second"
    with TokenizedWriter(
        arguments.out, num_codes=tokenizer.num_codes, format=arguments.format, description=description
    ) as writer:
        for path in sorted(arguments.videos.glob("videos-?????.npz"))[len(writer.lengths) :]:
            writer.add(tokenized(path, tokenizer))
            print(path.name, sum(writer.lengths), "videos", flush=True)


if __name__ == "__main__":
    main()
