"""Reading and writing tokens with a cache that is spread over the ring: prefill in blocks, then one token at
a time.

In: tokens int32 [n]. Out: tokens, one by one, and a `Session` that holds what was read, so that it can be
read on from or rewound. Blocks have few sizes and caches few lengths, so a second question of another length
compiles nothing anew. The cache is donated to every step: there is one copy of it, and it never leaves the
devices where it was made.
"""

from collections.abc import Collection, Iterator, Sequence
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
from ringvision.infer.sampler import Sampler, choose
from ringvision.mesh import num_shards
from ringvision.models.cache import Cache, shardings
from ringvision.models.transformer import Transformer, TransformerConfig

BLOCKS = (1024, 256, 64)
"""Tokens that prefill reads at a time, largest first."""
SHORTEST_CACHE = 1024


@dataclass
class Session:
    """What was read so far: `length` tokens in `cache`, and the logits [rows, V] of what comes next (None
    before anything was read).
    """

    cache: Cache
    length: int = 0
    logits: jax.Array | None = None

    @property
    def nbytes(self) -> int:
        """Of the cache, over all devices."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.cache))


class Generator:
    """The compiled functions of one model on its mesh. limit: generated ids are below it (None: any id)."""

    def __init__(self, model: Model, *, limit: int | None = None, blocks: Sequence[int] = BLOCKS) -> None:
        self.model = model
        mesh = model.mesh
        self.rows = (
            mesh.shape["data"] * mesh.shape["fsdp"]
        )  # the first row is read, the others are there because the mesh splits rows
        ring = num_shards(mesh, "length")
        self.blocks = tuple(sorted({-(-size // ring) * ring for size in blocks}, reverse=True))
        self._read, self._step, self._choose, self._truncate = _compiled(model.graphdef, mesh, limit)

    def begin(self, tokens: int) -> Session:
        """An empty session with room for at least `tokens`, padding of blocks included (see `room_for`)."""
        length = SHORTEST_CACHE
        while length < tokens:
            length *= 2
        dtype = self.model.params["embed"]["table"].dtype
        return Session(_maker(self.model.config, self.rows, length, self.model.mesh, dtype)())

    def room_for(self, *parts: int, generate: int = 0) -> int:
        """Slots that reading parts of so many tokens one after another, and then generating, takes at
        most.
        """
        ring = num_shards(self.model.mesh, "length")
        return (
            sum(sum(block for block, _ in self._plan(part)) for part in parts) + -(-generate // ring) * ring
        )

    def read(self, session: Session, tokens: np.ndarray) -> None:
        """Prefill: appends `tokens` int32 [n] to the session. UserError where the model, or the session's
        cache, has no room for them.
        """
        tokens = np.asarray(tokens, np.int32)
        longest = self.model.config.max_length
        whole = session.length + len(tokens)
        if whole > longest:
            raise UserError(
                f"{whole} tokens were to be read; the model reads at most {longest}: shorten the "
                "question or the video"
            )
        if self.room_for(len(tokens)) > (room := session.cache.room):
            raise UserError(
                f"{len(tokens)} more tokens do not fit the {room} free slots of this session; begin "
                "one with more room"
            )
        for block, count in self._plan(len(tokens)):
            padded = np.zeros((self.rows, block), np.int32)
            padded[:, :count] = tokens[:count]
            tokens = tokens[count:]
            session.logits, session.cache = self._read(
                self.model.params,
                cache=session.cache,
                tokens=padded,
                start=np.int32(session.length),
                count=np.int32(count),
            )
            session.length += count

    def generate(
        self, session: Session, sampler: Sampler, max_tokens: int, stop: Collection[int] = ()
    ) -> Iterator[int]:
        """Yields up to `max_tokens` ids that follow what was read, the one in `stop` that ends them included.

        The last id is not read into the session; `rewind` takes the others out again.
        """
        if session.logits is None:
            raise UserError("nothing was read yet; read at least one token before generating")
        knobs = sampler.knobs()
        key = sampler.key()
        token = self._choose(session.logits, key, 0, *knobs)
        for index in range(1, max_tokens + 1):
            chosen = int(np.asarray(token)[0])
            yield chosen
            if chosen in stop or index == max_tokens:
                return
            token, session.cache = self._step(
                self.model.params, session.length, key, index, *knobs, cache=session.cache, token=token
            )
            session.length = session.length + 1
            session.logits = None

    def rewind(self, session: Session, length: int) -> None:
        """Forgets all but the first `length` tokens; something must be read before the session generates
        again.
        """
        session.cache = self._truncate(session.cache, np.int32(length))
        session.length = min(length, session.length)
        session.logits = None

    def _plan(self, tokens: int) -> list[tuple[int, int]]:
        """How `tokens` are read: (block, tokens in it) each; the last block is padded."""
        plan = []
        while tokens > 0:
            # Padding half a block costs less than the two or more blocks that would do without.
            block = next((size for size in self.blocks if 2 * tokens > size), self.blocks[-1])
            plan.append((block, min(block, tokens)))
            tokens -= block
        return plan


@lru_cache(maxsize=32)
def _compiled(graphdef: Any, mesh: Mesh, limit: int | None) -> tuple[Any, Any, Any, Any]:
    """The jitted `_read`, `_step`, `_choose` and `Cache.truncate`, shared by all generators of models of one
    shape on one mesh.

    Outputs are pinned to where a new cache lies: left to the compiler, they may come out otherwise and be
    compiled for twice.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    spread = shardings(mesh)
    read = partial(_read, graphdef=graphdef, mesh=mesh)
    step = partial(_step, graphdef=graphdef, mesh=mesh, limit=limit)
    return (
        jax.jit(read, donate_argnames="cache", out_shardings=(everywhere, spread)),
        jax.jit(step, donate_argnames="cache", out_shardings=(everywhere, spread)),
        jax.jit(partial(_choose, limit=limit)),
        jax.jit(Cache.truncate, donate_argnums=0, out_shardings=spread),
    )


