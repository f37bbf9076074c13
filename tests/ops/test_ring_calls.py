"""How `ring_attention` is called: on which mesh it runs, and what it refuses."""

import jax
import numpy as np
import pytest
from dense import dense_attention, make_problem

from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.ops.layout import order
from ringvision.ops.ring import ring_attention


def test_a_kernel_that_cannot_is_refused():
    with pytest.raises(UserError, match="cuDNN's attention cannot be used: q is float32"):
        ring_attention(**bad(kernel="cudnn"))


def test_outside_jit_on_the_mesh_in_context_and_on_all_devices():
    problem = make_problem(batch=1)
    arrays = problem.q, problem.k, problem.v
    expected = dense_attention(problem)["out"]
    assert np.abs(ring_attention(*arrays) - expected).max() < 2e-6
    assert len(ring_attention(*arrays).sharding.device_set) == 8
    ring_of_two = make_mesh(context=2, devices=jax.devices()[:2])
    with jax.set_mesh(ring_of_two):
        out = ring_attention(*arrays)
        assert out.sharding.mesh.shape["context"] == 2
        assert np.abs(out - expected).max() < 2e-6
        assert np.abs(jax.jit(ring_attention)(*arrays) - expected).max() < 2e-6


def test_a_mesh_of_context_alone():
    mesh = jax.make_mesh(
        (2,), ("context",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,)
    )
    problem = make_problem(batch=1)
    out = ring_attention(problem.q, problem.k, problem.v, mesh=mesh)
    assert np.abs(out - dense_attention(problem)["out"]).max() < 2e-6


def bad(**changes):
    shape = (2, 64, 4, 16)
    kv = (2, 64, 2, 16)
    arguments = {
        "q": np.zeros(shape, np.float32),
        "k": np.zeros(kv, np.float32),
        "v": np.zeros(kv, np.float32),
    }
    return arguments | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": np.zeros((64, 4, 16), np.float32)}, r"q of shape \(64, 4, 16\): expected four axes"),
        ({"q": np.zeros((2, 64, 4, 16), np.int32)}, "q of type int32.*floating"),
        ({"k": np.zeros((2, 64, 2, 16), np.float16)}, "k of type float16.*same floating-point type"),
        ({"v": np.zeros((2, 64, 1, 16), np.float32)}, r"v of shape .* expected k's, \(2, 64, 2, 16\)"),
        ({"q": np.zeros((1, 64, 4, 16), np.float32)}, "same batch"),
        (
            {"q": np.zeros((2, 64, 3, 16), np.float32)},
            "3 query heads and 2 key/value heads: expected a whole number",
        ),
        ({"q": np.zeros((2, 128, 4, 16), np.float32)}, "k of length 64: expected q's, 128"),
        (
            {n: np.zeros((2, 60, 2, 16), np.float32) for n in "qkv"},
            "q of length 60: expected a multiple of the mesh's context=8; pad to 64 with segment 0",
        ),
        ({"positions": np.zeros((2, 32), np.int32)}, r"positions of shape \(2, 32\): expected \(2, 64\)"),
        ({"positions": np.zeros((2, 64), np.float32)}, "positions of type float32: expected integers"),
        ({"segment_ids": np.zeros((64,), np.int32)}, r"segment_ids of shape \(64,\)"),
        ({"earliest": np.zeros((64,), np.int32)}, r"earliest of shape \(64,\): expected \(2, 64\)"),
        ({"earliest": np.zeros((2, 64), np.float32)}, "earliest of type float32: expected integers"),
        ({"segment_ids": np.zeros((2, 64), bool)}, "segment_ids of type bool: expected integers"),
        ({"window": 0}, "window=0: expected at least 1"),
        ({"layout": "zebra"}, "layout 'zebra': expected one of contiguous, zigzag"),
        (
            {"layout": "zigzag"} | {n: np.zeros((2, 56, 2, 16), np.float32) for n in "qkv"},
            "56 in the zigzag layout.*multiple of 16",
        ),
        (
            {"layout": "zigzag", "positions": np.tile(np.arange(64), (2, 1))},
            "positions contradict layout='zigzag'",
        ),
        (
            {"layout": "striped", "positions": np.tile(order(64, 8, "zigzag"), (2, 1))},
            "positions contradict layout='striped'",
        ),
        ({"exchange": "post"}, "exchange='post': expected one of ring, two_way, gather"),
        ({"kernel": "flash"}, "kernel='flash': expected one of xla, splash, cudnn"),
        (
            {
                "mesh": jax.sharding.AbstractMesh((2, 4), ("context", "ulysses")),
                "q": np.zeros((2, 64, 6, 16), np.float32),
            },
            "6 query heads and 2 key/value heads on a device: expected the mesh's ulysses=4 to "
            "divide the first",
        ),
        (
            {"mesh": jax.sharding.AbstractMesh((2, 4), ("context", "ulysses"))}
            | {n: np.zeros((2, 60, 4, 16), np.float32) for n in "qkv"},
            "q of length 60: expected a multiple of the mesh's context x ulysses, 8; pad to 64",
        ),
        (
            {"mesh": jax.sharding.AbstractMesh((8,), ("x",))},
            r"mesh with axes \('x',\): expected one named 'context'",
        ),
        (
            {"mesh": jax.sharding.AbstractMesh((4, 2), ("data", "context"))},
            "q with batch of 2: expected a multiple of the mesh's data x fsdp, 4",
        ),
        (
            {"mesh": jax.sharding.AbstractMesh((4, 2), ("tensor", "context"))},
            "2: expected a multiple of the mesh's tensor, 4",
        ),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        ring_attention(**bad(**changes))
