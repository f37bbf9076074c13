"""What a training run carries from step to step, and how a gradient changes it.

In: a TrainConfig. Out: `TrainState`, a plain pytree; the optimizer (AdamW: Loshchilov and Hutter, 2019; Muon:
Jordan, 2024) with its schedule; and where each array of the state lies on a mesh.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax import contrib

from ringvision.config import TrainConfig
from ringvision.mesh import TRAINING, UPDATE, Rules, layerwise_rules, update_rules
from ringvision.models.parameters import RulesByParameter, axes_of, param_shardings
from ringvision.train.health import Health
from ringvision.train.health import start as start_health
from ringvision.tree import unflatten


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """params: those that are trained. opt_state: the optimizer's. step: int32 [], steps done, those that were
    not applied among them. average: moving average of params, or None. health: of the last steps (health.py).
    frozen: parameters that stay as they are, or None (part.py).
    """

    params: Any
    opt_state: Any
    step: jax.Array
    average: Any
    health: Health
    frozen: Any = None


def schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate by step: from 0 up to lr over warmup_steps, then down to min_lr at `steps` along a
    cosine.

    The optimizer counts the steps that were applied: a refused one leaves no trace in it, so warming up takes
    as many updates as it should, and where none is refused the two counts are one.
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


def start(
    params: Any, tx: optax.GradientTransformation, config: TrainConfig, *, frozen: Any = None
) -> TrainState:
    """The state before the first step.

    Args:
        params: the parameters that are trained, of any shapes.
        tx: the optimizer.
        config: of the run: whether a moving average is kept, and how many steps its health looks back.
        frozen: parameters of the model that are not trained (None: none).

    Returns:
        The state at step 0; its average is a copy of the parameters.
    """
    copy = jax.tree.map(jnp.copy, params) if config.optimizer.ema > 0 else None
    health = start_health(config.health)
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), copy, health, frozen)


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
    return replace(state, params=params, opt_state=opt_state, step=state.step + 1, average=average)


def shardings(state: Any, mesh: Mesh, rules: Rules = TRAINING) -> Any:
    """Where every array of a TrainState, or of a tree of parameters, lies on a mesh: parameters by `rules`;
    moments and the average of the parameters where `update_shardings` says; counters whole everywhere.

    Args:
        state: arrays or shapes.
        mesh: the devices.
        rules: where each logical axis of a parameter goes.

    Returns:
        The same tree with a `NamedSharding` in the place of each array.

    Raises:
        ValueError: a parameter does not say its axes.
    """
    if not isinstance(state, TrainState):
        return param_shardings(state, mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())
    return TrainState(
        params=param_shardings(state.params, mesh, rules),
        opt_state=update_shardings(state.opt_state, state.opt_state, mesh),
        step=whole,  # type: ignore[arg-type]
        average=update_shardings(state.average, state.opt_state, mesh),
        health=jax.tree.map(lambda _: whole, state.health),
        frozen=param_shardings(state.frozen, mesh, rules),
    )


def update_shardings(tree: Any, opt_state: Any, mesh: Mesh) -> Any:
    """Where that lies with which parameters are updated: spread over all devices that there are. A matrix of
    the layers that Muon steps is orthogonalised as a whole, so there each device has some layers.

    Args:
        tree: of parameters, gradients, moments or averages, arrays or shapes; arrays that belong to no
            parameter are whole on every device.
        opt_state: of the optimizer.
        mesh: the devices.

    Returns:
        The same tree with a `NamedSharding` in the place of each array.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, contrib.MuonState))
    muon = any(isinstance(node, contrib.MuonState) for node in nodes)

    def rules(axes: tuple[str, ...], shape: tuple[int, ...]) -> Rules:
        if muon and _matrix(axes):
            return layerwise_rules(mesh, shape[0])
        return _summed_rules(mesh, axes, shape)

    return param_shardings(tree, mesh, rules, plain_arrays=True)


def _summed_rules(mesh: Mesh, axes: tuple[str, ...], shape: tuple[int, ...]) -> Rules:
    return update_rules(mesh, shape[0]) if axes[0] == "layers" else UPDATE


def summed(gradients: Any, mesh: Mesh) -> Any:
    """Gradients as the backward pass gives them, summed over the replicas of `data`, of which each keeps a
    share. For use inside jit, as the two below.
    """
    return _pinned(gradients, partial(_summed_rules, mesh), mesh)


def spread_for_update(tree: Any, opt_state: Any, mesh: Mesh) -> Any:
    """Parameters, or gradients, to where `update_shardings` says; by way of where gradients are summed, from
    which the compiler knows how to go on without making any array whole.
    """
    if mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(summed(tree, mesh), update_shardings(tree, opt_state, mesh))


def gathered_for_use(tree: Any, mesh: Mesh) -> Any:
    """The way back: updated parameters, or their average, to where training's rules want them."""
    return _pinned(summed(tree, mesh), TRAINING, mesh)


def _pinned(tree: Any, rules: Rules | RulesByParameter, mesh: Mesh) -> Any:
    if mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, param_shardings(tree, mesh, rules))
