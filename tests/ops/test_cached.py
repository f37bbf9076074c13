"""New tokens against a cache that lies spread over the ring and stays there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import Problem, dense_attention, make_problem

from ringvision.errors import UserError
from ringvision.mesh import make_mesh, sharding
from ringvision.ops.attention import heads_first, merge
from ringvision.ops.cached import cached_attention
from ringvision.ops.ring import ring_attention_with_lse


def ring(devices: int):
    return make_mesh(context=devices, devices=jax.devices()[:devices])


def make_cache(new: int, *, empty_slots: int = 9) -> Problem:
    """64 slots, the last `empty_slots` of them empty and full of rubbish; `new` queries that come after
    everything.
    """
    problem = make_problem(segments=False)
    segments = problem.k_segment_ids.copy()
    segments[:, 64 - empty_slots :] = 0
    problem.k[:, 64 - empty_slots :] = 1e4
    return Problem(
        **vars(problem)
        | {name: getattr(problem, name)[:, :new] for name in ("q", "d_out")}
        | {"k_segment_ids": segments, "q_positions": np.tile(np.arange(64, 64 + new, dtype=np.int32), (2, 1))}
        | {"q_segment_ids": np.ones((2, new), np.int32)}
    )


def run(p: Problem, devices: int, **options):
    names = ("q_positions", "k_positions", "q_segment_ids", "k_segment_ids", "q_earliest")
    tokens = {name: getattr(p, name) for name in names}
    return cached_attention(p.q, heads_first(p.k), heads_first(p.v), mesh=ring(devices), **tokens, **options)


@pytest.mark.parametrize("new", [1, 8])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_one_token_or_a_block_against_the_cache(devices, new):
    problem = make_cache(new)
    problem.q_segment_ids[1, 0] = 0
    expected = dense_attention(problem)
    out, lse = run(problem, devices)
    assert out.dtype == lse.dtype == jnp.float32
    assert np.abs(out - expected["out"]).max() < 2e-6
    seen = np.isfinite(expected["lse"])
    assert np.array_equal(np.isneginf(lse), ~seen)
    assert np.abs(np.asarray(lse)[seen] - expected["lse"][seen]).max() < 2e-6


def test_a_window_reaches_into_the_cache():
    problem = make_cache(8, empty_slots=0)
    out, _ = run(problem, 4, window=20)
    assert np.abs(out - dense_attention(problem, window=20)["out"]).max() < 2e-6


@pytest.mark.parametrize("new", [1, 8, 6])
@pytest.mark.parametrize("devices", [1, 4])
def test_two_kinds_of_queries(devices, new):
    """6: no multiple of the devices, which then all have everything."""
    problem = make_cache(new)
    earliest = [[50, -1000, 60, 0, 64, 64, -1000, 64][:new], [-1000, 40, 0, 64, 12, 33, 70, 1][:new]]
    problem.q_earliest = np.array(earliest, np.int32)
    out, lse = run(problem, devices)
    expected = dense_attention(problem)
    assert np.abs(out - expected["out"]).max() < 2e-6
    seen = np.isfinite(expected["lse"])
    assert np.array_equal(np.isneginf(lse), ~seen)
    assert np.abs(np.asarray(lse)[seen] - expected["lse"][seen]).max() < 2e-6


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("new", [1, 8])
def test_a_prefix_that_rows_share_for_two_kinds_of_queries(devices, new):
    """Two rows of queries become one of twice as many, each with its own limits."""
    problem = make_cache(new)
    for name in ("k", "v", "k_positions", "k_segment_ids"):
        setattr(problem, name, np.repeat(getattr(problem, name)[:1], 2, axis=0))
    earliest = [[50, -1000, 60, 0, 64, 64, -1000, 64][:new], [-1000, 40, 0, 64, 12, 33, 70, 1][:new]]
    problem.q_earliest = np.array(earliest, np.int32)
    expected = dense_attention(problem)
    for name in ("k", "v", "k_positions", "k_segment_ids"):
        setattr(problem, name, getattr(problem, name)[:1])
    out, _ = run(problem, devices)
    assert np.abs(out - expected["out"]).max() < 2e-6


def test_an_empty_cache_gives_nothing():
    problem = make_cache(1, empty_slots=64)
    out, lse = run(problem, 4)
    assert not np.any(out)
    assert np.isneginf(lse).all()


def test_a_block_is_the_ring_within_merged_with_what_is_cached():
    problem = make_problem(length=64)
    mesh = ring(4)

    @jax.jit
    def whole(q, k, v, positions, segments):
        old = slice(0, 48)
        new = slice(48, 64)
        within = ring_attention_with_lse(
            q[:, new],
            k[:, new],
            v[:, new],
            mesh=mesh,
            positions=positions[:, new],
            segment_ids=segments[:, new],
        )
        before = cached_attention(
            q[:, new],
            heads_first(k[:, old]),
            heads_first(v[:, old]),
            mesh=mesh,
            q_positions=positions[:, new],
            k_positions=positions[:, old],
            q_segment_ids=segments[:, new],
            k_segment_ids=segments[:, old],
        )
        return merge(within, before)[0]

    out = whole(problem.q, problem.k, problem.v, problem.q_positions, problem.q_segment_ids)
    assert np.abs(out - dense_attention(problem)["out"][:, 48:]).max() < 2e-6


def test_the_cache_does_not_move():
    """In the compiled program nothing of the cache's size is gathered, sent or copied to another device."""
    problem = make_cache(1)
    mesh = ring(4)
    place = sharding(mesh, "batch", "kv_heads", "length", None)
    keys = jax.ShapeDtypeStruct(heads_first(problem.k).shape, jnp.float32, sharding=place)
    slots = jax.ShapeDtypeStruct(
        problem.k_positions.shape, jnp.int32, sharding=sharding(mesh, "batch", "length")
    )
    query = jax.ShapeDtypeStruct(
        problem.q.shape, jnp.float32, sharding=sharding(mesh, "batch", None, "heads", None)
    )
    token = jax.ShapeDtypeStruct((2, 1), jnp.int32, sharding=sharding(mesh, "batch", None))

    def step(q, k, v, q_positions, k_positions, q_segment_ids, k_segment_ids):
        tokens = {
            "q_positions": q_positions,
            "k_positions": k_positions,
            "q_segment_ids": q_segment_ids,
            "k_segment_ids": k_segment_ids,
        }
        return cached_attention(q, k, v, mesh=mesh, **tokens)

    program = jax.jit(step).lower(query, keys, keys, token, slots, token, slots).compile().as_text()
    assert "all-reduce" in program
    for moving in ("all-gather", "collective-permute", "all-to-all"):
        assert moving not in program


