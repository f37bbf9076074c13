"""What each way to rematerialise computes again, and that the host's memory is used where there is one."""

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ringvision.mesh import TRAINING, make_mesh
from ringvision.models import remat
from ringvision.models.presets import PRESETS
from ringvision.models.transformer import Transformer


def make(kind: str) -> Transformer:
    return Transformer(replace(PRESETS["tiny"], remat=kind), rngs=nnx.Rngs(0))


def gradient_of(kind: str, axes: dict[str, int]) -> Any:
    """The gradient of a mean over the hidden states, jitted, and the shapes of the parameters."""
    mesh = make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))])
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: make(kind)))
    tokens = jnp.arange(256, dtype=jnp.int32).reshape(2, 128)
    positions = tokens % 128

    def loss(params: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        hidden = model.hidden(tokens, positions, jnp.ones_like(tokens), mesh=mesh, rules=TRAINING)
        return jnp.mean(jnp.square(hidden) * jnp.cos(jnp.arange(64)))

    return jax.jit(jax.grad(loss)), shapes


def test_what_is_computed_again() -> None:
    """`block` computes every layer once more; `dots` little that is counted in operations, and no
    attention.
    """
    flops = {}
    for kind in ("none", "block", "dots"):
        gradient, shapes = gradient_of(kind, {"context": 1})
        flops[kind] = gradient.lower(shapes).cost_analysis()["flops"]
    assert flops["dots"] < 1.02 * flops["none"]
    assert flops["block"] > 1.2 * flops["none"]


def test_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's compiler takes the moves to the host for none at all, so `offload` can be tried here too."""
    monkeypatch.setattr(remat, "_reaches_host", lambda device: True)
    axes = {"fsdp": 2, "context": 2}
    plain, _ = gradient_of("none", axes)
    params = jax.jit(lambda: nnx.split(make("none"))[1])()
    expected = plain(params)
    for kind in ("dots", "offload"):
        gradient, _ = gradient_of(kind, axes)
        for one, other in zip(jax.tree.leaves(gradient(params)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * float(jnp.abs(other).max()))


def test_layer_inputs_go_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """[layers, B, L, D] of them, and nothing else of a layer is kept."""
    monkeypatch.setattr(remat, "_reaches_host", lambda device: True)
    gradient, shapes = gradient_of("offload", {"context": 1})
    assert "f32<host>[2,2,128,64]" in str(jax.make_jaxpr(gradient)(shapes))


def test_a_device_without_a_host_of_its_own_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    remat._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            gradient, shapes = gradient_of("offload", {"context": 1})
            traced = str(jax.make_jaxpr(gradient)(shapes))
    assert "<host>" not in traced
    assert [record.message for record in caplog.records if "remat 'offload'" in record.message] == [
        "remat 'offload': the memory of a cpu device is not apart from the host's; layers are computed again "
        "from inputs that stay where they are, as with 'block'"
    ]


def test_which_devices_reach_the_host() -> None:
    """A TPU that a topology describes has no memories to ask for."""
    memories = [SimpleNamespace(kind="device"), SimpleNamespace(kind="pinned_host")]
    gpu = SimpleNamespace(platform="gpu", addressable_memories=lambda: memories)
    bare = SimpleNamespace(platform="gpu", addressable_memories=lambda: memories[:1])
    described = SimpleNamespace(platform="tpu")
    assert [remat._reaches_host(device) for device in (gpu, bare, described)] == [True, False, True]
