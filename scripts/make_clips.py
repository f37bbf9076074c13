"""Writes the sample clips of demos/clips: four held-out scenes, and questions about them (clips.json).

    python scripts/make_clips.py demos/clips

Each clip is the first suitable scene from a seed on that no evaluation starts from.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from ringvision.data.world import HELD_OUT, Question, Scene, make_scene, questions, write_video

FIRST = HELD_OUT + (1 << 36)


def crosses(scene: Scene) -> bool:
    """Whether two things move in opposite directions at the same time."""
    moving = [thing for thing in scene.things if thing.direction]
    return any(
        {a.direction, b.direction} in ({"left", "right"}, {"up", "down"})
        and max(a.appears, b.appears) + 1 < min(a.leaves, b.leaves)
        for a in moving
        for b in moving
    )


CLIPS: dict[str, tuple[str, Callable[[Scene], bool]]] = {
    "needle": (
        "needle",
        lambda scene: len(scene.cards) == 1 and scene.duration >= 11 and 3 < scene.cards[0].appears < 8,
    ),
    "order": ("order", lambda scene: len(scene.things) >= 4 and scene.duration <= 10),
    "crossing": ("direction", crosses),
    "change": ("change", lambda scene: scene.duration <= 10),
}


def find(kind: str, wanted: Callable[[Scene], bool], seed: int) -> tuple[Scene, list[Question]]:
    """The first scene from `seed` on that is `wanted` and has a question of `kind`, and its questions, with
    those of `kind` first.
    """
    while True:
        scene = make_scene(seed)
        seed += 1
        asked = questions(scene)
        if wanted(scene) and any(question.kind == kind for question in asked):
            return scene, sorted(asked, key=lambda question: question.kind != kind)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    index = {}
    for number, (name, (kind, wanted)) in enumerate(CLIPS.items()):
        scene, asked = find(kind, wanted, FIRST + 1000 * number)
        write_video(scene, out / f"{name}.mp4", fps=12, size=256)
        suggested: dict[str, Question] = {}
        for question in asked:
            suggested.setdefault(question.kind, question)
        index[f"{name}.mp4"] = {
            "seed": scene.seed,
            "ask": {q.text: q.answer for q in list(suggested.values())[:5]},
        }
    (out / "clips.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
