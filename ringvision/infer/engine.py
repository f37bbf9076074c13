"""The engine: tokens read into the rows of a cache that is spread over the ring.

    prompt ─blocks→ Prefix (read once, never changed, for any number of readers)
                       └─ Rows: go on from it, each with tokens and positions of its own

What it knows: a model, its mesh, its compiled functions, the rows of one cache and how long each is. What it
does not know: how tokens are drawn (decode_batch.py), whose a row is and when an answer ends (scheduler.py),
text and videos (processor.py and the policies: assistant, chat, image_generation).

Blocks have few sizes, caches few lengths and batches few numbers of rows, so that another prompt compiles
nothing anew. A cache is donated to every call: there is one copy of it, and it never leaves the devices where
it was made. What is the same for all rows is read once, as a prefix, and attention to it merged with
attention to a row's own tokens by their log-sum-exps. A block whose tokens see only so many before them, as
those of a video may, looks at the end of a long cache alone: it takes as long however much was read.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.errors import UserError
from ringvision.infer.model import Model
from ringvision.mesh import num_shards
from ringvision.models.cache import DTYPES, Cache, shardings, spread
from ringvision.models.transformer import Transformer, TransformerConfig

BLOCKS = (1024, 256, 64)
"""Tokens that prefill reads at a time, largest first."""
ROW_BLOCK = 16
"""Rows, whose own tokens may be a question's few, are also read in blocks of so many."""
SHORTEST = 256
"""Slots of the shortest caches."""
QUARTERS = 1024
SIXTEENTHS = 16384
"""Up to QUARTERS the lengths of caches are powers of two; from there they are also a quarter, a half and
three quarters of the way from one to the next, and from SIXTEENTHS on every sixteenth: what is reserved and
not used is little beside what is, and still few programs are compiled.
"""
FAR = 16
"""A block of which no token sees further back than some tokens looks at these alone, by a program of its own,
where there are at least so many times as many slots on a device: among fewer ones nothing is saved.
"""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prefix:
    """Tokens that were read once. Nobody changes it, so several may read it at the same time, and it lives as
    long as somebody does.

    cache: a row for every share of the batch (mesh axes data x fsdp), all alike; of it only the positions
    below n are looked at. tokens: int32 [n]. frames: how many of video there are among them.
    """

    cache: Cache
    tokens: np.ndarray
    frames: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Of the cache, over all devices."""
        return self.cache.nbytes

    def first(self, length: int, frames: int = 0) -> "Prefix":
        """The first `length` tokens alone, in the same cache."""
        return Prefix(self.cache, self.tokens[:length], frames)


class Engine:
    """The compiled functions of one model on its mesh. Safe to use from several threads: programs reach all
    devices in one order, without which two that exchange data would wait for each other.
    """

    def __init__(
        self, model: Model, *, blocks: Sequence[int] = BLOCKS, cache_dtype: str | None = None
    ) -> None:
        """
        Args:
            model: whose functions are compiled.
            blocks: tokens that are read at a time; rounded up to what the ring divides.
            cache_dtype: of keys and values, one of `models.cache.DTYPES`; None: the weights'.

        Raises:
            UserError: for a type that no cache has.
        """
        if cache_dtype not in (None, *DTYPES):
            raise UserError(
                f"cache_dtype={cache_dtype!r} was given; expected {', '.join(DTYPES)}, or none for the "
                "weights' own"
            )
        self.model = model
        self.cache_dtype = jnp.dtype(cache_dtype or model.params["embed"]["table"].dtype)
        self.shares = num_shards(model.mesh, "batch")
        self.ring = num_shards(model.mesh, "length")
        self.blocks = self._multiples(blocks)
        self.row_blocks = self._multiples([*blocks, min(ROW_BLOCK, *blocks)])
        self.lock = threading.Lock()
        self._functions: dict[tuple[Any, ...], Any] = {}

    def prefill(
        self, tokens: np.ndarray, *, after: Prefix | None = None, progress: Progress | None = None
    ) -> Prefix:
        """Reads tokens into a prefix.

        Args:
            tokens: int32 [n], of at least 1.
            after: a prefix that begins as `tokens` do: what they share is copied and not read again.
            progress: called with tokens read, of how many, now and then.

        Raises:
            UserError: where the model reads fewer.
        """
        tokens = np.asarray(tokens, np.int32)
        start = 0 if after is None else shared_length(after.tokens, tokens)
        rest = self.slots_for(len(tokens) - start, blocks=self.blocks)
        begun = after.first(start) if after is not None and start else None
        rows = Rows(self, self.shares, start + rest, blocks=self.blocks, begun=begun)
        if start:
            rows.reserve(rest)
        step = self.blocks[0] * 4
        for first in range(start, len(tokens), step):
            part = tokens[first : first + step]
            rows.read(dict.fromkeys(range(rows.count), part))
            if progress is not None:
                assert rows.logits is not None
                rows.logits.block_until_ready()
                progress(first + len(part), len(tokens))
        rows.cache.k.block_until_ready()
        return Prefix(rows.cache, tokens)

    def _multiples(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Sizes that the ring divides, largest first."""
        return tuple(sorted({-(-size // self.ring) * self.ring for size in sizes}, reverse=True))

    def plan(self, tokens: int, blocks: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """How `tokens` are read in `blocks` (None: the rows'): (block, tokens in it) each; the last block is
        padded.
        """
        blocks = blocks or self.row_blocks
        plan = []
        while tokens > 0:
            # Padding half a block costs less than the two or more blocks that would do without.
            block = next((size for size in blocks if 2 * tokens > size), blocks[-1])
            plan.append((block, min(block, tokens)))
            tokens -= block
        return plan

    def slots_for(self, *parts: int, generate: int = 0, blocks: Sequence[int] | None = None) -> int:
        """Slots of a row in which parts of so many tokens can be read one after another in `blocks` (None:
        the rows'), and then so many be generated.
        """
        taken = 0  # on the device that has the most
        needed = 0
        for part in parts:
            for block, count in self.plan(part, blocks):
                needed = max(needed, taken + block // self.ring)
                taken += -(-count // self.ring)
        return max(needed, taken + -(-generate // self.ring)) * self.ring

    def cache_length(self, slots: int, shortest: int) -> int:
        """The length of a cache with at least so many slots: `shortest` times a power of two, and from
        QUARTERS on also what lies between two of these (see SIXTEENTHS); a multiple of the ring.
        """
        length = shortest
        while 2 * length <= slots or (length < slots and length < QUARTERS):
            length *= 2
        step = max(1, length // (4 if length < SIXTEENTHS else 16))
        length += max(0, -(-(slots - length) // step)) * step
        return -(-length // self.ring) * self.ring

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache of the model's shape and of `cache_dtype`, with so many rows of `length` slots."""
        with self.lock:
            return _maker(self.model.config, rows, length, self.model.mesh, self.cache_dtype)()

    def grown(self, cache: Cache, length: int) -> Cache:
        """A copy with so many slots a row."""
        grow = self.of_cache(_grow, "c", donate=False, length=length, mesh=self.model.mesh)
        with self.lock:
            return grow(cache)

    def everywhere(self, array: np.ndarray) -> jax.Array:
        """array [...] of any shape and type -> the same, whole on every device of the mesh."""
        return jax.device_put(array, NamedSharding(self.model.mesh, PartitionSpec()))

    def of_model(self, function: Callable[..., Any], outputs: str, **static: Any) -> Any:
        """`function(params, *, cache, ..., graphdef, mesh, **static)`, compiled; see `_compiled`."""
        key = (function, *static.values())
        if key not in self._functions:  # for every step the model would have to be hashed again
            static |= {"graphdef": self.model.graphdef, "mesh": self.model.mesh}
            known = tuple(sorted(static.items()))
            self._functions[key] = _compiled(function, outputs, self.model.mesh, True, known)
        return self._functions[key]

    def of_cache(
        self, function: Callable[..., Any], outputs: str, *, donate: bool = True, **static: Any
    ) -> Any:
        """`function(cache, ..., **static)`, compiled.

        Args:
            function: gets the cache first.
            outputs: what it gives; see `_compiled`.
            donate: the cache is used up.
            static: what it is compiled for.

        Returns:
            The jitted function, which takes the cache and what else there is, without `static`.
        """
        return _compiled(function, outputs, self.model.mesh, donate, tuple(sorted(static.items())))


class Rows:
    """Rows of one cache, each with what it has read. Not safe to use from several threads at once.

    count: how many. lengths int32 [R]: tokens each row has read, the prefix included; also the position of
    its next token. alive bool [R]: rows that take part when all read or generate. logits float32
    [R, ids]: after the last token of each row.
    """

    def __init__(
        self,
        engine: Engine,
        count: int,
        slots: int,
        *,
        prefix: Prefix | None = None,
        ids: tuple[int, int] | None = None,
        shortest: int = SHORTEST,
        blocks: Sequence[int] | None = None,
        begun: Prefix | None = None,
    ) -> None:
        """Empty rows, or such that have read something.

        Args:
            engine: whose model reads.
            count: rows; a multiple of the mesh's data x fsdp.
            slots: of each row, at least; see `Engine.slots_for`.
            prefix: what all rows have read before their own tokens.
            ids: the range of which there are logits, from the first up to but without the second (None: all).
            shortest: slots of the shortest cache.
            blocks: in which they are read (None: `Engine.row_blocks`).
            begun: with a copy of whose tokens every share's row begins (None: with nothing).
        """
        self.engine = engine
        self.blocks = blocks or engine.row_blocks
        self.count = count
        self.prefix = prefix
        self.start = 0 if prefix is None else len(prefix)
        self.ids = ids or (0, engine.model.config.vocab_size)
        length = engine.cache_length(slots, shortest)
        if begun is None:
            self.cache = engine.empty_cache(count, length)
        else:
            self.cache = engine.grown(begun.cache, max(begun.cache.length, length))
        self.lengths = np.full(count, self.start, np.int32)
        self.alive = np.zeros(count, bool)
        self.logits: jax.Array | None = None
        self._shared = engine.everywhere(np.array(self.start, np.int32))
        self._fill = np.zeros((engine.ring, count), np.int32)  # as the cache's own, without asking for it
        if begun is not None:
            self.lengths[:] = len(begun)
            self._forget(self.lengths)

    def read(self, prompts: Mapping[int, np.ndarray], progress: Progress | None = None) -> None:
        """Prefill: appends tokens to rows, which are alive from then on.

        Args:
            prompts: by row int32 [n], of at least 1; other rows wait.
            progress: called with tokens read, of how many, where there are several blocks.

        Raises:
            UserError: where the model reads fewer tokens, or the rows have too few free slots for them.
        """
        longest = max(map(len, prompts.values()))
        self._check(prompts, longest)
        plan = self.engine.plan(longest, self.blocks)
        done = 0
        for block, count in plan:
            parts = {row: np.asarray(ids[done : done + block], np.int32) for row, ids in prompts.items()}
            self._read_block(block, {row: part for row, part in parts.items() if len(part)})
            done += count
            if progress is not None and len(plan) > 1:
                assert self.logits is not None
                self.logits.block_until_ready()
                progress(done, longest)
        self.alive[list(prompts)] = True

    def _read_block(self, block: int, parts: dict[int, np.ndarray]) -> None:
        tokens, positions, segment_ids = np.zeros((3, self.count, block), np.int32)  # (R, T) each
        last = np.full(self.count, -1, np.int32)
        ring = self.engine.ring
        share = block // ring
        for row, ids in parts.items():
            device, place, sizes = spread(len(ids), ring)
            index = device * share + place
            tokens[row, index] = ids
            positions[row, index] = self.lengths[row] + np.arange(len(ids))
            segment_ids[row, index] = 1
            last[row] = index[-1]
            self.lengths[row] += len(ids)
            self._fill[:, row] += sizes
        # One block at a time: what it needs besides the cache, the keys of a layer, is taken when it is
        # handed to the devices, and would be there once for every block that waits.
        self._last_logits().block_until_ready()
        self.logits, self.cache = self._call(
            _read,
            "wc",
            {"ids": self.ids, "reach": self._reach(parts)},
            tokens=tokens,
            positions=positions,
            segment_ids=segment_ids,
            last=last,
            before=self._last_logits(),
        )
        self._changed()

    def _reach(self, parts: dict[int, np.ndarray]) -> int | None:
        """How many positions back a block of these tokens, int32 [n] by row, has to look; None: through all
        that there is.
        """
        reach = self.engine.model.config.reach(np.concatenate(list(parts.values())))
        caches = [self.cache] if self.prefix is None else [self.cache, self.prefix.cache]
        slots = max(cache.length for cache in caches) // self.engine.ring
        return None if reach is None or slots < FAR * reach else reach

    def _last_logits(self) -> jax.Array:
        """float32 [R, ids], zeros before anything was read; placed as those that follow, or what takes them
        would be compiled for twice.
        """
        if self.logits is None:
            self.logits = self.engine.everywhere(
                np.zeros((self.count, self.ids[1] - self.ids[0]), np.float32)
            )
        return self.logits

    def _check(self, prompts: Mapping[int, np.ndarray], longest: int) -> None:
        whole = max(int(self.lengths[row]) + len(ids) for row, ids in prompts.items())
        limit = self.engine.model.config.max_length
        if whole > limit:
            raise UserError(
                f"{whole} tokens were to be read; the model reads at most {limit}: shorten the "
                "question or the video"
            )
        if self.engine.slots_for(longest, blocks=self.blocks) > (free := self.free(prompts)):
            raise UserError(
                f"{longest} more tokens do not fit the {free} free slots of a row; reserve more of them"
            )

    def free(self, rows: Collection[int]) -> int:
        """Slots that are free in all of these rows."""
        share = self.cache.length // self.engine.ring
        return (share - int(self._fill[:, list(rows)].max())) * self.engine.ring

    def reserve(self, slots: int, rows: Collection[int] | None = None) -> None:
        """Sees to it that these rows (None: all) have so many free slots; where they don't, all rows
        grow.
        """
        free = self.free(range(self.count) if rows is None else rows)
        if free < slots:
            wanted = self.engine.cache_length(self.cache.length + slots - free, self.cache.length)
            self.cache = self.engine.grown(self.cache, wanted)

    def truncate(self, row: int, length: int) -> None:
        """Forgets all but the first `length` tokens of a row, those of the prefix included; it must read
        something before it generates again.
        """
        self.lengths[row] = min(length, self.lengths[row])
        self._forget(self.lengths)
        self.alive[row] = False

    def _forget(self, lengths: np.ndarray) -> None:
        with self.engine.lock:
            self.cache = self.engine.of_cache(_truncate, "c")(self.cache, lengths)
        self._fill = np.array(self.cache.fill)
        self._changed()

    def _changed(self) -> None:
        """Called when the logits are others, or the rows."""

    def _call(self, function: Callable[..., Any], outputs: str, static: dict[str, Any], **inputs: Any) -> Any:
        """A function of the model that takes these rows' cache and prefix."""
        # Placed, because the compiler may split what nobody has placed, and exchange it later.
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                inputs[name] = self.engine.everywhere(value)
        if self.prefix is not None:
            inputs |= {"prefix": self.prefix.cache, "shared": self._shared}
        compiled = self.engine.of_model(function, outputs, **static)
        with self.engine.lock:
            return compiled(self.engine.model.params, cache=self.cache, **inputs)


def shared_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two prompts, int32 [n] and [m], begin with in common."""
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:shorter]) != np.asarray(b[:shorter]))
    return int(differ[0]) if len(differ) else shorter


@lru_cache(maxsize=32)
def _maker(config: TransformerConfig, rows: int, length: int, mesh: Mesh, dtype: Any) -> Any:
    """Makes empty caches of one shape."""
    return jax.jit(lambda: Cache.empty(config, rows, length, mesh, dtype), out_shardings=shardings(mesh))


@lru_cache(maxsize=128)
def _compiled(
    function: Callable[..., Any],
    outputs: str,
    mesh: Mesh,
    donate: bool,
    static: tuple[tuple[str, Any], ...],
) -> Any:
    """One jitted function, shared by all engines of models of one shape on one mesh.

    donate: its argument `cache` is used up. outputs: for each "c", a cache, or "w", what is whole on every
    device. They are pinned to where a new cache lies: left to the compiler, they may come out otherwise and
    be compiled for twice.
    """
    kinds = {"w": NamedSharding(mesh, PartitionSpec()), "c": shardings(mesh)}
    out = tuple(kinds[letter] for letter in outputs)
    return jax.jit(
        partial(function, **dict(static)),
        donate_argnames="cache" if donate else None,
        out_shardings=out if len(out) > 1 else out[0],
    )


def _grow(cache: Cache, *, length: int, mesh: Mesh) -> Cache:
    return cache.grow(length, mesh=mesh)


def _truncate(cache: Cache, lengths: jax.Array) -> Cache:
    return cache.truncate(lengths)


def _read(
    params: Any,
    *,
    cache: Cache,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    last: jax.Array,
    before: jax.Array,
    prefix: Cache | None = None,
    shared: jax.Array | None = None,
    graphdef: Any,
    mesh: Mesh,
    ids: tuple[int, int],
    reach: int | None,
) -> tuple[jax.Array, Cache]:
    """tokens, positions, segment_ids int32 [R, T], of which none sees `reach` positions back or more (None:
    some may) -> the logits float32 [R, ids] after each row's token `last` int32 [R] of this block, those
    `before` where it has none (-1), and the cache.
    """
    model: Transformer = nnx.merge(graphdef, params)
    hidden, cache = model.extend(
        tokens, positions, segment_ids, cache, mesh=mesh, reach=reach, prefix=prefix, shared=shared
    )
    at = jnp.take_along_axis(hidden, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]  # (R, D)
    return jnp.where(last[:, None] >= 0, next_logits(model, at, ids, mesh), before), cache


def next_logits(model: Transformer, hidden: jax.Array, ids: tuple[int, int], mesh: Mesh) -> jax.Array:
    """The logits of a range of ids.

    Args:
        model: whose head is taken.
        hidden: float [R, D].
        ids: from the first up to but without the second.
        mesh: the devices.

    Returns:
        float32 [R, ids], whole on every device, so that tokens are drawn without an exchange.
    """
    # A small part of the head is cut out before the product, a large one behind it: to cut out is to copy.
    head = model.head()
    narrow = 2 * (ids[1] - ids[0]) < head.shape[1]
    head = head[:, slice(*ids)] if narrow else head
    logits = jnp.einsum("RD,DV->RV", hidden, head, preferred_element_type=jnp.float32)
    logits = jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, PartitionSpec()))
    return logits if narrow else logits[:, slice(*ids)]
