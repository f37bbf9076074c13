"""Many sources as one supply of examples: an endless shuffled stream of each, and how much each counts.

    DataConfig, sources opened  --Mixture-->  example(source, position in its stream, step)

The stream of a source holds every document once an epoch (shuffled_stream.py). What is left to chance in an
example follows from the seed, the source and the position alone.
"""

from collections.abc import Sequence

import numpy as np

from ringvision.data.shuffled_stream import ShuffledStream
from ringvision.data.sources import DataConfig, DataSource
from ringvision.data.stream import Example


class Mixture:
    """The sources of a run.

    Args:
        data: weights, and how rows are filled.
        sources: of `data.sources`, in their order.
        seed: of the order of documents and of all choices.
        max_length: positions stay below it.
    """

    def __init__(
        self, data: DataConfig, sources: Sequence[DataSource], *, seed: int, max_length: int
    ) -> None:
        self.data = data
        self.sources = sources
        self.seed = seed
        self.max_length = max(max_length, data.length)
        self._streams = [
            ShuffledStream(len(source), (seed, 0, number)) for number, source in enumerate(sources)
        ]

    def index(self, source: int, position: int) -> int:
        """Which document of a source comes at a position of its stream."""
        return int(self._streams[source][position])

    def example(self, source: int, position: int, step: int) -> Example:
        """The example at a position of a source's stream; the same for the same arguments.

        step: how many rows were filled before it was drawn. BadRecord where it cannot be read.
        """
        random = np.random.default_rng([self.seed, 1, source, position])
        return self.sources[source].example(self.index(source, position), random, step)

    def first_shares(self, lane: int) -> list[int]:
        """How much of each source a lane counts as served before it begins: a different part of a row in
        every lane, so that not all rows of a batch are of one source.
        """
        random = np.random.default_rng([self.seed, 2, lane])
        unit = self.data.length if self.data.weights_by == "tokens" else 1
        total = sum(source.weight for source in self.data.sources)
        return [
            int(part * unit * source.weight / total)
            for part, source in zip(random.random(len(self.sources)), self.data.sources, strict=True)
        ]
