"""A run of the transformer's training that takes seconds: what its tests have in common."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision.config import TrainConfig
from ringvision.mesh import make_mesh
from ringvision.models.transformer import TransformerConfig

MODEL = TransformerConfig(640, 32, 2, 2, 1, 16, 48, max_length=256)


def config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "name": "test", "out": str(out), "model": MODEL, "data": str(data / "codes"), "text_model": str(data / "text.model"),
        "tokenizer": "none", "length": 192, "rows": 4, "steps": 4, "lr": 1e-2, "warmup_steps": 2, "loss_chunk": 64,
        "log_every": 1, "eval_every": 0, "checkpoint_every": 2,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})


def one_device() -> jax.sharding.Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
