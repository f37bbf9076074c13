"""Shows the shipped model long videos: goes on from configs/demo_colours.py's, stretched to hours
(scripts/stretch_model.py), with videos of minutes, put together from the short ones it knows.

    ringvision train demo_long --devices 2

Three stages, each of longer rows than the one before: two minutes, seven, an hour. Half of the videos begin
somewhere in an hour, so that the first stage already learns all time stamps. Short clips stay in the mix.
What it took and scored stands in demos/model/MODEL_CARD.md.
"""

from dataclasses import replace

from ringvision.config import CheckpointConfig, MeshConfig, StageConfig, load_config
from ringvision.data.sources import LongWorldData

colours = load_config("demo_colours")
clips = replace(colours.data.sources[0], weight=1)


def long_videos(shortest: int, longest: int, turns: int) -> LongWorldData:
    """Videos of so many seconds, about which `turns` questions are asked at least."""
    return LongWorldData(
        folder="runs/demo/colour-codes",
        weight=3,
        shortest=shortest,
        longest=longest,
        turns_min=turns,
        turns_max=2 * turns,
        question_weight=0.05,
    )


def stage(name: str, length: int, rows: int, steps: int, rate: float, videos: LongWorldData) -> StageConfig:
    """Rows are shared out where there are two, and a single one is cut in two."""
    optimizer = replace(colours.optimizer, muon_lr=rate, lr=rate / 4, min_lr=rate / 100, warmup_steps=30)
    mesh = MeshConfig(data=2) if rows > 1 else MeshConfig(context=2)
    return StageConfig(
        name=name,
        length=length,
        rows=rows,
        steps=steps,
        optimizer=optimizer,
        mesh=mesh,
        sources=(videos, clips),
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
        stage("two minutes", 2048, 2, 2400, 0.006, long_videos(15, 100, 6)),
        stage("seven minutes", 8192, 2, 500, 0.004, long_videos(60, 420, 10)),
        stage("an hour", 65536 + 8192, 1, 60, 0.002, long_videos(900, 3600, 14)),
    ),
    data=replace(colours.data, text_model=None, tokenizer=None),
    checkpoints=CheckpointConfig(every=100),
    evaluation=replace(colours.evaluation, every=400),
    embed_codebook=False,
    loss_chunk=2048,
)
