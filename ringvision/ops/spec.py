"""All of an attention call that is fixed when compiling, in one hashable value: what goes from the public
functions of ops/ring.py down to the hops and the kernels.
"""

from dataclasses import dataclass

from jax.sharding import AbstractMesh, Mesh

from ringvision.ops import kernels, ulysses
from ringvision.ops.exchange import Exchange
from ringvision.ops.mask import MaskSpec

AXIS = "context"
"""The mesh axis that is the ring."""


@dataclass(frozen=True)
class AttentionSpec:
    """Two calls of one spec and one shape are one compiled program.

    mask: which positions a query attends to; see `MaskSpec`. mesh: the devices.
    kernel: what computes a block on one device. exchange: how keys come to the queries. hops: how many hops
    round the ring there are to run; None where only the tokens tell, while it runs (ops/route.py). A layout
    is not in it: positions say everything that it would.
    """

    mask: MaskSpec
    mesh: Mesh | AbstractMesh
    kernel: kernels.Name
    exchange: Exchange
    hops: int | None = None

    @property
    def devices(self) -> int:
        """Devices of the ring."""
        return self.mesh.shape[AXIS]

    @property
    def ulysses_devices(self) -> int:
        """Devices that exchange tokens for heads, at every place of the ring."""
        return self.mesh.shape.get(ulysses.AXIS, 1)
