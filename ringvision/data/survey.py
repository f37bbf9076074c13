"""What a loader gives first, counted: the rows of its lanes by source, and the documents of a source.

Loader  --fill_rows-->  Shares of each source;   --first_documents-->  FirstDocuments of one
"""

from dataclasses import dataclass, field

import numpy as np

from ringvision.data.loader import Loader
from ringvision.data.packing import Piece
from ringvision.data.sources import BadRecord
from ringvision.data.stream import Example, PromptProcessor

DOCUMENTS = 256
"""Documents of each source whose lengths are taken."""
MOST_TOKENS = 1 << 23
"""Tokens of a source after which no further documents are read."""


@dataclass
class Shares:
    """What the rows hold of one source. examples: documents begun. loss_text, loss_vision: loss weight on
    words and on codes.
    """

    tokens: int = 0
    examples: int = 0
    loss_text: float = 0.0
    loss_vision: float = 0.0

    @property
    def loss(self) -> float:
        return self.loss_text + self.loss_vision


@dataclass
class FirstDocuments:
    """What the first documents of a source are. shown: the first of them, with their numbers."""

    lengths: list[int] = field(default_factory=list)
    empty: int = 0
    bad: list[str] = field(default_factory=list)
    shown: list[tuple[int, Example]] = field(default_factory=list)


def fill_rows(loader: Loader, processor: PromptProcessor, rows: int) -> tuple[list[Shares], list[int], int]:
    """Fill the rows that a run gets first.

    Args:
        loader: of the run.
        processor: what its sources were opened with.
        rows: how many.

    Returns:
        What they hold of each source, how many tokens are in each row, and how many pieces in all.
    """
    shares = [Shares() for _ in loader.sources]
    lanes = [loader.lane(row) for row in range(min(rows, loader.data.rows))]
    filled = []
    pieces = 0
    for number in range(rows):
        lane = lanes[number % len(lanes)]
        lane.next_row()
        filled.append(sum(len(piece.tokens) for _, piece in lane.contents))
        pieces += len(lane.contents)
        for address, piece in lane.contents:
            _add(shares[address.source], piece, processor)
            shares[address.source].examples += address.part == 0
    return shares, filled, pieces


def _add(share: Shares, piece: Piece, processor: PromptProcessor) -> None:
    vision = processor.vocabulary.is_vision(piece.targets)
    share.tokens += len(piece.tokens)
    share.loss_text += float(piece.loss_weights[~vision].sum(dtype=np.float64))
    share.loss_vision += float(piece.loss_weights[vision].sum(dtype=np.float64))


def first_documents(loader: Loader, source: int, shown: int) -> FirstDocuments:
    """The documents that come first in a source's stream.

    Args:
        loader: of the run.
        source: the number of the source.
        shown: how many of the documents are kept.

    Returns:
        Their lengths, and how many are empty or bad.
    """
    found = FirstDocuments()
    tokens = 0
    for position in range(min(DOCUMENTS, len(loader.sources[source]))):
        if tokens > MOST_TOKENS:
            break
        try:
            index, example = loader.document(source, position)
        except BadRecord as error:
            found.bad.append(str(error))
            continue
        if not example.loss_mask[1:].any():
            found.empty += 1
            continue
        tokens += len(example.tokens)
        found.lengths.append(len(example.tokens))
        if len(found.shown) < shown:
            found.shown.append((index, example))
    return found
