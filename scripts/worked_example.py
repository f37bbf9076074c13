"""From a folder of somebody's clips to answers in a word that the shipped model has never read: draws the
clips, runs the commands of docs/guide.md on them ("Train on your own videos"), and measures.

    python scripts/worked_example.py runs/worked --colour orange --rgb 255,140,0

Writes OUT/videos/*.mp4, OUT/videos.csv (path, caption), OUT/tokens, OUT/run, OUT/scores.json.
In each clip one thing of a scene has the new colour. Asked are the world's own questions about new clips in
which the new word is the answer (colour) or the thing's name (shape, direction); and `evaluate world`, before
and after. --json prints the scores as one object.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.world import (
    COLOURS,
    HELD_OUT,
    MORE_COLOURS,
    Question,
    Scene,
    make_scene,
    questions,
    write_video,
)

FIRST = HELD_OUT << 1
"""The first seed of the clips; neither training nor an evaluation comes so far."""
SEEDS = 1 << 20
"""How many seeds belong to one --seed; the questions are about scenes from the middle of them on."""
KINDS = ("colour", "shape", "direction")
MOTIONS = {
    None: "stays where it is", "left": "moves left", "right": "moves right", "up": "moves up",
    "down": "moves down",
}  # fmt: skip


def recoloured(seed: int, colour: str) -> Scene:
    """The scene of the first seed from `seed` on that shows a thing, one of its things in the new colour."""
    random = np.random.default_rng([seed, 5])
    scene = make_scene(seed)
    while not scene.things:
        seed += SEEDS >> 2
        scene = make_scene(seed)
    things = list(scene.things)
    chosen = int(random.integers(len(things)))
    things[chosen] = replace(things[chosen], colour=colour, changes=None, later_colour=None)
    return replace(scene, things=tuple(things))


def caption(scene: Scene) -> str:
    """What happens, thing by thing: "a red circle moves up, then a teal square stays where it is"."""
    said = [
        f"a {thing.name} {MOTIONS[thing.direction]}"
        for thing in sorted(scene.things, key=lambda thing: thing.appears)
    ]
    return ", then ".join(said)


def write_clips(folder: Path, first: int, clips: int, colour: str) -> None:
    """`clips` videos in folder/videos, and folder/videos.csv with a caption for each."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows = ["path,caption"]
    for number in range(clips):
        scene = recoloured(first + number, colour)
        name = f"videos/clip-{number:03d}.mp4"
        write_video(scene, folder / name)
        rows.append(f'{name},"{caption(scene)}"')
    (folder / "videos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def held_out(first: int, count: int, colour: str) -> list[tuple[Scene, Question]]:
    """`count` questions in the new word, as even over KINDS as scenes give them, at most one of a kind about
    a scene.
    """
    wanted = {kind: count // len(KINDS) + (index < count % len(KINDS)) for index, kind in enumerate(KINDS)}
    chosen = []
    seed = first + (SEEDS >> 1)
    while any(wanted.values()):
        scene = recoloured(seed, colour)
        seed += 1
        seen = set[str]()
        for question in questions(scene):
            word_stands_there = colour in question.text.split() or colour == question.answer
            if word_stands_there and wanted.get(question.kind) and question.kind not in seen:
                seen.add(question.kind)
                wanted[question.kind] -= 1
                chosen.append((scene, question))
    return chosen


def write_asked(folder: Path, asked: Sequence[tuple[Scene, Question]]) -> dict[int, Path]:
    """A video of every scene that is asked about, by its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {scene.seed: folder / f"held-{scene.seed - FIRST}.mp4" for scene, _ in asked}
    for scene, _ in asked:
        if not paths[scene.seed].exists():
            write_video(scene, paths[scene.seed])
    return paths


def score(
    model: Path | None, asked: Sequence[tuple[Scene, Question]], paths: dict[int, Path]
) -> dict[str, Any]:
    """{"all": share right, kind: ..., "wrong": [[question, expected, answer], ...]} of a model folder; of the
    shipped one where it is None.
    """
    import ringvision as rv
    from ringvision.evaluate.world import normalise

    assistant = rv.load(model)
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    wrong = []
    for scene, question in asked:
        answer = assistant.ask([paths[scene.seed]], question.text).text
        right[question.kind].append(normalise(answer) == normalise(question.answer))
        if not right[question.kind][-1]:
            wrong.append([question.text, question.answer, answer])
    everything = [one for those in right.values() for one in those]
    shares = {kind: float(np.mean(those)) for kind, those in right.items()}
    return {"all": float(np.mean(everything)), **shares, "wrong": wrong}


def command(*arguments: str) -> tuple[float, str]:
    """Runs `ringvision ARGUMENTS` -> (seconds, what it printed). Ends the script where it fails."""
    began = time.monotonic()
    print("$ ringvision", *arguments, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "ringvision", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"ringvision {arguments[0]} ended with status {done.returncode}")
    return time.monotonic() - began, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--colour", default="orange", help="the word; one that the world does not have")
    parser.add_argument("--rgb", default="255,140,0", help="how it looks")
    parser.add_argument("--seed", type=int, default=0, help="which scenes")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--variants", type=int, default=12, help="altered copies of each clip")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--steps", type=int, help="of training; default: those of configs/finetune.py")
    parser.add_argument("--world", type=int, default=800, help="examples of `evaluate world`; 0: none")
    parser.add_argument("--before", action="store_true", help="measure the shipped model too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.colour in (*COLOURS, *MORE_COLOURS):
        raise SystemExit(f"the world has {options.colour} already; give a new word")
    COLOURS[options.colour] = tuple(int(part) for part in options.rgb.split(","))  # type: ignore[assignment]
    first = FIRST + options.seed * SEEDS
    out = options.out
    write_clips(out, first, options.clips, options.colour)
    asked = held_out(first, options.questions, options.colour)
    paths = write_asked(out / "held", asked)

    tokens = str(out / "tokens")
    steps = [] if options.steps is None else ["--steps", str(options.steps)]
    copies = ("--variants", str(options.variants))
    tokenizing, _ = command("tokenize", str(out / "videos.csv"), "--out", tokens, *copies)
    training, _ = command("train", "finetune", "--data", tokens, "--out", str(out / "run"), *steps)
    scores: dict[str, Any] = {"colour": options.colour, "rgb": options.rgb, "seed": options.seed}
    scores["seconds"] = {"tokenize": round(tokenizing, 1), "train": round(training, 1)}
    scores["new_words"] = score(out / "run" / "model", asked, paths)
    if options.before:
        scores["new_words_before"] = score(None, asked, paths)
    if options.world:
        counted = ("evaluate", "world", "--examples", str(options.world), "--json")
        scores["world"] = json.loads(command(*counted, "--model", str(out / "run" / "model"))[1])
        if options.before:
            scores["world_before"] = json.loads(command(*counted)[1])
    (out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(scores) if options.json else table(scores))


def table(scores: dict[str, Any]) -> str:
    """The scores as lines for people."""
    lines = [f"{scores['colour']} ({scores['rgb']}), seed {scores['seed']}: {scores['seconds']}"]
    for name in ("new_words_before", "new_words"):
        if name in scores:
            shares = {kind: value for kind, value in scores[name].items() if kind != "wrong"}
            lines.append(f"{name}: " + "  ".join(f"{kind} {share:.1%}" for kind, share in shares.items()))
    for name in ("world_before", "world"):
        if name in scores:
            kinds = scores[name]["kinds"]
            lines.append(
                f"{name}: all {scores[name]['overall']:.1%}  "
                + "  ".join(f"{kind} {kinds[kind]['accuracy']:.1%}" for kind in kinds)
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
