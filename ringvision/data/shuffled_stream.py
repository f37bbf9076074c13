"""The order in which the documents of a source come: all of them once, then all of them in another order, ...

position 0, 1, 2, ... without end  ->  number of a document

Any position is known without those before it, so that every lane of a batch can take its own.
"""

from functools import lru_cache
from typing import Any

import numpy as np

SMALL = 1024
"""grain's shuffle walks at least 2^16 numbers until it comes to one that is an index: 20 microseconds for
1,000 documents and for any more, but 9 ms for three. An order of so few is drawn as a whole.
"""


class ShuffledStream:
    """An endless stream of the numbers from 0 to `length` - 1, another order each time.

    Args:
        length: how many there are, at least 1.
        seed: what the orders depend on: some whole numbers from 0 on.
    """

    def __init__(self, length: int, seed: tuple[int, ...]) -> None:
        self._length = length
        self._seed = seed
        self._order = lru_cache(maxsize=8)(self._drawn)
        self._stream: Any = None
        if length >= SMALL:
            import grain  # 2 s, of which a run on few documents need not pay

            seed32 = int(np.random.SeedSequence(seed).generate_state(1)[0])
            self._stream = grain.MapDataset.range(length).seed(seed32).shuffle().repeat()

    def __getitem__(self, position: int) -> int:
        if self._stream is not None:
            return int(self._stream[position])
        epoch, place = divmod(position, self._length)
        return int(self._order(epoch)[place])

    def _drawn(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([*self._seed, epoch]).permutation(self._length)
