"""Goes on from configs/demo_hour.py's: whole videos of a minute to ten, in which scenes go on, and as many
short clips.

    ringvision train demo_whole --devices 2

What it took and scored stands in the model's card.
"""

from dataclasses import replace

from ringvision.config import StageConfig, load_config
from ringvision.data.sources import LongWorldData

hour = load_config("demo_hour")
before = hour.stages[1]
spread, minutes, clips = before.sources
clips = replace(clips, weight=5, favour=("after", "colour", "count", "order"), turns_min=8, turns_max=16)
spread = replace(spread, weight=1, favour=("order", "when", "end", "absent"))
minutes = replace(
    minutes, weight=4, shortest=15, longest=90, leaps=0.15, longest_part=None, same_second=0.5,
    glances=12, whens=4, looks=4, turns_min=24, turns_max=48, favour=(),
)  # fmt: skip


def stage(
    name: str, length: int, steps: int, rates: tuple[float, float], *videos: LongWorldData
) -> StageConfig:
    """rates: of the matrices at first and at last."""
    first, last = rates
    rate = replace(before.optimizer, muon_lr=first, lr=first / 4, min_lr=last / 4, warmup_steps=40)
    return replace(
        before, name=name, length=length, steps=steps, optimizer=rate, sources=(spread, *videos, clips)
    )


often = replace(
    minutes, weight=6, shortest=100, longest=400, favour=("end", "order", "change", "direction"),
)  # fmt: skip
config = replace(
    hour,
    out="runs/demo/whole",
    init_from="demos/hour",
    seed=6,
    stages=(
        stage("a minute", 2048, 900, (0.0025, 0.002), minutes),
        stage("three minutes", 4096, 500, (0.002, 0.0012), replace(minutes, shortest=30, longest=190)),
        stage("seven minutes", 8192, 150, (0.0012, 0.0001), replace(minutes, shortest=100, longest=400)),
        stage("seven minutes again", 8192, 170, (0.0015, 0.0001), often),
    ),
)
