"""What a training run carries from step to step, and how a gradient changes it.

In: a TrainConfig. Out: `TrainState`, a plain pytree; the optimizer (AdamW: Loshchilov and Hutter, 2019; Muon:
Jordan, 2024) with its schedule; and where each array of the state lies on a mesh.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax import contrib

from ringvision.config import TrainConfig
from ringvision.mesh import TRAINING, Rules
from ringvision.models.parameters import axes_of, param_shardings
from ringvision.tree import unflatten


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """params: those that are trained. opt_state: the optimizer's. step: int32 [], steps done. average: moving
    average of params, or None. frozen: parameters that stay as they are, or None (part.py).
    """

    params: Any
    opt_state: Any
    step: jax.Array
    average: Any
    frozen: Any = None


def schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate by step: from 0 up to lr over warmup_steps, then down to min_lr at `steps` along a
    cosine.
    """
    settings = config.optimizer
    steps = max(config.steps, settings.warmup_steps + 1)
    return optax.warmup_cosine_decay_schedule(0.0, settings.lr, settings.warmup_steps, steps, settings.min_lr)


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Gradients clipped to clip_norm together, then AdamW or, for the matrices of the layers, Muon; norms and
    tables do not decay.
    """
    settings = config.optimizer
    rate = schedule(config)
    if settings.kind == "adamw":
        rule = optax.adamw(
            rate, b1=settings.b1, b2=settings.b2, weight_decay=settings.weight_decay, mask=decays
        )
    else:
        rule = contrib.muon(
            lambda step: rate(step) * (settings.muon_lr / settings.lr),
            weight_decay=settings.weight_decay,
            muon_weight_dimension_numbers=matrices,
            adam_learning_rate=rate,
            adam_b1=settings.b1,
            adam_b2=settings.b2,
        )
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), rule)


def matrices(params: Any) -> Any:
    """The same tree with the dimensions that go in and out of each layer's matrices, whose steps Muon makes
    orthogonal; None for all else, low-rank pairs among it.
    """
    axes = axes_of(params)
    return unflatten({name: _matrix(found) for name, found in axes.items()}, params)


def _matrix(axes: tuple[str, ...]) -> contrib.MuonDimensionNumbers | None:
    """A matrix of the layers maps the model width to something else, or that back: `embed` is its first
    dimension behind the layers, or its last.
    """
    if axes[0] != "layers" or "embed" not in axes or "rank" in axes:
        return None
    dimensions = tuple(range(1, len(axes)))
    split = 1 if axes[1] == "embed" else len(dimensions) - 1
    return contrib.MuonDimensionNumbers(dimensions[:split], dimensions[split:])


def decays(params: Any) -> Any:
    """The same tree with True where weight decay applies: to what hidden states are multiplied with, so not
    to the scales of norms, to biases, nor to the tables that are looked up.
    """
    axes = axes_of(params)
    return unflatten({name: _decays(found) for name, found in axes.items()}, params)


def _decays(axes: tuple[str, ...]) -> bool:
    is_matrix = "embed" in axes or "rank" in axes
    return is_matrix and axes[0] not in ("vocab", "frame")


def start(params: Any, tx: optax.GradientTransformation, *, average: bool, frozen: Any = None) -> TrainState:
    """The state before the first step.

    Args:
        params: the parameters that are trained, of any shapes.
        tx: the optimizer.
        average: keep a moving average of them.
        frozen: parameters of the model that are not trained (None: none).

    Returns:
        The state at step 0; its average is a copy of the parameters.
    """
    copy = jax.tree.map(jnp.copy, params) if average else None
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), copy, frozen)


def update(state: TrainState, gradients: Any, tx: optax.GradientTransformation, *, ema: float) -> TrainState:
    """One step of the optimizer.

    Args:
        state: before the step.
        gradients: a tree like `state.params`.
        tx: the optimizer.
        ema: the share of the old average that is kept; less in the first steps, so that the average forgets
            the start.

    Returns:
        The state after the step.
    """
    changes, opt_state = tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, changes)
    average = state.average
    if average is not None:
        keep = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step)).astype(jnp.float32)
        average = jax.tree.map(
            lambda old, new: old + (1 - keep).astype(old.dtype) * (new - old), average, params
        )
    return TrainState(params, opt_state, state.step + 1, average, state.frozen)


def shardings(state: Any, mesh: Mesh, rules: Rules = TRAINING) -> Any:
    """Where every array of a TrainState, or of a tree of parameters, lies on a mesh: parameters by their
    logical axes; gradients, moments and average like the parameter that they belong to; counters whole
    everywhere.

    Args:
        state: arrays or shapes.
        mesh: the devices.
        rules: where each logical axis goes.

    Returns:
        The same tree with a `NamedSharding` in the place of each array.

    Raises:
        ValueError: a parameter does not say its axes.
    """
    if not isinstance(state, TrainState):
        return param_shardings(state, mesh, rules)
    return TrainState(
        params=param_shardings(state.params, mesh, rules),
        opt_state=param_shardings(state.opt_state, mesh, rules, plain_arrays=True),
        step=NamedSharding(mesh, PartitionSpec()),  # type: ignore[arg-type]
        average=param_shardings(state.average, mesh, rules),
        frozen=param_shardings(state.frozen, mesh, rules),
    )
