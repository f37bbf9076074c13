"""Gradient accumulation: a batch read in parts, one after another, whose gradients are summed.

    Batch [B, L] --microbatches--> Batch [A, B/A, L] --accumulated--> the sum of what a function gives of each

Every device splits the rows that it has, so that no row travels.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.data.packing import Batch
from ringvision.errors import UserError
from ringvision.mesh import num_shards, partition_spec

Tree = TypeVar("Tree")


def microbatches(batch: Batch, accumulate: int, mesh: Mesh) -> Batch:
    """The parts of a batch.

    Args:
        batch: arrays [B, L], rows spread over data x fsdp, length over the ring.
        accumulate: how many parts.
        mesh: the devices.

    Returns:
        Arrays [accumulate, B / accumulate, L], the last two dimensions spread as before; each part has an
        equal share of every device's rows.

    Raises:
        UserError: a device's rows are no multiple of `accumulate`.
    """
    rows = batch.tokens.shape[0]
    devices = num_shards(mesh, "batch")
    if rows % (devices * accumulate):
        raise UserError(
            f"a batch of {rows} rows in accumulate={accumulate} parts on data x fsdp = {devices} devices: "
            f"give rows that {devices * accumulate} divides"
        )
    spread = NamedSharding(mesh, PartitionSpec(None, *partition_spec(mesh, "batch", "length")))

    def split(x: jax.Array) -> jax.Array:
        length = x.shape[1]
        x = x.reshape(devices, accumulate, -1, length).swapaxes(0, 1)  # (A, devices, B / (A devices), L)
        x = x.reshape(accumulate, -1, length)
        return x if mesh.size == 1 else jax.lax.with_sharding_constraint(x, spread)

    return jax.tree.map(split, batch)


def accumulated(function: Callable[[Batch], Tree], parts: Batch) -> Tree:
    """The sum of `function(part)` over the parts, arrays [A, B, L], in one loop: memory for one part at a
    time.

    function: gives a tree of arrays that are summed over.
    """
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    def add(total: Tree, part: Batch) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    return jax.lax.scan(add, nothing, parts)[0]
