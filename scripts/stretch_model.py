"""Gives the model of short videos what one of hours has, so that training can go on with long ones:

    python scripts/stretch_model.py demos/model runs/demo/long-start

    a window        tokens of a video see WINDOW positions back; words see everything
    folded turns    rotary positions repeat after FOLD positions, so that no distance is new; the slower half
                    of each head's channels does not turn, so that a time is found wherever it stands
    sharper words   queries of words beyond SHARPENED_FROM grow with the logarithm of their position
    stamps          every second of a video has an id of its own, the sum of a row for its second and one for
                    its minute, which stands behind a frame's codes instead of two words before them
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
TURNING = 0.5
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
        "frame_period": settings["transformer"]["frame_period"] - 1,
        "stamp_rows": vocabulary.stamps,
        "video_window": WINDOW,
        "sharpened_from": SHARPENED_FROM,
        "rope_scaling": {"factor": 1.0, "trained_length": FOLD, "kind": "folded", "turning": TURNING},
    }
    table = arrays["embed.table"]
    seconds, minutes = circles(len(pieces), table.shape[1])
    end = table[vocabulary.eof]  # what stands behind a frame
    stamps = np.concatenate([end + EMBEDDED * seconds[:60], EMBEDDED * minutes]).astype(table.dtype)
    table = with_numbers(table, pieces, EMBEDDED * seconds)
    head = with_numbers(arrays["unembed.kernel"].T, pieces, SAID * seconds).T
    more = {
        "embed.table": np.concatenate([table, stamps]),
        "cells.table": arrays["cells.table"][old_places(len(arrays["cells.table"]))],
        # nobody answers with a stamp
        "unembed.kernel": np.concatenate([head, np.zeros((len(head), len(stamps)), head.dtype)], axis=1),
    }
    return {**settings, "vocabulary": vocabulary.to_dict(), "transformer": transformer}, {**arrays, **more}


def old_places(period: int) -> list[int]:
    """For each place in a frame of `period` - 1 tokens, codes, a stamp and an end, that of the same in a
    frame of `period`, whose two words of time stand before the codes. Frames begin at place 2; a stamp is
    told that it is at an end.
    """
    places = [0] * (period - 1)
    for token in range(period - 1):
        before = min(token + 2, period - 1)
        places[(2 + token) % (period - 1)] = (2 + before) % period
    return places


def circles(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The points of so many numbers on circles of radius 1: float64 [count, width], and the same in other
    dimensions.
    """
    angles = 2 * np.pi / ROUND * np.outer(np.arange(count), np.arange(1, 2 * CIRCLES, 2))
    points = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(CIRCLES)
    planes = np.linalg.qr(np.random.default_rng(0).normal(size=(width, 4 * CIRCLES)))[0]
    return points @ planes[:, : 2 * CIRCLES].T, points @ planes[:, 2 * CIRCLES :].T


def with_numbers(rows: np.ndarray, pieces: list[int], points: np.ndarray) -> np.ndarray:
    """float [ids, D] -> a copy in which each number that is one piece is at its point [numbers, D], seen from
    where it was, if it was known, and otherwise from the mean of those that were.
    """
    known = rows[pieces[:KNOWN]]
    before = np.concatenate([known, np.tile(known.mean(0), (len(pieces) - KNOWN, 1))])
    after = rows.copy()
    for number, piece in enumerate(pieces):
        if pieces.count(piece) == 1:  # 100 is two pieces
            after[piece] = before[number] + points[number]
    return after


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
