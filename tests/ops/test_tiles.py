"""Which tiles need computing: never wrongly EMPTY or FULL, and found out wherever documents lie one behind
the other.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.ops.mask import ANY, MaskSpec, Tokens, attention_mask
from ringvision.ops.tiles import EMPTY, FULL, PARTIAL, kinds, ranges

RULES = [MaskSpec(causal, window, 1.0) for causal in (True, False) for window in (None, 1, 3, 7)]


def truth(
    q: Tokens, k: Tokens, mask_spec: MaskSpec, q_tile: int, k_tile: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of every tile: does anybody see anybody, does everybody see everybody."""
    mask = np.asarray(attention_mask(q, k, mask_spec))
    cut = mask.reshape(len(mask), mask.shape[1] // q_tile, q_tile, mask.shape[2] // k_tile, k_tile)
    return cut.any((2, 4)), cut.all((2, 4))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_never_wrong(data):
    """Any tokens at all: a tile that somebody sees is not EMPTY, one that is FULL is seen by all, and
    whatever is full is found to be.
    """
    mask_spec = data.draw(st.sampled_from(RULES))

    def draw(length: int, *more: st.SearchStrategy) -> Tokens:
        each = (st.integers(0, 12), st.integers(0, 3), *more)
        rows = (st.lists(one, min_size=length, max_size=length) for one in each)
        return Tokens(*(np.array([data.draw(row)], np.int32) for row in rows))

    q = draw(12, *data.draw(st.sampled_from([(), (st.sampled_from([ANY, 0, 3, 5, 9, 14]),)])))
    k = draw(8)
    found = kinds(ranges(q, 3), ranges(k, 4), mask_spec)
    some, every = truth(q, k, mask_spec, 3, 4)
    assert found.dtype == np.int8
    assert not (some & (found == EMPTY)).any()
    assert np.array_equal(found == FULL, every)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_exact_for_documents_one_behind_the_other(data):
    """Documents of any lengths, numbered upwards, positions from 0, in shares; no tile holds more than two of
    them.
    """
    mask_spec = data.draw(st.sampled_from([mask_spec for mask_spec in RULES if mask_spec.window is None]))
    lengths = data.draw(st.lists(st.integers(4, 20), min_size=1, max_size=6))
    segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])
    padding = -len(segments) % 4
    tokens = Tokens(*(np.pad(x, (0, padding)).astype(np.int32)[None] for x in (positions, segments)))
    found = kinds(ranges(tokens, 4), ranges(tokens, 4), mask_spec)
    some, every = truth(tokens, tokens, mask_spec, 4, 4)
    assert np.array_equal(found != EMPTY, some)
    assert np.array_equal(found == FULL, every)


@pytest.mark.parametrize("mask_spec", RULES)
def test_jax_and_numpy_agree(mask_spec):
    random = np.random.default_rng(0)
    tokens = Tokens(*(random.integers(0, 5, (2, 32), dtype=np.int32) for _ in range(3)))
    on_device = tokens.map(jnp.asarray)
    expected = kinds(ranges(tokens, 4), ranges(tokens.as_keys, 8), mask_spec)
    assert isinstance(expected, np.ndarray)
    assert np.array_equal(kinds(ranges(on_device, 4), ranges(on_device.as_keys, 8), mask_spec), expected)
    assert set(np.unique(expected)) <= {EMPTY, PARTIAL, FULL}


def test_one_causal_document():
    tokens = Tokens(np.arange(16)[None], np.ones((1, 16), int))
    found = kinds(ranges(tokens, 4), ranges(tokens, 4), MaskSpec(True, None, 1.0))[0]
    assert found.tolist() == [[1, 0, 0, 0], [2, 1, 0, 0], [2, 2, 1, 0], [2, 2, 2, 1]]


def test_what_lies_before_the_earliest_is_found_empty():
    """Windows of 5 for all but the queries of the third tile, which see everything."""
    positions = np.arange(24)[None]
    keys = Tokens(positions, np.ones((1, 24), int))
    earliest = np.where((positions >= 8) & (positions < 12), ANY, positions - 4)
    found = kinds(ranges(keys._replace(earliest=earliest), 4), ranges(keys, 4), MaskSpec(True, None, 1.0))[0]
    assert found.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [2, 2, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


def test_the_end_of_another_document_does_not_hide_what_is_empty():
    """A tile with the end of one document, which looks back a little, and the beginning of the next: of the
    first document's keys only the near ones are asked for.
    """
    positions = np.append(np.arange(14), np.arange(6))[None]
    keys = Tokens(positions, np.repeat([1, 2], [14, 6])[None])
    found = kinds(
        ranges(keys._replace(earliest=positions - 2), 4), ranges(keys, 4), MaskSpec(True, None, 1.0)
    )
    assert found[0, 3].tolist() == [EMPTY, EMPTY, PARTIAL, PARTIAL, EMPTY]
