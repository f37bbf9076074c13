"""LWM's text model: Llama 2 7B taken from 4K to a million tokens in five stages (Liu et al., 2024, "World
Model on Million-Length Video and Language with RingAttention").

    ringvision train lwm_7b_text --init-from llama2-7b --out runs/lwm-text      on every host of a v4-1024

Lengths, rotary bases, tokens, batches of 4M tokens and the constant rate of 4e-5 are the paper's. The data
was Books3, sorted by length into the ranges below, and cannot be had any more: any long documents do. The
meshes are this project's, for 512 chips of 32 GiB (docs/pods.md); the paper used half as many. It has not
been run here: docs/benchmarks.md has what the TPU's compiler makes of steps of this model on other meshes.
"""

from ringvision.config import (
    CheckpointConfig,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)
from ringvision.data.sources import DataConfig, TextData

BATCH = 2**22  # tokens of a step


def stage(length: int, *, theta: float, documents: str, steps: int, warmup: int) -> StageConfig:
    """A stage whose rows fill BATCH tokens, one row to a group of chips that share it."""
    rows = BATCH // length
    return StageConfig(
        name=f"{length // 1024}K",
        steps=steps,
        length=length,
        rows=rows,
        rope_theta=theta,
        sources=(TextData(path=f"data/books/{documents}/*.jsonl.gz"),),
        mesh=MeshConfig(fsdp=rows, context=512 // rows),
        optimizer=OptimizerConfig(lr=4e-5, min_lr=4e-5, warmup_steps=warmup),
    )


config = TrainConfig(
    name="lwm-7b-text",
    out="runs/lwm-7b-text",
    init_from="llama2-7b",
    data=DataConfig(
        sources=(TextData(path="data/books/10k-100k/*.jsonl.gz"),), length=2**15, rows=128, workers=8
    ),
    stages=(
        stage(2**15, theta=1e6, documents="10k-100k", steps=1200, warmup=100),
        stage(2**17, theta=1e7, documents="100k-200k", steps=3000, warmup=200),
        stage(2**18, theta=1e7, documents="200k-500k", steps=3000, warmup=200),
        stage(2**19, theta=2.5e7, documents="500k-1m", steps=720, warmup=50),
        stage(2**20, theta=5e7, documents="1m-and-more", steps=450, warmup=25),
    ),
    compute_dtype="bfloat16",
    checkpoints=CheckpointConfig(every=100, keep=3, keep_every=1000, export=False),
    log_every=10,
)
