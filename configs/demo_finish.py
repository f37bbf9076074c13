"""Finishes the shipped model: goes on from configs/demo.py's, with more of the questions that it answers
worst.

    ringvision train demo_finish --devices 2
"""

from dataclasses import replace

from ringvision.config import CheckpointConfig, load_config

demo = load_config("demo")
asked_more = replace(
    demo.data.sources[0],
    turns_max=4,
    favour=("after", "change", "direction", "order"),
    grow_from=0,
    grow_steps=0,
)
config = replace(
    demo,
    out="runs/demo/finish",
    init_from="runs/demo/model/model",
    steps=900,
    seed=1,
    data=replace(demo.data, sources=(asked_more,)),
    optimizer=replace(demo.optimizer, muon_lr=0.004, lr=8e-4, min_lr=2e-5, warmup_steps=50, ema=0.99),
    checkpoints=CheckpointConfig(every=100),
    evaluation=replace(demo.evaluation, every=300),
)
