"""Requests in, streams of tokens out: several at once as one batch, joining and leaving while others go on.

    DecodeRequest ─submit→ TokenStream ─iterate→ ids
                              └─ whoever waits for a token drives the whole batch, one step at a time

Requests that go on from the same prefix (or from none) and generate the same range of ids are rows of one
batch. A row is freed when its answer ends: by a stop, by its length, or because its stream was dropped. The
last row takes the batch with it.
"""

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ringvision.errors import UserError
from ringvision.infer.decode_batch import DecodeBatch, row_count
from ringvision.infer.engine import Engine, Prefix
from ringvision.infer.sampler import Sampler

GREEDY = Sampler()
TOGETHER = 4096
"""Tokens, padding included, of prompts that are read together; longer ones are read one after another."""


@dataclass(frozen=True)
class DecodeRequest:
    """What is to be generated.

    tokens: int32 [n], n of at least 1, what stands behind the prefix. prefix: what was read before. ids: the
    range that is generated, from the first up to but without the second (None: any id). stop: ids that end
    it. without: int32 [m], a second prompt, and scale: tokens are drawn from without + scale * (tokens -
    without), both prompts' logits. log_probabilities: whether its stream also tells how likely each id was.
    """

    tokens: np.ndarray
    sampler: Sampler = GREEDY
    max_tokens: int = 128
    stop: Collection[int] = ()
    prefix: Prefix | None = None
    ids: tuple[int, int] | None = None
    without: np.ndarray | None = None
    scale: float = 1.0
    log_probabilities: bool = False

    @property
    def prompts(self) -> list[np.ndarray]:
        """int32 [n] for each row that it takes."""
        return [self.tokens] if self.without is None else [self.tokens, self.without]

    @property
    def group(self) -> tuple[Any, ...]:
        """Requests with equal ones can be rows of one batch."""
        if self.prefix is None:
            return None, 0, self.ids
        return id(self.prefix.cache), len(self.prefix), self.ids


class TokenStream:
    """The ids of one request as they come, the one that ends them included. Dropped or closed half-way, its
    row is freed.

    log_probabilities: of the ids that were taken, natural logarithms; empty where they were not asked for.
    """

    def __init__(self, scheduler: "Scheduler", request: DecodeRequest) -> None:
        self.request = request
        self._scheduler = scheduler
        self._row = _Row(request)
        self.log_probabilities: list[float] = []

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        drawn = self._scheduler._next(self._row)
        if drawn is None:
            raise StopIteration
        token, log_probability = drawn
        if self.request.log_probabilities:
            self.log_probabilities.append(log_probability)
        return token

    def close(self) -> None:
        """Ends the request; its row is freed now, or before the next step if another thread is stepping."""
        self._row.closed = True
        self._scheduler._sweep()

    def __del__(self) -> None:
        self.close()


@dataclass(eq=False)
class _Row:
    """A request on its way: what it has drawn and nobody has taken yet, and the rows of the batch that are
    its own.
    """

    request: DecodeRequest
    places: list[int] = field(default_factory=list)
    waiting: deque[tuple[int, float]] = field(default_factory=deque)
    drawn: int = 0
    closed: bool = False
    """Set without the lock: a stream may be dropped anywhere, in a thread that holds it as well."""
    done: bool = False
    failed: BaseException | None = None
    running: "_Running | None" = None


@dataclass(eq=False)
class _Running:
    group: tuple[Any, ...]
    batch: DecodeBatch
    rows: list[_Row] = field(default_factory=list)


