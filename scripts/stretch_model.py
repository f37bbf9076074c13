"""Gives the model of short videos what one of hours has, so that training can go on with long ones:

    python scripts/stretch_model.py demos/model runs/demo/long-start

    a window        tokens of a video see WINDOW positions back; words see everything
    folded turns    rotary positions repeat after FOLD positions, so that no distance is new
    sharper words   queries of words beyond SHARPENED_FROM grow with the logarithm of their position
    stamps          seconds and minutes of time stamps have ids of their own, so that they count as video
    numbers         begin as points on circles, the same for a second and its piece of text, and in other
                    dimensions for minutes: one matrix then compares all of them, where a model of short
                    videos knows the first few and has learned that the others are never said

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
MINUTES = 120
MAX_LENGTH = 2**17
KNOWN = 12
"""Numbers that the model of short videos was trained with, as times: 0 to 11 seconds."""
CIRCLES = 24
ROUND = 128
"""Numbers that go once round the first circle; they go three times round the next one, 47 round the last."""
EMBEDDED, SAID = 1.5, 0.75
"""The radius of the circles in the embedding, whose rows are about as long, and in the head."""


def stretched(settings: dict, arrays: dict[str, np.ndarray], pieces: list[int]) -> tuple[dict, dict]:
    """Settings and arrays of the model, with all three. pieces: the id that each stamp's number has as
    text.
    """
    vocabulary = Vocabulary.from_dict(
        {**settings["vocabulary"], "vision_size": None, "stamps": 60 + len(pieces)}
    )
    transformer = {
        **settings["transformer"],
        "vocab_size": vocabulary.size,
        "max_length": MAX_LENGTH,
        "video_window": WINDOW,
        "sharpened_from": SHARPENED_FROM,
        "rope_scaling": {"factor": 1.0, "trained_length": FOLD, "kind": "folded"},
    }
    table, stamps = with_numbers(arrays["embed.table"], pieces, EMBEDDED)
    head = with_numbers(arrays["unembed.kernel"].T, pieces, SAID)[0].T
    more = {
        "embed.table": np.concatenate([table, stamps]),
        # nobody answers with a stamp
        "unembed.kernel": np.concatenate([head, np.zeros((len(head), len(stamps)), head.dtype)], axis=1),
    }
    return {**settings, "vocabulary": vocabulary.to_dict(), "transformer": transformer}, {**arrays, **more}


def with_numbers(rows: np.ndarray, pieces: list[int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """float [ids, D] -> a copy with other rows for the numbers, and those of the stamps [60 + minutes, D]: a
    number that was known is moved to its point on the circles, others are that far from the mean of these.
    """
    numbers = np.arange(len(pieces))
    angles = 2 * np.pi / ROUND * np.outer(numbers, np.arange(1, 2 * CIRCLES, 2))
    points = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(CIRCLES)
    planes = np.linalg.qr(np.random.default_rng(0).normal(size=(rows.shape[1], 4 * CIRCLES)))[0]
    mean = rows[pieces[:KNOWN]].mean(0)
    before = np.where(numbers[:, None] < KNOWN, rows[pieces], mean)
    seconds = (before + radius * points @ planes[:, : 2 * CIRCLES].T).astype(rows.dtype)
    minutes = (mean + radius * points @ planes[:, 2 * CIRCLES :].T).astype(rows.dtype)
    after = rows.copy()
    whole = [number for number in numbers if pieces.count(pieces[number]) == 1]  # 100 is two pieces
    after[np.array(pieces)[whole]] = seconds[whole]
    return after, np.concatenate([seconds[:60], minutes])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("dest", type=Path)
    arguments = parser.parse_args()
    text = load_text_tokenizer(arguments.source)
    pieces = [text.encode(str(number))[-1] for number in range(MINUTES)]
    save_model(
        arguments.dest, *stretched(read_config(arguments.source), load_model(arguments.source), pieces)
    )
    shutil.copy2(arguments.source / "text.model", arguments.dest / "text.model")


if __name__ == "__main__":
    main()
