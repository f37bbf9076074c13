"""Rows are filled as far as what waits allows, and further questions are asked where they fit."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.data.fit import best_subset, with_spare_turns
from ringvision.data.stream import Example, SpareTurn


@settings(max_examples=80, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), max_size=9), free=st.integers(-2, 120))
def test_the_best_subset_is_the_best_of_all(sizes: list[int], free: int) -> None:
    chosen = best_subset(sizes, free)
    assert chosen == sorted(set(chosen))
    sums = [sum(some) for count in range(len(sizes) + 1) for some in combinations(sizes, count)]
    assert sum(sizes[index] for index in chosen) == max((x for x in sums if x <= free), default=0)


def test_earlier_sizes_are_preferred() -> None:
    assert best_subset([4, 3, 4], 7) == [0, 1]
    assert best_subset([5] * 100, 500) == list(range(32))  # no more than so many are looked at


def turn(size: int, token: int, last: bool = False) -> SpareTurn:
    mask = np.zeros(size, np.float32)
    mask[-2:] = 0.5
    return SpareTurn(np.full(size, token, np.int32), mask, size - 2, last)


def example(spare: list[SpareTurn], turns: int = 1, tail: int = 0) -> Example:
    tokens = np.full(10, 1, np.int32)
    mask = np.zeros(10, np.float32)
    mask[-2:] = turns / 2
    return Example(tokens, mask, float(turns), ((8, 10),) * turns, tuple(spare), tail)


def test_who_is_asked_least_is_asked_more_and_rows_are_full() -> None:
    little = example([turn(5, 2), turn(5, 3), turn(5, 4), turn(5, 5)])
    much = example([turn(5, 6), turn(5, 7), turn(5, 8)], turns=3)
    grown = with_spare_turns([little, much], 23)
    sizes = [len(one.tokens) - 10 for one in grown]
    assert (sum(sizes), grown[0].spare) == (20, ())
    assert sizes[0] > sizes[1]
    assert [one.weight for one in grown] == [1 + sizes[0] / 5, 3 + sizes[1] / 5]
    exact = with_spare_turns([example([turn(7, 2), turn(5, 3), turn(4, 4)])], 11)
    assert len(exact[0].tokens) == 21  # 7 and 4, though 5 was to be asked before 4


def test_turns_that_tell_much_stay_last() -> None:
    grown = example([], tail=4).with_turns([turn(3, 2), turn(4, 3, last=True), turn(3, 4)])
    assert grown.tokens.tolist() == [1] * 6 + [2] * 3 + [4] * 3 + [1] * 4 + [3] * 4
    assert grown.answers == ((7, 9), (10, 12), (14, 16), (18, 20))
    assert (grown.weight, grown.tail, grown.spare) == (4.0, 8, ())
    assert all(grown.loss_mask[start:stop].sum() == 1 for start, stop in grown.answers)


def test_an_example_without_a_turn_counts_as_many_as_are_added() -> None:
    shown = Example(np.ones(4, np.int32), np.full(4, 0.25, np.float32))
    assert shown.with_turns([turn(3, 2), turn(3, 2)]).weight == 2.0
    assert shown.with_turns([]) is shown
