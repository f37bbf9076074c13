"""One row of every batch, and how it is filled: a lane.

    lane r:  element r, r + rows, r + 2 rows, ... of every source's stream  -->  row r of batch 0, 1, 2, ...

A lane draws from the source that is furthest behind its weight, one piece after another (a piece is an
example, or as much of a long one as fills a row), keeps a few of them waiting, and fills a row with the
one that waited longest and those that fit best beside it. Slots that are left are filled with further
questions about the videos in the row.

What a row holds depends on the seed, the sources, its lane and how many rows the lane has given: not on which
process fills it. The state of a lane is a few integers; what is waiting is drawn again from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ringvision.data.fit import best_subset, with_spare_turns
from ringvision.data.mixture import Mixture
from ringvision.data.packing import Batch, Piece, cut, fill_row, whole
from ringvision.data.sources import BadRecord
from ringvision.data.stream import Example
from ringvision.errors import UserError

AHEAD = 4
"""How many rows' worth of tokens wait at most: some choice fills rows better than none."""
WINDOW = 32
"""How many pieces wait at most."""
FRUITLESS = 1000
"""After so many examples in a row of which nothing can be learned, nothing is expected of the source."""


class Address(NamedTuple):
    """Where a piece comes from: which source, where in its stream, at which step of the lane the example was
    begun, and which piece of it this is.
    """

    source: int
    position: int
    step: int
    part: int


@dataclass
class Waiting:
    """A piece that was drawn and has no row yet. example: where the piece is the whole of it."""

    address: Address
    piece: Piece
    example: Example | None

    @property
    def size(self) -> int:
        return len(self.piece.tokens)


@dataclass
class Feed:
    """Where a lane is in the stream of one source.

    position: of the current example. part: the next piece of it; 0: it is not begun. step: of the lane when
    it was begun. served: tokens, or examples, that count as taken from this source. pieces: of the current
    example.
    """

    position: int
    served: int
    part: int = 0
    step: int = 0
    example: Example | None = None
    pieces: Sequence[Piece] = ()


