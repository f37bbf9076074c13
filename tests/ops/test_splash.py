"""The TPU's kernels, interpreted: against attention in float64, forward and backward, by small tiles.

Interpreting costs seconds to compile and nothing to run, so most tests share one shape: 50 queries and 45
keys in tiles of 16 and 32.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import Problem, dense_attention, make_problem, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from ringvision.errors import UserError
from ringvision.ops import tiles
from ringvision.ops.attention import AttentionInputs, OutputGradient, group, heads_first, merge, ungroup
from ringvision.ops.kernels import splash, splash_work
from ringvision.ops.mask import MaskSpec, Tokens, attention_mask

CHOSEN = splash.tile_sizes
QUERIES = slice(14, 64)
KEYS = slice(0, 45)
jit = partial(jax.jit, static_argnames=("mask_spec", "interpret"))


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splash, "tile_sizes", lambda *_: splash_work.Sizes(16, 32))
        yield


@pytest.fixture
def tiles_as_chosen(monkeypatch):
    monkeypatch.setattr(splash, "tile_sizes", CHOSEN)


def make(queries=QUERIES, keys=KEYS, **options) -> Problem:
    return part(make_problem(**options), queries, keys)


def part(problem: Problem, queries=slice(None), keys=slice(None)) -> Problem:
    changes = {
        name: getattr(problem, name)[:, queries] for name in ("q", "d_out", "q_positions", "q_segment_ids")
    }
    changes |= {name: getattr(problem, name)[:, keys] for name in ("k", "v", "k_positions", "k_segment_ids")}
    if problem.q_earliest is not None:
        changes["q_earliest"] = problem.q_earliest[:, queries]
    return Problem(**changes)


@jit
def forward(problem: dict, mask_spec: MaskSpec, interpret=None):
    out, lse = splash.forward(arrange(problem), mask_spec, interpret=interpret)
    return ungroup(out), lse.reshape(lse.shape[0], -1, lse.shape[-1])


@jit
def backward(problem: dict, mask_spec: MaskSpec, out, lse, interpret=None):
    inputs = arrange(problem)
    d_out, out = (group(x, inputs.k.shape[1]) for x in (problem["d_out"], out))
    delta = (d_out.astype(jnp.float32) * out).sum(-1)
    gradient = OutputGradient(lse.reshape(delta.shape), d_out, delta)
    dq, dk, dv = splash.backward(inputs, gradient, mask_spec, interpret=interpret)
    return ungroup(dq), heads_first(dk), heads_first(dv)


def arrange(p: dict) -> AttentionInputs:
    tokens = (
        Tokens(p["q_positions"], p["q_segment_ids"], p["q_earliest"]),
        Tokens(p["k_positions"], p["k_segment_ids"]),
    )
    return AttentionInputs(group(p["q"], p["k"].shape[2]), heads_first(p["k"]), heads_first(p["v"]), *tokens)


def run(problem: Problem, causal=True, window=None, interpret=None) -> dict[str, np.ndarray]:
    mask_spec = MaskSpec(causal, window, problem.q.shape[-1] ** -0.5)
    out, lse = forward(vars(problem), mask_spec, interpret)
    results = (out, lse, *backward(vars(problem), mask_spec, out, lse, interpret))
    assert all(x.dtype == jnp.float32 for x in results)
    return {name: np.asarray(x) for name, x in zip(("out", "lse", "dq", "dk", "dv"), results)}


def check(problem: Problem, causal=True, window=None, interpret=None) -> None:
    actual = run(problem, causal, window, interpret)
    expected = dense_attention(problem, causal=causal, window=window)
    assert np.array_equal(np.isneginf(actual["lse"]), np.isneginf(expected["lse"]))
    for name, tolerance in (("out", 2e-6), ("lse", 2e-6), ("dq", 1e-5), ("dk", 1e-5), ("dv", 1e-5)):
        a, e = (np.where(np.isneginf(x[name]), 0, x[name]) for x in (actual, expected))
        assert np.isfinite(a).all(), name
        relative_to = max(np.abs(e).max(), 1) if name[0] == "d" else 1
        assert np.abs(a - e).max() < tolerance * relative_to, name


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("causal, window", [(True, None), (False, None), (True, 9), (False, 9)])
def test_documents_with_padding(segments, causal, window):
    check(make(segments=segments), causal, window)


@pytest.mark.parametrize("causal, window", [(True, None), (False, None), (True, 9)])
def test_two_kinds_of_queries(causal, window):
    check(part(make_problem(segments=True).with_kinds(window=5), QUERIES, KEYS), causal, window)


def test_keys_before_the_earliest_are_not_computed():
    """NaN in the first tile of keys, which no query reaches."""
    problem = make()
    problem.q_earliest = np.full((2, 50), 32, np.int32)
    for x in (problem.k, problem.v):
        x[:, :32] = 0
    expected = run(problem)
    for x in (problem.k, problem.v):
        x[:, :32] = np.nan
    for name, array in run(problem).items():
        assert np.array_equal(array, expected[name]), name


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_heads_that_share_keys(kv_heads):
    check(make(heads=4, kv_heads=kv_heads, segments=True))


def test_positions_in_any_order():
    check(part(make_problem(segments=True).ordered(np.random.default_rng(0).permutation(64)), QUERIES, KEYS))


def test_segments_of_a_single_token():
    problem = make()
    problem.q_segment_ids = np.broadcast_to(np.arange(15, 65, dtype=np.int32), (2, 50))
    problem.k_segment_ids = np.broadcast_to(np.arange(1, 46, dtype=np.int32), (2, 45))
    check(problem)


def test_queries_that_see_nothing():
    """In one row of the batch nobody sees anything, in the other what comes before the keys does not."""
    problem = make()
    problem.k_positions = problem.k_positions + 30
    problem.q_segment_ids = problem.q_segment_ids * np.array([[1], [2]], np.int32)
    check(problem)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_tokens(data):
    problem = make()
    for name, highest in (("segment_ids", 2), ("positions", 60)):
        for side, length in (("q", 50), ("k", 45)):
            runs = data.draw(
                st.lists(st.tuples(st.integers(0, highest), st.integers(1, 40)), min_size=1, max_size=6)
            )
            row = np.concatenate([np.full(count, value) for value, count in runs])
            setattr(
                problem,
                f"{side}_{name}",
                np.stack([np.resize(row, length), np.resize(row[::-1], length)]).astype(np.int32),
            )
    check(problem, *data.draw(st.sampled_from([(True, None), (False, None), (True, 9)])))


@pytest.mark.parametrize("length, keys, width", [(1, 1, 64), (130, 257, 80)])
def test_sizes_and_widths_as_chosen(tiles_as_chosen, length, keys, width):
    options = {"batch": 1, "length": max(length, keys), "heads": 2, "kv_heads": 1, "width": width}
    check(make(slice(0, length), slice(0, keys), **options), causal=False)


def test_gradients_of_blocks_add_up():
    problem = make_problem(segments=True)
    mask_spec = MaskSpec(True, None, 0.25)
    expected = dense_attention(problem)
    blocks = [part(problem, keys=slice(start, start + 32)) for start in (0, 32)]
    out, lse = merge(*(forward(vars(block), mask_spec) for block in blocks))
    assert np.abs(out - expected["out"]).max() < 2e-6
    (dq, dk, dv), (more_dq, more_dk, more_dv) = (
        backward(vars(block), mask_spec, out, lse) for block in blocks
    )
    assert relative(dq + more_dq, expected["dq"]) < 1e-5
    assert relative(jnp.concatenate([dk, more_dk], 1), expected["dk"]) < 1e-5
    assert relative(jnp.concatenate([dv, more_dv], 1), expected["dv"]) < 1e-5


def test_bfloat16_is_no_worse_than_a_dense_one():
    problem = make_problem(length=128, width=64, segments=True)
    for name in ("q", "k", "v", "d_out"):
        setattr(problem, name, getattr(problem, name).astype(jnp.bfloat16))
    actual = run(problem)
    expected = dense_attention(problem)
    dense = dense_bfloat16(problem)
    for name in ("out", "dq", "dk", "dv"):
        assert relative(actual[name], expected[name]) <= relative(dense[name], expected[name]), name


def dense_bfloat16(problem: Problem) -> dict[str, np.ndarray]:
    """What plain code in bfloat16 gives, its softmax in float32."""
    groups = problem.q.shape[2] // problem.k.shape[2]
    tokens = Tokens(problem.q_positions, problem.q_segment_ids)
    mask = attention_mask(tokens, tokens, MaskSpec(True, None, 1))[:, None]

    def attention(q, k, v):
        k = jnp.repeat(k, groups, axis=2)
        v = jnp.repeat(v, groups, axis=2)
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30)) * mask.any(-1, keepdims=True)
        return jnp.einsum("BNTS,BSNH->BTNH", weights.astype(v.dtype), v)

    out, gradients = jax.vjp(attention, *(jnp.asarray(x) for x in (problem.q, problem.k, problem.v)))
    arrays = (out, *gradients(jnp.asarray(problem.d_out)))
    return {name: np.asarray(x, np.float32) for name, x in zip(("out", "dq", "dk", "dv"), arrays)}


def test_what_nobody_sees_is_not_computed():
    """NaN in keys and values would come out of any tile that is computed, masked or not."""
    problem = make()
    problem.k_segment_ids = np.repeat(np.array([[1, 0], [0, 1]], np.int32), 32, axis=1)[:, :45]
    problem.q_segment_ids = np.repeat(np.array([[1, 0], [0, 1]], np.int32), 32, axis=1)[:, :50]
    expected = run(problem)
    problem.k, problem.v = (
        np.where(problem.k_segment_ids[..., None, None] == 0, np.nan, x) for x in (problem.k, problem.v)
    )
    for name, array in run(problem).items():
        assert np.array_equal(array, expected[name]), name


def test_the_list_of_work():
    empty = tiles.EMPTY
    some = tiles.PARTIAL
    full = tiles.FULL
    kinds = jnp.array(
        [[[some, empty, full], [empty, empty, empty]], [[empty, full, empty], [some, empty, empty]]], jnp.int8
    )
    work = splash_work.list_work(kinds)
    assert work.counts.tolist() == [3, 2] and work.longest == 3 and work.most == 6
    first = splash_work.FIRST
    last = splash_work.LAST
    listed = [[int(x) for x in row[:count]] for row, count in zip(work.tiles.reshape(2, 6), work.counts)]
    assert [
        [(x >> splash_work.ROW_BIT, (x >> splash_work.COLUMN_BIT) % 2**14, x % 16) for x in row]
        for row in listed
    ] == [
        [(0, 0, first + some), (0, 2, last + full), (1, 0, first + last + empty)],
        [(0, 1, first + last + full), (1, 0, first + last + some)],
    ]


def forget_compiled() -> None:
    forward.clear_cache()
    backward.clear_cache()


def test_lists_too_long_for_the_scalar_memory(monkeypatch):
    """8 tiles in a row of the batch, two rows."""
    problem = make(segments=True)
    expected = run(problem)
    monkeypatch.setattr(splash, "MOST_TILES", 10)
    forget_compiled()
    for name, array in run(problem).items():
        assert np.array_equal(array, expected[name]), name
    monkeypatch.setattr(splash, "MOST_TILES", 7)
    forget_compiled()
    with pytest.raises(UserError, match="50 queries and 45 keys on one device make 8 tiles, at most 7"):
        run(problem)


def test_how_sizes_are_chosen(tiles_as_chosen):
    def sizes(groups: int, length: int, keys: int, width: int, dtype) -> tuple[int, int]:
        return splash.tile_sizes((1, 2, groups, length, width), (1, 2, keys, width), dtype)

    assert sizes(1, 8192, 8192, 128, jnp.bfloat16) == sizes(4, 8192, 8192, 128, jnp.bfloat16) == (512, 512)
    assert sizes(4, 8192, 8192, 128, jnp.float32) == (256, 512)
    assert sizes(32, 8192, 8192, 128, jnp.bfloat16)[0] == 128
    assert sizes(1, 5, 300, 64, jnp.float32) == (128, 384)
    assert sizes(1, 600, 1030, 64, jnp.float32) == (384, 384)


def shapes_of(problem: Problem) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), vars(problem))


def test_the_scores_never_exist_as_a_whole(tiles_as_chosen):
    problem = shapes_of(make_problem(length=2048, heads=2, kv_heads=1))
    traced = str(forward.trace(problem, MaskSpec(True, None, 0.25)).jaxpr)
    assert "512,512" in traced
    assert "2048,2048" not in traced


def test_as_a_tpu_would_run_it():
    """In memory that holds NaN until written to, with races and reads out of bounds found."""
    tpu = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan", out_of_bounds_reads="raise")
    problem = make_problem(batch=1, heads=2, kv_heads=1, segments=True).with_kinds()
    check(part(problem, slice(0, 40), slice(0, 40)), interpret=tpu)


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_can_be_lowered_for_a_tpu_from_here(tiles_as_chosen, dtype, kinds):
    problem = make_problem(length=1024, width=64)
    problem = shapes_of(problem.with_kinds() if kinds else problem)
    problem |= {name: jax.ShapeDtypeStruct(problem[name].shape, dtype) for name in ("q", "k", "v", "d_out")}
    mask_spec = MaskSpec(True, None, 0.125)
    lse = jax.ShapeDtypeStruct((2, 4, 1024), jnp.float32)
    out = jax.ShapeDtypeStruct(problem["q"].shape, jnp.float32)
    for traced, calls in (
        (forward.trace(problem, mask_spec, False), 1),
        (backward.trace(problem, mask_spec, out, lse, False), 2),
    ):
        assert traced.lower(lowering_platforms=("tpu",)).as_text().count("@tpu_custom_call") == calls
