"""Generating: rows of one cache that read and draw a token each, step by step.

    logits ─sampler of each row→ tokens ─read→ logits

In: rows that have read their prompts (engine.py), and for each a sampler, or a pair of rows for guidance.
Out: ids. Rows join while others are on their way, leave, and make place for the next; how many there are is a
power of two, so that few programs are compiled. The next token is a function of logits, key and the number
of the draw alone: whoever joins or leaves, a row gives what it gives alone.

    batch = DecodeBatch(engine, rows=1, slots=256)
    batch.read({0: prompt})
    batch.sample(0, Sampler())
    tokens = list(batch.decode(0, max_tokens=20))
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from ringvision.errors import UserError
from ringvision.infer.engine import SHORTEST, Engine, Prefix, Rows, next_logits
from ringvision.infer.sampler import RowState, Sampler, draw, resting_rows
from ringvision.models.cache import Cache
from ringvision.models.transformer import Transformer

SCORED = 32
"""Tokens that are scored are padded to a multiple of so many."""


class DecodeBatch(Rows):
    """Rows that generate. A row that leaves keeps its slots until another is put there."""

    def __init__(
        self,
        engine: Engine,
        rows: int,
        slots: int,
        *,
        prefix: Prefix | None = None,
        ids: tuple[int, int] | None = None,
        one_draw: bool = False,
        shortest: int = SHORTEST,
    ) -> None:
        """An empty batch.

        Args:
            engine: whose model reads.
            rows: how many are needed at least; see `row_count`.
            slots: of each row, at least; see `Engine.slots_for`.
            prefix: what all rows have read before their own tokens.
            ids: the range that is generated, from the first up to but without the second (None: any id).
            one_draw: all rows draw with the key of the first, each its own part of one draw.
            shortest: slots of the shortest cache.
        """
        super().__init__(engine, row_count(engine, rows), slots, prefix=prefix, ids=ids, shortest=shortest)
        self.one_draw = one_draw
        self._samplers = resting_rows(self.count)
        self._state: RowState | None = None
        self._static: dict[str, Any] = {}
        self._unforced = self.engine.everywhere(np.full(self.count, -1, np.int32))

    # ----------------------------------------------------------------------------------- rows come and go

    def begin(self, rows: Collection[int]) -> None:
        """These rows, which are empty, go on from the prefix: the next step must force a token."""
        self.alive[list(rows)] = True
        self._changed()

    def leave(self, row: int) -> None:
        """Marks the row as free; its slots stay until another prompt is put there."""
        self.alive[row] = False
        self._state = None

    def insert(self, row: int, other: "DecodeBatch") -> None:
        """Puts what the rows of `other` have read, all of them the same over the same prefix, into a row."""
        if other.cache.length > self.cache.length:
            self.reserve(other.cache.length - self.cache.length + self.free([row]), [row])
        with self.engine.lock:
            self.cache, self.logits = self.engine.of_cache(_insert, "cw", mesh=self.engine.model.mesh)(
                self.cache, self._last_logits(), other.cache, other.logits, np.int32(row)
            )
        self.lengths[row] = other.lengths[0]
        self._fill[:, row] = other._fill[:, 0]
        self.alive[row] = True
        self._state = None

    def select(self, rows: Sequence[int]) -> None:
        """Rearranges the batch.

        rows: the old row that each new one is, -1 for an empty one; see `row_count`.
        """
        index = np.array(rows, np.int32)
        with self.engine.lock:
            self.cache, self.logits = self.engine.of_cache(_select, "cw", donate=False)(
                self.cache, self.logits, index
            )
        there = index >= 0
        self.count = len(index)
        self._unforced = self.engine.everywhere(np.full(self.count, -1, np.int32))
        self.lengths = np.where(there, self.lengths[index], self.start).astype(np.int32)
        self.alive = there & self.alive[index]
        self._fill = np.where(there, self._fill[:, index], 0)
        moved = {int(old): new for new, old in enumerate(index) if old >= 0}
        for name, value in self._samplers.items():
            chosen = value[index]
            if name in ("given", "without"):
                chosen = np.array([moved.get(int(old), new) for new, old in enumerate(chosen)], np.int32)
            self._samplers[name] = chosen
        self._state = None

    # --------------------------------------------------------------------------------------- generating

    def sample(
        self, row: int, sampler: Sampler, *, first: int = 0, without: int | None = None, scale: float = 1.0
    ) -> None:
        """How the row's tokens are drawn from now on.

        Args:
            row: which one.
            sampler: its settings and seed.
            first: the number of the next draw, which with the seed decides it.
            without: the row of a second prompt, which reads the same tokens; they are drawn from
                without + scale * (row - without), the two rows' logits (classifier-free guidance: Ho and
                Salimans, 2022).
            scale: of guidance.
        """
        for each in (row,) if without is None else (row, without):
            values = {
                "key": sampler.key_data(),
                "temperature": sampler.temperature,
                "top_k": sampler.top_k,
                "top_p": sampler.top_p,
                "draws": first,
                "given": row,
                "without": row if without is None else without,
                "scale": scale,
            }
            for name, value in values.items():
                self._samplers[name][each] = value
        self._state = None

    @property
    def tokens(self) -> jax.Array:
        """int32 [R]: the tokens that were drawn and not read yet."""
        return self._current().token

    @property
    def log_probabilities(self) -> jax.Array:
        """float32 [R]: of `tokens`, among the ids that may be generated; see `sampler.draw`."""
        return self._current().log_probability

    def step(self, forced: int | None = None) -> None:
        """decode_step: every live row reads the token that it drew, and draws the next.

        With `forced`, every live row reads that id instead; the token it had drawn is discarded, and the next
        is drawn with the same draw number.
        """
        state = self._current()
        given = self._unforced if forced is None else np.full(self.count, forced, np.int32)
        self._state, self.logits, self.cache = self._call(
            _step, "wwc", self._static, state=state, forced=given
        )
        self.lengths = self.lengths + self.alive
        alive = np.flatnonzero(self.alive)
        self._fill[np.argmin(self._fill[:, alive], axis=0), alive] += 1
        if forced is None:
            self._samplers["draws"] += 1

    def decode(self, row: int, max_tokens: int, stop: Collection[int] = ()) -> Iterator[int]:
        """Yields up to `max_tokens` ids of a row, the one in `stop` that ends them included. The last one is
        not read into the row.
        """
        if not self.alive[row]:
            raise UserError("nothing was read yet; read at least one token before generating")
        for index in range(max_tokens):
            drawn = self.tokens
            last = index + 1 == max_tokens
            if not last and not stop:
                self.step()  # the devices are at work on what follows while this token is looked at
            token = int(np.asarray(drawn)[row])
            yield token
            if token in stop:
                return
            if not last and stop:
                self.step()

    def score(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """How much each row, asked `question` (int32 [n]), expects `answer` (int32 [m]): log-probabilities,
        float32 [R]. What was asked is forgotten again.
        """
        asked = np.concatenate([question, answer]).astype(np.int32)
        tokens = np.zeros(slots_to_score(self.engine, len(asked)), np.int32)
        targets = np.full(tokens.shape, -1, np.int32)
        tokens[: len(asked)] = asked
        targets[len(question) - 1 : len(asked) - 1] = answer
        score, self.cache = self._call(
            _score,
            "wc",
            {},
            tokens=tokens,
            targets=targets,
            lengths=self.lengths.copy(),
            alive=self.alive.astype(np.int32),
            count=np.array(len(asked), np.int32),
        )
        return np.asarray(score)

    def _current(self) -> RowState:
        if self._state is None:
            token = np.zeros(self.count, np.int32)
            # copies: jax may read a numpy array where it lies, after this has gone on to change it
            draws = {name: value.copy() for name, value in self._samplers.items()}
            alive = self.alive.astype(np.int32)
            none_yet = np.zeros(self.count, np.float32)
            state = RowState(token, self.lengths.copy(), alive, none_yet, **draws)  # type: ignore[arg-type]
            guided = bool((self._samplers["given"] != self._samplers["without"]).any())
            self._static = {"ids": self.ids, "guided": guided, "one_draw": self.one_draw}
            choose = self.engine.of_cache(_choose, "w", donate=False, **self._static)
            with self.engine.lock:
                self._state = choose(self._last_logits(), state)
        return self._state

    def _changed(self) -> None:
        self._state = None  # drawn again from the logits, which gives the same


def row_count(engine: Engine, rows: int) -> int:
    """How many rows a batch for so many has: a power of two times the mesh's data x fsdp."""
    each = 1
    while each * engine.shares < rows:
        each *= 2
    return each * engine.shares


