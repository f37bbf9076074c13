"""The ring against float64: every combination of devices, layout, mask, segments and grouped heads."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import Problem, dense_attention, make_problem, relative
from jax.extend.core import Jaxpr

from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.ops.layout import inverse, order
from ringvision.ops.ring import ring_attention, ring_attention_with_lse


@cache
def ring(devices: int, *, causal=True, window=None, data=1, tensor=1):
    """(problem's arrays) -> (out, dq, dk, dv), compiled once for each shape."""
    mesh = make_mesh(data=data, tensor=tensor, context=devices, devices=jax.devices()[: devices * data * tensor])

    @jax.jit
    def run(q, k, v, d_out, positions, segment_ids):
        def attend(q, k, v):
            return ring_attention(q, k, v, mesh=mesh, positions=positions, segment_ids=segment_ids, causal=causal, window=window)

        out, pull_back = jax.vjp(attend, q, k, v)
        return out, *pull_back(d_out)

    return run


def run(problem: Problem, devices: int, **options) -> dict[str, np.ndarray]:
    p = problem
    results = ring(devices, **options)(p.q, p.k, p.v, p.d_out, p.q_positions, p.q_segment_ids)
    return dict(zip(("out", "dq", "dk", "dv"), map(np.asarray, results)))


def check(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], case: object) -> None:
    """Outputs to 2e-6, absolutely (they are averages of standard normals); gradients to 1e-5 of the largest element of each."""
    assert np.abs(actual["out"] - expected["out"]).max() < 2e-6, case
    for name in ("dq", "dk", "dv"):
        assert relative(actual[name], expected[name]) < 1e-5, (case, name)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_ring_is_dense_attention(devices, causal, kv_heads):
    for segments in (False, True):
        problem = make_problem(kv_heads=kv_heads, segments=segments)
        expected = dense_attention(problem, causal=causal)
        for layout in ("contiguous", "zigzag", "striped"):
            laid_out = order(64, devices, layout)
            actual = run(problem.ordered(laid_out), devices, causal=causal)
            back = {name: array[:, inverse(laid_out)] for name, array in actual.items()}
            check(back, expected, (layout, segments))


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_window(devices, causal):
    problem = make_problem(segments=True)
    laid_out = order(64, devices, "zigzag")
    actual = run(problem.ordered(laid_out), devices, causal=causal, window=5)
    check({n: x[:, inverse(laid_out)] for n, x in actual.items()}, dense_attention(problem, causal=causal, window=5), devices)


def test_every_mesh_axis_at_once():
    problem = make_problem(segments=True)
    check(run(problem, 2, data=2, tensor=2), dense_attention(problem), "data=2, tensor=2, context=2")


@pytest.mark.parametrize("devices", [1, 4])
def test_rows_of_padding_are_zero_and_take_no_gradient(devices):
    problem = make_problem(segments=True)
    problem.q_segment_ids[1] = 0
    actual = run(problem, devices)
    padding = problem.q_segment_ids == 0
    assert padding.sum() > 64
    for name in ("out", "dq", "dk", "dv"):
        assert np.isfinite(actual[name]).all()
        assert not actual[name][padding].any(), name
    check(actual, dense_attention(problem), "one row all padding")


def test_scores_far_apart_do_not_overflow():
    problem = make_problem()
    problem.q *= 60
    actual = run(problem, 4)
    assert np.abs(actual["out"] - dense_attention(problem)["out"]).max() < 2e-5
    assert all(np.isfinite(x).all() for x in actual.values())


def test_half_precision_in_and_out_and_float32_between():
    problem = make_problem()
    for name in ("q", "k", "v", "d_out"):
        setattr(problem, name, np.asarray(getattr(problem, name), jnp.bfloat16))
    actual, expected = run(problem, 4), dense_attention(problem)
    for name, array in actual.items():
        assert array.dtype == jnp.bfloat16
        assert relative(array.astype(np.float32), expected[name]) < 1e-2


