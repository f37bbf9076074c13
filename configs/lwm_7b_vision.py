"""LWM: its text model of a million tokens learns images and videos, in five stages (Liu et al., 2024).

    ringvision import LWM-Text-1M-Jax/params lwm-text
    ringvision import lwm-text lwm-seeing --add-vision lwm-tokenizer
    ringvision train lwm_7b_vision --init-from lwm-seeing --out runs/lwm       on every host of a v4-1024

Lengths, steps, batches of 8M tokens, rates and the rotary base are the paper's: 1K on images with captions,
8K on clips of 30 frames, each with 16 % of text; then three of chat about images and videos. The data are
lines as LWM's trainer reads them, or folders that `ringvision tokenize` wrote. The meshes are this
project's, for 512 chips of 32 GiB. It has not been run here: docs/benchmarks.md has what the TPU's compiler
makes of steps of this model on other meshes.
"""

from ringvision.config import (
    CheckpointConfig,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    TrainConfig,
)
from ringvision.data.sources import DataConfig, LwmData, SourceConfig, TextData

BATCH = 2**23  # tokens of a step
CHIPS = 512


def stage(
    name: str, length: int, *, sources: tuple[SourceConfig, ...], steps: int, optimizer: OptimizerConfig
) -> StageConfig:
    """A stage whose rows fill BATCH tokens, spread over all chips by rows as far as there are any."""
    rows = BATCH // length
    fsdp = min(rows, CHIPS)
    return StageConfig(
        name=name,
        steps=steps,
        length=length,
        rows=rows,
        sources=sources,
        mesh=MeshConfig(fsdp=fsdp, context=CHIPS // fsdp),
        optimizer=optimizer,
    )


def chat(name: str, length: int, *, steps: int, warmup: int) -> StageConfig:
    """A stage of chat: making and understanding images and videos, a quarter each."""
    tasks = ("text-to-image", "image-chat", "text-to-video", "video-chat")
    sources = tuple(LwmData(path=f"data/{task}/*.jsonl") for task in tasks)
    rate = OptimizerConfig(lr=8e-5, min_lr=8e-5, warmup_steps=warmup)
    return stage(name, length, sources=sources, steps=steps, optimizer=rate)


TEXT = TextData(path="data/books/10k-100k/*.jsonl.gz", weight=0.16)
IMAGES = LwmData(path="data/image-captions/*.jsonl", weight=0.84)
CLIPS = LwmData(path="data/clip-captions/*.jsonl", weight=0.84)

config = TrainConfig(
    name="lwm-7b",
    out="runs/lwm-7b",
    init_from="lwm-seeing",
    data=DataConfig(sources=(IMAGES, TEXT), length=2**10, rows=2**13, workers=8),
    stages=(
        stage(
            "1K",
            2**10,
            sources=(IMAGES, TEXT),
            steps=45_000,
            optimizer=OptimizerConfig(lr=6e-4, min_lr=6e-5, warmup_steps=1000),
        ),
        stage(
            "8K",
            2**13,
            sources=(CLIPS, TEXT),
            steps=14_000,
            optimizer=OptimizerConfig(lr=6e-4, min_lr=6e-5, warmup_steps=500),
        ),
        chat("chat 32K", 2**15, steps=1200, warmup=100),
        chat("chat 128K", 2**17, steps=450, warmup=50),
        chat("chat 1M", 2**20, steps=50, warmup=5),
    ),
    compute_dtype="bfloat16",
    checkpoints=CheckpointConfig(every=500, keep=3, keep_every=5000, export=False),
    log_every=10,
)
