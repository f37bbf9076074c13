"""Shows the shipped model long videos: goes on from configs/demo_colours.py's, stretched to hours
(scripts/stretch_model.py), with videos of minutes, put together from the short ones it knows.

    ringvision train demo_long --devices 2

Videos of few frames, whose times lie anywhere in an hour, and many questions about them teach to look up
what was there at a minute and a second, and when a card was; then rows become longer and longer: two minutes,
seven, an hour. Short clips stay in the mix.
What it took and scored stands in demos/hour/MODEL_CARD.md.
"""

from dataclasses import replace
from typing import Any

from ringvision.config import CheckpointConfig, MeshConfig, StageConfig, load_config
from ringvision.data.sources import LongWorldData

colours = load_config("demo_colours")
clips = replace(colours.data.sources[0], weight=1, favour=("order", "colour", "shape", "after"))


def long_videos(shortest: int, longest: int, turns: int, leaps: float, **more: Any) -> LongWorldData:
    """Videos of so many seconds, about which `turns` questions are asked at least; `leaps`: the share whose
    parts are spread over an hour.
    """
    return LongWorldData(
        folder="runs/demo/colour-codes",
        weight=4,
        shortest=shortest,
        longest=longest,
        leaps=leaps,
        turns_min=turns,
        turns_max=2 * turns,
        question_weight=0.05,
        answer_weight=6,  # a time is twelve tokens, of which two are numbers
        **more,
    )


look_up = long_videos(
    4,
    24,
    turns=10,
    leaps=0.8,
    same_second=0.5,
    longest_part=3,
    glances=16,
    whens=4,
    favour=("glance", "when", "count"),
)
times = replace(
    look_up,
    longest=48,
    whens=6,
    seconds_a_card=3,
    glances=8,
    same_second=0.3,
    favour=("when", "end", "order"),
)


def minutes(shortest: int, longest: int) -> LongWorldData:
    """What whole videos are asked, a little more of some kinds."""
    return long_videos(shortest, longest, turns=10, leaps=0.5, glances=8, whens=4)


def stage(name: str, length: int, rows: int, steps: int, rate: float, *videos: LongWorldData) -> StageConfig:
    """Rows are shared out where there are two, and a single one is cut in two."""
    optimizer = replace(
        colours.optimizer, muon_lr=rate, lr=rate / 4, min_lr=rate / 100, warmup_steps=min(30, steps // 8)
    )
    mesh = MeshConfig(data=2) if rows > 1 else MeshConfig(context=2)
    return StageConfig(
        name=name,
        length=length,
        rows=rows,
        steps=steps,
        optimizer=optimizer,
        mesh=mesh,
        sources=(*videos, clips),
    )


config = replace(
    colours,
    name="demo",
    out="runs/demo/long",
    model=None,
    init_from="runs/demo/long-start",
    steps=0,
    seed=4,
    stages=(
        stage("look-up", 2048, 2, 600, 0.005, look_up),
        stage("two minutes", 2048, 2, 1086, 0.006, replace(look_up, weight=2), times, minutes(15, 90)),
        stage("times", 2048, 2, 700, 0.006, times, replace(minutes(15, 90), weight=2)),
        stage("seven minutes", 8192, 2, 60, 0.004, minutes(60, 400)),
        stage("an hour", 65536 + 8192, 1, 6, 0.002, replace(minutes(600, 3600), leaps=0.0)),
    ),
    data=replace(colours.data, text_model=None, tokenizer=None),
    checkpoints=CheckpointConfig(every=50),
    evaluation=replace(colours.evaluation, every=600),
    embed_codebook=False,
    loss_chunk=2048,
)
