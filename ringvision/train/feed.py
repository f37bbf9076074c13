"""The batches of a stage as the loop takes them, and what a process that has none does.

    Loader.batches  --Feed.next-->  Loaded, or rows of padding where this process is in trouble

Where one of several processes cannot go on, the others wait for its part of the step. So it takes part with
padding and says so in its signal; all stop when they have read that, at the same step.
"""

from collections.abc import Generator

import numpy as np

from ringvision.checkpoint import Checkpoints
from ringvision.data.loader import Loaded
from ringvision.data.packing import Batch
from ringvision.distributed import process_count
from ringvision.errors import UserError


class Feed:
    """Batches one after another. trouble: why this process cannot go on; None: it can.

    Args:
        batches: of this process's rows.
        rows, length: the shape of each.
    """

    def __init__(self, batches: Generator[Loaded, None, None], rows: int, length: int) -> None:
        self.trouble: UserError | None = None
        self._batches = batches
        self._shape = rows, length

    def next(self) -> Loaded:
        """The next batch, arrays [rows, length]. UserError where there is none and this process is alone."""
        if self.trouble is None:
            try:
                return next(self._batches)
            except UserError as error:
                self._note(error)
        nothing = np.zeros(self._shape, np.int32)
        return Loaded(Batch(nothing, nothing, nothing, nothing, nothing.astype(np.float32)), {})

    def check(self, checkpoints: Checkpoints) -> None:
        """Whether a save failed in the background. UserError where it did and this process is alone."""
        if checkpoints.failed:
            try:
                checkpoints.check()
            except UserError as error:
                self._note(error)

    def _note(self, error: UserError) -> None:
        if process_count() == 1:
            raise error
        self.trouble = self.trouble or error