@lru_cache(maxsize=32)
def _maker(config: TransformerConfig, rows: int, length: int, mesh: Mesh, dtype: Any) -> Any:
    """Makes empty caches of one shape."""
    return jax.jit(lambda: Cache.empty(config, rows, length, mesh, dtype), out_shardings=shardings(mesh))


def _extend(
    graphdef: Any,
    params: Any,
    cache: Cache,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    last: jax.Array,
    mesh: Mesh,
) -> tuple[jax.Array, Cache]:
    """-> (logits float32 [rows, V] after token `last`, cache)."""
    model: Transformer = nnx.merge(graphdef, params)
    hidden, cache = model.extend(tokens, positions, segment_ids, cache, mesh=mesh, fresh=False)
    at = jax.lax.dynamic_index_in_dim(hidden, last, axis=1, keepdims=False)
    return jnp.einsum("BD,DV->BV", at, model.head(), preferred_element_type=jnp.float32), cache


def _read(
    params: Any,
    *,
    cache: Cache,
    tokens: jax.Array,
    start: jax.Array,
    count: jax.Array,
    graphdef: Any,
    mesh: Mesh,
) -> tuple[jax.Array, Cache]:
    rows, block = tokens.shape
    index = jnp.broadcast_to(jnp.arange(block, dtype=jnp.int32), tokens.shape)
    real = (index < count) & (jnp.arange(rows)[:, None] == 0)
    return _extend(graphdef, params, cache, tokens, start + index, real.astype(jnp.int32), count - 1, mesh)


def _step(
    params: Any,
    position: jax.Array,
    key: jax.Array,
    index: jax.Array,
    *knobs: jax.Array,
    cache: Cache,
    token: jax.Array,
    graphdef: Any,
    mesh: Mesh,
    limit: int | None,
) -> tuple[jax.Array, Cache]:
    """decode_step: token int32 [rows] at `position` -> the next one, and the cache with this one in it."""
    rows = token.shape[0]
    positions = jnp.full((rows, 1), position, jnp.int32)
    real = (jnp.arange(rows)[:, None] == 0).astype(jnp.int32)
    logits, cache = _extend(graphdef, params, cache, token[:, None], positions, real, jnp.int32(0), mesh)
    return _choose(logits, key, index, *knobs, limit=limit), cache


def _choose(
    logits: jax.Array, key: jax.Array, index: jax.Array, *knobs: jax.Array, limit: int | None
) -> jax.Array:
    """The `index`-th token of an answer; the draw depends on the key and the index alone."""
    return choose(logits[:, :limit], jax.random.fold_in(key, index), *knobs)
