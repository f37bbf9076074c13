"""Ends the training of demos/hour: goes on from configs/demo_long.py's with whole videos of minutes in
rows of 4,096 tokens, about which more is asked; then with as many short clips, whose times and successions
the model had come to answer worse.

    ringvision train demo_hour --devices 2

What it took and scored stands in demos/hour/MODEL_CARD.md.
"""

from dataclasses import replace

from ringvision.config import load_config

long = load_config("demo_long")
times, minutes, clips = long.stages[2].sources
stage = replace(
    long.stages[2],
    name="three minutes",
    length=4096,
    steps=45,
    optimizer=replace(long.stages[2].optimizer, muon_lr=0.004, lr=0.001, min_lr=4e-5),
    sources=(
        replace(times, weight=1),
        replace(minutes, weight=4, shortest=60, longest=200, turns_min=16, turns_max=32, glances=16),
        clips,
    ),
)
both = replace(
    stage,
    name="clips and minutes",
    steps=280,
    sources=(
        *stage.sources[:2],
        replace(clips, weight=5, favour=("time", "after", "change", "order"), turns_min=8, turns_max=16),
    ),
)
config = replace(long, out="runs/demo/hour", init_from="runs/demo/long/model", seed=5, stages=(stage, both))
