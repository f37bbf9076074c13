"""Meshes, the text that describes one, and where arrays lie on it."""

import jax
import pytest
from jax.sharding import PartitionSpec

from ringvision.errors import UserError
from ringvision.mesh import (
    AXES,
    TRAINING,
    UPDATE,
    Rules,
    fitted_spec,
    layerwise_rules,
    make_mesh,
    num_shards,
    parse_mesh,
    partition_spec,
    sharding,
    update_rules,
)


def test_context_takes_what_is_left():
    assert dict(make_mesh().shape) == {"data": 1, "fsdp": 1, "tensor": 1, "context": 8, "ulysses": 1}
    assert dict(make_mesh(ulysses=2).shape) == {"data": 1, "fsdp": 1, "tensor": 1, "context": 4, "ulysses": 2}
    assert make_mesh(data=2, tensor=2).shape["context"] == 2
    assert make_mesh(devices=jax.devices()[:3]).shape["context"] == 3
    assert make_mesh().axis_names == AXES


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"data": 3}, "does not divide 8 devices"),
        ({"context": 4}, "is 4, but there are 8 devices"),
        ({"data": 4, "context": 4}, "is 16, but there are 8 devices"),
        ({"data": 16}, "does not divide 8 devices"),
        ({"tensor": 0}, "tensor=0: expected at least 1"),
    ],
)
def test_a_mesh_that_the_devices_do_not_fill(axes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**axes)


def test_parse():
    assert parse_mesh("context=4,data=2") == {"context": 4, "data": 2}
    assert parse_mesh(" context = 4 , ") == {"context": 4}
    assert parse_mesh("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contxt=4", "did you mean context"),
        ("zzz=4", "the axes are data, fsdp, tensor, context"),
        ("context", "write context=N"),
        ("context=four", "write context=N"),
        ("context=0", "at least 1"),
        ("context=-2", "write context=N"),
        ("context=2,context=4", "given twice"),
    ],
)
def test_a_text_that_describes_no_mesh(text, message):
    with pytest.raises(UserError, match=message):
        parse_mesh(text)


def test_shardings():
    mesh = make_mesh(data=2, tensor=2)
    assert sharding(mesh, "batch", "length").spec == PartitionSpec(("data", "fsdp"), ("context", "ulysses"))
    assert sharding(mesh, "embed", "hidden").spec == PartitionSpec("fsdp", "tensor")
    assert sharding(mesh, "batch", "length", None).spec == PartitionSpec(
        ("data", "fsdp"), ("context", "ulysses"), None
    )
    assert num_shards(mesh, "batch") == 2


def test_axes_that_a_mesh_lacks_are_left_out():
    ring = jax.sharding.AbstractMesh((8,), ("context",))
    assert partition_spec(ring, "batch", "length", "heads") == PartitionSpec(None, "context", None)
    assert num_shards(ring, "batch") == 1


def test_a_collision_raises():
    with pytest.raises(
        ValueError, match="'heads' and 'hidden' would both be spread over the mesh axis 'tensor'"
    ):
        Rules().spec("heads", "hidden")
    with pytest.raises(ValueError, match="'batch' and 'embed'"):
        Rules().spec("batch", "embed")
    with pytest.raises(ValueError, match="no rule for the logical axis 'width'"):
        Rules().spec("width")
    assert Rules(embed=()).spec("batch", "embed") == PartitionSpec(("data", "fsdp"), None)


def test_a_dimension_is_spread_over_as_many_axes_as_divide_it():
    mesh = make_mesh(fsdp=2, tensor=2, context=2)
    assert fitted_spec(mesh, ("embed", "hidden"), (8, 6)) == PartitionSpec("fsdp", "tensor")
    assert fitted_spec(mesh, ("embed", "hidden"), (8, 5)) == PartitionSpec("fsdp")
    assert fitted_spec(mesh, ("embed",), (8,), TRAINING) == PartitionSpec(("fsdp", "context"))
    assert fitted_spec(mesh, ("embed",), (6,), TRAINING) == PartitionSpec("fsdp")
    assert fitted_spec(mesh, ("embed",), (7,), TRAINING) == PartitionSpec()
    with pytest.raises(ValueError, match="longer"):
        fitted_spec(mesh, ("embed",), (8, 8))


def test_what_is_updated_is_spread_over_data_too():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    axes = ("embed", "hidden")
    assert fitted_spec(mesh, axes, (8, 6), UPDATE) == PartitionSpec(("fsdp", "data"), "tensor")
    assert fitted_spec(mesh, axes, (6, 6), UPDATE) == PartitionSpec("fsdp", "tensor")
    axes = ("layers", "embed", "hidden")
    even, odd = ((layers, 8, 6) for layers in (4, 3))
    assert fitted_spec(mesh, axes, even, update_rules(mesh, 4)) == PartitionSpec("data", "fsdp", "tensor")
    assert fitted_spec(mesh, axes, odd, update_rules(mesh, 3)) == PartitionSpec(
        None, ("fsdp", "data"), "tensor"
    )


@pytest.mark.parametrize(
    ("axes", "layers", "expected"),
    [
        ({"data": 2, "fsdp": 2, "context": 2}, 8, (("data", "fsdp", "context"),)),
        ({"data": 2, "fsdp": 2, "context": 2}, 6, ("data", ("fsdp", "context"))),
        ({"data": 4, "context": 2}, 4, ("data", "context")),
        ({"data": 8}, 3, (None, "data")),
        ({"tensor": 8}, 8, ()),
    ],
)
def test_layers_are_shared_out_before_the_width(axes, layers, expected):
    """As many shares of layers as the mesh allows, and the model width over what is left."""
    mesh = make_mesh(**{"context": 1, **axes})
    rules = layerwise_rules(mesh, layers)
    assert fitted_spec(mesh, ("layers", "embed", "head_dim"), (layers, 16, 3), rules) == PartitionSpec(
        *expected
    )
