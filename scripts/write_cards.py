"""Writes the cards of what is shipped from what the runs recorded: tokenizers/world-16/ and demos/model/.

    python scripts/write_cards.py runs/demo

In: the runs' metrics.jsonl and run.json, world.json and hours.json (`ringvision evaluate world --json`, with
`--length`), the config.json of demos/model. Out: MODEL_CARD.md and curves.png in both folders. Every number
in a card comes from one of these files.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ringvision.config import load_config
from ringvision.data.world import MORE_COLOURS
from ringvision.model_folder import load_model, read_config
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


def score_table(scores: dict[str, Any]) -> str:
    """What an evaluation found, a row for each kind of question and one for all."""
    kinds = {**scores["kinds"], "**all**": {**scores, "accuracy": scores["overall"]}}
    rows = [
        f"| {kind} | {score['accuracy']:.1%} | {score['examples']} | {score['chance']:.1%} | "
        f"{score['blind']:.1%} |"
        for kind, score in kinds.items()
    ]
    return "\n".join(["| kind | right | examples | chance | blind |", "|---|---|---|---|---|", *rows])


def by_sight(scores: dict[str, Any]) -> tuple[str, str]:
    """The kinds of questions for which a model looks at the video, and the others."""
    kinds = scores["kinds"]
    seen = [kind for kind in kinds if kinds[kind]["accuracy"] > kinds[kind]["blind"] + 0.1]
    unseen = [kind for kind in kinds if kind not in seen]
    return ", ".join(seen) or "nothing yet", ", ".join(unseen) or "none"


def model_card(runs: Path, scores: dict[str, Any], hour: dict[str, Any]) -> str:
    """scores: about clips. hour: about long videos."""
    run = runs / "model"
    finish = runs / "finish"
    colours = runs / "colours"
    long, hour_run = runs / "long", runs / "hour"
    settings = settings_of(run)
    finishing = settings_of(finish)
    colouring = settings_of(colours)
    lengthening = [settings_of(long), settings_of(hour_run)]
    favoured = ", ".join(finishing["data"]["sources"][0]["favour"])
    more = ", ".join(MORE_COLOURS)
    shipped = read_config(MODEL)
    shape = shipped["transformer"]
    seconds = f"{hour['record']['seconds']:,}"
    lengths = [stage["length"] for run in lengthening for stage in run["stages"]]
    seen, unseen = by_sight(scores)
    long_seen, long_unseen = by_sight(hour)
    parameters = sum(array.size for array in load_model(MODEL).values())
    return f"""# The shipped model

A transformer of {parameters / 1e6:.1f}M parameters ({shape["num_layers"]} layers of width \
{shape["embed_dim"]}, {shape["num_heads"]} heads, \
{shape["num_kv_heads"]} of them with keys and values) that reads the codes of \
[world-16](../../tokenizers/world-16/MODEL_CARD.md) at one frame a second, \
each frame before its time, and answers questions about what it saw.

| | |
|---|---|
| trained on | videos of `ringvision.data.world`, 5 to 12 seconds, seeds from 0, and longer ones \
that are put together from these; several questions about each |
| for | {int(last(run, "step")):,} steps of {settings["data"]["rows"]} x {settings["data"]["length"]} \
tokens, {hours(run):.1f} hours; then \
{int(last(finish, "step")):,} more in which {favoured} were asked before the \
other kinds, {hours(finish):.1f} hours; then {int(last(colours, "step")):,} of \
{colouring["data"]["rows"]} x {colouring["data"]["length"]} with things in more colours ({more}) and in \
ones without a name, {hours(colours):.1f} hours; then {int(last(long, "step")):,} and \
{int(last(hour_run, "step")):,} on long videos, in rows of \
{min(lengths):,} to {max(lengths):,} tokens, {hours(long) + hours(hour_run):.1f} hours |
| with | {made_with()}; seeds {settings["seed"]}, {finishing["seed"]}, {colouring["seed"]}, \
{lengthening[0]["seed"]} and {lengthening[1]["seed"]}; `configs/demo.py`, `configs/demo_finish.py`, \
`configs/demo_colours.py`, `configs/demo_long.py`, `configs/demo_hour.py` |
| licence | Apache-2.0, like the project |

## Scores

`ringvision evaluate world --examples {scores["examples"]}`: scenes that training never drew, written as \
H.264 files and read back. *Chance* is an even guess among the
possible answers; *blind* is the best answer that the question's words alone suggest, learned from 4,000 \
training scenes.

{score_table(scores)}

**Looks at the video** (at least ten points above *blind*) for: {seen}. **Does not yet** for: {unseen}.

`ringvision evaluate world --length {hour["record"]["seconds"]}`: videos of {seconds} seconds, the scenes of \
which training never drew.

{score_table(hour)}

**Looks at the video** for: {long_seen}. **Does not yet** for: {long_unseen}.
It was asked in the words that `ringvision/data/world/questions.py` and `long_questions.py` use. It does not \
know other words, other videos, or ones longer than {shipped["knows"]["seconds"]:,} seconds: it will answer, \
and be wrong.

![loss and accuracy over steps](curves.png)

The later parts:

![loss and accuracy over the finishing steps](curves-finish.png)

![loss and accuracy over the steps with more colours](curves-colours.png)

![loss and accuracy over the steps with long videos](curves-long.png)

![loss and accuracy over the last ones](curves-hour.png)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    runs = parser.parse_args().runs
    scores, hour = (json.loads((runs / name).read_text("utf-8")) for name in ("world.json", "hours.json"))
    tokenizer = runs / "tokenizer"
    model = runs / "model"
    of_tokenizer = ("loss", "l1", "psnr", "used", "perplexity", "dead")
    of_model = ("loss", "answer_accuracy", "eval/all", "learning_rate")
    for card, text in ((TOKENIZER, tokenizer_card(tokenizer)), (MODEL, model_card(runs, scores, hour))):
        (card / "MODEL_CARD.md").write_text(text, encoding="utf-8")
        print(card / "MODEL_CARD.md")
    for run, picture, curves in (
        (tokenizer, TOKENIZER / "curves.png", of_tokenizer),
        (model, MODEL / "curves.png", of_model),
        (runs / "finish", MODEL / "curves-finish.png", of_model),
        (runs / "colours", MODEL / "curves-colours.png", of_model),
        (runs / "long", MODEL / "curves-long.png", of_model),
        (runs / "hour", MODEL / "curves-hour.png", of_model),
    ):
        with Record(run, step=int(last(run, "step")), quiet=True) as record:
            record.curves_png(picture, curves)


if __name__ == "__main__":
    main()
