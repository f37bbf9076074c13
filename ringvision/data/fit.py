"""What fills a row best: which of some pieces, and which further questions.

sizes [60, 25, 90], 100 free  --best_subset-->  [2]        (90; 60 and 25 together are 85)
examples with spare turns, 40 free  --with_spare_turns-->  the examples with some of them added
"""

from collections.abc import Sequence

from ringvision.data.stream import Example, SpareTurn

MOST = 32
"""Of more sizes than these only the first are tried: time and memory grow with their number."""


def best_subset(sizes: Sequence[int], free: int) -> list[int]:
    """Which of the sizes, each at least 1, come together closest to `free` without passing it.

    -> their indices in order. Where several choices come as close, the one that leaves out the later sizes.
    Only the first MOST sizes are looked at. Every sum that can be reached is a bit of a large integer, so the
    work is MOST shifts of `free` bits.
    """
    if free <= 0:
        return []
    within = (1 << (free + 1)) - 1
    reached = [1]  # bit n of reached[i]: n is a sum of some of the first i sizes
    for size in sizes[:MOST]:
        reached.append((reached[-1] | (reached[-1] << size)) & within)
    left = reached[-1].bit_length() - 1
    chosen = []
    for index in range(len(reached) - 2, -1, -1):
        if not (reached[index] >> left) & 1:
            chosen.append(index)
            left -= sizes[index]
    return chosen[::-1]


def with_spare_turns(examples: Sequence[Example], free: int) -> list[Example]:
    """The examples with some of their spare turns, as many as fill `free` tokens best, and no more to spare.

    One after another is added to the example that is asked least, as long as there is room for several more;
    the last few are those that fill what is left.
    """
    spare = [list(example.spare) for example in examples]
    added: list[list[SpareTurn]] = [[] for _ in examples]
    counts = [len(example.answers) for example in examples]
    largest = max((len(turn.tokens) for turns in spare for turn in turns), default=0)
    while free >= 3 * largest and any(spare):
        least = min((index for index, turns in enumerate(spare) if turns), key=counts.__getitem__)
        turn = spare[least].pop(0)
        added[least].append(turn)
        counts[least] += 1
        free -= len(turn.tokens)
    rest = [(index, turn) for turns_of in _rounds(spare, counts) for index, turn in turns_of]
    for place in best_subset([len(turn.tokens) for _, turn in rest], free):
        index, turn = rest[place]
        added[index].append(turn)
    return [example.with_turns(turns) for example, turns in zip(examples, added, strict=True)]


def _rounds(spare: Sequence[Sequence[SpareTurn]], counts: Sequence[int]) -> list[list[tuple[int, SpareTurn]]]:
    """The spare turns in the order in which they would be asked: a first one of every example, the least
    asked before the others, then a second one, ...
    """
    order = sorted(range(len(spare)), key=counts.__getitem__)
    most = max(map(len, spare), default=0)
    return [
        [(index, spare[index][number]) for index in order if number < len(spare[index])]
        for number in range(most)
    ]