def test_log_sum_exp_is_natural_float32_and_minus_infinity_for_nothing():
    problem = make_problem(segments=True)
    out, lse = ring_attention_with_lse(
        problem.q,
        problem.k,
        problem.v,
        mesh=make_mesh(context=4, devices=jax.devices()[:4]),
        positions=problem.q_positions,
        segment_ids=problem.q_segment_ids,
    )
    expected = dense_attention(problem)
    assert out.dtype == lse.dtype == jnp.float32
    seen = np.isfinite(expected["lse"])
    assert np.array_equal(np.isneginf(lse), ~seen)
    assert np.abs(np.asarray(lse)[seen] - expected["lse"][seen]).max() < 2e-6
    assert np.abs(out - expected["out"]).max() < 2e-6


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
    mesh = jax.make_mesh((2,), ("context",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    problem = make_problem(batch=1)
    out = ring_attention(problem.q, problem.k, problem.v, mesh=mesh)
    assert np.abs(out - dense_attention(problem)["out"]).max() < 2e-6


def hops(jaxpr: Jaxpr, times: int = 1) -> list[tuple[int, tuple[int, ...], np.dtype]]:
    """(how often, shape, type) of everything that is sent to a neighbour."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "ppermute":
            found.append((times, equation.invars[0].aval.shape, equation.invars[0].aval.dtype))
        often = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        for inner in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += hops(inner, often)
    return found


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_only_kv_heads_travel_and_n_minus_one_times(devices):
    p = make_problem()
    for name in ("q", "k", "v", "d_out"):
        setattr(p, name, np.asarray(getattr(p, name), jnp.bfloat16))
    traced = jax.make_jaxpr(ring(devices))(p.q, p.k, p.v, p.d_out, p.q_positions, p.q_segment_ids)
    sent = hops(traced.jaxpr)
    share = (2, 2, 2, 64 // devices, 16)  # k and v, batch, KV heads, positions, width
    assert {shape for _, shape, _ in sent} == {share}
    forward_and_backward = sum(times for times, _, kind in sent if kind == jnp.bfloat16)
    gradients = sum(times for times, _, kind in sent if kind == jnp.float32)
    assert forward_and_backward == 2 * (devices - 1)
    assert gradients == devices - 1


def bad(**changes):
    shape, kv = (2, 64, 4, 16), (2, 64, 2, 16)
    arguments = {"q": np.zeros(shape, np.float32), "k": np.zeros(kv, np.float32), "v": np.zeros(kv, np.float32)}
    return arguments | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": np.zeros((64, 4, 16), np.float32)}, r"q of shape \(64, 4, 16\): expected four axes"),
        ({"q": np.zeros((2, 64, 4, 16), np.int32)}, "q of type int32.*floating"),
        ({"k": np.zeros((2, 64, 2, 16), np.float16)}, "k of type float16.*same floating-point type"),
        ({"v": np.zeros((2, 64, 1, 16), np.float32)}, r"v of shape .* expected k's, \(2, 64, 2, 16\)"),
        ({"q": np.zeros((1, 64, 4, 16), np.float32)}, "same batch"),
        ({"q": np.zeros((2, 64, 3, 16), np.float32)}, "3 query heads and 2 key/value heads: expected a whole number"),
        ({"q": np.zeros((2, 128, 4, 16), np.float32)}, "k of length 64: expected q's, 128"),
        (
            {n: np.zeros((2, 60, 2, 16), np.float32) for n in "qkv"},
            "q of length 60: expected a multiple of the mesh's context=8; pad to 64 with segment 0",
        ),
        ({"positions": np.zeros((2, 32), np.int32)}, r"positions of shape \(2, 32\): expected \(2, 64\)"),
        ({"positions": np.zeros((2, 64), np.float32)}, "positions of type float32: expected integers"),
        ({"segment_ids": np.zeros((64,), np.int32)}, r"segment_ids of shape \(64,\)"),
        ({"segment_ids": np.zeros((2, 64), bool)}, "segment_ids of type bool: expected integers"),
        ({"window": 0}, "window=0: expected at least 1"),
        ({"mesh": jax.sharding.AbstractMesh((8,), ("x",))}, r"mesh with axes \('x',\): expected one named 'context'"),
        (
            {"mesh": jax.sharding.AbstractMesh((4, 2), ("data", "context"))},
            "q with batch of 2: expected a multiple of the mesh's data x fsdp, 4",
        ),
        ({"mesh": jax.sharding.AbstractMesh((4, 2), ("tensor", "context"))}, "2: expected a multiple of the mesh's tensor, 4"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        ring_attention(**bad(**changes))
