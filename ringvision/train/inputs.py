"""From config.data to batches on the mesh.

TrainConfig  --open_data-->  PromptProcessor, Loader
this process's rows of a batch, in numpy  --batch_sharder's put-->  the whole batch, spread over the mesh
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ringvision.config import TrainConfig
from ringvision.data.loader import Loader
from ringvision.data.packing import Batch
from ringvision.data.stream import PromptProcessor
from ringvision.errors import UserError
from ringvision.mesh import num_shards, partition_spec
from ringvision.ops.layout_choice import choose_layout
from ringvision.train.tokens import token_recipe


def open_data(
    config: TrainConfig, mesh: Mesh | None = None, *, seed: int | None = None
) -> tuple[PromptProcessor, Loader]:
    """What turns videos and words into tokens, and the batches of a run.

    Args:
        config: of a run, or of one of its stages.
        mesh: whose rows on this process's devices are wanted; None: all rows.
        seed: of the order of documents; None: that of the config.

    Returns:
        The processor, and a loader of those rows.

    Raises:
        UserError: sources, text model, video tokenizer and transformer do not fit together.
    """
    recipe, notices = token_recipe(config)
    data = replace(config.data, sources=tuple(source for source in config.data.sources if source.weight > 0))
    processor = recipe.open()
    rows = None if mesh is None else rows_of(config, mesh)
    loader = Loader(
        data,
        [source.open(processor, data.length) for source in data.sources],
        processor,
        seed=config.seed if seed is None else seed,
        rows=rows,
        max_length=config.transformer.max_length,
        reopen=recipe.open,
    )
    loader.notices += notices
    return processor, loader


def rows_of(config: TrainConfig, mesh: Mesh) -> list[int]:
    """Which rows of a batch lie on this process's devices, in order. UserError where the mesh does not divide
    a batch.
    """
    rows = config.data.rows
    _rows_of_a_shard(config, mesh)
    sharding = NamedSharding(mesh, partition_spec(mesh, "batch"))
    held = set[int]()
    for parts in sharding.addressable_devices_indices_map((rows,)).values():
        assert parts is not None
        held.update(range(*parts[0].indices(rows)))
    return sorted(held)


def batch_sharder(config: TrainConfig, mesh: Mesh) -> Callable[..., Any]:
    """A function that spreads batches over a mesh: rows over data and fsdp, length over the ring, in the
    layout that suits the documents in them (ops/layout_choice.py). The rows of each shard have a layout of
    their own, so that it is the same whichever process puts them there.

    It is put(batch, *others): the rows of a batch that `rows_of` names, arrays [B, L], and other arrays
    [B, L] that go with them; it gives the whole batch, arrays [rows, L] on the mesh, and a tuple where there
    are others. UserError where the mesh does not divide a batch.
    """
    together = _rows_of_a_shard(config, mesh)
    shape = config.data.rows, config.data.length
    ring = mesh.shape["context"]
    sharding = NamedSharding(mesh, partition_spec(mesh, "batch", "length"))
    place = {row: number for number, row in enumerate(rows_of(config, mesh))}

    def spread(array: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            first, stop, _ = index[0].indices(shape[0])
            return array[place[first] : place[stop - 1] + 1, index[1]]

        return jax.make_array_from_callback(shape, sharding, part)

    def put(batch: Batch, *others: np.ndarray) -> Any:
        arrays = batch, *others
        if ring > 1:
            order, segment_ids = _laid_out(batch, together, ring)
            arrays = jax.tree.map(lambda array: np.take_along_axis(array, order, 1), arrays)
            arrays = replace(arrays[0], segment_ids=segment_ids), *arrays[1:]
        arrays = jax.tree.map(spread, arrays)
        return arrays if others else arrays[0]

    return put


def _laid_out(batch: Batch, together: int, ring: int) -> tuple[np.ndarray, np.ndarray]:
    """The order of the tokens, int32 [B, L], and their segment ids in it, int32 [B, L]: a layout for each
    `together` rows.
    """
    orders = []
    segments = []
    for first in range(0, len(batch.tokens), together):
        rows = slice(first, first + together)
        chosen = choose_layout(batch.segment_ids[rows], batch.positions[rows], devices=ring)
        orders.append(chosen.order)
        segments.append(chosen.segment_ids)
    return np.concatenate(orders), np.concatenate(segments)


def _rows_of_a_shard(config: TrainConfig, mesh: Mesh) -> int:
    """How many rows each coordinate of data x fsdp holds. UserError where the mesh does not divide a
    batch.
    """
    rows = config.data.rows
    length = config.data.length
    groups = num_shards(mesh, "batch")
    devices = num_shards(mesh, "length")
    parts = config.accumulate
    if rows % (groups * parts) or length % devices:
        read = f" read in accumulate = {parts} parts" if parts > 1 else ""
        raise UserError(
            f"a batch of {rows} x {length} on data x fsdp = {groups} and context x ulysses = {devices}"
            f"{read}; give rows and length that these divide"
        )
    return rows // groups
