"""The ring against float64: every combination of devices, layout, mask, segments and grouped heads.

Which hops it runs is in test_ring_hops.py, what it refuses in test_ring_calls.py.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import dense_attention, make_problem, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_runs import check, ring, run, run_laid_out

from ringvision.mesh import make_mesh
from ringvision.ops.kernels import xla
from ringvision.ops.ring import ring_attention_with_lse


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_ring_is_dense_attention(devices, causal, kv_heads):
    for segments in (False, True):
        problem = make_problem(kv_heads=kv_heads, segments=segments)
        expected = dense_attention(problem, causal=causal)
        for layout in ("contiguous", "zigzag", "striped"):
            check(run_laid_out(problem, devices, layout, causal=causal), expected, (layout, segments))


@pytest.mark.parametrize("exchange", ["two_way", "gather"])
@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_other_ways_for_keys_to_arrive(devices, kv_heads, exchange):
    problem = make_problem(kv_heads=kv_heads, segments=True)
    expected = dense_attention(problem)
    for layout in ("contiguous", "zigzag", "striped"):
        check(run_laid_out(problem, devices, layout, exchange=exchange), expected, layout)


@pytest.mark.parametrize("window", [1, 5, 40])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_window(devices, causal, window):
    """Near keys alone are seen: hops are left out, at the end (contiguous) or in the middle (zigzag)."""
    problem = make_problem(segments=True)
    expected = dense_attention(problem, causal=causal, window=window)
    for layout in ("contiguous", "zigzag", "striped"):
        actual = run_laid_out(problem, devices, layout, causal=causal, window=window)
        check(actual, expected, layout, alone=window == 1)


@pytest.mark.parametrize("exchange", ["two_way", "gather"])
def test_window_with_other_ways(exchange):
    problem = make_problem(segments=True)
    actual = run_laid_out(problem, 8, "zigzag", exchange=exchange, window=5)
    check(actual, dense_attention(problem, window=5), exchange)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_two_kinds_of_tokens(devices, kv_heads):
    """In one row some see a few positions and others everything; packed documents and padding."""
    problem = make_problem(kv_heads=kv_heads, segments=True).with_kinds()
    expected = dense_attention(problem)
    assert np.abs(expected["out"] - dense_attention(replace(problem, q_earliest=None))["out"]).max() > 0.1
    for layout in ("contiguous", "zigzag", "striped"):
        check(run_laid_out(problem, devices, layout), expected, layout)


@pytest.mark.parametrize(
    ("options", "masking"),
    [
        ({"exchange": "two_way"}, {}),
        ({"exchange": "gather"}, {}),
        ({}, {"causal": False}),
        ({"exchange": "two_way"}, {"window": 20}),
        ({"ulysses": 2}, {}),
        ({"ulysses": 2, "exchange": "two_way"}, {}),
        ({"ulysses": 2, "exchange": "gather"}, {}),
        ({"ulysses": 2, "kernel": "splash"}, {}),
        ({"data": 2}, {}),
    ],
)
@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_two_kinds_of_tokens_in_other_ways(layout, options, masking):
    problem = make_problem(segments=True).with_kinds()
    devices = 2 if "ulysses" in options or "data" in options else 4
    actual = run_laid_out(problem, devices, layout, **options, **masking)
    check(actual, dense_attention(problem, **masking), (options, masking))


@pytest.mark.parametrize("layout", ["zigzag", "striped"])
def test_two_kinds_with_positions_that_follow_from_the_layout(layout):
    problem = make_problem().with_kinds()
    check(run_laid_out(problem, 4, layout, layout=layout), dense_attention(problem), layout)


@pytest.mark.parametrize("devices", [1, 4])
def test_reaching_everything_changes_nothing(devices):
    """Bit for bit: what is computed is the same, under the same mask."""
    problem = make_problem(segments=True)
    expected = run(problem, devices)
    problem.q_earliest = problem.q_positions - 64
    actual = run(problem, devices)
    for name in expected:
        assert np.array_equal(actual[name], expected[name]), name


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 9}, {"causal": False}, {"exchange": "two_way"}, {"exchange": "two_way", "window": 9}],
)
@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
def test_positions_that_follow_from_the_layout(layout, options):
    problem = make_problem()
    actual = run_laid_out(problem, 4, layout, layout=layout, **options)
    masking = {name: value for name, value in options.items() if name != "exchange"}
    check(actual, dense_attention(problem, **masking), (layout, options))


@pytest.mark.parametrize(
    ("context", "ulysses", "tensor", "heads", "kv_heads"),
    [(2, 2, 1, 4, 2), (1, 4, 1, 4, 2), (2, 4, 1, 8, 2), (4, 2, 1, 4, 1), (1, 8, 1, 8, 8), (2, 2, 2, 8, 4)],
)
def test_ulysses_inside_the_ring(context, ulysses, tensor, heads, kv_heads):
    """Also with fewer KV heads than devices that exchange, and beside a split of the heads."""
    problem = make_problem(heads=heads, kv_heads=kv_heads, segments=True)
    for exchange in ("ring", "two_way", "gather") if (context, ulysses) == (2, 2) else ("ring",):
        for window in (None, 7):
            options = {"ulysses": ulysses, "tensor": tensor, "exchange": exchange, "window": window}
            actual = run_laid_out(problem, context, "zigzag", **options)
            check(actual, dense_attention(problem, window=window), options)


@pytest.mark.parametrize("exchange", ["ring", "two_way"])
def test_tiles_in_the_ring(monkeypatch, exchange):
    """Blocks of several tiles each, which is what real lengths are."""
    monkeypatch.setattr(xla, "SCORES_AT_ONCE", 0)
    monkeypatch.setattr(xla, "tile_sizes", lambda groups, length, keys, rows: (5, 8))
    problem = make_problem(length=160, segments=True)
    ring.cache_clear()
    for window, kinds in ((60, problem), (None, problem.with_kinds(window=20))):
        actual = run_laid_out(kinds, 4, "zigzag", exchange=exchange, window=window)
        check(actual, dense_attention(kinds, window=window), (exchange, window))
    ring.cache_clear()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_tokens_in_any_order(data):
    """Shares of odd lengths, documents of any length down to one token, gaps, padding anywhere, rows of
    nothing else, shuffled.
    """
    share, window = data.draw(st.sampled_from([(1, None), (3, None), (3, 2), (7, 4)]))
    problem = make_problem(length=4 * share, width=8)
    numbers = st.lists(st.integers(0, 3), min_size=4 * share, max_size=4 * share)
    places = st.permutations(range(4 * share))
    for row in range(2):
        problem.q_segment_ids[row] = data.draw(numbers)
        problem.q_positions[row] = data.draw(places)
    problem = problem.with_kinds(window=2) if data.draw(st.booleans()) else problem
    check(run(problem, 4, window=window), dense_attention(problem, window=window), data, alone=True)


def test_every_mesh_axis_at_once():
    problem = make_problem(segments=True)
    actual = run(problem, 2, data=2, tensor=2, as_users_compile_it=True)
    check(actual, dense_attention(problem), "data=2, tensor=2, context=2")


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
    actual = run(problem, 4, as_users_compile_it=True)
    assert np.abs(actual["out"] - dense_attention(problem)["out"]).max() < 2e-5
    assert all(np.isfinite(x).all() for x in actual.values())


def test_half_precision_in_and_out_and_float32_between():
    problem = make_problem()
    for name in ("q", "k", "v", "d_out"):
        setattr(problem, name, np.asarray(getattr(problem, name), jnp.bfloat16))
    actual = run(problem, 4, as_users_compile_it=True)
    expected = dense_attention(problem)
    for name, array in actual.items():
        assert array.dtype == jnp.bfloat16
        assert relative(array.astype(np.float32), expected[name]) < 1e-2


@pytest.mark.parametrize(("devices", "layout"), [(1, "contiguous"), (4, "zigzag"), (8, "striped")])
def test_half_precision_costs_no_more_than_in_one_dense_attention(devices, layout):
    """Of which scores and softmax are float32 and the rest is bfloat16, as libraries have it."""
    problem = make_problem(length=256, width=32)
    for name in ("q", "k", "v", "d_out"):
        setattr(problem, name, np.asarray(getattr(problem, name), jnp.bfloat16))

    def dense(q, k, v):
        k = jnp.repeat(k, 2, axis=2)
        v = jnp.repeat(v, 2, axis=2)
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        scores = jnp.where(np.tril(np.ones((256, 256), bool)), scores, -jnp.inf)
        return jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores).astype(v.dtype), v)

    out, pull_back = jax.vjp(dense, *(jnp.asarray(x) for x in (problem.q, problem.k, problem.v)))
    theirs = dict(zip(("out", "dq", "dk", "dv"), (out, *pull_back(jnp.asarray(problem.d_out)))))
    ours = run_laid_out(problem, devices, layout, as_users_compile_it=True)
    expected = dense_attention(problem)
    for name in theirs:
        error = relative(ours[name].astype(np.float32), expected[name])
        assert error <= 1.01 * relative(theirs[name].astype(jnp.float32), expected[name]), name


@pytest.mark.parametrize("exchange", ["ring", "two_way"])
def test_the_tpu_kernel_in_the_ring(exchange):
    """Interpreted, and beside a split of the heads by Ulysses."""
    problem = make_problem(segments=True)
    actual = run_laid_out(problem, 2, "zigzag", kernel="splash", exchange=exchange, ulysses=2)
    check(actual, dense_attention(problem), exchange)


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