class Scheduler:
    """The requests to one engine. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._running: list[_Running] = []
        self._lock = threading.Lock()

    def submit(self, requests: Sequence[DecodeRequest]) -> list[TokenStream]:
        """Reads the requests' tokens and draws the first of each; -> their streams.

        Raises:
            UserError: for a request without tokens or with more than the model reads; then none is begun.
        """
        limit = self.engine.model.config.max_length
        for request in requests:
            before = 0 if request.prefix is None else len(request.prefix)
            longest = max(map(len, request.prompts))
            if min(map(len, request.prompts)) < 1 or request.max_tokens < 1:
                raise UserError("nothing is to be read or generated; give at least one token, and at least 1")
            if before + longest > limit:
                raise UserError(
                    f"{before + longest} tokens were to be read; the model reads at most {limit}: shorten "
                    "the question or the video"
                )
        streams = [TokenStream(self, request) for request in requests]
        with self._lock:
            self._remove_closed()
            for group in dict.fromkeys(request.group for request in requests):
                self._admit(group, [stream._row for stream in streams if stream.request.group == group])
        return streams

    @property
    def alive(self) -> int:
        """Requests that are on their way."""
        return sum(len(running.rows) for running in self._running)

    def _next(self, row: _Row) -> tuple[int, float] | None:
        """The row's next id and its log-probability (0 where nobody asked for it), None behind its last;
        steps the batch until there is one.
        """
        while True:
            with self._lock:
                if row.closed:
                    return None
                if row.waiting:
                    return row.waiting.popleft()
                if row.failed is not None:
                    raise RuntimeError(
                        "the batch that this answer was part of was interrupted"
                    ) from row.failed
                if row.done:
                    return None
                assert row.running is not None
                self._step(row.running)

    def _step(self, running: _Running) -> None:
        self._remove_closed()
        if not running.rows:
            return
        try:
            self._give_back_rows(running)
            running.batch.step()
            self._deliver(running, running.rows)
        except BaseException as error:
            self._abandon(running, error)
            raise

    def _deliver(self, running: _Running, rows: Sequence[_Row]) -> None:
        """Hands out what these rows have drawn; those that have ended leave."""
        tokens = np.asarray(running.batch.tokens)
        asked = any(row.request.log_probabilities for row in rows)
        logs = np.asarray(running.batch.log_probabilities) if asked else np.zeros(len(tokens))
        for row in list(rows):
            token = int(tokens[row.places[0]])
            row.waiting.append((token, float(logs[row.places[0]])))
            row.drawn += 1
            if token in row.request.stop or row.drawn == row.request.max_tokens:
                row.done = True
                self._leave(row)

    def _leave(self, row: _Row) -> None:
        running = row.running
        if running is None:
            return
        for place in row.places:
            running.batch.leave(place)
        running.rows.remove(row)
        row.running = None
        if not running.rows:
            self._running.remove(running)

    def _abandon(self, running: _Running, error: BaseException) -> None:
        """A step was interrupted, and its cache is gone with it."""
        for row in running.rows:
            row.failed = error
            row.running = None
        running.rows = []
        self._running = [other for other in self._running if other is not running]

    def _remove_closed(self) -> None:
        for running in list(self._running):
            for row in [row for row in running.rows if row.closed]:
                self._leave(row)

    def _sweep(self) -> None:
        """Frees the rows of closed streams, at once where nobody is at work, otherwise before the next
        step.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._remove_closed()
            finally:
                self._lock.release()

    # ------------------------------------------------------------------------------------------- joining

    def _admit(self, group: tuple[Any, ...], rows: list[_Row]) -> None:
        running = next((running for running in self._running if running.group == group), None)
        began = running is None
        if running is None:
            running = _Running(group, self._begin(rows))
            self._running.append(running)
        try:
            self._make_places(running, rows)
            batch = running.batch
            prompts = {
                place: np.asarray(tokens, np.int32)
                for row in rows
                for place, tokens in zip(row.places, row.request.prompts)
            }
            longest = max(map(len, prompts.values()))
            if began and (len(prompts) == 1 or batch.count * longest <= TOGETHER):
                batch.reserve(max(self._slots(row) for row in rows))
                batch.read(prompts)
            else:
                for row in rows:
                    self._insert(batch, row)
            for row in rows:
                without = row.places[1] if row.places[1:] else None
                batch.sample(row.places[0], row.request.sampler, without=without, scale=row.request.scale)
                row.running = running
            running.rows += rows
            self._deliver(running, rows)
        except BaseException as error:
            self._abandon(running, error)
            raise

    def _begin(self, rows: list[_Row]) -> DecodeBatch:
        request = rows[0].request
        needed = sum(len(row.request.prompts) for row in rows)
        slots = max(map(self._slots, rows))
        return DecodeBatch(self.engine, needed, slots, prefix=request.prefix, ids=request.ids)

    def _slots(self, row: _Row) -> int:
        longest = max(map(len, row.request.prompts))
        return self.engine.slots_for(longest, generate=row.request.max_tokens)

    def _make_places(self, running: _Running, rows: list[_Row]) -> None:
        """Gives each of the rows its places in the batch, which is made larger where they are too few."""
        batch = running.batch
        needed = sum(len(row.request.prompts) for row in rows)
        there = batch.count
        taken = [place for row in running.rows for place in row.places]
        if len(taken) + needed > there:
            batch.select([*range(there), *[-1] * (row_count(self.engine, len(taken) + needed) - there)])
        free = iter(sorted(set(range(batch.count)) - set(taken)))
        for row in rows:
            row.places = [next(free) for _ in row.request.prompts]

    def _give_back_rows(self, running: _Running) -> None:
        """A batch of which three in four rows are free is made smaller."""
        taken = [place for row in running.rows for place in row.places]
        count = row_count(self.engine, len(taken))
        if 4 * count > running.batch.count:
            return
        running.batch.select([*taken, *[-1] * (count - len(taken))])
        for row in running.rows:
            row.places = [taken.index(place) for place in row.places]

    def _insert(self, batch: DecodeBatch, row: _Row) -> None:
        """Reads a request's prompts by themselves and puts them into its rows."""
        for place, tokens in zip(row.places, row.request.prompts):
            alone = DecodeBatch(
                self.engine,
                1,
                self.engine.slots_for(len(tokens)),
                prefix=batch.prefix,
                ids=batch.ids,
            )
            alone.read(dict.fromkeys(range(alone.count), tokens))
            batch.insert(place, alone)
            batch.reserve(self._slots(row) - len(tokens), [place])
