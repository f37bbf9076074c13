"""The ring against float64: every combination of devices, layout, mask, segments and grouped heads."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import Problem, dense_attention, make_problem, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import Jaxpr
from jax.sharding import PartitionSpec
from optimised import optimised_jit

from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.ops.kernels import xla
from ringvision.ops.layout import inverse, order
from ringvision.ops.mask import ANY, MaskSpec, Tokens
from ringvision.ops.ring import ring_attention, ring_attention_with_lse
from ringvision.ops.route import make_route
from ringvision.ops.spec import AttentionSpec


@cache
def ring(
    devices: int,
    *,
    causal=True,
    window=None,
    data=1,
    tensor=1,
    ulysses=1,
    exchange=None,
    kernel=None,
    layout=None,
    as_users_compile_it=False,
):
    """(problem's arrays) -> (out, dq, dk, dv), compiled once for each shape. With `layout` positions are not
    given but follow from it.
    """
    count = devices * data * tensor * ulysses
    mesh = make_mesh(
        data=data, tensor=tensor, context=devices, ulysses=ulysses, devices=jax.devices()[:count]
    )

    @(optimised_jit if as_users_compile_it else jax.jit)
    def run(q, k, v, d_out, positions, segment_ids, earliest=None):
        def attend(q, k, v):
            known = {"layout": layout} if layout else {"positions": positions, "segment_ids": segment_ids}
            known |= {"causal": causal, "window": window, "earliest": earliest}
            return ring_attention(q, k, v, mesh=mesh, exchange=exchange, kernel=kernel, **known)

        out, pull_back = jax.vjp(attend, q, k, v)
        return out, *pull_back(d_out)

    return run


def run(problem: Problem, devices: int, **options) -> dict[str, np.ndarray]:
    p = problem
    tokens = p.q_positions, p.q_segment_ids, p.q_earliest
    results = ring(devices, **options)(p.q, p.k, p.v, p.d_out, *tokens)
    return dict(zip(("out", "dq", "dk", "dv"), map(np.asarray, results)))


def run_laid_out(problem: Problem, devices: int, arrangement: str, **options) -> dict[str, np.ndarray]:
    """`run` with the tokens in a layout; the results are in the problem's own order."""
    laid_out = order(problem.q.shape[1], devices, arrangement)
    results = run(problem.ordered(laid_out), devices, **options)
    return {name: array[:, inverse(laid_out)] for name, array in results.items()}


def check(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], case: object, *, alone: bool = False
) -> None:
    """Outputs to 2e-6, absolutely (they are averages of standard normals); gradients to 1e-5 of the largest
    element of each.

    `alone`: tokens may see themselves alone, by which the gradients of q and k are nothing but what rounding
    leaves of terms that cancel: they are then compared with the largest element of all three.
    """
    assert np.abs(actual["out"] - expected["out"]).max() < 2e-6, case
    gradients = ("dq", "dk", "dv")
    for name in gradients:
        if alone:
            largest = max(np.abs(expected[other]).max() for other in gradients)
            assert np.abs(actual[name] - expected[name]).max() <= 1e-5 * largest, (case, name)
        else:
            assert relative(actual[name], expected[name]) < 1e-5, (case, name)


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


