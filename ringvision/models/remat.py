"""What a layer keeps for the backward pass, and what it computes again: rematerialisation, by name.

    none      everything is kept but weights that were gathered, which are gathered again
    block     the layer's input alone: everything else is computed once more
    dots      the products with the layer's matrices and attention's result; the rest, which is cheap to
              compute and large to keep, once more
    offload   like block, and the inputs wait in the host's memory

In: a layer as a function for `jax.lax.scan`. Out: the same function, whose gradient keeps what its name says.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from ringvision.mesh import Rules
from ringvision.models.parameters import GATHERED, is_spread
from ringvision.ops.attention import ATTENDED

Remat = Literal["none", "block", "dots", "offload"]
NAMES: tuple[str, ...] = get_args(Remat)
LAYER_INPUT = "layer_input"
"""The name (`checkpoint_name`) of the hidden states that a layer begins with."""
HOST = "pinned_host"
"""The memory kind from which devices can copy while they compute."""

Block = Callable[[jax.Array, Any], tuple[jax.Array, None]]
_policies = jax.checkpoint_policies


def rematerialised(block: Block, remat: Remat, mesh: Mesh, rules: Rules) -> Block:
    """A layer whose gradient keeps what `remat` says.

    Args:
        block: (hidden states [B, L, D], one layer's parameters) -> (hidden states, None).
        remat: one of NAMES.
        mesh: the devices; where they cannot reach the host's memory, "offload" is "block" and a warning is
            logged, once.
        rules: how the parameters lie on the mesh.

    Returns:
        A function of the same arguments and values.
    """
    if remat == "offload" and not _reaches_host(mesh.devices.flat[0]):
        _say_once(mesh.devices.flat[0].platform)
        remat = "block"
    if remat == "none":
        if not is_spread(mesh, rules):
            return block
        policy = _policies.save_anything_except_these_names(GATHERED)
        return jax.checkpoint(block, prevent_cse=False, policy=policy)
    if remat == "block":
        return jax.checkpoint(block, prevent_cse=False)
    if remat == "dots":
        policy = _policies.save_from_both_policies(
            _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(ATTENDED)
        )
        return jax.checkpoint(block, prevent_cse=False, policy=policy)
    policy = _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[LAYER_INPUT],
        offload_src="device",
        offload_dst=HOST,
    )

    def named(x: jax.Array, layer_params: Any) -> tuple[jax.Array, None]:
        return block(checkpoint_name(x, LAYER_INPUT), layer_params)

    return jax.checkpoint(named, prevent_cse=False, policy=policy)


def _reaches_host(device: jax.Device) -> bool:
    """Whether a compiled program can move arrays out of the device's memory into the host's. On a CPU the two
    are one. A TPU of a topology is only described and has no memories to ask for; all of them can.
    """
    if device.platform in ("cpu", "tpu"):
        return device.platform == "tpu"
    return HOST in {memory.kind for memory in device.addressable_memories()}


@functools.cache
def _say_once(platform: str) -> None:
    logging.getLogger(__name__).warning(
        "remat 'offload': the memory of a %s device is not apart from the host's; layers are computed again "
        "from inputs that stay where they are, as with 'block'",
        platform,
    )
