"""Every parameter says its axes where it is made, and what belongs to a parameter lies where it lies."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ringvision.mesh import RULES, TRAINING, Rules, make_mesh
from ringvision.models import lora
from ringvision.models.parameters import axes_of, gathered, param, param_shardings, sharding_report
from ringvision.models.presets import PRESETS, TransformerConfig
from ringvision.models.transformer import Transformer
from ringvision.tree import flatten

SMALL = TransformerConfig(96, 32, 2, 4, 2, 8, 48)


def shapes(config: TransformerConfig, pairs: bool = False) -> nnx.State:
    def make() -> Transformer:
        model = Transformer(config, rngs=nnx.Rngs(0))
        if pairs:
            lora.attach(model, rank=4, alpha=8.0, rngs=nnx.Rngs(1))
        return model

    return nnx.split(nnx.eval_shape(make))[1]


@pytest.mark.parametrize(
    "change",
    [
        {"tie_embeddings": True, "qkv_bias": True},
        {"qk_norm": "rms"},
        {"qk_norm": "layer", "frame_period": 5},
    ],
)
def test_every_parameter_has_as_many_axes_as_dimensions(change):
    params = shapes(replace(SMALL, **change), pairs=True)
    axes = axes_of(params)
    for name, leaf in flatten(params).items():
        assert len(axes[name]) == leaf.ndim, name
        assert ("layers" in axes[name]) == name.startswith("layers.")


def test_axes_by_name():
    axes = axes_of(shapes(SMALL, pairs=True))
    assert axes["embed.table"] == ("vocab", "embed")
    assert axes["layers.attention.output"] == ("layers", "heads", "head_dim", "embed")
    assert axes["layers.attention.key_lora.up"] == ("layers", "rank", "kv_heads", "head_dim")
    assert axes["layers.feed_forward.down_lora.down"] == ("layers", "hidden", "rank")
    assert axes["norm.scale"] == ("norm",)


def test_a_parameter_without_axes_is_an_error():
    class Forgetful(nnx.Module):
        def __init__(self) -> None:
            self.kernel = nnx.Param(jnp.ones((4, 4)))

    mesh = make_mesh(fsdp=8)
    _, params = nnx.split(Forgetful())
    with pytest.raises(ValueError, match="'kernel' does not say its logical axes"):
        param_shardings(params, mesh)
    with pytest.raises(ValueError, match="'kernel' does not say its logical axes"):
        param_shardings({"kernel": jnp.ones((4, 4))}, mesh)
    with pytest.raises(ValueError, match="expected one a dimension"):
        param(jnp.ones((4, 4)), "embed")
    with pytest.raises(ValueError, match="no rule for the logical axis 'width'"):
        param_shardings({"kernel": param(jnp.ones(4), "width")}, mesh)


@pytest.mark.parametrize("rules", [RULES, TRAINING])
def test_moments_lie_where_their_parameter_lies(rules: Rules):
    params = shapes(SMALL)
    mesh = make_mesh(fsdp=2, tensor=2, context=2)
    expected = flatten(param_shardings(params, mesh, rules))
    spread = PartitionSpec(None, ("fsdp", "context") if rules is TRAINING else "fsdp", "tensor")
    assert expected["layers.feed_forward.up"].spec == spread
    opt_state = jax.eval_shape(optax.adamw(1e-3).init, params)
    found = flatten(param_shardings(opt_state, mesh, rules, plain_arrays=True))
    for name, place in expected.items():
        assert found[f"0.mu.{name}"] == found[f"0.nu.{name}"] == place, name
    assert found["0.count"] == NamedSharding(mesh, PartitionSpec())


def test_on_a_ring_alone_inference_has_every_weight_everywhere():
    params = shapes(SMALL)
    assert {place.spec for place in flatten(param_shardings(params, make_mesh(), RULES)).values()} == {
        PartitionSpec()
    }


def test_what_does_not_divide_is_reported():
    mesh = make_mesh(fsdp=2, tensor=4)
    params = shapes(SMALL)
    report = sharding_report(params, mesh)
    assert set(report) == {"layers.attention.key", "layers.attention.value"}
    assert report["layers.attention.key"] == "kv_heads of 2 is not divided by tensor=4: whole on every device"
    assert sharding_report(params, make_mesh(fsdp=2, tensor=2, context=2), TRAINING) == {}
    narrow = shapes(replace(SMALL, embed_dim=36))
    some = sharding_report(narrow, make_mesh(fsdp=2, context=4), TRAINING)
    assert some["embed.table"] == "embed of 36 is not divided by fsdp=2 x context=4: spread over fsdp"
    assert sharding_report(shapes(PRESETS["lwm-7b"]), make_mesh(fsdp=8)) == {}


def test_gathered_parameters_are_whole_and_their_gradients_spread():
    mesh = make_mesh(fsdp=2, tensor=2, context=2)
    params = {
        "layers.feed_forward.up": param(jnp.arange(64.0).reshape(2, 8, 4), "layers", "embed", "hidden"),
        "norm.scale": param(jnp.arange(8.0), "norm"),
    }
    places = param_shardings(params, mesh, TRAINING)
    spread = jax.device_put(params, places)

    @jax.jit
    def both(params):
        whole, pull_back = jax.vjp(lambda tree: gathered(tree, mesh, TRAINING), params)
        return whole, pull_back(whole)[0]

    whole, back = both(spread)
    named = flatten(places)
    for name, leaf in flatten(back).items():
        assert leaf.sharding.is_equivalent_to(named[name], leaf.ndim), name
        np.testing.assert_array_equal(leaf, flatten(params)[name])
    expected = NamedSharding(mesh, PartitionSpec(None, None, "tensor"))
    assert flatten(whole)["layers.feed_forward.up"].sharding.is_equivalent_to(expected, 3)
