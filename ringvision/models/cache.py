"""The KV cache, sharded over the mesh axes `context` and `ulysses`; entries stay on the device that computed
them.

    k, v [layers, B, K, S, H]      positions, segment_ids [B, S]      fill [C, B]
    k_scale, v_scale [layers, B, K, S] beside keys and values of int8

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
  their positions, so no holes come about and nothing needs to be compacted;
- the last tokens of a row are the last on their devices: `recent` cuts these out, for what sees no further
  back.

Keys and values are floats, or int8 with one float32 for each token and head (per-token quantisation:
Dettmers et al., 2022): a quarter of float32's bytes, and an H-th of them for the scales. They are
quantised once, when they are computed, so that whoever reads them, the block itself included, reads the same.

Shapes change only in `select` and `grow`: one compilation for a block, one for the single token, and the
buffers can be donated.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.errors import UserError
from ringvision.mesh import make_mesh, num_shards, partition_spec
from ringvision.models.presets import TransformerConfig

DTYPES = ("float32", "bfloat16", "float16", "int8")
"""Types of keys and values."""
BITS = {jnp.dtype(jnp.bfloat16): jnp.dtype(jnp.uint16), jnp.dtype(jnp.float16): jnp.dtype(jnp.int16)}
"""Half floats are held as integers of the same bits: XLA's CPU compiler would widen the whole cache for every
block that is written to it or cut out of it.
"""
LARGEST = 127
"""Of the int8 values of a token's head: what its largest absolute value becomes."""
Parts = dict[str, jax.Array]
"""The arrays of a cache that have slots, by the names of its fields."""
ROW_AXIS = {"k": 1, "v": 1, "k_scale": 1, "v_scale": 1, "positions": 0, "segment_ids": 0}
SLOT_AXIS = {"k": 3, "v": 3, "k_scale": 3, "v_scale": 3, "positions": 1, "segment_ids": 1}


class Stored(NamedTuple):
    """Keys or values as a cache keeps them.

    values: [..., H] of the cache's type, half floats as their BITS. scale: float32 [...], with which int8 is
    multiplied; None for floats.
    """

    values: jax.Array
    scale: jax.Array | None = None

    def read(self, dtype: jnp.dtype) -> jax.Array:
        """[..., H] of `dtype`: what attention computes with."""
        if self.scale is None:
            half = next((half for half, bits in BITS.items() if bits == self.values.dtype), None)
            floats = self.values if half is None else jax.lax.bitcast_convert_type(self.values, half)
            return floats.astype(dtype)
        return (self.values.astype(jnp.float32) * self.scale[..., None]).astype(dtype)


