"""Shows the shipped model more colours: goes on from configs/demo_finish.py's, with things in eight colours
more than the world has and in colours that have no name there (data/world/scene.py, MORE_COLOURS and OTHER).
It then learns the name of a new one from fewer videos (configs/finetune.py).

    ringvision train demo_colours --devices 2
"""

from dataclasses import replace

from ringvision.config import CheckpointConfig, load_config

demo = load_config("demo")
in_more_colours = replace(
    demo.data.sources[0],
    folder="runs/demo/colour-codes",
    turns_min=3,
    turns_max=8,
    vision_weight=0.0,
    question_weight=0.1,
    favour=("colour", "shape", "after"),
    grow_from=0,
    grow_steps=0,
)
config = replace(
    demo,
    out="runs/demo/colours",
    init_from="runs/demo/finish/model",
    steps=4500,
    seed=2,
    data=replace(demo.data, sources=(in_more_colours,), rows=4),
    optimizer=replace(demo.optimizer, muon_lr=0.004, lr=1e-3, min_lr=1e-5, warmup_steps=50, ema=0.99),
    checkpoints=CheckpointConfig(every=150),
    evaluation=replace(demo.evaluation, every=600),
)
