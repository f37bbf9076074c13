"""Batches come to the mesh whole, whichever process puts which rows there."""

from contextlib import closing
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from tiny_run import config

from ringvision.data.packing import Batch
from ringvision.errors import UserError
from ringvision.mesh import make_mesh, parse_mesh
from ringvision.ops.layout_choice import choose_layout
from ringvision.train.inputs import batch_sharder, open_data, rows_of


def in_order(batch: Batch) -> list[list[tuple[int, ...]]]:
    """The slots of every row with all that is known of them but for the number of the segment, sorted."""
    fields = (batch.tokens, batch.targets, batch.positions, batch.loss_weights)
    return [
        sorted(zip(*(np.asarray(field[row]).tolist() for field in fields), strict=True))
        for row in range(len(batch.tokens))
    ]


@pytest.mark.parametrize("axes", ["data=4,context=2", "data=2,context=4", "fsdp=2,context=2,ulysses=2", ""])
def test_rows_stay_whole_and_each_shard_has_its_own_layout(data: Path, tmp_path: Path, axes: str) -> None:
    setup = config(data, tmp_path, mesh=parse_mesh(axes))
    mesh = make_mesh(**parse_mesh(axes))
    _, loader = open_data(setup, mesh)
    assert loader.rows == rows_of(setup, mesh) == [0, 1, 2, 3]
    with closing(loader.batches()) as batches:
        ((batch, _),) = islice(batches, 1)
    others = np.arange(4 * 192).reshape(4, 192)
    whole, moved = batch_sharder(setup, mesh)(batch, others)
    assert in_order(whole) == in_order(batch)
    together = 4 // (mesh.shape["data"] * mesh.shape["fsdp"])
    for first in range(0, 4, together):
        rows = slice(first, first + together)
        chosen = choose_layout(batch.segment_ids[rows], batch.positions[rows], devices=mesh.shape["context"])
        order = chosen.order if mesh.shape["context"] > 1 else np.tile(np.arange(192), (together, 1))
        np.testing.assert_array_equal(whole.tokens[rows], np.take_along_axis(batch.tokens[rows], order, 1))
        np.testing.assert_array_equal(moved[rows], np.take_along_axis(others[rows], order, 1))


def test_a_process_needs_the_rows_of_its_own_devices(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the first half of the devices were this process's and the others another's."""
    own = set(jax.devices()[:4])
    everywhere = NamedSharding.addressable_devices_indices_map

    def addressable(self: NamedSharding, shape: tuple[int, ...]) -> dict:
        return {device: index for device, index in everywhere(self, shape).items() if device in own}

    monkeypatch.setattr(NamedSharding, "addressable_devices_indices_map", addressable)

    def rows(axes: str, count: int) -> list[int]:
        mesh: Mesh = make_mesh(**parse_mesh(axes))
        return rows_of(config(data, tmp_path, data={"rows": count}, mesh=parse_mesh(axes)), mesh)

    assert rows("data=8,context=1", 8) == [0, 1, 2, 3]
    assert rows("data=2,context=4", 8) == [0, 1, 2, 3]
    assert rows("context=8", 3) == [0, 1, 2]  # rows lie across the processes: both need them
    assert rows("data=4,tensor=2,context=1", 8) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="a batch of 3 x 192 on data x fsdp = 8"):
        rows("data=8,context=1", 3)


def test_a_batch_read_in_parts_must_be_divided_by_them(data: Path, tmp_path: Path) -> None:
    mesh = make_mesh(data=2, context=4)
    batch_sharder(config(data, tmp_path, accumulate=2), mesh)
    with pytest.raises(UserError, match=r"a batch of 4 x 192 .* read in accumulate = 4 parts; give rows"):
        batch_sharder(config(data, tmp_path, accumulate=4), mesh)
