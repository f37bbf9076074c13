"""Low-rank pairs beside a transformer's matrices, for training few parameters (LoRA: Hu et al., 2021).

In: a Transformer. Out: the same with `layers.attention.query_lora.{down,up}` and so on beside each matrix of
its layers, so that `x W` becomes `x W + alpha / rank * (x down) up`; and back, the pairs multiplied out and
added to the matrices. `up` begins at zero: a model that has just been given pairs computes what it did
before.

Letters as in layers.py; R is the rank of a pair.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ringvision.models.parameters import param
from ringvision.models.transformer import Transformer

SUFFIX = "_lora"


class LowRank(nnx.Module):
    """`factor * (x down) up`, for all layers: down [layers, *inputs, R], up [layers, R, *outputs]."""

    def __init__(self, matrix: nnx.Param, num_inputs: int, rank: int, factor: float, *, rngs: nnx.Rngs):
        """A pair that gives zeros.

        Args:
            matrix: the parameter [layers, *inputs, *outputs] that the pair stands beside, whose axes and
                dtype it takes over.
            num_inputs: how many of its dimensions are inputs.
            rank: R.
            factor: what the product is multiplied with.
            rngs: the stream `params` is used.
        """
        layers, *sizes = matrix[...].shape
        first, *axes = matrix.get_metadata()["logical_axes"]
        dtype = matrix[...].dtype
        inputs = sizes[:num_inputs]
        self.factor = factor
        std = math.prod(inputs) ** -0.5
        down = std * jax.random.normal(rngs.params(), (layers, *inputs, rank), dtype)
        self.down = param(down, first, *axes[:num_inputs], "rank")
        up = jnp.zeros((layers, rank, *sizes[num_inputs:]), dtype)
        self.up = param(up, first, "rank", *axes[num_inputs:])

    def __call__(self, x: jax.Array) -> jax.Array:
        """One layer's slice: float `[B, L, *inputs]` -> `[B, L, *outputs]` in the same dtype."""
        down = self.down[...]
        inner = jnp.tensordot(x, down, axes=down.ndim - 1)  # (B, L, R)
        return self.factor * jnp.tensordot(inner, self.up[...], axes=1)


def attach(model: Transformer, *, rank: int, alpha: float, rngs: nnx.Rngs) -> None:
    """Give each matrix of the model's layers a pair of `rank`, in the matrix's dtype.

    Args:
        model: changed in place.
        rank: R.
        alpha: the product of a pair counts `alpha / rank`.
        rngs: the stream `params` is used.
    """
    attention = model.layers.attention
    feed_forward = model.layers.feed_forward
    matrices: list[tuple[nnx.Module, str, int]] = [(attention, name, 1) for name in ("query", "key", "value")]
    matrices += [(attention, "output", 2), *((feed_forward, name, 1) for name in ("gate", "up", "down"))]
    for owner, name, num_inputs in matrices:
        pair = LowRank(getattr(owner, name), num_inputs, rank, alpha / rank, rngs=rngs)
        setattr(owner, name + SUFFIX, pair)


def merged(params: Mapping[str, Any], *, rank: int, alpha: float) -> dict[str, jax.Array]:
    """Parameters by name, with pairs -> without, each added to its matrix in float32.

    params: name -> float array; a pair [layers, *inputs, R], [layers, R, *outputs] beside its matrix [layers,
    *inputs, *outputs], whose dtype the result keeps.
    """
    whole = {name: value for name, value in params.items() if not is_pair(name)}
    for name in whole:
        if (down := params.get(f"{name}{SUFFIX}.down")) is not None:
            layers = down.shape[0]
            up = params[f"{name}{SUFFIX}.up"]
            product = jnp.matmul(
                down.reshape(layers, -1, rank), up.reshape(layers, rank, -1), precision="float32"
            )
            whole[name] = (whole[name] + alpha / rank * product.reshape(whole[name].shape)).astype(
                whole[name].dtype
            )
    return whole


def is_pair(name: str) -> bool:
    """Whether a parameter of this name is half of a pair."""
    return name.rpartition(".")[0].endswith(SUFFIX)
