"""The KV cache, sharded over the mesh axes `context` and `ulysses`; entries stay on the device that computed
them.

    k, v [layers, B, K, S, H]      positions, segment_ids [B, S]      fill [C, B]

Each of the C devices owns S / C neighbouring slots of every row and fills them from its own first one; `fill`
says how many each row has taken there, so that rows may be of any length. Every device knows all of it, so
appending takes no exchange. Which token lies in which slot does not matter, for positions and segment ids
travel along (a slot with segment 0 is empty). So
- a block of tokens whose length C divides is written with nothing travelling: each device keeps its own
  share. Padding at the end of a device's share takes no slots;
- a single token goes to the device on which its row has the fewest, which is once round the ring while the
  devices are level. A row that passes segment 0 takes no slot at all;
- `truncate` forgets what a row appended since some position, `insert` puts what was read elsewhere into a
  row, `select` rearranges, adds and drops rows, `grow` adds slots to all. Tokens are appended in the order of
  their positions, so no holes come about and nothing needs to be compacted.

Shapes change only in `select` and `grow`: one compilation for a block, one for the single token, and the
buffers can be donated.
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

Parts = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""k, v, positions and segment ids."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, already rotated, heads first: attention reads them as they lie.

    k, v: [layers, B, K, S, H]; positions, segment_ids: int32 [B, S]; fill: int32 [C, B].
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
        """An empty cache, made where it will stay.

        Args:
            config: the model whose keys and values it will hold.
            batch: rows; a multiple of the mesh axes data x fsdp.
            length: slots of a row, rounded up to a multiple of the devices that share the length.
            mesh: the devices (None: one).
            dtype: of keys and values.

        Returns:
            A cache with `length` free slots in every row.

        Raises:
            UserError: where batch or length are below 1.
        """
        if batch < 1 or length < 1:
            raise UserError(f"a cache for {batch} rows of {length} tokens: both must be at least 1")
        mesh = mesh or _one_device()
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
                jnp.zeros((devices, batch), jnp.int32),
            )

        return jax.jit(zeros, out_shardings=shardings(mesh))()

    @property
    def length(self) -> int:
        """Slots a row, over all devices."""
        return self.positions.shape[1]

    @property
    def rows(self) -> int:
        """How many sequences it holds."""
        return self.positions.shape[0]

    @property
    def nbytes(self) -> int:
        """Over all devices."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    @property
    def free(self) -> int:
        """Tokens that surely still fit into every row, in blocks or one by one. Not inside jit."""
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

        Args:
            k: [layers, B, K, T, H], rotated keys of any floating-point type.
            v: [layers, B, K, T, H], their values.
            positions: int32 [B, T].
            segment_ids: int32 [B, T]; 0 is padding, and takes slots only where a token of the same device
                stands behind it. A row that has ended passes segment 0.
            mesh: the devices (None: one).

        Returns:
            The cache with the tokens in it. What does not fit is not written, and `overflowed` tells; look
            at `free` before.

        Raises:
            UserError: for a block that the devices do not divide.
        """
        mesh = mesh or _one_device()
        devices = self.fill.shape[0]
        tokens = positions.shape[1]
        if tokens > 1 and tokens % devices:
            raise UserError(
                f"a block of {tokens} tokens for a cache on {devices} devices: expected one token or "
                f"a multiple of {devices}"
            )
        # A single token is known everywhere and kept by one device; of a block each keeps the part it has.
        single = tokens == 1
        everywhere = NamedSharding(mesh, PartitionSpec())
        real = jax.lax.with_sharding_constraint(segment_ids > 0, everywhere)  # (B, T)
        count = 1 if single else tokens // devices
        if single:
            taken = (jnp.arange(devices)[:, None] == jnp.argmin(self.fill, axis=0)) & real[:, 0]
        else:
            shares = real.reshape(self.rows, devices, count)  # (B, C, T / C)
            taken = jnp.max(jnp.where(shares, jnp.arange(1, count + 1), 0), axis=2).T
        taken = taken.astype(jnp.int32)  # (C, B)
        # dynamic_update_slice would move a block that reaches beyond the end: such a one is not written
        fits = (taken > 0) & (self.fill + count <= self.length // devices)
        new = (k.astype(self.k.dtype), v.astype(self.v.dtype), positions, segment_ids)
        specs = _specs(mesh)
        slots = partition_spec(mesh, "length", "batch")
        length = None if single else "length"
        stacked = partition_spec(mesh, None, "batch", "kv_heads", length, None)
        rows = partition_spec(mesh, "batch", length)
        parts = (specs.k, specs.v, specs.positions, specs.segment_ids)
        in_specs = (parts, (stacked, stacked, rows, rows), slots, slots)
        write = jax.shard_map(_write, mesh=mesh, in_specs=in_specs, out_specs=parts)
        old = (self.k, self.v, self.positions, self.segment_ids)
        return Cache(*write(old, new, self.fill, fits), self.fill + taken)

    def truncate(self, length: int | jax.Array) -> "Cache":
        """Forget every token whose position is `length` or more, and take back the slots behind the last
        token that stays on each device.

        length: one for all rows, or int32 [B].
        """
        limit = jnp.broadcast_to(jnp.asarray(length, jnp.int32), (self.rows,))
        segment_ids = jnp.where(self.positions < limit[:, None], self.segment_ids, 0)
        devices = self.fill.shape[0]
        taken = (segment_ids > 0).reshape(self.rows, devices, -1)  # (B, C, S / C)
        fill = jnp.max(jnp.where(taken, jnp.arange(1, taken.shape[2] + 1), 0), axis=2).T
        return replace(self, segment_ids=segment_ids, fill=fill.astype(jnp.int32))

    def select(self, rows: jax.Array) -> "Cache":
        """rows int32 [R]: which of the old rows each of the new ones is; -1 for an empty one."""
        there = rows >= 0
        index = jnp.maximum(rows, 0)
        return Cache(
            jnp.take(self.k, index, axis=1),
            jnp.take(self.v, index, axis=1),
            jnp.take(self.positions, index, axis=0),
            jnp.where(there[:, None], jnp.take(self.segment_ids, index, axis=0), 0),
            jnp.where(there, jnp.take(self.fill, index, axis=1), 0),
        )

    def insert(self, row: jax.Array | int, other: "Cache", *, mesh: Mesh | None = None) -> "Cache":
        """What `other` holds in the place of what `row` held; each device copies its own share.

        Args:
            row: int32 [], which one.
            other: a cache of at most as many slots with a row for every share of the batch (mesh axes data x
                fsdp), all of them alike.
            mesh: the devices (None: one).

        Raises:
            UserError: where `other` has more slots.
        """
        if other.length > self.length:
            raise UserError(f"{other.length} slots were to be put into a row of {self.length}: grow it first")
        mesh = mesh or _one_device()
        specs = _specs(mesh)
        shares = num_shards(mesh, "batch")
        share = self.rows // shares
        at = jnp.asarray(row, jnp.int32)
        # for each share of the batch the row within it, or `share` where the row is another's
        local = jnp.where(jnp.arange(shares) == at // share, at % share, share).astype(jnp.int32)

        def write(cache: Cache, other: Cache, local: jax.Array) -> Cache:
            row = jnp.minimum(local[0], share - 1)
            mine = local[0] < share

            def put(old: jax.Array, new: jax.Array, axis: int) -> jax.Array:
                start = [jnp.int32(0)] * old.ndim
                start[axis] = row
                kept = jax.lax.dynamic_slice(old, start, new.shape)
                return jax.lax.dynamic_update_slice(old, jnp.where(mine, new, kept), start)

            slots = cache.positions.shape[1] - other.positions.shape[1]
            segment_ids = jnp.pad(other.segment_ids, ((0, 0), (0, slots)))  # what lay behind is forgotten
            return Cache(
                put(cache.k, other.k, 1),
                put(cache.v, other.v, 1),
                put(cache.positions, other.positions, 0),
                put(cache.segment_ids, segment_ids, 0),
                cache.fill,
            )

        in_specs = (specs, specs, partition_spec(mesh, "batch"))
        cache = jax.shard_map(write, mesh=mesh, in_specs=in_specs, out_specs=specs)(self, other, local)
        return replace(cache, fill=self.fill.at[:, at].set(other.fill[:, 0]))

    def grow(self, length: int, *, mesh: Mesh | None = None) -> "Cache":
        """The same with `length` slots a row (rounded up as `empty` does); each device adds to its own
        share, so nothing travels and everything is copied once.
        """
        mesh = mesh or _one_device()
        devices = self.fill.shape[0]
        more = -(-length // devices) - self.length // devices

        def pad(cache: Cache) -> Cache:
            def behind(x: jax.Array, axis: int) -> jax.Array:
                return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])

            return Cache(
                behind(cache.k, 3),
                behind(cache.v, 3),
                behind(cache.positions, 1),
                behind(cache.segment_ids, 1),
                cache.fill,
            )

        specs = _specs(mesh)
        return jax.shard_map(pad, mesh=mesh, in_specs=(specs,), out_specs=specs)(self)


def _write(old: Parts, new: Parts, slots: jax.Array, fits: jax.Array) -> Parts:
    """One device's part of `Cache.append`: its share of the slots, of the tokens, of the rows; slots int32
    [1, B]: where each row goes on; fits bool [1, B]: whether it does.
    """
    k, v, positions, segment_ids = new
    rows, count = positions.shape

    def place(row: jax.Array | int, old: jax.Array, part: jax.Array, row_axis: int) -> jax.Array:
        slot_axis = row_axis + 1 if row_axis == 0 else row_axis + 2
        shape = list(old.shape)
        shape[row_axis] = 1
        shape[slot_axis] = count
        start = [jnp.int32(0)] * old.ndim
        start[row_axis] = jnp.asarray(row, jnp.int32)
        start[slot_axis] = slots[0, row]
        kept = jax.lax.dynamic_slice(old, start, shape)
        part = jax.lax.dynamic_slice_in_dim(part, row, 1, row_axis)
        return jax.lax.dynamic_update_slice(old, jnp.where(fits[0, row], part, kept), start)

    def write_row(row: jax.Array | int, parts: Parts) -> Parts:
        olds_k, olds_v, olds_positions, olds_segments = parts
        return (
            place(row, olds_k, k, 1),
            place(row, olds_v, v, 1),
            place(row, olds_positions, positions, 0),
            place(row, olds_segments, segment_ids, 0),
        )

    return write_row(0, old) if rows == 1 else jax.lax.fori_loop(0, rows, write_row, old)


def shardings(mesh: Mesh) -> Cache:
    """The shardings of a cache's parts: a Cache of NamedShardings, for jit's `in_shardings` and
    `out_shardings`.
    """
    return jax.tree.map(
        lambda part: NamedSharding(mesh, part), _specs(mesh), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def _specs(mesh: Mesh) -> Any:
    stacked = partition_spec(mesh, None, "batch", "kv_heads", "length", None)
    rows = partition_spec(mesh, "batch", "length")
    return Cache(stacked, stacked, rows, rows, PartitionSpec())  # type: ignore[arg-type]


def _one_device() -> Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])
