"""Counts of tiles against brute force, and what the choice of a layout promises for whole families of
batches.
"""

from functools import partial
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.errors import UserError
from ringvision.ops.layout import Layout, check, orders
from ringvision.ops.layout_choice import (
    choose_layout,
    choose_layout_for_lengths,
    count,
    positions_of,
    visible_pairs,
)
from ringvision.ops.mask import MaskSpec, Tokens, attention_mask
from ringvision.ops.tiles import kinds, ranges

LENGTH = 131072
DEVICES = 8
CAUSAL = MaskSpec(True, None, 1.0)


def brute_force(tokens, devices, mask_spec, tile):
    """[devices, hops] and the visible pairs, from the mask itself."""
    mask = np.asarray(attention_mask(tokens, tokens, mask_spec))
    share = mask.shape[1] // devices
    starts = range(0, share, tile)
    tiles = np.zeros((devices, devices), int)
    for device in range(devices):
        for hop in range(devices):
            keys = (device - hop) % devices
            block = mask[:, device * share : (device + 1) * share, keys * share : (keys + 1) * share]
            tiles[device, hop] = sum(
                block[:, q : q + tile, k : k + tile].any((1, 2)).sum() for q in starts for k in starts
            )
    return tiles, mask.sum()


@st.composite
def batches(draw):
    """(positions, segment ids, devices): one row or two, documents of any lengths, ids that come back,
    positions in any order.
    """
    devices = draw(st.sampled_from([1, 2, 3, 4]))
    length = 2 * devices * draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = draw(st.sampled_from([1, 3, 8, 40]))
    rows = [
        np.repeat(random.integers(0, 6, length), random.integers(1, most + 1, length))[:length]
        for _ in range(draw(st.integers(1, 2)))
    ]
    segment_ids = np.stack(rows).astype(np.int32)
    in_order = draw(st.booleans())
    positions = (
        positions_of(segment_ids)
        if in_order
        else random.integers(-5, length, segment_ids.shape).astype(np.int32)
    )
    return positions, segment_ids, devices


@given(
    batches(),
    st.sampled_from(get_args(Layout)),
    st.booleans(),
    st.none() | st.integers(1, 14),
    st.integers(1, 7),
)
@settings(max_examples=400, deadline=None)
def test_counts_are_exact(batch, kind, causal, window, tile):
    positions, segment_ids, devices = batch
    laid_out = orders(segment_ids, devices, kind, tile)
    tokens = Tokens(*(np.take_along_axis(x, laid_out, 1) for x in (positions, segment_ids)))
    mask_spec = MaskSpec(causal, window, 1.0)
    tiles, pairs = brute_force(tokens, devices, mask_spec, tile)
    assert np.array_equal(count(tokens, devices, mask_spec, tile), tiles)
    assert (
        visible_pairs(tokens, mask_spec) == visible_pairs(Tokens(positions, segment_ids), mask_spec) == pairs
    )


def test_a_choice_is_what_it_says():
    random = np.random.default_rng(0)
    segment_ids = np.stack(
        [np.repeat(np.arange(3, 43), random.integers(20, 120, 40))[:1024] for _ in range(3)]
    ).astype(np.int32)
    chosen = choose_layout(segment_ids, devices=4, tile=16)
    assert chosen.kind == "whole"  # the one that numbers documents anew
    laid_out = np.take_along_axis(segment_ids, chosen.order, 1)
    positions = np.take_along_axis(positions_of(segment_ids), chosen.order, 1)
    tokens = Tokens(positions, chosen.segment_ids)
    tiles, pairs = brute_force(tokens, 4, CAUSAL, 16)
    assert np.array_equal(chosen.tiles, tiles)
    assert chosen.efficiency == pytest.approx(pairs / 16**2 / 4 / tiles.max(0).sum())
    assert chosen.hops == (tiles.max(0) > 0).sum()
    for row, old, new in zip(positions, laid_out, chosen.segment_ids, strict=True):
        assert len(set(zip(old, new, strict=True))) == len(set(old)) == len(set(new)) == new.max()
        check(row, new, 4, "whole")
    best = min(candidate.path * (1 + 0.005 * candidate.hops) for candidate in chosen.candidates.values())
    assert tiles.max(0).sum() * (1 + 0.005 * chosen.hops) <= 1.01 * best
    assert sum("<- this one" in line and line.startswith("whole") for line in str(chosen).splitlines()) == 1


