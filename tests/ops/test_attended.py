"""Attention's probabilities, summed by groups of keys, against sums of a dense softmax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringvision.mesh import make_mesh
from ringvision.ops import attended
from ringvision.ops.attended import attended_by_group
from ringvision.ops.mask import ANY, Tokens

BATCH = 2
QUERIES = 8
KEYS = 64
HEADS = 4
KV_HEADS = 2
WIDTH = 8
GROUPS = 5


def _problem(window: int | None):
    """-> the arguments, and what is expected: float64 [B, N, 2, GROUPS]. Keys of group GROUPS and -1 are of
    none; queries also attend to something elsewhere, whose score each lse includes.
    """
    random = np.random.default_rng(3)
    q = random.standard_normal((BATCH, QUERIES, HEADS, WIDTH)).astype(np.float32)
    k = random.standard_normal((BATCH, KV_HEADS, KEYS, WIDTH)).astype(np.float32)
    groups = random.integers(-1, GROUPS + 1, (BATCH, KEYS)).astype(np.int32)
    weights = random.random((BATCH, 2, QUERIES)).astype(np.float32)
    positions = np.tile(random.permutation(KEYS).astype(np.int32), (BATCH, 1))
    segments = (random.random((BATCH, KEYS)) < 0.8).astype(np.int32)
    q_positions = np.tile(np.arange(50, 50 + 3 * QUERIES, 3, dtype=np.int32), (BATCH, 1))
    q_segments = np.ones((BATCH, QUERIES), np.int32)
    q_segments[1, -2:] = 0
    earliest = np.where(np.arange(QUERIES) % 2, ANY, 30).astype(np.int32) * np.ones((BATCH, 1), np.int32)
    scores = np.einsum("BTNH,BNSH->BNTS", q.astype(np.float64), np.repeat(k, 2, axis=1)) / np.sqrt(WIDTH)
    apart = q_positions[:, :, None] - positions[:, None]
    seen = (q_segments[:, :, None] * segments[:, None] > 0) & (apart >= 0)
    seen &= positions[:, None] >= earliest[:, :, None]
    if window is not None:
        seen &= apart < window
    exponentials = np.where(seen[:, None], np.exp(scores), 0)
    elsewhere = random.random((BATCH, HEADS, QUERIES))
    total = exponentials.sum(-1) + elsewhere
    by_key = np.einsum("BNTS,BWT->BNWS", exponentials / total[..., None], weights.astype(np.float64))
    expected = np.zeros((BATCH, HEADS, 2, GROUPS))
    for row, key in np.ndindex(BATCH, KEYS):
        if 0 <= groups[row, key] < GROUPS:
            expected[row, :, :, groups[row, key]] += by_key[row, :, :, key]
    lse = np.log(total).astype(np.float32)
    tokens = Tokens(q_positions, q_segments, earliest), Tokens(positions, segments)
    return (q, k, lse, weights, groups), tokens, expected


@pytest.mark.parametrize("scores", [1 << 18, 200], ids=["at_once", "in_chunks"])
@pytest.mark.parametrize("axes", [{}, {"context": 4}, {"context": 2, "tensor": 2, "data": 2}], ids=str)
@pytest.mark.parametrize("window", [None, 40])
def test_sums_of_probabilities_by_group(axes, window, scores, monkeypatch):
    """In chunks of 200 / 8 = 25 keys, which do not divide 64, 16 or 32."""
    monkeypatch.setattr(attended, "SCORES", scores)
    mesh = make_mesh(
        **{"context": 1, **axes}, devices=jax.devices()[: int(np.prod(list(axes.values()) or 1))]
    )
    given, (q_tokens, k_tokens), expected = _problem(window)
    found = attended_by_group(
        *map(jnp.asarray, given), GROUPS, mesh=mesh, q_tokens=q_tokens, k_tokens=k_tokens, window=window
    )
    assert found.dtype == jnp.float32
    assert expected.min() > 0
    assert np.abs(found - expected).max() < 2e-6


def test_half_precision_sums_in_float32():
    given, (q_tokens, k_tokens), expected = _problem(None)
    q, k, lse, weights, groups = map(jnp.asarray, given)
    halves = q.astype(jnp.bfloat16), k.astype(jnp.bfloat16)
    mesh = make_mesh(context=1, devices=jax.devices()[:1])
    found = attended_by_group(
        *halves, lse, weights, groups, GROUPS, mesh=mesh, q_tokens=q_tokens, k_tokens=k_tokens
    )
    assert found.dtype == jnp.float32
    assert np.abs(found - expected).max() < 0.02 * expected.max()
