"""A run of the transformer's training that takes seconds: what its tests have in common."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision.config import CheckpointConfig, EvaluationConfig, LoraConfig, OptimizerConfig, TrainConfig
from ringvision.data.sources import DataConfig, WorldData
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.mesh import make_mesh
from ringvision.models.transformer import TransformerConfig

MODEL = TransformerConfig(640, 32, 2, 2, 1, 16, 48, max_length=256)
OPTIMIZER = OptimizerConfig(lr=1e-2, warmup_steps=2)
NO_EVALUATION = EvaluationConfig(every=0)


def config(data: Path, out: Path, /, **changes: Any) -> TrainConfig:
    """A run of four steps on the fixture `data`. changes: fields of TrainConfig; a dict for one of its parts
    changes fields of that part, and one for `source` those of the source that is read.
    """
    source = WorldData(folder=str(data / "codes"), **changes.pop("source", {}))
    run = TrainConfig(
        name="test",
        out=str(out),
        model=MODEL,
        data=DataConfig(
            sources=(source,),
            text_model=str(data / "text.model"),
            tokenizer="none",
            length=192,
            rows=4,
        ),
        steps=4,
        optimizer=OPTIMIZER,
        checkpoints=CheckpointConfig(every=2),
        evaluation=NO_EVALUATION,
        lora=LoraConfig(),
        loss_chunk=64,
        log_every=1,
    )
    whole = {
        name: dataclasses.replace(getattr(run, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(run, **whole)


def write_world(folder: Path, seeds_and_codes: list[tuple[int, np.ndarray]], tokenizer: str = "0") -> None:
    """A folder of tokenized world videos, codes [T, h, w] below 32, in shards of 16."""
    videos = [
        TokenizedVideo(f"world:{seed}", "", codes, np.arange(len(codes)), 1.0, 64, tokenizer)
        for seed, codes in seeds_and_codes
    ]
    with TokenizedWriter(folder, num_codes=32) as writer:
        for first in range(0, len(videos), 16):
            writer.add(videos[first : first + 16])


def one_device() -> jax.sharding.Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