def test_rows_of_a_batch_make_up_for_each_other():
    segment_ids = np.tile(np.repeat(np.arange(1, 6), [100, 140, 100, 120, 52]), (4, 1)).astype(np.int32)
    alone = choose_layout(segment_ids[:1], devices=4, tile=8)
    together = choose_layout(segment_ids, devices=4, tile=8)
    assert together.candidates["whole"].path < 4 * alone.candidates["whole"].path


def test_what_needs_no_ring_gets_none():
    chosen = choose_layout_for_lengths([1024] * 8, DEVICES)
    assert chosen.hops == 1
    assert chosen.tiles[:, 1:].sum() == 0
    assert choose_layout(np.zeros((1, 64), np.int32), devices=4).hops == 0


def test_one_document():
    chosen = choose_layout(np.ones((1, LENGTH), np.int32), devices=DEVICES)
    assert chosen.kind == "zigzag"
    assert chosen.efficiency > 0.998


def lengths_of(draw, length=LENGTH):
    """Documents until a row is full; the last is cut."""
    drawn = []
    total = 0
    while total < length:
        drawn.append(min(max(1, int(draw())), length - total))
        total += drawn[-1]
    return drawn


@pytest.mark.parametrize("sigma", [0.5, 0.75, 1.0])
def test_packed_long_documents(sigma):
    for seed in range(8):
        random = np.random.default_rng(seed)
        lengths = lengths_of(partial(random.lognormal, np.log(16384) - sigma**2 / 2, sigma))
        chosen = choose_layout_for_lengths(lengths, DEVICES)
        assert chosen.efficiency > 0.94, seed


@pytest.mark.parametrize("padding", [0, 0.01, 0.03, 0.06])
def test_packed_clips(padding):
    off_the_ring = 0
    for seed in range(8):
        random = np.random.default_rng(seed)
        lengths = lengths_of(partial(random.integers, 2048, 8193), int(LENGTH * (1 - padding)))
        segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        segment_ids = np.pad(segment_ids, (0, LENGTH - len(segment_ids)))[None].astype(np.int32)
        chosen = choose_layout(segment_ids, devices=DEVICES)
        assert chosen.efficiency >= 0.9, seed
        assert chosen.candidates["whole"].efficiency > 0.87, seed
        assert chosen.candidates["whole"].hops <= 2
        # off the ring, unless going round it is clearly better
        assert chosen.hops <= 2 or chosen.efficiency > 1.015 * chosen.candidates["whole"].efficiency, seed
        off_the_ring += chosen.hops <= 2
    assert off_the_ring >= (2 if padding == 0.01 else 4)  # with a little padding snake wastes least


def test_documents_are_numbered_so_that_kernels_leave_the_ring_alone():
    """Kernels tell tiles by ranges of segment ids: by those as given, tiles with the ends of several
    documents seem to see everybody's.
    """
    random = np.random.default_rng(0)
    lengths = lengths_of(partial(random.integers, 2048, 8193), int(LENGTH * 0.94))
    segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    segment_ids = np.pad(segment_ids, (0, LENGTH - len(segment_ids)))[None].astype(np.int32)
    chosen = choose_layout(segment_ids, devices=DEVICES)
    assert (chosen.kind, chosen.hops) == ("whole", 1)
    positions = np.take_along_axis(positions_of(segment_ids), chosen.order, 1)

    def far(segment_ids):
        of_row = ranges(Tokens(positions, segment_ids), 128)
        tiles = (
            (kinds(of_row, of_row, CAUSAL) != 0)
            .reshape(DEVICES, -1, DEVICES, LENGTH // DEVICES // 128)
            .sum((1, 3))
        )
        return tiles.sum() - np.trace(tiles)

    assert far(chosen.segment_ids) == 0 < far(np.take_along_axis(segment_ids, chosen.order, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: choose_layout(np.ones(8, int), devices=2), r"expected \[B, T\] for both"),
        (
            lambda: choose_layout(np.ones((1, 9), int), devices=2),
            "a length of 9 in the .* layout over 2 devices: expected a multiple of 2",
        ),
        (lambda: choose_layout(np.ones((1, 8), int), devices=0), "over 0 devices: expected at least 1"),
        (lambda: choose_layout_for_lengths([5, 0], 2), r"documents of lengths \[5, 0\]"),
        (lambda: choose_layout_for_lengths([5], 0), "over 0 devices: expected at least 1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
