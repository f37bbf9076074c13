"""One step of the transformer's training, a pure function.

    TrainState, Batch [B, L], signal --train_step--> TrainState, Metrics

Parameters are float32 and are cast to the type that is computed in before they are gathered, so that what
travels is as wide as what is used. Gradients come back as float32, each device sums a share of them, and
updates the parameters of its share (state.py).
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.config import TrainConfig
from ringvision.data.packing import Batch
from ringvision.distributed import compiled_together
from ringvision.mesh import TRAINING
from ringvision.models.parameters import axes_of, param_shardings
from ringvision.models.transformer import Transformer
from ringvision.ops.losses import Sums, chunked_cross_entropy
from ringvision.train.accumulation import accumulated, microbatches
from ringvision.train.health import judge, record
from ringvision.train.metrics import Mean, Metrics, loss_groups, loss_means
from ringvision.train.part import Part
from ringvision.train.state import (
    TrainState,
    gathered_for_use,
    shardings,
    spread_for_update,
    summed,
    update,
)
from ringvision.tree import flatten, unflatten

CPU_OPTIONS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}
"""For a CPU that has AVX-512: what XLA compiles itself, exponentials above all, is a quarter faster than with
its 256 bits. Others know no such vectors and take what they have.
"""


class Gradients(NamedTuple):
    """loss: float32 [], the mean of the batch by its loss_weights. sums: what it is made of. of_params: a
    tree like the parameters that are trained, float32.
    """

    loss: jax.Array
    sums: Sums
    of_params: Any


def loss_fn(
    params: Any, batch: Batch, weight: jax.Array, *, graphdef: Any, mesh: Mesh, chunk: int, code_offset: int
) -> tuple[jax.Array, Sums]:
    """What a batch, or a part of one, adds to the mean loss.

    Args:
        params: the parameters of `graphdef`'s graph.
        batch: arrays [B, L].
        weight: float32 [], the sum of the loss_weights of the whole batch.
        graphdef: the transformer, without arrays.
        mesh: the devices that the arrays are spread over.
        chunk: positions of a row whose logits exist at once.
        code_offset: the first token that is no text.

    Returns:
        The loss, float32 [], and the sums that metrics are made of.
    """
    model: Transformer = nnx.merge(graphdef, params)
    hidden = model.hidden(
        batch.tokens, batch.positions, batch.segment_ids, mesh=mesh, rules=TRAINING
    )  # (B, L, D)
    sums = chunked_cross_entropy(
        hidden,
        model.head(),
        batch.targets,
        batch.loss_weights,
        chunk=chunk,
        groups=loss_groups(batch, code_offset),
        mesh=mesh,
        rules=TRAINING,
    )
    return sums.loss / jnp.maximum(weight, 1e-6), sums  # a batch without any weight has loss 0, not 0/0


def gradients(state: TrainState, batch: Batch, *, part: Part, config: TrainConfig, mesh: Mesh) -> Gradients:
    """The mean loss of a batch and its gradient, read in `config.accumulate` parts.

    Args:
        state: whose parameters the gradient is of.
        batch: arrays [B, L].
        part: which parameters are trained.
        config: of the run or stage.
        mesh: the devices that the arrays are spread over.

    Returns:
        The same, up to rounding, however many parts there are: each weight counts as in the whole batch.

    Raises:
        UserError: the rows cannot be shared out so.
    """
    graphdef, _ = part.describe()
    weight = batch.loss_weights.sum()

    def loss_of(trained: Any, batch: Batch) -> tuple[jax.Array, Sums]:
        params = computed_in(config.compute_dtype, part.join(trained, state.frozen), mesh)
        return loss_fn(
            params,
            batch,
            weight,
            graphdef=graphdef,
            mesh=mesh,
            chunk=config.loss_chunk,
            code_offset=part.code_offset,
        )

    def of_part(batch: Batch) -> Gradients:
        (loss, sums), found = jax.value_and_grad(loss_of, has_aux=True)(state.params, batch)
        return Gradients(loss, sums, summed(found, mesh))

    if config.accumulate == 1:
        return of_part(batch)
    return accumulated(of_part, microbatches(batch, config.accumulate, mesh))


def computed_in(dtype: str, params: Any, mesh: Mesh) -> Any:
    """The parameters as they are computed with: in `dtype`, "float32" (as they are) or "bfloat16", but for
    the scales of norms, which are applied in float32. Each stays where it lies, so that it is cast before it
    is gathered.
    """
    if dtype == "float32":
        return params
    axes = axes_of(params)
    cast = {name: x if "norm" in axes[name] else x.astype(dtype) for name, x in flatten(params).items()}
    if mesh.size == 1:
        return unflatten(cast, params)
    return jax.lax.with_sharding_constraint(unflatten(cast, params), param_shardings(params, mesh, TRAINING))


def train_step(
    state: TrainState,
    batch: Batch,
    signal: jax.Array | None = None,
    *,
    part: Part,
    tx: optax.GradientTransformation,
    config: TrainConfig,
    mesh: Mesh,
) -> tuple[TrainState, Metrics]:
    """One step: a pure function of the state and the batch. One that is not sound (health.py), or whose batch
    has no weight, changes nothing but the number of steps done.

    Args:
        state: before the step.
        batch: arrays [B, L].
        signal: int32 [devices], whether the process of each device was asked to stop; None: none was.
        part: which parameters are trained.
        tx: the optimizer.
        config: of the run or stage.
        mesh: the devices that the arrays are spread over.

    Returns:
        The state after it, and its metrics: means of the loss, of its parts and of the gradient's norm (of
        nothing, where the step was not applied); `judged` float32 [2], this step's loss and gradient norm,
        whatever they are; int32 []: `applied` 0 or 1, `refused` how many in a row were not sound, `tokens`
        that are no padding and `tokens_weighted` those with a loss weight, `signal` the largest.
    """
    found = gradients(state, batch, part=part, config=config, mesh=mesh)
    changes = spread_for_update(found.of_params, state.opt_state, mesh)
    norm = optax.global_norm(changes)
    sound = judge(state.health, found.loss, norm, config.health)
    applied = sound & (found.sums.weight > 0)

    held = replace(state, params=spread_for_update(state.params, state.opt_state, mesh))
    updated = update(held, changes, tx, ema=config.optimizer.ema)
    chosen = jax.tree.map(partial(jnp.where, applied), _changing(updated), _changing(held))
    health = record(state.health, found.loss, norm, sound=sound, applied=applied)
    params = gathered_for_use(chosen[0], mesh)
    new = replace(updated, params=params, opt_state=chosen[1], average=chosen[2], health=health)

    means = {**loss_means(found.sums), "gradient_norm": Mean(norm, jnp.ones_like(norm))}
    metrics: Metrics = {name: mean.where(applied) for name, mean in means.items()}
    metrics |= {
        "judged": jnp.stack([found.loss, norm]),
        "applied": applied.astype(jnp.int32),
        "refused": health.refused,
        "tokens": (batch.segment_ids > 0).sum(dtype=jnp.int32),
        "tokens_weighted": (batch.loss_weights > 0).sum(dtype=jnp.int32),
        "signal": jnp.int32(0) if signal is None else signal.max(),
    }
    return new, metrics


def _changing(state: TrainState) -> tuple[Any, Any, Any]:
    return state.params, state.opt_state, state.average


def compile_step(
    part: Part, tx: optax.GradientTransformation, config: TrainConfig, mesh: Mesh, state: TrainState
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step jitted: the old state's memory becomes the new one's, and outputs are sharded as the inputs
    were, so that it compiles once.

    Args:
        part: which parameters are trained.
        tx: the optimizer.
        config: of the run or stage.
        mesh: the devices that the arrays are spread over.
        state: one with the shapes and shardings of those that will come.

    Returns:
        train_step(state, batch, signal) -> (state, metrics); batch: arrays [B, L] on the mesh; signal: int32
        [devices], or left out.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    step = partial(train_step, part=part, tx=tx, config=config, mesh=mesh)
    jitted = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(shardings(state, mesh), replicated),
        compiler_options=CPU_OPTIONS if mesh.devices.flat[0].platform == "cpu" else None,
    )
    return compiled_together("the step", jitted)
