"""Tensors of ours as those of another program, one piece at a time: what every export does with its table of
names.

    [(reader of a model folder, piece)]  --foreign_tensors-->  (which tensor of theirs, its array)

Memory holds one tensor of ours at a time.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ringvision.model_folder import ModelReader
from ringvision.weights.table import ForeignTensor, Read, TensorPiece, disassemble

Progress = Callable[[str, int, int], None]
"""What is told how far it is: (what is worked on, how many are done, of how many)."""
Work = Sequence[tuple[ModelReader, TensorPiece]]
"""Pieces, each with the reader of the model folder that holds it."""


class LatestTensor:
    """Reads tensors and keeps the latest: layers of one stacked tensor are cut from one reading. The one
    before is let go first.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._name = ""
        self._array = np.zeros(0)

    def read(self, name: str) -> np.ndarray:
        """The tensor of this name, of the shape and dtype that the reader gives: [*its shape]."""
        if name != self._name:
            self._name = ""
            self._array = np.zeros(0)
            self._array = self._read(name)
            self._name = name
        return self._array


def foreign_tensors(
    work: Work, dtype: np.dtype | None, progress: Progress | None
) -> Iterator[tuple[ForeignTensor, np.ndarray]]:
    """Their tensors, or layers of them, in the order of the pieces: each with its array, in its own shape
    [*shape] and as `dtype` (None: as ours is stored).
    """
    latest: LatestTensor | None = None
    owner: ModelReader | None = None
    for number, (reader, piece) in enumerate(work):
        if progress is not None:
            progress("tensors", number, len(work))
        if latest is None or owner is not reader:
            latest = LatestTensor(reader.read)
            owner = reader
        array = latest.read(piece.ours)
        for tensor, part in disassemble(piece, array if piece.at is None else array[piece.at]):
            yield tensor, part.astype(dtype or part.dtype, copy=False)
        del array
