"""Classifier-free guidance: ids drawn one by one from what a prompt adds to what the model expects without it
(Ho and Salimans, 2022).

    logits = unconditional + scale * (conditional - unconditional)

In: a prompt, and for guidance a second one that asks for nothing; they are two rows of one cache, spread over
the ring like any other. Out: ids from one range alone (the vision's), each of which both rows read before the
next is drawn; ids that are known beforehand are pushed in between. With the prompt alone there is one row,
half the work, and nothing to guide.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.infer.generate import BLOCKS
from ringvision.infer.model import Model
from ringvision.infer.sampler import Sampler, choose
from ringvision.mesh import num_shards
from ringvision.models.cache import Cache, shardings
from ringvision.models.transformer import Transformer, TransformerConfig

SHORTEST_CACHE = 256


@dataclass
class Reading:
    """What the rows have read: `lengths` int32 [rows] tokens each (0: a row that is there for the mesh), and
    the logits float32 [rows, ids] of what comes next. prompts: how many rows are there for something.
    """

    cache: Cache
    lengths: np.ndarray
    logits: jax.Array
    prompts: int

    def read(self, more: int) -> np.ndarray:
        """Notes that every row with a prompt reads `more` tokens: -> their first positions, int32 [rows]."""
        before = self.lengths
        real = (self.lengths > 0).astype(np.int32)
        self.lengths = before + more * real
        return before


class Guide:
    """The compiled functions of one model on its mesh, for ids from `ids[0]` up to but without `ids[1]`."""

    def __init__(self, model: Model, ids: tuple[int, int], *, blocks: Sequence[int] = BLOCKS) -> None:
        self.model = model
        self.ids = ids
        ring = num_shards(model.mesh, "length")
        self.blocks = tuple(sorted({-(-size // ring) * ring for size in blocks}, reverse=True))
        self._read, self._choose = _compiled(model.graphdef, model.mesh, ids)

    def read(
        self, prompts: Sequence[np.ndarray], *, room: int, progress: Callable[[int, int], None] | None = None
    ) -> Reading:
        """Reads one prompt in each row, int32 [n] of at least 1, into a cache with room for `room` more
        tokens a row.

        Shorter prompts are padded on the left, so that all end together. progress: called with tokens read,
        of how many.
        """
        mesh = self.model.mesh
        plan = self._plan(max(map(len, prompts)))
        spare = mesh.shape["data"] * mesh.shape["fsdp"]
        slots = sum(plan)
        rows = -(-len(prompts) // spare) * spare
        tokens, positions, segment_ids = np.zeros((3, rows, slots), np.int32)
        lengths = np.zeros(rows, np.int32)
        for row, ids in enumerate(prompts):
            start = slots - len(ids)
            lengths[row] = len(ids)
            tokens[row, start:] = ids
            positions[row, start:] = np.arange(len(ids))
            segment_ids[row, start:] = 1
        length = SHORTEST_CACHE
        while length < slots + room + num_shards(mesh, "length"):
            length *= 2
        cache = _maker(self.model.config, rows, length, mesh, self.model.params["embed"]["table"].dtype)()
        done = 0
        for size in plan:
            part = np.s_[:, done : done + size]
            logits, cache = self._read(
                self.model.params,
                cache=cache,
                tokens=tokens[part],
                positions=positions[part],
                segment_ids=segment_ids[part],
            )
            done += size
            if progress is not None and len(plan) > 1:
                logits.block_until_ready()
                progress(done, slots)
        return Reading(cache, lengths, logits, len(prompts))

    def push(self, reading: Reading, tokens: int | jax.Array) -> None:
        """Every row reads one more token: the same, or each its own of `tokens` int32 [rows, 1]."""
        positions = reading.read(1)[:, None]
        given = np.full(positions.shape, tokens, np.int32) if isinstance(tokens, int) else tokens
        reading.logits, reading.cache = self._read(
            self.model.params,
            cache=reading.cache,
            tokens=given,
            positions=positions,
            segment_ids=(positions > 0).astype(np.int32),
        )

    def draw(
        self, reading: Reading, count: int, sampler: Sampler, scale: float, *, first: int = 0
    ) -> Iterator[int]:
        """Draws and reads `count` ids, one at a time; `first` is the number of the first, by which with the
        seed its draw is decided.

        Of one prompt, or of two by `scale`: the second is the one that asks for nothing.
        """
        key = sampler.key()
        knobs = sampler.knobs()
        guided = reading.prompts > 1
        for index in range(first, first + count):
            tokens = self._choose(
                reading.logits, key, np.int32(index), np.float32(scale), *knobs, guided=guided
            )
            self.push(reading, tokens)
            yield int(np.asarray(tokens)[0, 0])  # by now the devices are at work on what follows

    def _plan(self, tokens: int) -> list[int]:
        """The sizes of the blocks, largest first, in which so many tokens are read."""
        plan: list[int] = []
        while tokens > 0:
            plan.append(next((size for size in self.blocks if size <= tokens), self.blocks[-1]))
            tokens -= plan[-1]
        return plan


@lru_cache(maxsize=32)
def _compiled(graphdef: Any, mesh: Mesh, ids: tuple[int, int]) -> tuple[Any, Any]:
    """The jitted `_read` and `_choose`, shared by all guides of models of one shape on one mesh; outputs are
    pinned to where they began.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    read = partial(_read, graphdef=graphdef, mesh=mesh, ids=ids)
    return (
        jax.jit(read, donate_argnames="cache", out_shardings=(everywhere, shardings(mesh))),
        jax.jit(partial(_choose, first=ids[0]), static_argnames="guided", out_shardings=everywhere),
    )


@lru_cache(maxsize=32)
def _maker(config: TransformerConfig, rows: int, length: int, mesh: Mesh, dtype: Any) -> Any:
    """Makes empty caches of one shape."""
    return jax.jit(lambda: Cache.empty(config, rows, length, mesh, dtype), out_shardings=shardings(mesh))


def _read(
    params: Any,
    *,
    cache: Cache,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    graphdef: Any,
    mesh: Mesh,
    ids: tuple[int, int],
) -> tuple[jax.Array, Cache]:
    """tokens, positions, segment_ids int32 [rows, T] -> logits float32 [rows, ids] after the last of them,
    and the cache.
    """
    model: Transformer = nnx.merge(graphdef, params)
    hidden, cache = model.extend(tokens, positions, segment_ids, cache, mesh=mesh)
    head = model.head()[:, slice(*ids)]
    return jnp.einsum("BD,DV->BV", hidden[:, -1], head, preferred_element_type=jnp.float32), cache


def _choose(
    logits: jax.Array,
    key: jax.Array,
    index: jax.Array,
    scale: jax.Array,
    *knobs: jax.Array,
    guided: bool,
    first: int,
) -> jax.Array:
    """logits [rows, ids] -> one id for every row, int32 [rows, 1]; the draw depends on the key and the index
    alone.
    """
    wanted = logits[0]
    if guided:
        wanted = logits[1] + scale * (wanted - logits[1])
    chosen = first + choose(wanted[None], jax.random.fold_in(key, index), *knobs)
    return jnp.broadcast_to(chosen[:, None], (len(logits), 1))
