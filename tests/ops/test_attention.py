"""Attention of one block to another, by tiles, and the merge of results over different keys."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import Problem, dense_attention, make_problem, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.ops.attention import AttentionInputs, OutputGradient, group, heads_first, merge, ungroup
from ringvision.ops.kernels import attend, xla
from ringvision.ops.mask import ANY, MaskSpec, Tokens, attention_mask

QUERIES = ("q", "d_out", "q_positions", "q_segment_ids", "q_earliest")


def keys_of(problem: Problem, part: slice) -> Problem:
    changes = {name: getattr(problem, name)[:, part] for name in ("k", "v", "k_positions", "k_segment_ids")}
    return Problem(**(vars(problem) | changes))


def tokens_of(p: Problem) -> dict[str, np.ndarray]:
    names = ("q_positions", "k_positions", "q_segment_ids", "k_segment_ids", "q_earliest")
    return {name: getattr(p, name) for name in names if getattr(p, name) is not None}


def run(p: Problem, **options):
    return jax.jit(partial(attend, **options))(p.q, p.k, p.v, **tokens_of(p))


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(xla, "SCORES_AT_ONCE", 0)
    monkeypatch.setattr(xla, "tile_sizes", lambda groups, length, keys, rows: (16, 16))


def test_the_reference_itself_against_finite_differences():
    problem = make_problem(batch=1, length=8, width=4, segments=False)
    expected = dense_attention(problem)
    step = 1e-2

    def loss() -> float:
        return float((dense_attention(problem)["out"] * problem.d_out).sum())

    for name in ("q", "k", "v"):
        array = getattr(problem, name)
        for index in ((0, 5, 0, 1), (0, 2, 1, 3)):
            kept = array[index]
            array[index] = kept + step
            up = loss()
            high = float(array[index])
            array[index] = kept - step
            down = loss()
            low = float(array[index])
            array[index] = kept
            assert (up - down) / (high - low) == pytest.approx(
                expected[f"d{name}"][index], rel=1e-3, abs=1e-5
            )


def test_the_rows_of_the_docstring():
    positions = np.array([[0, 1, 0, 1, 2, 0]])
    segments = np.array([[1, 1, 2, 2, 2, 0]])
    keys = Tokens(positions, segments)
    rows = attention_mask(keys, keys, MaskSpec(True, 2, 1.0))[0]
    own = keys._replace(earliest=np.array([[ANY, ANY, -1, 0, ANY, ANY]]))
    last = attention_mask(own, keys, MaskSpec(True, None, 1.0))[0, 4]
    written = [
        line.split()
        for line in attention_mask.__doc__.splitlines()
        if line.strip() and set(line.strip()) <= set("01 ")
    ]
    assert np.array_equal([*rows, last], np.array(written) == "1")


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("keys", [slice(None), slice(0, 37), slice(30, 61)])
def test_tiles_that_do_not_divide_the_block(small_tiles, causal, keys, kinds):
    """50 queries, of one kind or of two, and keys of other lengths, in tiles of 16; forward and backward."""
    whole = make_problem(length=64, segments=True)
    whole = whole.with_kinds(window=5) if kinds else whole
    problem = keys_of(whole.ordered(np.arange(64)), keys)
    for name in ("q", "d_out", "q_positions", "q_segment_ids", *(["q_earliest"] if kinds else [])):
        setattr(problem, name, getattr(whole, name)[:, 14:])
    expected = dense_attention(problem, causal=causal)
    out, lse = run(problem, causal=causal)
    assert np.abs(out - expected["out"]).max() < 2e-6
    assert np.array_equal(np.isneginf(lse), np.isneginf(expected["lse"]))

    @jax.jit
    def backward(out, lse):
        q, d_out, out = (group(x, 2) for x in (problem.q, problem.d_out, out))
        q_tokens = Tokens(problem.q_positions, problem.q_segment_ids, problem.q_earliest)
        k_tokens = Tokens(problem.k_positions, problem.k_segment_ids)
        inputs = AttentionInputs(q, heads_first(problem.k), heads_first(problem.v), q_tokens, k_tokens)
        gradient = OutputGradient(lse.reshape(q.shape[:-1]), d_out, (d_out * out).sum(-1))
        dq, dk, dv = xla.backward(inputs, gradient, MaskSpec(causal, None, 0.25))
        return {"dq": ungroup(dq), "dk": heads_first(dk), "dv": heads_first(dv)}

    for name, array in backward(out, lse).items():
        assert relative(array, expected[name]) < 1e-5, name


def test_the_scores_never_exist_as_a_whole():
    problem = make_problem(batch=1, length=4096, heads=1, kv_heads=1, width=2)
    p = problem
    traced = str(jax.make_jaxpr(lambda q: attend(q, p.k, p.v, **tokens_of(p)))(p.q))
    assert "256,128" in traced
    assert "4096,4096" not in traced


def test_keys_before_the_earliest_are_not_computed(small_tiles):
    """NaN in keys that only words may look back to: it would come out of any tile that is computed, masked or
    not. A word among the queries gets it, and of the others at most those of its tile: it is taken before
    them.
    """
    problem = make_problem(batch=1, length=256, heads=2, kv_heads=1)
    problem.q_earliest = problem.q_positions - 15
    old = keys_of(problem, slice(0, 128))
    new = replace(old, **{name: getattr(problem, name)[:, 144:] for name in QUERIES})
    new.k[:] = np.nan
    new.v[:] = np.nan
    out, lse = run(new)
    assert not out.any() and np.isneginf(lse).all()
    new.q_earliest[0, 40] = 0
    out, _ = run(new)
    spoilt = np.isnan(out).any((0, 2, 3))
    assert spoilt[40] and spoilt.sum() <= 16


def test_merging_parts_gives_the_whole():
    problem = make_problem(segments=True)
    parts = [run(keys_of(problem, part)) for part in (slice(0, 16), slice(16, 32), slice(32, 64))]
    expected = dense_attention(problem)
    for first, second, third in ((0, 1, 2), (2, 0, 1)):
        out, lse = merge(merge(parts[first], parts[second]), parts[third])
        assert np.abs(out - expected["out"]).max() < 2e-6
        seen = np.isfinite(expected["lse"])
        assert np.abs(np.asarray(lse)[seen] - expected["lse"][seen]).max() < 2e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-200, 200, width=32) | st.just(-np.inf), min_size=2, max_size=2))
def test_merge_never_makes_nan(pair):
    out = jnp.ones((1, 1, 1, 1))
    merged, lse = merge(*((out, jnp.full((1, 1, 1), value, jnp.float32)) for value in pair))
    assert lse[0, 0, 0] == pytest.approx(np.logaddexp(*pair), abs=1e-4)
    assert merged[0, 0, 0, 0] == pytest.approx(0 if max(pair) == -np.inf else 1, abs=1e-6)


def test_tiles_are_even_parts_and_few_queries_take_more_keys():
    assert xla.tile_sizes(1, 4096, 4096, 512) == (512, 128)
    assert xla.tile_sizes(4, 4096, 4096, 512) == (128, 128)
    assert xla.tile_sizes(64, 4096, 4096, 512) == (32, 128)
    assert xla.tile_sizes(1, 513, 600, 512) == (257, 200)
    assert xla.tile_sizes(4, 1, 100_000, 512) == (1, 14_286)
