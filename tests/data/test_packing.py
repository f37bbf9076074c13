"""Packing changes where examples lie and nothing else."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.data.packing import assign_slots, cut, fill_ratio, pack, whole
from ringvision.data.stream import Example
from ringvision.errors import UserError


def example(size: int, seed: int = 0, weight: float = 1.0) -> Example:
    random = np.random.default_rng([size, seed])
    mask = (random.random(size) < 0.5).astype(np.float32)
    mask[-1] = 1.0
    return Example(random.integers(1, 100, size).astype(np.int32), mask, weight)


def test_the_picture_in_the_docstring() -> None:
    a, b, c, d, e, f, g = range(1, 8)
    first = Example(np.array([a, b, c, d]), np.array([0, 0, 1, 1.0]))
    second = Example(np.array([e, f, g]), np.array([1, 1, 0.0]), weight=3.0)
    batch = pack([first, second], 8, 1)
    assert batch.tokens.tolist() == [[a, b, c, d, e, f, g, 0]]
    assert batch.targets.tolist() == [[b, c, d, 0, f, g, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0]]
    assert batch.loss_weights.tolist() == [[0, 0.5, 0.5, 0, 3, 0, 0, 0]]
    assert fill_ratio(batch) == 7 / 8


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(2, 30), min_size=1, max_size=12), rows=st.integers(6, 12))
def test_every_example_is_there_once_and_counts_its_weight(sizes: list[int], rows: int) -> None:
    examples = [example(size, seed, weight=1.0 + seed % 3) for seed, size in enumerate(sizes)]
    batch = pack(examples, 60, rows)
    found = []
    for row in range(rows):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            here = batch.segment_ids[row] == segment
            found.append(
                (batch.tokens[row][here].tolist(), round(float(batch.loss_weights[row][here].sum()), 4))
            )
            assert batch.positions[row][here].tolist() == list(range(here.sum()))
            assert batch.targets[row][here].tolist() == [*batch.tokens[row][here][1:], 0]
    assert sorted(found) == sorted((one.tokens.tolist(), one.weight) for one in examples)
    assert not batch.tokens[batch.segment_ids == 0].any()
    assert not batch.loss_weights[batch.segment_ids == 0].any()


def test_slots_do_not_overlap_and_what_does_not_fit_has_none() -> None:
    assert assign_slots([5, 9, 3, 4, 1], 10, 2) == [(1, 0), (0, 0), None, (1, 5), (0, 9)]


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UserError, match="do not fit into 1 rows of 10"):
        pack([example(9), example(10)], 10, 1)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, 100), length=st.integers(2, 30), more=st.integers(0, 60))
def test_a_long_example_is_cut_without_a_loss(size: int, length: int, more: int) -> None:
    one = example(size, weight=2.5)
    max_length = length + more
    pieces = cut(whole(one), length, max_length)
    assert [len(piece.tokens) for piece in pieces[:-1]] == [length] * (len(pieces) - 1)
    assert np.concatenate([piece.tokens for piece in pieces]).tolist() == one.tokens.tolist()
    assert np.concatenate([piece.targets for piece in pieces]).tolist() == [*one.tokens[1:], 0]
    assert sum(float(piece.loss_weights.sum()) for piece in pieces) == pytest.approx(2.5)
    for before, piece in pairwise(pieces):
        assert piece.position in (0, before.position + length)
        assert piece.position or before.position + 2 * length > max_length
    assert all(piece.position + len(piece.tokens) <= max_length for piece in pieces)
