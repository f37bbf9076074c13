"""How keys should come to the queries: which way of the ring suits a chip and a chunk.

A hop is hidden if attending to a chunk of c tokens takes longer than sending one (in bfloat16):

    4 c^2 Hq D / (2 if causal and balanced) / F  >=  4 c Hkv D / W          F: FLOP/s of a chip, W: bytes/s of a link, one way

so c >= (F / W) (Hkv / Hq) (2 if causal); with both directions of the ring half of that is enough. Shorter
chunks are gathered at once.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
from jax.sharding import AbstractMesh, Mesh

from ringvision.errors import UserError
from ringvision.mesh import num_shards
from ringvision.ops.attention import MaskSpec

Exchange = Literal["ring", "two_way", "gather"]


@dataclass(frozen=True)
class Chip:
    """Published figures: dense bfloat16 FLOP/s, and bytes/s one way over one of the links that make the
    ring.
    """

    flops: float
    link: float


CHIPS = {
    "TPU v4": Chip(275e12, 50e9),
    "TPU v5 lite": Chip(197e12, 50e9),
    "TPU v5": Chip(459e12, 100e9),
    "TPU v6 lite": Chip(918e12, 112e9),
    "A100": Chip(312e12, 300e9),
    "H100": Chip(989e12, 450e9),
    "H200": Chip(989e12, 450e9),
}
"""By what `jax.Device.device_kind` begins with or, for GPUs, holds."""
GATHERED_AT_MOST = 2**28
"""Bytes of keys and values that a device may hold at once instead of letting them pass. Not more, for the
TPU's compiler lets nothing run beside a gather (v5e:16x16).
"""


def chip_of(mesh: Mesh | AbstractMesh) -> Chip | None:
    """None for devices that are not in the table, such as CPUs."""
    kind = mesh.devices.flat[0].device_kind if isinstance(mesh, Mesh) else jax.devices()[0].device_kind
    names = sorted(CHIPS, key=len, reverse=True)  # "TPU v5 lite" before "TPU v5"
    return next((CHIPS[name] for name in names if name in kind), None)


def hiding_chunk(chip: Chip, num_heads: int, num_kv_heads: int, *, causal: bool) -> float:
    """Tokens a device from which on a one-way hop is hidden, forward. Backward takes 1.2 times as many."""
    return chip.flops / chip.link * num_kv_heads / num_heads * (2 if causal else 1)


def choose_exchange(
    exchange: Exchange | None, mesh: Mesh | AbstractMesh, q: jax.Array, k: jax.Array, mask_spec: MaskSpec
) -> Exchange:
    """`exchange`, checked; or for None what hides the hops on this mesh's chips. q [B, T, N, H] and k [B, T,
    K, H], global.

    Where the chip is not known, such as on CPUs, that is "ring".
    """
    if exchange is not None:
        if exchange not in get_args(Exchange):
            raise UserError(
                f"exchange={exchange!r}: expected one of {', '.join(get_args(Exchange))}, or None for "
                "what suits the chip"
            )
        return exchange
    chip = chip_of(mesh)
    devices = mesh.shape["context"]
    if chip is None or devices == 1:
        return "ring"
    chunk = q.shape[1] // devices
    needed = 1.2 * hiding_chunk(chip, q.shape[2], k.shape[2], causal=mask_spec.causal)
    if chunk >= needed:
        return "ring"
    share = k.size // (
        num_shards(mesh, "batch") * num_shards(mesh, "kv_heads") * mesh.shape.get("ulysses", 1)
    )
    if chunk >= needed / 2 or 2 * share * k.dtype.itemsize > GATHERED_AT_MOST:
        return "two_way"
    return "gather"
