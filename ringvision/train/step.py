"""One step of the transformer's training, a pure function.

TrainState, Batch [B, L]  --train_step-->  TrainState, {"loss", "answer_accuracy", "gradient_norm"}
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.config import TrainConfig
from ringvision.data.packing import Batch
from ringvision.mesh import TRAINING
from ringvision.models.transformer import Transformer
from ringvision.ops.losses import chunked_cross_entropy
from ringvision.train.part import Part
from ringvision.train.state import TrainState, shardings, update

Metrics = dict[str, jax.Array]

CPU_OPTIONS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}
"""For a CPU that has AVX-512: what XLA compiles itself, exponentials above all, is a quarter faster than with
its 256 bits. Others know no such vectors and take what they have.
"""


def loss_fn(params: Any, batch: Batch, *, graphdef: Any, mesh: Mesh, chunk: int) -> tuple[jax.Array, Metrics]:
    """The mean loss of a batch, weighed by its loss_weights.

    Args:
        params: the parameters of `graphdef`'s graph.
        batch: arrays [B, L].
        graphdef: the transformer, without arrays.
        mesh: the devices that the arrays are spread over.
        chunk: positions of a row whose logits exist at once.

    Returns:
        The loss, float32 [], and {"answer_accuracy": float32 [], the share of the batch's weight whose target
        has the highest logit}.
    """
    model: Transformer = nnx.merge(graphdef, params)
    hidden = model.hidden(
        batch.tokens, batch.positions, batch.segment_ids, mesh=mesh, rules=TRAINING
    )  # (B, L, D)
    loss, weight, correct = chunked_cross_entropy(
        hidden, model.head(), batch.targets, batch.loss_weights, chunk=chunk, mesh=mesh, rules=TRAINING
    )
    weight = jax.numpy.maximum(weight, 1e-6)  # a batch without any weight has loss 0, not 0/0
    return loss / weight, {"answer_accuracy": correct / weight}


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    part: Part,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    chunk: int,
    ema: float,
) -> tuple[TrainState, Metrics]:
    """One step: a pure function of the state and the batch.

    Args:
        state: before the step.
        batch: arrays [B, L].
        part: which parameters are trained.
        tx: the optimizer.
        mesh: the devices that the arrays are spread over.
        chunk: positions of a row whose logits exist at once.
        ema: how much of its past the average of the parameters keeps.

    Returns:
        The state after it, and float32 [] each: loss, answer_accuracy, gradient_norm.
    """
    graphdef, _ = part.describe()

    def loss_of(trained: Any) -> tuple[jax.Array, Metrics]:
        return loss_fn(part.join(trained, state.frozen), batch, graphdef=graphdef, mesh=mesh, chunk=chunk)

    (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    state = update(state, gradients, tx, ema=ema)
    return state, {"loss": loss, **metrics, "gradient_norm": optax.global_norm(gradients)}


def compile_step(
    part: Part, tx: optax.GradientTransformation, config: TrainConfig, mesh: Mesh, state: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step jitted: the old state's memory becomes the new one's, and outputs are sharded as the inputs
    were, so that it compiles once.

    Args:
        part: which parameters are trained.
        tx: the optimizer.
        config: of the run.
        mesh: the devices that the arrays are spread over.
        state: one with the shapes and shardings of those that will come.

    Returns:
        train_step(state, batch) -> (state, metrics); batch: arrays [B, L] on the mesh.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    step = partial(train_step, part=part, tx=tx, mesh=mesh, chunk=config.loss_chunk, ema=config.optimizer.ema)
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings(state, mesh), replicated),
        compiler_options=CPU_OPTIONS if mesh.devices.flat[0].platform == "cpu" else None,
    )
