"""Ends the training of demos/hour: goes on from configs/demo_long.py's with whole videos, in which
scenes go on and about which more is asked, and with as many short clips, whose times and successions the
model had come to answer worse.

    ringvision train demo_hour --devices 2

What it took and scored stands in demos/hour/MODEL_CARD.md.
"""

from dataclasses import replace

from ringvision.config import StageConfig, load_config
from ringvision.data.sources import LongWorldData

long = load_config("demo_long")
before = long.stages[2]
times, some_minutes, some_clips = before.sources
times = replace(times, weight=1)
some_minutes = replace(
    some_minutes, weight=4, shortest=60, longest=200, turns_min=16, turns_max=32, glances=16
)
clips = replace(some_clips, weight=5, turns_min=8, turns_max=16, favour=("time", "after", "change", "order"))

# In rows of a minute there is room for most of what can be asked about it.
spread = replace(times, favour=("order", "when", "end", "absent"))
minute = replace(
    some_minutes,
    shortest=15,
    longest=90,
    leaps=0.15,
    same_second=0.5,
    glances=12,
    looks=4,
    turns_min=24,
    turns_max=48,
)
three = replace(minute, shortest=30, longest=190)
seven = replace(minute, shortest=100, longest=400)
ends = replace(seven, weight=6, favour=("end", "order", "change", "direction"))
after = replace(clips, favour=("after", "colour", "count", "order"))


def stage(
    name: str, length: int, steps: int, rates: tuple[float, float], *sources: LongWorldData
) -> StageConfig:
    """rates: of the layers' matrices at first and at last."""
    first, last = rates
    rate = replace(
        before.optimizer, muon_lr=first, lr=first / 4, min_lr=last / 4, warmup_steps=min(40, steps // 8)
    )
    return replace(before, name=name, length=length, steps=steps, optimizer=rate, sources=sources)


config = replace(
    long,
    out="runs/demo/hour",
    init_from="runs/demo/long/model",
    seed=5,
    stages=(
        stage("minutes", 4096, 45, (0.004, 0.0002), times, some_minutes, some_clips),
        stage("clips and minutes", 4096, 280, (0.004, 0.0002), times, some_minutes, clips),
        stage("a minute", 2048, 900, (0.0025, 0.002), spread, minute, after),
        stage("three minutes", 4096, 500, (0.002, 0.0012), spread, three, after),
        stage("seven minutes", 8192, 150, (0.0012, 0.0001), spread, seven, after),
        stage("ends", 8192, 170, (0.0015, 0.0001), spread, ends, replace(after, weight=3)),
    ),
)
