"""Writes the cards of what is shipped from what the runs recorded: tokenizers/world-16/ and demos/model/.

    python scripts/write_cards.py runs/demo

In: the runs' metrics.jsonl and run.json, world.json (`ringvision evaluate world --json`). Out: MODEL_CARD.md
and curves.png in both folders. Every number in a card comes from one of these files.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ringvision.config import load_config
from ringvision.data.world import MORE_COLOURS
from ringvision.model_folder import load_model
from ringvision.train.record import Record, read_metrics

TOKENIZER = Path("tokenizers/world-16")
MODEL = Path("demos/model")


def hours(run: Path, until: float = float("inf")) -> float:
    """Time spent in steps, from the recorded seconds a step; pauses between two starts of a run do not
    count.
    """
    records = [
        record for record in read_metrics(run) if "seconds_per_step" in record and record["step"] <= until
    ]
    steps = [record["step"] for record in records]
    return (
        sum((b - a) * r["seconds_per_step"] for a, b, r in zip([0, *steps], steps, records, strict=False))
        / 3600
    )


def last(run: Path, name: str) -> float:
    return [record[name] for record in read_metrics(run) if name in record][-1]


def made_with() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    return f"{packages}, Python {platform.python_version()}, two cores of a CPU, float32"


def tokenizer_card(run: Path) -> str:
    config = load_config("configs/tokenizer_world16.py")
    shape = config.vqgan
    start = config.loss.adversarial_start
    adversarial = "not used in this run" if start is None else f"from step {start}"
    return f"""# world-16

A VQGAN for frames of {shape.resolution}x{shape.resolution} pixels: {shape.grid[0] * shape.grid[1]} codes a \
frame ({shape.grid[0]}x{shape.grid[1]}), \
each one of {shape.codebook_size}. An hour of video at one frame a second is \
{3600 * shape.grid[0] * shape.grid[1]:,} codes.

| | |
|---|---|
| trained on | single frames of videos that `ringvision.data.world` draws: coloured shapes over dull \
textures, cards with a digit, after H.264 |
| for | {int(last(run, "step")):,} steps of {config.batch} frames, {hours(run):.1f} hours |
| with | {made_with()}; seed {config.seed}; `configs/tokenizer_world16.py` |
| PSNR, held-out frames | {last(run, "psnr"):.1f} dB |
| codes in use, held-out frames | {last(run, "used"):.0%} (perplexity {last(run, "perplexity"):.0f}) |
| licence | Apache-2.0, like the project |

**Knows** the world's six colours, four shapes, ten digits and dull backgrounds. **Does not know** faces, \
text, fine detail, or anything else that
a camera sees: real video comes back as patches of about the right colour. For real video bring a tokenizer \
that was trained on it.

Loss weights: L1 + L2, more where there is an edge ({config.loss.edge_weight}), commitment \
{config.loss.codebook_weight}; the codebook follows running means, and rows
that nobody uses are started again. Adversarial loss: \
{adversarial}.

![loss and quality over steps](curves.png)
"""


def settings_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def model_card(runs: Path, scores: dict[str, Any]) -> str:
    run = runs / "model"
    finish = runs / "finish"
    colours = runs / "colours"
    settings = settings_of(run)
    finishing = settings_of(finish)
    colouring = settings_of(colours)
    favoured = ", ".join(finishing["data"]["sources"][0]["favour"])
    more = ", ".join(MORE_COLOURS)
    shape = settings["model"]
    rows = "\n".join(
        f"| {kind} | {score['accuracy']:.1%} | {score['examples']} | {score['chance']:.1%} | "
        f"{score['blind']:.1%} |"
        for kind, score in scores["kinds"].items()
    )
    seen = [kind for kind, score in scores["kinds"].items() if score["accuracy"] > score["blind"] + 0.1]
    unseen = [kind for kind in scores["kinds"] if kind not in seen]
    parameters = sum(array.size for array in load_model(MODEL).values())
    return f"""# The shipped model

A transformer of {parameters / 1e6:.1f}M parameters ({shape["num_layers"]} layers of width \
{shape["embed_dim"]}, {shape["num_heads"]} heads, \
{shape["num_kv_heads"]} of them with keys and values) that reads the codes of \
[world-16](../../tokenizers/world-16/MODEL_CARD.md) at one frame a second, \
each frame after its second, and answers questions about what it saw.

| | |
|---|---|
| trained on | videos of `ringvision.data.world`, 5 to 12 seconds, seeds from 0; several questions about \
each |
| for | {int(last(run, "step")):,} steps of {settings["data"]["rows"]} x {settings["data"]["length"]} \
tokens, {hours(run):.1f} hours; then \
{int(last(finish, "step")):,} more in which {favoured} were asked before the \
other kinds, {hours(finish):.1f} hours; then {int(last(colours, "step")):,} of \
{colouring["data"]["rows"]} x {colouring["data"]["length"]} with things in more colours ({more}) and in \
ones without a name, {hours(colours):.1f} hours |
| with | {made_with()}; seeds {settings["seed"]}, {finishing["seed"]} and {colouring["seed"]}; \
`configs/demo.py`, `configs/demo_finish.py`, `configs/demo_colours.py` |
| licence | Apache-2.0, like the project |

## Scores

`ringvision evaluate world --examples {scores["examples"]}`: scenes that training never drew, written as \
H.264 files and read back. *Chance* is an even guess among the
possible answers; *blind* is the best answer that the question's words alone suggest, learned from 4,000 \
training scenes.

| kind | right | examples | chance | blind |
|---|---|---|---|---|
{rows}
| **all** | **{scores["overall"]:.1%}** | {scores["examples"]} | {scores["chance"]:.1%} | \
{scores["blind"]:.1%} |

**Looks at the video** (at least ten points above *blind*) for: {", ".join(seen) or "nothing yet"}. **Does \
not yet** for: {", ".join(unseen) or "none"}.
It was asked in the words that `ringvision/data/world/questions.py` uses. It does not know other words, \
other videos, or videos much longer than the 12 seconds that it was trained on: it will answer, and be wrong.

![loss and accuracy over steps](curves.png)

The two last parts:

![loss and accuracy over the finishing steps](curves-finish.png)

![loss and accuracy over the steps with more colours](curves-colours.png)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    runs = parser.parse_args().runs
    scores = json.loads((runs / "world.json").read_text(encoding="utf-8"))
    tokenizer = runs / "tokenizer"
    model = runs / "model"
    of_tokenizer = ("loss", "l1", "psnr", "used", "perplexity", "dead")
    of_model = ("loss", "answer_accuracy", "eval/all", "learning_rate")
    for card, text in ((TOKENIZER, tokenizer_card(tokenizer)), (MODEL, model_card(runs, scores))):
        (card / "MODEL_CARD.md").write_text(text, encoding="utf-8")
        print(card / "MODEL_CARD.md")
    for run, picture, curves in (
        (tokenizer, TOKENIZER / "curves.png", of_tokenizer),
        (model, MODEL / "curves.png", of_model),
        (runs / "finish", MODEL / "curves-finish.png", of_model),
        (runs / "colours", MODEL / "curves-colours.png", of_model),
    ):
        with Record(run, step=int(last(run, "step")), quiet=True) as record:
            record.curves_png(picture, curves)


if __name__ == "__main__":
    main()
