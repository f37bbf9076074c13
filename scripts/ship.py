"""Copies what a run made to where it is shipped from, stored in half the bytes.

    python scripts/ship.py runs/demo/tokenizer/tokenizer tokenizers/world-16
    python scripts/ship.py runs/demo/colours/model demos/model --knows-seconds 12

Weights are stored as float16 and computed with in float32. Nothing is written when a weight does not fit
float16. With --knows-seconds config.json says what a model of the drawn world was trained for: which
questions, and videos up to how long its answers were measured for.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from ringvision.data.world import example_questions
from ringvision.errors import UserError
from ringvision.model_folder import Knows, load_model, read_config, save_model

ABOUT = "videos of coloured shapes and of cards with a digit, as ringvision.data.world draws them"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--knows-seconds", type=float, help="the longest videos that it was measured on")
    arguments = parser.parse_args()
    settings = read_config(arguments.source)
    if arguments.knows_seconds is not None:
        knows = Knows(ABOUT, example_questions(arguments.knows_seconds), arguments.knows_seconds)
        settings["knows"] = Knows.from_dict(knows.to_dict()).to_dict()
    arrays = load_model(arguments.source)
    halves = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in arrays.items()
    }
    if lost := [name for name, array in halves.items() if not np.isfinite(array).all()]:
        raise UserError(f"{', '.join(lost)} hold weights beyond float16; ship {arguments.source} as it is")
    save_model(arguments.dest, settings, halves)
    for text in arguments.source.glob("text.model"):
        shutil.copy2(text, arguments.dest / text.name)
    print(f"{arguments.dest}: {sum(array.nbytes for array in halves.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