def test_a_kernel_that_cannot_is_refused():
    with pytest.raises(UserError, match="cuDNN's attention cannot be used: q is float32"):
        ring_attention(**bad(kernel="cudnn"))


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
    mesh = jax.make_mesh(
        (2,), ("context",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,)
    )
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
        for inner in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += hops(inner, often)
    return found


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_only_kv_heads_travel_and_n_minus_one_times(devices):
    p = make_problem()
    for name in ("q", "k", "v", "d_out"):
        setattr(p, name, np.asarray(getattr(p, name), jnp.bfloat16))
    traced = jax.make_jaxpr(ring(devices, layout="zigzag"))(
        p.q, p.k, p.v, p.d_out, p.q_positions, p.q_segment_ids
    )
    sent = hops(traced.jaxpr)
    share = (2, 2, 2, 64 // devices, 16)  # k and v, batch, KV heads, tokens, width
    tokens = (2, 2, 64 // devices)  # positions and segment ids
    assert {shape for _, shape, kind in sent if kind != jnp.int32} == {share}
    assert {shape for _, shape, kind in sent if kind == jnp.int32} == {tokens}
    forward_and_backward = sum(times for times, _, kind in sent if kind == jnp.bfloat16)
    gradients = sum(times for times, _, kind in sent if kind == jnp.float32)
    assert forward_and_backward == 2 * (devices - 1)
    assert gradients == devices - 1


def test_hops_on_which_nobody_sees_anything_are_not_run():
    """A window of 9 tokens in shares of 8: the next device's keys, or those of the one after it, and no
    others.
    """
    p = make_problem()
    for window, expected in ((8, 1), (9, 1), (10, 2)):
        program = ring(8, layout="contiguous", window=window)
        traced = jax.make_jaxpr(program)(p.q, p.k, p.v, p.d_out, p.q_positions, p.q_segment_ids)
        sent = [times for times, shape, _ in hops(traced.jaxpr) if len(shape) == 5]
        # keys and values go so many hops forward and so many backward, and their gradients as many and home
        # again
        assert sum(sent) == 2 * expected + (expected - 1) + expected, window


@pytest.mark.parametrize(
    ("layout", "options", "documents", "expected"),
    [
        ("contiguous", {}, None, [1, 2, 3, 4, 5, 6, 7]),
        ("contiguous", {"window": 9}, None, [1]),
        ("contiguous", {"earliest": 9}, None, [1]),
        ("contiguous", {"earliest": 18}, None, [1, 2, 3]),
        ("zigzag", {"earliest": 5}, None, [1, 7]),
        ("contiguous", {"earliest": 9, "word": 60}, None, [1, 2, 3, 4, 5, 6, 7]),
        ("contiguous", {"earliest": 9, "word": 20}, None, [1, 2]),
        ("contiguous", {"earliest": 9}, 32, [1]),
        ("zigzag", {"window": 5}, None, [1, 7]),
        ("striped", {"window": 5}, None, [1, 2, 3, 4]),
        ("contiguous", {}, 8, []),
        ("contiguous", {}, 16, [1]),
        ("contiguous", {"causal": False}, 16, [1, 7]),
        ("zigzag", {}, 4, []),
    ],
)
def test_which_hops_are_run(layout, options, documents, expected):
    """Told from the tokens, on the devices. Rows of one document, or of documents of so many tokens; windows
    for all queries, or for those but one word.
    """
    mesh = make_mesh(data=1, context=8)
    laid_out = order(64, 8, layout)
    segment_ids = (
        np.ones((2, 64), np.int32) if documents is None else np.tile(1 + np.arange(64) // documents, (2, 1))
    )
    segment_ids[1] = 0  # padding asks for nothing
    positions = np.tile(np.arange(64), (2, 1))
    options = dict(options)
    earliest = positions - options["earliest"] + 1 if "earliest" in options else None
    if "word" in options:
        earliest[:, options["word"]] = ANY
    tokens = Tokens(positions, segment_ids, earliest).map(lambda x: jnp.asarray(x[:, laid_out], jnp.int32))
    options = {name: value for name, value in options.items() if name not in ("earliest", "word")}
    mask = MaskSpec(**({"causal": True, "window": None, "scale": 1.0} | options))
    spec = AttentionSpec(mask, mesh, kernel="xla", exchange="ring")

    def local(tokens):
        route = make_route(tokens, tokens.as_keys, spec)
        return route.hops, route.following, route.preceding

    token_spec = PartitionSpec(None, "context")
    run = jax.shard_map(local, mesh=mesh, in_specs=token_spec, out_specs=PartitionSpec(), check_vma=False)
    count, following, preceding = jax.jit(run)(tokens)
    taken = [0]
    for _ in range(int(count)):
        taken.append(int(following[taken[-1]]))
    assert taken == [0, *expected]
    back = [int(following[taken[-1]])]
    for _ in range(int(count) + 1):
        back.append(int(preceding[back[-1]]))
    assert back[1:] == taken[::-1]


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
