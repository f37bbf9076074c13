"""Attention as its definition says it, in numpy's float64: the whole score matrix, softmax, and the gradient
by the chain rule.

Letters as in ringvision/ops/attention.py. What every test of attention compares with.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np


@dataclass
class Problem:
    """float32 q [B, T, N, H], k and v [B, S, K, H], d_out like q; int32 positions and segment ids of queries
    and keys, and of queries the lowest position that each attends to (None: any).
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    d_out: np.ndarray
    q_positions: np.ndarray
    q_segment_ids: np.ndarray
    k_positions: np.ndarray
    k_segment_ids: np.ndarray
    q_earliest: np.ndarray | None = None

    def ordered(self, order: np.ndarray) -> "Problem":
        """The same problem with its tokens in another order."""
        arrays = (getattr(self, name) for name in self.__dataclass_fields__)
        return Problem(*(None if x is None else x[:, order] for x in arrays))

    def with_kinds(self, window: int = 7, seed: int = 1) -> "Problem":
        """The same with two kinds of queries, in runs: half of them see no further back than a window, the
        others, and padding, see everything. Each kind is in every share of eight tokens.
        """
        random = np.random.default_rng(seed)
        runs = random.integers(0, 2, (self.q.shape[0], self.q.shape[1] // 3 + 1))
        windowed = np.repeat(runs, 3, axis=1)[:, : self.q.shape[1]] == 1
        windowed[:, ::8] = True
        windowed[:, 1::8] = False
        earliest = np.where(windowed & (self.q_segment_ids > 0), self.q_positions - window + 1, -(2**31) + 1)
        return replace(self, q_earliest=earliest.astype(np.int32))


def make_problem(*, batch=2, length=64, heads=4, kv_heads=2, width=16, segments=False, seed=0) -> Problem:
    """Queries and keys are the same tokens. With `segments`: rows of three documents, with padding at the
    end, and within the first.
    """
    random = np.random.default_rng(seed)

    def normal(n: int) -> np.ndarray:
        return random.normal(size=(batch, length, n, width)).astype(np.float32)

    positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
    segment_ids = np.ones((batch, length), np.int32)
    if segments:
        for row in range(batch):
            ends = [0, length // 4 - 3 * row, length // 2 + 5, length - 6 - row]
            segment_ids[row] = 0
            for number, (start, end) in enumerate(pairwise(ends), start=1):
                segment_ids[row, start:end] = number
                positions[row, start:end] = np.arange(end - start)
            segment_ids[row, 2 : 4 + row] = 0
    return Problem(
        normal(heads),
        normal(kv_heads),
        normal(kv_heads),
        normal(heads),
        positions,
        segment_ids,
        positions,
        segment_ids,
    )


def mask(problem: Problem, causal: bool, window: int | None) -> np.ndarray:
    """bool [B, 1, T, S], one rule after the other."""
    q_segments = problem.q_segment_ids[:, None, :, None]
    k_segments = problem.k_segment_ids[:, None, None, :]
    q_positions = problem.q_positions[:, None, :, None].astype(int)
    k_positions = problem.k_positions[:, None, None, :].astype(int)
    seen = (q_segments == k_segments) & (q_segments != 0)
    if causal:
        seen = seen & (k_positions <= q_positions)
    if window is not None:
        seen = seen & (k_positions - q_positions < window) & (q_positions - k_positions < window)
    if problem.q_earliest is not None:
        seen = seen & (k_positions >= problem.q_earliest[:, None, :, None])
    return seen


def dense_attention(problem: Problem, *, causal=True, window=None, scale=None) -> dict[str, np.ndarray]:
    """out, lse, and the gradients dq, dk, dv of sum(out * d_out), all float64."""
    q, k, v, d_out = (getattr(problem, name).astype(np.float64) for name in ("q", "k", "v", "d_out"))
    groups = q.shape[2] // k.shape[2]
    k = np.repeat(k, groups, axis=2)
    v = np.repeat(v, groups, axis=2)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = np.where(mask(problem, causal, window), np.einsum("BTNH,BSNH->BNTS", q, k) * scale, -np.inf)
    largest = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isinf(largest), 0, largest))
    total = weights.sum(-1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        lse = (largest + np.log(total))[..., 0]
    d_weights = np.einsum("BTNH,BSNH->BNTS", d_out, v)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) * scale

    def by_kv_head(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], -1, groups, x.shape[-1]).sum(3)

    return {
        "out": np.einsum("BNTS,BSNH->BTNH", weights, v),
        "lse": lse,
        "dq": np.einsum("BNTS,BSNH->BTNH", d_scores, k),
        "dk": by_kv_head(np.einsum("BNTS,BTNH->BSNH", d_scores, q)),
        "dv": by_kv_head(np.einsum("BNTS,BTNH->BSNH", weights, d_out)),
    }


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of any element, relative to the largest element."""
    assert np.isfinite(actual).all()
    return float(np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max())