def store(x: jax.Array, dtype: jnp.dtype) -> Stored:
    """x, floats [..., H], as a cache of `dtype` keeps it. For int8 each [H] is divided by its largest
    absolute value and rounded: what is read differs from x by at most 1 / 254 of that.
    """
    if dtype != jnp.int8:
        x = x.astype(dtype)
        return Stored(jax.lax.bitcast_convert_type(x, BITS[x.dtype]) if x.dtype in BITS else x)
    wide = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=-1) / LARGEST
    steps = jnp.round(wide / jnp.where(scale == 0, 1, scale)[..., None])
    return Stored(steps.astype(jnp.int8), scale)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, already rotated, heads first: attention reads them as they lie.

    k, v: [layers, B, K, S, H], half floats as their BITS; positions, segment_ids: int32 [B, S]; fill: int32
    [C, B]; k_scale, v_scale: float32 [layers, B, K, S] where k and v are int8, None where they are floats.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    segment_ids: jax.Array
    fill: jax.Array
    k_scale: jax.Array | None = None
    v_scale: jax.Array | None = None

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
            dtype: of keys and values; int8 brings scales along.

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
            scales = [jnp.zeros(stacked[:-1], jnp.float32) for _ in range(2 * (dtype == jnp.int8))]
            return cls(
                jnp.zeros(stacked, BITS.get(jnp.dtype(dtype), dtype)),
                jnp.zeros(stacked, BITS.get(jnp.dtype(dtype), dtype)),
                rows,
                rows,
                jnp.zeros((devices, batch), jnp.int32),
                *scales,
            )

        return jax.jit(zeros, out_shardings=shardings(mesh))()

    @property
    def dtype(self) -> jnp.dtype:
        """Of keys and values, one of DTYPES."""
        return next((half for half, bits in BITS.items() if bits == self.k.dtype), self.k.dtype)

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
    def stored(self) -> tuple[Stored, Stored]:
        """Keys and values of all layers, to be scanned: [layers, B, K, S, H]."""
        return Stored(self.k, self.k_scale), Stored(self.v, self.v_scale)

    @property
    def parts(self) -> Parts:
        """Its arrays but `fill`, by name."""
        names = (field.name for field in fields(self) if field.name != "fill")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

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
        k: jax.Array | Stored,
        v: jax.Array | Stored,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        mesh: Mesh | None = None,
    ) -> "Cache":
        """Write T tokens behind those that are there: a block (T a multiple of the devices that share the
        length) or a single one.

        Args:
            k: [layers, B, K, T, H], rotated keys of any floating-point type, or as `store` gave them.
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
        k = k if isinstance(k, Stored) else store(k, self.dtype)
        v = v if isinstance(v, Stored) else store(v, self.dtype)
        new = Cache(k.values, v.values, positions, segment_ids, taken, k.scale, v.scale).parts
        slots = partition_spec(mesh, "length", "batch")
        places = _specs(mesh).parts
        parts = {name: places[name] for name in new}
        arriving = _specs(mesh, None if single else "length").parts
        in_specs = (parts, {name: arriving[name] for name in new}, slots, slots)
        write = jax.shard_map(_write, mesh=mesh, in_specs=in_specs, out_specs=parts)
        return replace(self, **write(self.parts, new, self.fill, fits), fill=self.fill + taken)

    def recent(self, slots: int, *, mesh: Mesh | None = None) -> "Cache":
        """A small cache of what was appended last: of every row the last `slots` slots taken on each device.
        The row's last so many tokens are among them, where every device took its own in their order. Nothing
        travels, and keys and values are copied as they are kept.

        Args:
            slots: at least 1; the cache itself is given where no device has more.
            mesh: the devices (None: one).

        Returns:
            A cache of C * slots slots a row, whose slots hold what they held; those that were not taken are
            empty.
        """
        mesh = mesh or _one_device()
        if slots >= self.length // self.fill.shape[0]:
            return self
        places = _specs(mesh).parts
        parts = {name: places[name] for name in self.parts}
        filled = partition_spec(mesh, "length", "batch")

        def cut(parts: Parts, fill: jax.Array) -> Parts:
            start = jnp.maximum(fill[0] - slots, 0)  # (B,)
            return {name: _cut(name, x, start, slots) for name, x in parts.items()}

        local = jax.shard_map(cut, mesh=mesh, in_specs=(parts, filled), out_specs=parts)
        return replace(self, **local(self.parts, self.fill), fill=jnp.minimum(self.fill, slots))

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
        parts = {name: jnp.take(x, index, axis=ROW_AXIS[name]) for name, x in self.parts.items()}
        parts["segment_ids"] = jnp.where(there[:, None], parts["segment_ids"], 0)
        return replace(self, **parts, fill=jnp.where(there, jnp.take(self.fill, index, axis=1), 0))

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
            new = other.parts | {"segment_ids": segment_ids}
            return replace(
                cache, **{name: put(x, new[name], ROW_AXIS[name]) for name, x in cache.parts.items()}
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

            return replace(cache, **{name: behind(x, SLOT_AXIS[name]) for name, x in cache.parts.items()})

        specs = _specs(mesh)
        return jax.shard_map(pad, mesh=mesh, in_specs=(specs,), out_specs=specs)(self)


def spread(count: int, ring: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which device takes each token of a block. Every one takes as many as another, so that all of them fill
    evenly.

    Args:
        count: tokens of the block, padding apart.
        ring: devices that share the length.

    Returns:
        int [count], the device of each token; int [count], which of that device's it is, from 0; int [C],
        how many each device takes.
    """
    sizes = count // ring + (np.arange(ring) < count % ring)  # (C,)
    device = np.repeat(np.arange(ring), sizes)
    return device, np.arange(count) - (np.cumsum(sizes) - sizes)[device], sizes


def _cut(name: str, x: jax.Array, start: jax.Array, slots: int) -> jax.Array:
    """`slots` slots of every row, from its own `start` (int32 [B]) on, of the array x called `name`."""
    axis = SLOT_AXIS[name] - 1  # of one row
    cut = jax.vmap(
        lambda row, first: jax.lax.dynamic_slice_in_dim(row, first, slots, axis),
        in_axes=(ROW_AXIS[name], 0),
        out_axes=ROW_AXIS[name],
    )
    return cut(x, start)


def _write(old: Parts, new: Parts, slots: jax.Array, fits: jax.Array) -> Parts:
    """One device's part of `Cache.append`: its share of the slots, of the tokens, of the rows; slots int32
    [1, B]: where each row goes on; fits bool [1, B]: whether it does.
    """
    rows, count = new["positions"].shape

    def place(row: jax.Array | int, name: str, old: jax.Array) -> jax.Array:
        row_axis = ROW_AXIS[name]
        slot_axis = SLOT_AXIS[name]
        shape = list(old.shape)
        shape[row_axis] = 1
        shape[slot_axis] = count
        start = [jnp.int32(0)] * old.ndim
        start[row_axis] = jnp.asarray(row, jnp.int32)
        start[slot_axis] = slots[0, row]
        kept = jax.lax.dynamic_slice(old, start, shape)
        part = jax.lax.dynamic_slice_in_dim(new[name], row, 1, row_axis)
        return jax.lax.dynamic_update_slice(old, jnp.where(fits[0, row], part, kept), start)

    def write_row(row: jax.Array | int, parts: Parts) -> Parts:
        return {name: place(row, name, x) for name, x in parts.items()}

    return write_row(0, old) if rows == 1 else jax.lax.fori_loop(0, rows, write_row, old)


def shardings(mesh: Mesh) -> Cache:
    """The shardings of a cache's parts: a Cache of NamedShardings, for jit's `in_shardings` and
    `out_shardings`.
    """
    return jax.tree.map(
        lambda part: NamedSharding(mesh, part), _specs(mesh), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )


def _specs(mesh: Mesh, length: str | None = "length") -> Any:
    """A Cache of PartitionSpecs, scales included: where a cache has none, theirs say nothing."""
    scale = partition_spec(mesh, None, "batch", "kv_heads", length)
    stacked = partition_spec(mesh, None, "batch", "kv_heads", length, None)
    rows = partition_spec(mesh, "batch", length)
    return Cache(stacked, stacked, rows, rows, PartitionSpec(), scale, scale)  # type: ignore[arg-type]


def _one_device() -> Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])
