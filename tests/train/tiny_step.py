"""Steps of the transformer's training on drawn batches: what the tests of the step have in common."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from tiny_run import config

from ringvision.config import TrainConfig
from ringvision.data.packing import Batch, pack
from ringvision.data.stream import Example
from ringvision.mesh import sharding
from ringvision.models.transformer import Transformer
from ringvision.train.metrics import Metrics
from ringvision.train.part import Part
from ringvision.train.state import TrainState, optimizer, shardings, start
from ringvision.train.step import compile_step

CODE_OFFSET = 560
NOWHERE = Path("nowhere")


def run(**changes: Any) -> TrainConfig:
    """A run that reads nothing. changes: as `tiny_run.config` takes them."""
    return config(NOWHERE, NOWHERE, **changes)


def part_of(setup: TrainConfig) -> Part:
    return Part(setup, CODE_OFFSET)


def first(
    setup: TrainConfig, mesh: Mesh, scale: float = 1.0
) -> tuple[optax.GradientTransformation, TrainState]:
    """The optimizer and the state before the first step. scale: parameters are multiplied by it."""
    tx = optimizer(setup)

    def make() -> TrainState:
        params = nnx.split(Transformer(setup.transformer, rngs=nnx.Rngs(setup.seed)))[1]
        trained, frozen = part_of(setup).start(jax.tree.map(lambda x: scale * x, params))
        return start(trained, tx, setup, frozen=frozen)

    return tx, jax.jit(make, out_shardings=shardings(jax.eval_shape(make), mesh))()


def drawn(seed: int, rows: int = 4, length: int = 64) -> Batch:
    """A batch of text and codes, two examples to a row. A token says which comes next, with few
    exceptions.
    """
    random = np.random.default_rng(seed)
    examples = []
    for size in [length // 2, length // 2 - 3] * rows:
        tokens = np.empty(size, np.int32)
        tokens[0] = random.integers(520, 600)
        for index in range(1, size):
            surprise = random.random() < 0.1
            tokens[index] = random.integers(520, 600) if surprise else 520 + (3 * tokens[index - 1] + 1) % 80
        mask = (random.random(size) < 0.7).astype(np.float32)
        mask[-1] = 1
        examples.append(Example(tokens, mask, 1.0))
    return pack(examples, length, rows)


def put(batch: Batch, mesh: Mesh) -> Batch:
    """The batch on the mesh, its rows in the order in which they are."""
    return jax.tree.map(lambda x: jax.device_put(x, sharding(mesh, "batch", "length")), batch)


def steps(
    setup: TrainConfig, mesh: Mesh, batches: Iterable[Batch], scale: float = 1.0
) -> tuple[TrainState, list[Metrics]]:
    """The state after a step for each batch, and the metrics of all."""
    tx, state = first(setup, mesh, scale)
    step: Callable[..., Any] = compile_step(part_of(setup), tx, setup, mesh, state)
    metrics = []
    for batch in batches:
        state, said = step(state, put(batch, mesh))
        metrics.append(jax.device_get(said))
    return state, metrics


def losses(metrics: list[Metrics]) -> np.ndarray:
    """The loss of each step as it was, float32 [steps]."""
    return np.array([said["judged"][0] for said in metrics])
