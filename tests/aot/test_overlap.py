"""What the TPU's compiler makes of the ring: transfers hidden behind the kernels of their hops, and memory
that does not grow with it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from schedule import Permute, permutes

from ringvision.ops.ring import ring_attention

RINGS = {"v4": "v4:2x2x1", "v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}
"""Eight devices each."""


def compiled(
    topology: str,
    *,
    backward: bool,
    data: bool = False,
    exchange: str = "ring",
    chunk: int = 2048,
    kv_heads: int = 2,
):
    """16 query heads of 128, bfloat16, causal. `data`: positions and segment ids are arguments, and hops may
    be skipped.
    """
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = Mesh(np.array(devices), ("context",))
    length = chunk * len(devices)

    def sharded(*shape: int, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(None, "context"))
        )

    q = sharded(1, length, 16, 128)
    kv = sharded(1, length, kv_heads, 128)
    tokens = [sharded(1, length, dtype=jnp.int32)] * 2

    def attend(q, k, v, positions, segment_ids):
        known = {"positions": positions, "segment_ids": segment_ids} if data else {"layout": "zigzag"}
        return ring_attention(q, k, v, mesh=mesh, exchange=exchange, **known)

    def gradients(q, k, v, positions, segment_ids, d_out):
        return jax.vjp(lambda *qkv: attend(*qkv, positions, segment_ids), q, k, v)[1](d_out)

    if backward:
        return jax.jit(gradients).lower(q, kv, kv, *tokens, q).compile()
    return jax.jit(attend).lower(q, kv, kv, *tokens).compile()


def exposed(sent: list[Permute]) -> list[Permute]:
    return [permute for permute in sent if permute.kernels == 0]


@pytest.mark.parametrize("generation", RINGS)
def test_every_hop_is_hidden_behind_its_kernel(generation):
    forward = permutes(compiled(RINGS[generation], backward=False).as_text())
    assert len(forward) == 2  # in the loop: keys with values, and their tokens
    assert exposed(forward) == []
    both = permutes(compiled(RINGS[generation], backward=True).as_text())
    assert exposed(both) == []
    sums = [permute for permute in both if permute.dtype == "f32"]
    assert len(sums) == 3  # in the loop, to the last device, and home
    assert {permute.shape for permute in both if not permute.is_small} == {(2, 1, 2, 2048, 128)}


@pytest.mark.parametrize("generation", ["v5e", "v5p"])
def test_hops_that_may_be_skipped_are_hidden_too(generation):
    """Exposed is only what has no kernel to hide behind: keys on their way past devices that do not attend
    to them.
    """
    sent = permutes(compiled(RINGS[generation], backward=True, data=True).as_text())
    with_kernels = {permute.computation for permute in sent if permute.kernels}
    assert len(with_kernels) == 3  # the forward loop, the backward loop, and what comes before and after that
    for permute in exposed(sent):
        alone = [other for other in sent if other.computation == permute.computation]
        assert all(other.kernels == 0 for other in alone), permute


@pytest.mark.long
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_both_ways_at_once(kv_heads):
    """Half of the heads, or of the keys, each way: twice as many permutes, of half the size."""
    sent = permutes(compiled(RINGS["v5p"], backward=True, exchange="two_way", kv_heads=kv_heads).as_text())
    assert [permute for permute in exposed(sent) if not permute.is_small] == []
    half = (2, 1, 1, 2048, 128) if kv_heads == 2 else (2, 1, 1, 1024, 128)
    assert {permute.shape for permute in sent if not permute.is_small} == {half}
    assert len([permute for permute in sent if permute.dtype == "f32"]) == 6


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("rings", [("v5e:2x4", "v5e:4x4"), ("v5e:4x8", "v5e:8x8")])
def test_memory_does_not_grow_with_the_ring(data, rings):
    """The same chunk on twice the devices, so of rows twice as long, forward and backward. (On 4 it is less:
    a loop of one step is none. Between 16 and 32 the compiler makes another choice, once, that takes 2 MB
    more.)
    """
    taken = [compiled(ring, backward=True, data=data).memory_analysis().temp_size_in_bytes for ring in rings]
    assert max(taken) <= 1.01 * taken[0], taken