def slots_to_score(engine: Engine, tokens: int) -> int:
    """Slots that `DecodeBatch.score` takes for question and answer together, until they are forgotten."""
    step = -(-SCORED // engine.ring) * engine.ring
    return -(-tokens // step) * step


def _insert(
    cache: Cache, logits: jax.Array, other: Cache, others: jax.Array, row: jax.Array, *, mesh: Mesh
) -> tuple[Cache, jax.Array]:
    return cache.insert(row, other, mesh=mesh), logits.at[row].set(others[0])


def _select(cache: Cache, logits: jax.Array, rows: jax.Array) -> tuple[Cache, jax.Array]:
    return cache.select(rows), jnp.take(logits, jnp.maximum(rows, 0), axis=0)


def _step(
    params: Any,
    *,
    cache: Cache,
    state: RowState,
    forced: jax.Array,
    prefix: Cache | None = None,
    shared: jax.Array | None = None,
    graphdef: Any,
    mesh: Mesh,
    ids: tuple[int, int],
    guided: bool,
    one_draw: bool,
) -> tuple[RowState, jax.Array, Cache]:
    """decode_step: each row's drawn token, or its `forced` one (int32 [R], -1: none), is read."""
    model: Transformer = nnx.merge(graphdef, params)
    token, position, alive = (
        x[:, None] for x in (jnp.where(forced >= 0, forced, state.token), state.position, state.alive)
    )  # (R, 1) each
    hidden, cache = model.extend(token, position, alive, cache, mesh=mesh, prefix=prefix, shared=shared)
    logits = next_logits(model, hidden[:, 0], ids, mesh)
    state = replace(
        state,
        position=state.position + state.alive,
        draws=state.draws + (forced < 0).astype(jnp.int32),
    )
    return _choose(logits, state, ids=ids, guided=guided, one_draw=one_draw), logits, cache


def _choose(
    logits: jax.Array, state: RowState, *, ids: tuple[int, int], guided: bool, one_draw: bool
) -> RowState:
    token, log_probability = draw(logits, state, guided=guided, one_draw=one_draw)
    return replace(state, token=ids[0] + token, log_probability=log_probability)


def _score(
    params: Any,
    *,
    cache: Cache,
    tokens: jax.Array,
    targets: jax.Array,
    lengths: jax.Array,
    alive: jax.Array,
    count: jax.Array,
    prefix: Cache | None = None,
    shared: jax.Array | None = None,
    graphdef: Any,
    mesh: Mesh,
) -> tuple[jax.Array, Cache]:
    """tokens, targets int32 [T] for all rows -> sum over targets (-1: none) of log p after each token,
    float32 [R], and the cache as it was.
    """
    model: Transformer = nnx.merge(graphdef, params)
    index = jnp.arange(len(tokens), dtype=jnp.int32)
    real = (alive[:, None] > 0) & (index < count)  # (R, T)
    rows = jnp.broadcast_to(tokens, real.shape)
    positions = lengths[:, None] + index
    hidden, after = model.extend(
        rows, positions, real.astype(jnp.int32), cache, mesh=mesh, prefix=prefix, shared=shared
    )
    logits = jnp.einsum("RTD,DV->RTV", hidden, model.head(), preferred_element_type=jnp.float32)
    chosen = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[None, :, None], axis=-1)[..., 0]  # (R, T)
    score = jnp.sum(jnp.where(targets >= 0, chosen - jax.nn.logsumexp(logits, axis=-1), 0), axis=1)
    return score, replace(after, segment_ids=cache.segment_ids, fill=cache.fill)