def test_bad_input_is_named():
    problem = make_cache(1)
    with pytest.raises(UserError, match="k of length 60: expected a multiple of the mesh's context=8"):
        run(
            problem.__class__(
                **vars(problem)
                | {n: getattr(problem, n)[:, :60] for n in ("k", "v", "k_positions", "k_segment_ids")}
            ),
            8,
        )
    with pytest.raises(UserError, match=r"k_positions of shape \(2, 3\): expected \(2, 64\)"):
        run(Problem(**vars(problem) | {"k_positions": np.zeros((2, 3), np.int32)}), 8)
    with pytest.raises(UserError, match="q_segment_ids of type float32"):
        run(Problem(**vars(problem) | {"q_segment_ids": np.zeros((2, 1), np.float32)}), 8)
    with pytest.raises(UserError, match=r"q_earliest of shape \(2, 3\): expected \(2, 1\)"):
        run(Problem(**vars(problem) | {"q_earliest": np.zeros((2, 3), np.int32)}), 8)
    with pytest.raises(UserError, match="q_earliest of type float32: expected integers"):
        run(Problem(**vars(problem) | {"q_earliest": np.zeros((2, 1), np.float32)}), 8)
    with pytest.raises(UserError, match="window=-3"):
        run(problem, 8, window=-3)
