"""Which hops round the ring there are to run, and the permutes that run them. Inside shard_map.

After h hops a device has the keys of the device h places behind it. A hop is run if some device of the mesh
may see something then; what no device can see under the window, or because it is of other documents, travels
no further than it must. All devices must come to the same answer, for a permute needs both sides: each judges
its own queries against the ranges of everybody's keys, by tiles (ops/tiles.py), and a maximum over the mesh
settles it.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ringvision.ops import tiles
from ringvision.ops.attention import MaskSpec, Tokens
from ringvision.ops.layout import Layout, order

AXIS = "context"
RANGES = 64
"""Tiles that a share is judged by, at most."""


class Route(NamedTuple):
    """Hops in the order in which they are run. `following[h]` is the next one to run after h, None where it
    is always h + 1; `preceding` likewise. `hops` of them follow the start, which is hop 0, the device's own
    keys.
    """

    devices: int
    hops: int | jax.Array
    following: jax.Array | None = None
    preceding: jax.Array | None = None

    @property
    def start(self) -> jax.Array:
        return jnp.int32(0)

    def after(self, hop: jax.Array) -> jax.Array:
        return hop + 1 if self.following is None else self.following[hop]

    def before(self, hop: jax.Array) -> jax.Array:
        return hop - 1 if self.preceding is None else self.preceding[hop]

    def send(self, x: Any, direction: int) -> Any:
        """To the next device."""
        pairs = [(i, (i + direction) % self.devices) for i in range(self.devices)]
        return jax.tree.map(lambda part: jax.lax.ppermute(part, AXIS, pairs), x)

    def catch_up(self, x: Any, hop: jax.Array, direction: int) -> Any:
        """What was sent on by one after `hop` goes the rest of the way to where the next hop wants it."""
        return x if self.following is None else self._send_often(x, self.after(hop) - hop - 1, direction)

    def homeward(self, x: Any, direction: int) -> Any:
        """What the last hop made sets out for home: the first of its hops, and in most cases the only one."""
        return self.send(x, direction if self._goes_on else -direction)

    def arrive_home(self, x: Any, hop: jax.Array, direction: int) -> Any:
        """The rest of the way, the short way round; x was `hop` places from home before it set out."""
        if self.following is not None:
            on = self.devices - hop - 1
            back = hop + 1
            x = self._send_often(x, jnp.where(on < back, on, 0), direction)
            return self._send_often(x, jnp.where(on < back, 0, back), -direction)
        places = self.devices - self.hops if self._goes_on else self.hops
        return (
            x if places == 1 else self._send_often(x, places - 1, direction if self._goes_on else -direction)
        )

    @property
    def _goes_on(self) -> bool:
        return not isinstance(self.hops, int) or self.devices - self.hops <= self.hops

    def _send_often(self, x: Any, times: int | jax.Array, direction: int) -> Any:
        return jax.lax.fori_loop(0, times, lambda _, x: self.send(x, direction), x)


def make_route(
    tokens: Tokens, mask_spec: MaskSpec, mesh: Mesh | AbstractMesh, hops: int | None, *, both_ways: bool
) -> Route:
    """tokens: this device's, [B, S]. hops: how many there are, where that is known already. both_ways: keys
    go round both ways at once.
    """
    devices = mesh.shape[AXIS]
    if hops is not None:
        return Route(devices, hops)
    own = _ranges(tokens)
    everybody = jax.tree.map(
        lambda x: jax.lax.all_gather(x, AXIS, axis=1, tiled=True), own
    )  # [B, devices x tiles]
    seen = (
        (tiles.kinds(own, everybody, mask_spec) != tiles.EMPTY)
        .any(axis=(0, 1))
        .reshape(devices, -1)
        .any(axis=1)
    )
    number = jnp.arange(devices, dtype=jnp.int32)
    seen = seen[(jax.lax.axis_index(AXIS) - number) % devices]
    if both_ways:
        seen |= seen[-number % devices]
    seen = jax.lax.pmax(seen.astype(jnp.int32), tuple(mesh.shape)) > 0
    seen = seen.at[0].set(False)
    later = jnp.where(seen & (number > number[:, None]), number, devices).min(axis=1)
    following = jnp.where(
        later < devices, later, number + 1
    )  # behind the last there is one more place to stand, before which is the last
    places = jnp.arange(devices + 1)[:, None]
    return Route(devices, seen.sum(), following, jnp.where(seen & (number < places), number, 0).max(axis=1))


@lru_cache(maxsize=1024)
def all_hops(length: int, devices: int, layout: Layout | None, mask_spec: MaskSpec) -> int | None:
    """How many hops a row of one document takes in this layout; None if they are not the first ones without a
    gap.
    """
    laid_out: Any = order(length, devices, layout or "contiguous").reshape(devices, 1, -1)
    shares = [_ranges(Tokens(share, np.ones_like(share))) for share in laid_out]
    seen = [
        any(
            (tiles.kinds(shares[i], shares[(i - hop) % devices], mask_spec) != tiles.EMPTY).any()
            for i in range(devices)
        )
        for hop in range(1, devices)
    ]
    return sum(seen) if all(seen[: sum(seen)]) else None


def _ranges(tokens: Tokens) -> tiles.Ranges:
    length = tokens.positions.shape[1]
    tile = -(-length // min(RANGES, length))
    xp: Any = np if isinstance(tokens.positions, np.ndarray) else jnp
    return tiles.ranges(Tokens(*(xp.pad(x, ((0, 0), (0, -length % tile))) for x in tokens)), tile)
