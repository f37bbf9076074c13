"""Which hops round the ring there are to run, and the permutes that run them. Inside shard_map.

After h hops a device has the keys of the device h positions behind it in the ring. A hop is run if some
device of the mesh may attend to something then; keys that no device can attend to under the mask, or because
they are of other documents, travel no further than they must. All devices must come to the same answer, for a
permute needs both sides: each judges its own queries against the ranges of all devices' keys, by tiles
(ops/tiles.py), and a maximum over the mesh settles it.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.ops import tiles
from ringvision.ops.layout import Layout, order
from ringvision.ops.mask import MaskSpec, Tokens
from ringvision.ops.spec import AXIS, AttentionSpec

RANGES = 64
"""Tiles that a device's share is judged by, at most."""


class Route(NamedTuple):
    """The hops to run, in their order. `hops` of them follow hop 0, which is the device's own keys.

    `following` int32 [devices]: the next hop to run after hop h, None where it is always h + 1; `preceding`
    int32 [devices + 1]: the one before it, likewise. Hop numbers are int32 scalars. A `shift` is +1 or -1:
    the direction in which arrays go round. What is sent is any pytree of arrays; on every device those of the
    sender take its place, of the same shapes and dtypes.
    """

    devices: int
    hops: int | jax.Array
    following: jax.Array | None = None
    preceding: jax.Array | None = None

    @property
    def start(self) -> jax.Array:
        """Hop 0, an int32 scalar."""
        return jnp.int32(0)

    def next_hop(self, hop: jax.Array) -> jax.Array:
        """int32 scalar -> int32 scalar: the hop to run after `hop`."""
        return hop + 1 if self.following is None else self.following[hop]

    def previous_hop(self, hop: jax.Array) -> jax.Array:
        """int32 scalar -> int32 scalar: the hop that was run before `hop`."""
        return hop - 1 if self.preceding is None else self.preceding[hop]

    def send(self, x: Any, shift: int) -> Any:
        """To the next device in the direction of `shift`: arrays [...] -> arrays [...] of the one before."""
        pairs = [(i, (i + shift) % self.devices) for i in range(self.devices)]
        return jax.tree.map(lambda part: jax.lax.ppermute(part, AXIS, pairs), x)

    def skip_to_next(self, x: Any, hop: jax.Array, shift: int) -> Any:
        """Arrays [...] that were sent on once after `hop`, an int32 scalar -> the same [...] sent over the
        hops that are not run, to where the next one needs them.
        """
        return x if self.following is None else self._send_often(x, self.next_hop(hop) - hop - 1, shift)

    def start_return(self, x: Any, shift: int) -> Any:
        """Arrays [...] that the last hop made -> the same [...], sent once towards the device that they
        belong to, in most cases all the way.
        """
        return self.send(x, shift if self._returns_onward else -shift)

    def finish_return(self, x: Any, hop: jax.Array, shift: int) -> Any:
        """Arrays [...] after `start_return` -> the same [...] on the device that they belong to, by the
        shorter way round. `hop` int32 scalar: the last hop that was run.
        """
        if self.following is not None:
            onward = self.devices - hop - 1
            back = hop + 1
            x = self._send_often(x, jnp.where(onward < back, onward, 0), shift)
            return self._send_often(x, jnp.where(onward < back, 0, back), -shift)
        distance = self.devices - self.hops if self._returns_onward else self.hops
        if distance == 1:
            return x
        return self._send_often(x, distance - 1, shift if self._returns_onward else -shift)

    @property
    def _returns_onward(self) -> bool:
        """Whether arrays return by going on round the ring rather than back."""
        return not isinstance(self.hops, int) or self.devices - self.hops <= self.hops

    def _send_often(self, x: Any, times: int | jax.Array, shift: int) -> Any:
        return jax.lax.fori_loop(0, times, lambda _, x: self.send(x, shift), x)


def make_route(queries: Tokens, keys: Tokens, spec: AttentionSpec) -> Route:
    """This device's queries int32 [B, T] and keys int32 [B, S] -> the hops to run: spec.hops of them without
    a gap, or where that is not known those on which some device attends to something.
    """
    devices = spec.devices
    if spec.hops is not None:
        return Route(devices, spec.hops)
    gathered = jax.tree.map(
        lambda x: jax.lax.all_gather(x, AXIS, axis=1, tiled=True), _ranges(keys)
    )  # (B, devices x tiles)
    kinds = tiles.kinds(_ranges(queries), gathered, spec.mask)  # (B, tiles, devices x tiles)
    needed = (kinds != tiles.EMPTY).any(axis=(0, 1)).reshape(devices, -1).any(axis=1)  # by device of the keys
    number = jnp.arange(devices, dtype=jnp.int32)
    needed = needed[(jax.lax.axis_index(AXIS) - number) % devices]  # by hop
    if spec.exchange == "two_way":
        needed |= needed[-number % devices]
    needed = jax.lax.pmax(needed.astype(jnp.int32), tuple(spec.mesh.shape)) > 0
    needed = needed.at[0].set(False)
    later = jnp.where(needed & (number > number[:, None]), number, devices).min(axis=1)
    # After the last hop to run stands one more number, so that the loop may ask what comes next, and
    # `preceding` leads from it back to the last.
    following = jnp.where(later < devices, later, number + 1)
    after = jnp.arange(devices + 1)[:, None]
    preceding = jnp.where(needed & (number < after), number, 0).max(axis=1)
    return Route(devices, needed.sum(), following, preceding)


@lru_cache(maxsize=1024)
def count_hops(length: int, devices: int, layout: Layout | None, mask_spec: MaskSpec) -> int | None:
    """How many hops a row of one document takes, told before compiling.

    Args:
        length: of the row, in tokens.
        devices: of the ring.
        layout: the order of the tokens; None: as they stand.
        mask_spec: which positions a query attends to.

    Returns:
        The number; None if the hops to run are not the first ones without a gap.
    """
    laid_out: Any = order(length, devices, layout or "contiguous").reshape(devices, 1, -1)
    shares = [_ranges(Tokens(share, np.ones_like(share))) for share in laid_out]
    needed = [
        any(
            (tiles.kinds(shares[i], shares[(i - hop) % devices], mask_spec) != tiles.EMPTY).any()
            for i in range(devices)
        )
        for hop in range(1, devices)
    ]
    return sum(needed) if all(needed[: sum(needed)]) else None


def _ranges(tokens: Tokens) -> tiles.Ranges:
    """int32 [B, S] -> [B, at most RANGES] each; the last tile is filled up with padding."""
    length = tokens.positions.shape[1]
    tile = -(-length // min(RANGES, length))
    xp: Any = np if isinstance(tokens.positions, np.ndarray) else jnp
    return tiles.ranges(tokens.map(lambda x: xp.pad(x, ((0, 0), (0, -length % tile)))), tile)
