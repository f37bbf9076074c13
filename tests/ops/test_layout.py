"""Layouts: permutations that give every device its share of a causal mask's work."""

import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.ops.layout import inverse, order


def work(laid_out: np.ndarray, devices: int) -> np.ndarray:
    """[queries' device, keys' device]: how many pairs a causal mask leaves."""
    shares = laid_out.reshape(devices, -1)
    return np.array([[(q[:, None] >= k[None, :]).sum() for k in shares] for q in shares])


@pytest.mark.parametrize("kind", ["contiguous", "zigzag", "striped"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_permutation_and_its_inverse(kind, devices):
    laid_out = order(48, devices, kind)
    assert laid_out.dtype == np.int32
    assert np.array_equal(np.sort(laid_out), np.arange(48))
    assert np.array_equal(laid_out[inverse(laid_out)], np.arange(48))


def test_the_rows_of_the_docstring():
    assert order(8, 4, "zigzag").tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert order(16, 4, "striped").reshape(4, 4).tolist() == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]
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
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        order(*arguments)
