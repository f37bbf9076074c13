"""Gives the model of short videos what one of hours has, so that training can go on with long ones:

    python scripts/stretch_model.py runs/demo/colours/model runs/demo/long-start

    a window        tokens of a video see WINDOW positions back; words see everything
    folded turns    rotary positions repeat after FOLD positions, so that no distance is new; the slower part
                    of each head's channels does not turn, so that a time is found wherever it stands
    sharper words   queries of words beyond SHARPENED_FROM grow with the logarithm of their position
    stamps          every second of a video has an id of its own, the sum of a row for its second and one for
                    its minute, which stands behind a frame's codes instead of two words before them; behind a
                    question it is added to the piece after which an answer begins
    numbers         begin as points on circles, the same for a second and its piece of text, and in other
                    dimensions for minutes, where the model writes least: then all are told apart alike, where
                    a model of short videos knows the first few and has learned that the others are never said
    a look-up       every layer has one more key/value head, which begins by comparing those points: a time
                    that is asked for finds its frame. What it finds there is used as training has it

What the model says of short videos stays nearly what it was.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from ringvision.data.text.folder import load_text_tokenizer
from ringvision.errors import UserError
from ringvision.model_folder import load_model, read_config, save_model
from ringvision.vocabulary import Vocabulary

WINDOW = 256
FOLD = 4096
TURNING = 7 / 16
STAMP_PLACE = 0
"""Of a stamp in its frame: frames begin at place 2 and have 18 tokens."""
SHARPENED_FROM = 512
MINUTES = 120
MAX_LENGTH = 2**17
KNOWN = 12
"""Numbers that the model of short videos was trained with, as times: 0 to 11 seconds."""
ROUND = 128
TURNS = (3, 38, 50, 54)
"""Turns on each circle for ROUND numbers; of 60,000 random choices the one whose nearest two numbers below
120 are furthest apart.
"""
EMBEDDED, SAID = 0.9, 0.4
"""The radius of a circle in the embedding and in the head."""
LOOKED_UP = 3.5
"""How much the new heads make of those points: two different times differ by about 5 in the logits."""


def stretched(
    settings: dict, arrays: dict[str, np.ndarray], pieces: list[int], last: int
) -> tuple[dict, dict]:
    """Settings and arrays of the model, with all of these. pieces: the id that each stamp's number has as
    text. last: that of the last piece of a question.
    """
    vocabulary = Vocabulary.from_dict(
        {**settings["vocabulary"], "vision_size": None, "stamps": 60 + len(pieces) + 1}
    )
    old = settings["transformer"]
    queries = old["num_heads"] // old["num_kv_heads"]
    transformer = {
        **old,
        "vocab_size": vocabulary.size,
        "num_heads": old["num_heads"] + queries,
        "num_kv_heads": old["num_kv_heads"] + 1,
        "max_length": MAX_LENGTH,
        "frame_period": old["frame_period"] - 1,
        "stamp_rows": vocabulary.stamps,
        "video_window": WINDOW,
        "sharpened_from": SHARPENED_FROM,
        "rope_scaling": {"factor": 1.0, "trained_length": FOLD, "kind": "folded", "turning": TURNING},
    }
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    planes = quiet_planes(arrays)
    seconds, minutes = (circles(len(pieces)) @ planes[kind].T for kind in (0, 1))
    table = arrays["embed.table"]
    end = table[vocabulary.eof]  # what stands behind a frame
    begin = table[last]  # what stands before an answer
    stamps = np.concatenate([end + EMBEDDED * seconds[:60], EMBEDDED * minutes, [begin - end]])
    cells = arrays["cells.table"][old_places(len(arrays["cells.table"]))]
    head = with_numbers(arrays["unembed.kernel"].T, pieces, SAID * seconds).T
    more = {
        "embed.table": np.concatenate([with_numbers(table, pieces, EMBEDDED * seconds), stamps]),
        "cells.table": cells,
        # nobody answers with a stamp
        "unembed.kernel": np.concatenate([head, np.zeros((len(head), len(stamps)))], axis=1),
    }
    frame = cells[STAMP_PLACE] - cells.mean(0)
    frame /= np.linalg.norm(frame)
    more |= with_look_up(arrays, planes, frame, begin / np.linalg.norm(begin), queries)
    more = {name: array.astype(np.float32) for name, array in {**arrays, **more}.items()}
    return {**settings, "vocabulary": vocabulary.to_dict(), "transformer": transformer}, more


def quiet_planes(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """For seconds and for minutes as many planes as there are circles, [2, D, 2 circles]: the directions in
    which embeddings and layers write least.
    """
    layers = [arrays["layers.attention.output"], arrays["layers.feed_forward.down"]]
    width = arrays["embed.table"].shape[1]
    writes = [arrays["embed.table"], arrays["cells.table"]]
    writes += [layer.reshape(-1, width) for stack in layers for layer in stack]
    energy = sum(rows.T @ rows / np.sqrt(len(rows)) for rows in writes)
    directions = np.linalg.eigh(energy)[1][:, : 4 * len(TURNS)]  # quietest first
    return np.stack([directions[:, kind::2] for kind in (0, 1)])


def with_look_up(
    arrays: dict[str, np.ndarray], planes: np.ndarray, frame: np.ndarray, begin: np.ndarray, queries: int
) -> dict[str, np.ndarray]:
    """The arrays of attention with one more key/value head and its `queries`. The first of these compares
    the points of numbers in the planes [2, D, P], in channels that do not turn; a key counts more where it
    is of a `frame`, a query where an answer is to `begin` (directions [D]), so that a time which is asked for
    does not find itself. What the head writes is zero at first.
    """
    random = np.random.default_rng(0)
    name = "layers.attention."
    layers, width, _, channels = arrays[name + "query"].shape
    half = channels // 2
    still = [*range(round(TURNING * half) + 1, half)]
    still += [half + channel for channel in still]  # but for one pair, where frames are told
    gate = round(TURNING * half)
    compared = LOOKED_UP * planes.transpose(1, 0, 2).reshape(width, -1)  # (D, all planes)
    assert compared.shape[1] == len(still), "the circles fill what does not turn"
    key, query = np.zeros((2, width, channels))
    key[:, still] = query[:, still] = compared
    key[:, gate] = LOOKED_UP * frame
    query[:, gate] = LOOKED_UP * begin
    spread = arrays[name + "query"].std()

    def grown(of: str, axis: int, new: np.ndarray) -> np.ndarray:
        return np.concatenate([arrays[name + of], np.broadcast_to(new, (layers, *new.shape))], axis=axis)

    free = spread * random.normal(size=(width, queries - 1, channels))
    return {
        name + "query": grown("query", 2, np.concatenate([query[:, None], free], axis=1)),
        name + "key": grown("key", 2, key[:, None]),
        name + "value": np.concatenate(
            [arrays[name + "value"], spread * random.normal(size=(layers, width, 1, channels))], axis=2
        ),
        name + "output": grown("output", 1, np.zeros((queries, channels, width))),
    }


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


def circles(count: int) -> np.ndarray:
    """The points of so many numbers on a circle of radius 1 for each of TURNS: float64 [count, 2 circles]."""
    angles = 2 * np.pi / ROUND * np.outer(np.arange(count), TURNS)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


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
    settings = read_config(arguments.source)
    if settings["vocabulary"].get("stamps"):
        raise UserError(f"{arguments.source} has this already; give a model of short videos")
    last = text.encode(settings["stream"]["question"])[-1]
    save_model(arguments.dest, *stretched(settings, load_model(arguments.source), pieces, last))
    shutil.copy2(arguments.source / "text.model", arguments.dest / "text.model")


if __name__ == "__main__":
    main()
