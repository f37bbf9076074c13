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
from ringvision.tree import flatten, unflatten

# Which mesh axis each dimension of a parameter is split over, by the parameter's name; what is not named is
# whole everywhere.
# Leading dimensions are layers. fsdp splits the model width, tensor the heads, the feed-forward width and the
# vocabulary.
PLACES: dict[str, tuple[str | None, ...]] = {
    "embed.table": ("tensor", "fsdp"),
    "unembed.kernel": ("fsdp", "tensor"),
    "layers.attention.query": (None, "fsdp", "tensor", None),
    "layers.attention.key": (None, "fsdp", "tensor", None),
    "layers.attention.value": (None, "fsdp", "tensor", None),
    "layers.attention.output": (None, "tensor", None, "fsdp"),
    "layers.attention.query_bias": (None, "tensor", None),
    "layers.attention.key_bias": (None, "tensor", None),
    "layers.attention.value_bias": (None, "tensor", None),
    "layers.attention.query_norm": (None, "tensor", None),
    "layers.attention.key_norm": (None, "tensor", None),
    "layers.attention.query_norm_bias": (None, "tensor", None),
    "layers.attention.key_norm_bias": (None, "tensor", None),
    "layers.feed_forward.gate": (None, "fsdp", "tensor"),
    "layers.feed_forward.up": (None, "fsdp", "tensor"),
    "layers.feed_forward.down": (None, "tensor", "fsdp"),
    "layers.attention.query_lora.down": (None, "fsdp", None),
    "layers.attention.query_lora.up": (None, None, "tensor", None),
    "layers.attention.key_lora.down": (None, "fsdp", None),
    "layers.attention.key_lora.up": (None, None, "tensor", None),
    "layers.attention.value_lora.down": (None, "fsdp", None),
    "layers.attention.value_lora.up": (None, None, "tensor", None),
    "layers.attention.output_lora.down": (None, "tensor", None, None),
    "layers.attention.output_lora.up": (None, None, "fsdp"),
    "layers.feed_forward.gate_lora.down": (None, "fsdp", None),
    "layers.feed_forward.gate_lora.up": (None, None, "tensor"),
    "layers.feed_forward.up_lora.down": (None, "fsdp", None),
    "layers.feed_forward.up_lora.up": (None, None, "tensor"),
    "layers.feed_forward.down_lora.down": (None, "tensor", None),
    "layers.feed_forward.down_lora.up": (None, None, "fsdp"),
}

# Which dimensions of a stacked matrix are its inputs, and which its outputs; the first dimension is the
# layer.
MATRICES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "layers.attention.query": ((1,), (2, 3)),
    "layers.attention.key": ((1,), (2, 3)),
    "layers.attention.value": ((1,), (2, 3)),
    "layers.attention.output": ((1, 2), (3,)),
    "layers.feed_forward.gate": ((1,), (2,)),
    "layers.feed_forward.up": ((1,), (2,)),
    "layers.feed_forward.down": ((1,), (2,)),
}


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
    """The same tree with the axes that go in and out of each layer's matrices, whose steps Muon makes
    orthogonal; None for all else.
    """
    names = flatten(params)
    axes = {
        name: next((axes for suffix, axes in MATRICES.items() if name.endswith(suffix)), None)
        for name in names
    }
    return unflatten(
        {name: contrib.MuonDimensionNumbers(*found) if found else None for name, found in axes.items()},
        params,
    )


def decays(params: Any) -> Any:
    """The same tree with True where weight decay applies: not to the scales of norms, to biases, nor to the
    embedding table.
    """
    names = flatten(params)
    return unflatten(
        {name: not name.endswith((".scale", ".table", "_norm", "_bias")) for name in names}, params
    )


def start(params: Any, tx: optax.GradientTransformation, *, average: bool, frozen: Any = None) -> TrainState:
    """The state before the first step."""
    copy = jax.tree.map(jnp.copy, params) if average else None
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), copy, frozen)


def update(state: TrainState, gradients: Any, tx: optax.GradientTransformation, *, ema: float) -> TrainState:
    """One step of the optimizer. The average follows the params by 1 - ema, faster in the first steps so that
    it forgets the start.
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


def shardings(state: Any, mesh: Mesh) -> Any:
    """Where every array of an (abstract) TrainState lies on `mesh`: parameters, their moments and average by
    PLACES, the rest everywhere.

    A dimension that its mesh axis does not divide stays whole.
    """

    def place(name: str, leaf: Any) -> NamedSharding:
        axes = next(
            (
                axes
                for suffix, axes in PLACES.items()
                if name.endswith(suffix) and len(axes) == len(leaf.shape)
            ),
            (),
        )
        spec = [
            axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, leaf.shape)
        ]
        return NamedSharding(mesh, PartitionSpec(*spec))

    return unflatten({name: place(name, leaf) for name, leaf in flatten(state).items()}, state)
