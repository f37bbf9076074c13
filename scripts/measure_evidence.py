"""How often the seconds that an answer attended to are those of the card that it was asked about.

    python scripts/measure_evidence.py --videos 60
    python scripts/measure_evidence.py --videos 20 --seconds 3600 --model runs/hour/model

Draws held-out clips of the world, or with --seconds long videos with one card of one second, asks which digit
was on a card and when it was shown, and looks at the answers that are right. Prints one JSON object: for each
kind of question how many answers were right, in how many of these the heaviest second was the card's, in how
many some span came within 2 seconds of it, and how many spans and seconds of spans there were in the mean.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ringvision as rv
from ringvision.data.world import (
    COLOURS,
    HELD_OUT,
    Card,
    Scene,
    make_long_scene,
    make_scene,
    one_second_card,
    read_time,
    time_words,
    write_video,
)
from ringvision.evaluate.world import SEED_STRIDE

WITHIN = 2.0


def scenes(videos: int, seconds: int | None, seed: int) -> Iterator[Scene]:
    """Held-out scenes with cards."""
    random = np.random.default_rng([seed, 5])
    number = HELD_OUT + (1 + seed) * SEED_STRIDE
    while videos:
        number += 1000
        if seconds is None:
            scene = make_scene(number)
        else:
            card = one_second_card(
                int(random.integers(10)), str(random.choice(list(COLOURS))), int(random.integers(seconds))
            )
            scene = make_long_scene(number, seconds, [card])
        if scene.cards:
            videos -= 1
            yield scene


def asked(scene: Scene) -> Iterator[tuple[str, str, str, Card]]:
    """(kind, question, right answer, the card) for every card of a scene."""
    for card in scene.cards:
        name = "card" if len(scene.cards) == 1 else f"{card.colour} card"
        yield "digit", f"Which digit was on the {name}?", str(card.digit), card
        yield "when", f"When was the {name} shown?", time_words(scene.first_seen(card)), card


def is_right(kind: str, said: str, right: str) -> bool:
    """Digits by the word, times within WITHIN seconds."""
    if kind == "digit":
        return said.strip() == right
    found = read_time(said)
    wanted = read_time(right)
    return found is not None and wanted is not None and abs(found - wanted) <= WITHIN


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a model folder (default: the shipped one)")
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--seconds", type=int, help="of long videos (default: clips)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    assistant = rv.load(arguments.model)
    rows: dict[str, list[tuple[bool, bool, bool, int, float]]] = {}
    for scene in scenes(arguments.videos, arguments.seconds, arguments.seed):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            write_video(scene, path, fps=4, size=128)
            for kind, question, right, card in asked(scene):
                reply = assistant.ask(path, question)
                shown = [second for second in scene.seconds if scene.card_at(second) is card]
                heaviest = float(reply.evidence.start[int(np.argmax(reply.evidence.weights))])
                near = any(
                    start - WITHIN <= second <= end + WITHIN - 1
                    for start, end in reply.spans
                    for second in shown
                )
                seconds = sum(end - start for start, end in reply.spans)
                row = (is_right(kind, reply.text, right), heaviest in shown, near, len(reply.spans), seconds)
                rows.setdefault(kind, []).append(row)
    found = {}
    for kind, all_rows in rows.items():
        right_rows = np.array([row[1:] for row in all_rows if row[0]], float).reshape(-1, 4)
        names = ("heaviest_is_the_card", "within_2_seconds", "spans", "seconds_of_spans")
        means = right_rows.mean(0).round(3).tolist() if len(right_rows) else [None] * 4
        found[kind] = {"asked": len(all_rows), "right": len(right_rows), **dict(zip(names, means))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
