"""The key/value cache: spread like the length, over the mesh axes `context` and `ulysses`, where it was made,
and never moved.

    k, v [layers, B, K, S, H]      positions, segment_ids [B, S]      fill [C]

Each of the C devices owns S / C neighbouring slots and fills them from its own first one; `fill` says how
many are taken. Which token lies in which slot does not matter, for positions and segment ids travel along (a
slot with segment 0 is empty). So
- a block of tokens whose length C divides is written with nothing travelling: each device keeps its own
  share;
- a single token goes to the device that has the fewest, which is once round the ring while the devices are
  level;
- `truncate` forgets what was appended since some position, so that a video read once serves the next
  question.

Shapes never change: one compilation for the block, one for the single token, and the buffers can be donated.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.errors import UserError
from ringvision.mesh import make_mesh, num_shards, partition_spec
from ringvision.models.presets import TransformerConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, already rotated, heads first: attention reads them as they lie.

    k, v: [layers, B, K, S, H]; positions, segment_ids: int32 [B, S]; fill: int32 [C].
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    segment_ids: jax.Array
    fill: jax.Array

    @classmethod
    def empty(
        cls,
        config: TransformerConfig,
        batch: int,
        length: int,
        mesh: Mesh | None = None,
        dtype: jnp.dtype = jnp.float32,
    ) -> "Cache":
        """Room for `length` tokens a row (rounded up to a multiple of the devices that share the length),
        made where it will stay.
        """
        if batch < 1 or length < 1:
            raise UserError(f"a cache for {batch} rows of {length} tokens: both must be at least 1")
        mesh = mesh or make_mesh(context=1, devices=jax.devices()[:1])
        devices = num_shards(mesh, "length")
        length = -(-length // devices) * devices
        stacked = (config.num_layers, batch, config.num_kv_heads, length, config.head_dim)

        def zeros() -> Cache:
            rows = jnp.zeros((batch, length), jnp.int32)
            return cls(
                jnp.zeros(stacked, dtype),
                jnp.zeros(stacked, dtype),
                rows,
                rows,
                jnp.zeros(devices, jnp.int32),
            )

        return jax.jit(zeros, out_shardings=shardings(mesh))()

    @property
    def length(self) -> int:
        """Slots a row, over all devices."""
        return self.positions.shape[1]

    @property
    def room(self) -> int:
        """Tokens a row that surely still fit, in blocks or one by one. Not inside jit."""
        devices = self.fill.shape[0]
        return devices * (self.length // devices - int(np.max(np.asarray(self.fill))))

    @property
    def overflowed(self) -> jax.Array:
        """bool []: something was appended that did not fit (and was not written)."""
        return jnp.any(self.fill > self.length // self.fill.shape[0])

    def append(
        self,
        k: jax.Array,
        v: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        mesh: Mesh | None = None,
    ) -> "Cache":
        """Write T tokens behind those that are there: a block (T a multiple of the devices that share the
        length) or a single one.

        k, v: [layers, B, K, T, H]; positions, segment_ids: int32 [B, T], padding allowed (it takes up slots
        until `truncate`). A row that has ended passes segment 0. What does not fit is not written, and
        `overflowed` tells; look at `room` before.
        """
        mesh = mesh or make_mesh(context=1, devices=jax.devices()[:1])
        devices = self.fill.shape[0]
        tokens = positions.shape[1]
        share = self.length // devices
        if tokens > 1 and tokens % devices:
            raise UserError(
                f"a block of {tokens} tokens for a cache on {devices} devices: expected one token or "
                f"a multiple of {devices}"
            )
        # a single token is known everywhere and kept by one device; of a block each device keeps the part it
        # has
        single = tokens == 1
        turn = jnp.arange(devices) == jnp.argmin(self.fill) if single else jnp.ones(devices, bool)
        new = (k.astype(self.k.dtype), v.astype(self.v.dtype), positions, segment_ids)
        count = 1 if single else tokens // devices

        def write(cache: Cache, new: tuple[jax.Array, ...], turn: jax.Array) -> Cache:
            slot = cache.fill[0]
            mine = turn[0] & (slot + count <= share)

            def place(old: jax.Array, part: jax.Array, axis: int) -> jax.Array:
                kept = jax.lax.dynamic_slice_in_dim(old, slot, count, axis)
                return jax.lax.dynamic_update_slice_in_dim(old, jnp.where(mine, part, kept), slot, axis)

            k, v, positions, segment_ids = new
            return Cache(
                place(cache.k, k, 3),
                place(cache.v, v, 3),
                place(cache.positions, positions, 1),
                place(cache.segment_ids, segment_ids, 1),
                cache.fill + count * turn.astype(jnp.int32),
            )

        specs = _specs(mesh)
        length = None if single else "length"
        stacked = partition_spec(mesh, None, "batch", "kv_heads", length, None)
        rows = partition_spec(mesh, "batch", length)
        in_specs = (specs, (stacked, stacked, rows, rows), specs.fill)
        return jax.shard_map(write, mesh=mesh, in_specs=in_specs, out_specs=specs)(self, new, turn)

    def truncate(self, length: int | jax.Array) -> "Cache":
        """Forget every token whose position is `length` or more, and take back the slots behind the last
        token that stays on each device (so also those that padding at the end of a block took).
        """
        segment_ids = jnp.where(self.positions < length, self.segment_ids, 0)
        devices = self.fill.shape[0]
        taken = jnp.any(segment_ids > 0, axis=0).reshape(devices, -1)
        fill = jnp.max(jnp.where(taken, jnp.arange(1, taken.shape[1] + 1), 0), axis=1).astype(jnp.int32)
        return replace(self, segment_ids=segment_ids, fill=fill)


def shardings(mesh: Mesh) -> Cache:
    """Where the parts of a cache lie: a Cache of NamedShardings, for jit's `in_shardings` and
    `out_shardings`.
    """
    return jax.tree.map(
        lambda part: NamedSharding(mesh, part), _specs(mesh), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def _specs(mesh: Mesh) -> Any:
    stacked = partition_spec(mesh, None, "batch", "kv_heads", "length", None)
    rows = partition_spec(mesh, "batch", "length")
    return Cache(stacked, stacked, rows, rows, partition_spec(mesh, "length"))  # type: ignore[arg-type]
