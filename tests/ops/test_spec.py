"""What is fixed when compiling is one value: equal for equal calls, so that they share a compiled program."""

from dataclasses import FrozenInstanceError

import jax
import numpy as np
import pytest

from ringvision.mesh import make_mesh
from ringvision.ops import ring
from ringvision.ops.inputs import prepare
from ringvision.ops.mask import MaskSpec


def arrays(length: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, k = (np.zeros((1, length, heads, 8), np.float32) for heads in (2, 1))
    return q, k, k


def test_equal_calls_have_equal_specs():
    mesh = make_mesh(context=4, devices=jax.devices()[:4])
    _, spec = prepare(*arrays(), mesh=mesh, window=9)
    _, same = prepare(*arrays(), mesh=mesh, window=np.int64(9), scale=8**-0.5)
    _, other = prepare(*arrays(), mesh=mesh, window=10)
    assert spec == same and hash(spec) == hash(same)
    assert spec != other
    with pytest.raises(FrozenInstanceError):
        spec.hops = 3


def test_what_a_call_says_is_in_its_spec():
    mesh = make_mesh(context=2, ulysses=2, devices=jax.devices()[:4])
    tokens, spec = prepare(*arrays(), mesh=mesh, causal=False, exchange="two_way", kernel="splash")
    assert spec.mask == MaskSpec(False, None, 8**-0.5)
    assert (spec.mesh, spec.kernel, spec.exchange, spec.hops) == (mesh, "splash", "two_way", 1)
    assert (spec.devices, spec.ulysses_devices) == (2, 2)
    assert np.array_equal(tokens.positions, [range(64)]) and (tokens.segment_ids == 1).all()


def test_hops_are_counted_before_compiling_where_the_layout_tells():
    mesh = make_mesh(context=8)
    assert prepare(*arrays(), mesh=mesh)[1].hops == 7
    assert prepare(*arrays(), mesh=mesh, window=9)[1].hops == 1
    assert prepare(*arrays(), mesh=mesh, window=9, layout="striped")[1].hops == 7
    assert prepare(*arrays(), mesh=mesh, window=5, layout="zigzag")[1].hops is None  # hops 1 and 7
    given = np.ones((1, 64), np.int32)
    assert prepare(*arrays(), mesh=mesh, segment_ids=given)[1].hops is None


def test_equal_calls_are_compiled_once():
    mesh = make_mesh(context=2, devices=jax.devices()[:2])
    ring._forward.clear_cache()
    for window in (9, np.int64(9)):
        ring.ring_attention(*arrays(), mesh=mesh, window=window)
    assert ring._forward._cache_size() == 1
