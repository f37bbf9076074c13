"""Llama 3 8B taken from 8K to a million tokens on 1.4 billion tokens, as Gradient did in 2024 (the model
card of Llama-3-8B-Instruct-Gradient-1048k).

    ringvision import hf:meta-llama/Meta-Llama-3-8B-Instruct llama3-8b
    ringvision train llama_8b_1m --init-from llama3-8b --out runs/llama-8b-1m     on every host of a v5e-256

Lengths, rotary bases, batches, steps and the rate are the card's. The data there was SlimPajama, its
documents joined to long ones. The meshes are this project's, for 256 chips of 16 GiB. It has not been run
here: scripts/compile_for_pod.py asks the TPU's compiler about a mesh.
"""

from ringvision.config import (
    CheckpointConfig,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)
from ringvision.data.sources import DataConfig, TextData

CHIPS = 256


def stage(length: int, *, theta: float, rows: int, steps: int) -> StageConfig:
    return StageConfig(
        name=f"{length // 1024}K",
        steps=steps,
        length=length,
        rows=rows,
        rope_theta=theta,
        mesh=MeshConfig(fsdp=rows, context=CHIPS // rows),
    )


config = TrainConfig(
    name="llama-8b-1m",
    out="runs/llama-8b-1m",
    init_from="llama3-8b",
    data=DataConfig(sources=(TextData(path="data/long/*.parquet"),), length=2**16, rows=32, workers=8),
    stages=(
        stage(2**16, theta=15.3e6, rows=32, steps=30),
        stage(2**18, theta=207.1e6, rows=16, steps=24),
        stage(2**19, theta=1.06e9, rows=16, steps=50),
        stage(2**20, theta=2.80e9, rows=16, steps=50),
    ),
    optimizer=OptimizerConfig(lr=2e-5, min_lr=2e-5, warmup_steps=5),
    compute_dtype="bfloat16",
    checkpoints=CheckpointConfig(every=10, keep=2, export=False),
    log_every=1,
)
