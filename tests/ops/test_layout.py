"""Layouts: permutations that give every device its share of a causal mask's work."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.errors import UserError
from ringvision.ops.layout import Layout, check, inverse, order, orders
from ringvision.ops.layout_choice import positions_of

KINDS = get_args(Layout)


def work(laid_out: np.ndarray, devices: int) -> np.ndarray:
    """[queries' device, keys' device]: how many pairs a causal mask leaves."""
    shares = laid_out.reshape(devices, -1)
    return np.array([[(q[:, None] >= k[None, :]).sum() for k in shares] for q in shares])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_permutation_and_its_inverse(kind, devices):
    laid_out = order(48, devices, kind)
    assert laid_out.dtype == np.int32
    assert np.array_equal(np.sort(laid_out), np.arange(48))
    assert np.array_equal(laid_out[inverse(laid_out)], np.arange(48))


def test_the_rows_of_the_docstring():
    assert order(8, 4, "zigzag").tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert order(16, 4, "striped").reshape(4, 4).tolist() == [
        [0, 4, 8, 12],
        [1, 5, 9, 13],
        [2, 6, 10, 14],
        [3, 7, 11, 15],
    ]
    assert order(16, 4, "contiguous").tolist() == list(range(16))


def test_zigzag_gives_all_devices_the_same_work_on_every_hop():
    pairs = work(order(64, 4, "zigzag"), 4)
    for hops in range(4):
        each = [pairs[device, (device - hops) % 4] for device in range(4)]
        assert len(set(each)) == 1
    assert np.ptp(work(order(64, 4, "contiguous"), 4).sum(1)) > 0


def test_striped_is_even_to_within_one_pair_a_query():
    assert np.ptp(work(order(64, 4, "striped"), 4)) <= 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 8, "contiguous"), "multiple of 8; pad to 16"),
        ((24, 8, "zigzag"), "multiple of 16; pad to 32"),
        ((12, 0, "striped"), "at least 1"),
        ((12, 2, "zebra"), "expected one of contiguous, zigzag, striped"),
        ((12, 8, "snake"), "multiple of 8; pad to 16"),
        ((12, 2, "whole", np.ones(11, int)), r"segment_ids of shape \(11,\).*expected \(12,\)"),
        ((12, 2, "snake", None, 0), "tiles of 0 tokens: expected at least 1"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        order(*arguments)


def test_what_is_not_a_layout_cannot_be_checked():
    with pytest.raises(UserError, match="layout 'zebra': expected one of contiguous"):
        check(np.arange(8), np.ones(8, int), 2, "zebra")
    with pytest.raises(UserError, match="a length of 9 in the contiguous layout over 2 devices"):
        check(np.arange(9), np.ones(9, int), 2, "snake")


@st.composite
def packed(draw):
    """(segment ids of a row, devices): documents of any lengths from one token up, and padding anywhere."""
    devices = draw(st.sampled_from([1, 2, 3, 4, 8]))
    length = 2 * devices * draw(st.integers(1, 24))
    lengths = draw(st.lists(st.integers(1, draw(st.sampled_from([1, 4, 40, 200]))), min_size=1, max_size=40))
    ids = draw(st.permutations(range(len(lengths))))
    return np.resize(np.repeat(np.array(ids), lengths), length).astype(np.int32), devices


@given(packed(), st.sampled_from(KINDS), st.integers(1, 16))
@settings(max_examples=300, deadline=None)
def test_any_documents_make_a_permutation_that_its_check_accepts(row, kind, tile):
    segment_ids, devices = row
    # a document that comes back is another one: what is laid out has no id twice
    segment_ids = np.where(segment_ids == 0, 0, np.cumsum(np.diff(segment_ids, prepend=-1) != 0)).astype(
        np.int32
    )
    laid_out = order(len(segment_ids), devices, kind, segment_ids, tile)
    assert laid_out.dtype == np.int32
    assert np.array_equal(np.sort(laid_out), np.arange(len(segment_ids)))
    check(positions_of(segment_ids[None])[0][laid_out], segment_ids[laid_out], devices, kind)


@given(packed())
@settings(max_examples=100, deadline=None)
def test_document_zigzag_gives_every_device_its_part_of_every_document(row):
    segment_ids, devices = row
    shares = order(len(segment_ids), devices, "document_zigzag", segment_ids).reshape(devices, -1)
    document = np.cumsum(np.diff(segment_ids, prepend=-1) != 0)
    parts = np.stack([np.bincount(document[share], minlength=document.max() + 1) for share in shares])
    assert np.ptp(parts, axis=0).max() <= 1
    assert np.array_equal(order(64, 4, "document_zigzag"), order(64, 4, "zigzag"))


def test_snake_cuts_documents_at_their_tiles_and_deals_them_out():
    segment_ids = np.repeat([1, 2, 0], [41, 70, 17]).astype(np.int32)
    shares = order(128, 2, "snake", segment_ids, tile=8).reshape(2, 8, 8)
    full = [
        tile
        for tile in shares.reshape(-1, 8)
        if np.ptp(tile) == 7 and segment_ids[tile[0]] == segment_ids[tile[-1]] != 0
    ]
    assert sorted(tile[0] for tile in full) == [*range(0, 40, 8), *range(41, 105, 8)]
    each = [[(segment_ids[share[:, 0]] == document).sum() for share in shares] for document in (1, 2)]
    assert np.ptp(each, axis=1).max() <= 2  # a tile of what is left over, and one to make work even


def test_whole_keeps_documents_on_one_device_when_shares_come_out():
    segment_ids = np.repeat(np.arange(1, 9), [24, 24, 40, 40, 40, 24, 24, 40]).astype(np.int32)
    shares = segment_ids[order(256, 4, "whole", segment_ids, tile=8)].reshape(4, -1)
    assert sorted(document for share in shares for document in np.unique(share)) == list(range(1, 9))


def test_whole_cuts_at_most_one_document_between_neighbours():
    segment_ids = np.repeat(np.arange(1, 7), 16).astype(np.int32)
    shares = segment_ids[order(96, 4, "whole", segment_ids, tile=4)].reshape(4, -1)
    for document in range(1, 7):
        on = np.flatnonzero((shares == document).any(1))
        assert len(on) == 1 or np.array_equal(np.diff(on), [1])
    assert all(len(np.intersect1d(a, b)) <= 1 for a, b in pairwise(shares))


def test_a_batch_is_its_rows():
    segment_ids = np.stack([np.repeat([1, 2], [20, 12]), np.repeat([3, 0], [25, 7])]).astype(np.int32)
    laid_out = orders(segment_ids, 4, "snake", tile=4)
    assert all(np.array_equal(laid_out[row], order(32, 4, "snake", segment_ids[row], 4)) for row in (0, 1))
    with pytest.raises(UserError, match=r"expected \[B, T\]"):
        orders(segment_ids[0], 4, "snake")


@pytest.mark.parametrize(("claimed", "true"), [(a, b) for a in KINDS[:3] for b in KINDS[:3] if a != b])
@pytest.mark.parametrize("lengths", [[64], [40, 24], [30, 20, 14]])
def test_a_row_in_another_layout_contradicts(claimed, true, lengths):
    segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    laid_out = order(64, 4, true)
    with pytest.raises(UserError, match=f"positions contradict layout='{claimed}': token "):
        check(positions_of(segment_ids[None])[0][laid_out] + 7, segment_ids[laid_out], 4, claimed)


def test_the_first_token_that_contradicts_is_named():
    segments = np.ones(16, int)
    with pytest.raises(
        UserError, match=r"token 5 of the row \(device 1, document 1\) has position 9, .* token 4, has 4"
    ):
        check(np.where(np.arange(16) == 5, 9, np.arange(16)), segments, 4, "contiguous")
    with pytest.raises(
        UserError,
        match=r"layout='snake': token 3 of the row \(device 0, document 1\) has position 0, .* "
        r"token 2, has 2",
    ):
        check(np.array([0, 1, 2, 0, 4, 5, 6, 7]), np.ones(8, int), 2, "snake")
    with pytest.raises(
        UserError,
        match=r"layout='whole': token 8 of the row \(document 1\) is on device 2, far from its document",
    ):
        check(
            np.array([0, 1, 2, 0, 1, 2, 3, 4, 3, *range(7)]),
            np.array([1] * 3 + [2] * 5 + [1] + [3] * 7),
            4,
            "whole",
        )
