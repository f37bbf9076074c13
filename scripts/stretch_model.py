"""Gives the model of short videos what one of hours has, so that training can go on with long ones:

    python scripts/stretch_model.py demos/model runs/demo/long-start

    a window        tokens of a video see WINDOW positions back; words see everything
    folded turns    rotary positions repeat after FOLD positions, so that no distance is new
    sharper words   queries of words beyond SHARPENED_FROM grow with the logarithm of their position
    stamps          the numbers of time stamps have ids of their own, so that they count as video; their
                    embeddings begin as those of the text pieces that they were

What the model says of short videos stays nearly what it was.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from ringvision.data.text.folder import load_text_tokenizer
from ringvision.model_folder import load_model, read_config, save_model
from ringvision.vocabulary import Vocabulary

WINDOW = 256
FOLD = 4096
SHARPENED_FROM = 512
STAMPS = 120
MAX_LENGTH = 2**17


def stretched(settings: dict, arrays: dict[str, np.ndarray], pieces: list[int]) -> tuple[dict, dict]:
    """Settings and arrays of the model, with all three. pieces: the id that each stamp's number has as
    text.
    """
    vocabulary = Vocabulary.from_dict({**settings["vocabulary"], "vision_size": None, "stamps": len(pieces)})
    transformer = {
        **settings["transformer"],
        "vocab_size": vocabulary.size,
        "max_length": MAX_LENGTH,
        "video_window": WINDOW,
        "sharpened_from": SHARPENED_FROM,
        "rope_scaling": {"factor": 1.0, "trained_length": FOLD, "kind": "folded"},
    }
    table = arrays["embed.table"]
    head = arrays["unembed.kernel"]
    more = {
        "embed.table": np.concatenate([table, table[pieces]]),
        # nobody answers with a stamp
        "unembed.kernel": np.concatenate([head, np.zeros((len(head), len(pieces)), head.dtype)], axis=1),
    }
    return {**settings, "vocabulary": vocabulary.to_dict(), "transformer": transformer}, {**arrays, **more}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("dest", type=Path)
    arguments = parser.parse_args()
    text = load_text_tokenizer(arguments.source)
    pieces = [text.encode(str(number))[-1] for number in range(STAMPS)]
    save_model(
        arguments.dest, *stretched(read_config(arguments.source), load_model(arguments.source), pieces)
    )
    shutil.copy2(arguments.source / "text.model", arguments.dest / "text.model")


if __name__ == "__main__":
    main()