class Lane:
    """The rows of one lane, one after another.

    Args:
        mixture: what it draws from.
        row: which row of every batch it fills.
        state: what `state` returned, to go on from there; None: from the start.

    Raises:
        UserError: a state of another number of sources.
    """

    def __init__(self, mixture: Mixture, row: int, state: Mapping[str, Any] | None = None) -> None:
        self.row = row
        self.given = 0
        self.drawn = 0
        self.contents: list[tuple[Address, Piece]] = []
        """What the newest row is made of, in its order."""
        self.bad: list[str] = []
        """What is wrong with the records that could not be read; not those of before `state`."""
        self._bad_before = 0
        self._mixture = mixture
        self._data = mixture.data
        self._feeds = [Feed(row, served) for served in mixture.first_shares(row)]
        self._waiting: list[Waiting] = []
        if state is not None:
            self._restore(state)

    def state(self) -> dict[str, Any]:
        """All that the next rows depend on, as plain values that JSON can hold."""
        return {
            "given": self.given,
            "drawn": self.drawn,
            "bad": self._bad_before + len(self.bad),
            "feeds": [[feed.position, feed.served, feed.part, feed.step] for feed in self._feeds],
            "waiting": [list(waiting.address) for waiting in self._waiting],
        }

    def next_row(self) -> Batch:
        """The next row, arrays [length]. UserError where nothing can be learned of a source."""
        length = self._data.length
        self._draw()
        full = next((index for index, one in enumerate(self._waiting) if one.size == length), None)
        chosen = self._choose() if full is None else [self._waiting.pop(full)]
        self._ask_more(chosen)
        self.given += 1
        self.contents = [(one.address, one.piece) for one in chosen]
        starts = []
        start = 0
        for one in chosen:
            starts.append(start)
            start += one.size
        return fill_row([one.piece for one in chosen], starts, length)

    def _choose(self) -> list[Waiting]:
        """Take the pieces of a row from those that wait: the one that waited longest, and in rows of many
        small pieces those after it, then whatever fills the rest best.
        """
        free = self._data.length
        chosen: list[Waiting] = []
        while True:
            fitting = [index for index, one in enumerate(self._waiting) if one.size <= free]
            if not fitting or (chosen and free <= sum(self._waiting[index].size for index in fitting) / 2):
                break
            chosen.append(self._waiting.pop(fitting[0]))
            free -= chosen[-1].size
            self._draw()
        best = best_subset([one.size for one in self._waiting], free)
        chosen += [self._waiting[index] for index in best]
        self._waiting = [one for index, one in enumerate(self._waiting) if index not in best]
        return chosen

    # ---------------------------------------------------------------------------------------- drawing

    def _draw(self) -> None:
        """Draw until enough is waiting, or a piece that is a row by itself, which nothing can be put
        beside.
        """
        length = self._data.length
        while (
            len(self._waiting) < WINDOW
            and sum(one.size for one in self._waiting) < AHEAD * length
            and not any(one.size == length for one in self._waiting)
        ):
            self._waiting.append(self._next_piece())

    def _next_piece(self) -> Waiting:
        bad = len(self.bad)
        for _ in range(FRUITLESS):
            source = self._furthest_behind()
            feed = self._feeds[source]
            if not feed.part and not self._begin(source, feed):
                continue
            address = Address(source, feed.position, feed.step, feed.part)
            one = _waiting(address, feed.example, feed.pieces)
            feed.part += 1
            if feed.part == len(feed.pieces):
                self._pass(feed)
            if one.piece.loss_weights.any():
                if self._data.weights_by == "tokens":
                    feed.served += one.size
                return one
        if len(self.bad) - bad == FRUITLESS:
            raise UserError(
                f"{self._mixture.sources[source].name}: {FRUITLESS} records one after another cannot be "
                f"read, the last of them because: {self.bad[-1]}; mend them, or leave the source out"
            )
        raise UserError(
            f"{self._mixture.sources[source].name}: nothing can be learned of {FRUITLESS} documents one "
            "after another; leave it out, or let more of them count (such as vision_weight)"
        )

    def _furthest_behind(self) -> int:
        weights = [source.weight for source in self._data.sources]
        return min(
            (number for number, weight in enumerate(weights) if weight > 0),
            key=lambda number: self._feeds[number].served / weights[number],
        )

    def _begin(self, source: int, feed: Feed) -> bool:
        """Read the example at the feed's position. False, and the feed goes on, where it is a bad record."""
        self.drawn += 1
        feed.step = self.given
        try:
            self._read(source, feed)
        except BadRecord as error:
            self.bad.append(str(error))
            self._pass(feed)
            return False
        if self._data.weights_by == "examples":
            feed.served += 1
        return True

    def _read(self, source: int, feed: Feed) -> None:
        feed.example = self._mixture.example(source, feed.position, feed.step)
        feed.pieces = self._cut(feed.example)

    def _pass(self, feed: Feed) -> None:
        feed.position += self._data.rows
        feed.part = 0
        feed.example = None
        feed.pieces = ()

    def _cut(self, example: Example) -> list[Piece]:
        return cut(whole(example), self._data.length, self._mixture.max_length)

    def _ask_more(self, chosen: list[Waiting]) -> None:
        """Add questions that are to spare to the examples of a row, until it is full."""
        free = self._data.length - sum(one.size for one in chosen)
        open_ones = [one for one in chosen if one.example is not None and one.example.spare]
        if not open_ones or free <= 0:
            return
        grown = with_spare_turns([one.example for one in open_ones if one.example is not None], free)
        for one, example in zip(open_ones, grown, strict=True):
            before = one.size
            one.piece = whole(example)
            if self._data.weights_by == "tokens":
                self._feeds[one.address.source].served += one.size - before

    # --------------------------------------------------------------------------------------- resuming

    def _restore(self, state: Mapping[str, Any]) -> None:
        if len(state["feeds"]) != len(self._feeds):
            raise UserError(
                f"the state of the data is of {len(state['feeds'])} sources and the config has "
                f"{len(self._feeds)}; go on with the sources that the run began with"
            )
        self.given = state["given"]
        self.drawn = state["drawn"]
        self._bad_before = state["bad"]
        for source, (feed, (position, served, part, step)) in enumerate(
            zip(self._feeds, state["feeds"], strict=True)
        ):
            feed.position = position
            feed.served = served
            feed.part = part
            feed.step = step
            if part:
                self._read(source, feed)
        held: dict[Address, tuple[Example, list[Piece]]] = {}
        for values in state["waiting"]:
            address = Address(*values)
            document = address._replace(part=0)  # what the piece is of
            if document not in held:
                example = self._mixture.example(address.source, address.position, address.step)
                held[document] = example, self._cut(example)
            self._waiting.append(_waiting(address, *held[document]))


def _waiting(address: Address, example: Example | None, pieces: Sequence[Piece]) -> Waiting:
    return Waiting(address, pieces[address.part], example if len(pieces) == 1 else None)
