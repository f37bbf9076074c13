"""The local kernels: attention of one block of queries to one block of keys, each in the form that a kind of
device is fast at.

    xla       plain JAX by tiles: the CPU's, and the reference
    splash    Pallas: the TPU's
    cudnn     cuDNN's fused attention: the GPU's

All have the same two functions, on `AttentionInputs` and `OutputGradient` as ops/attention.py describes them:

    forward(inputs, mask_spec) -> (out [B, K, G, T, H], lse [B, K, G, T]), float32
    backward(inputs, gradient, mask_spec) -> (dq [B, K, G, T, H], dk [B, K, S, H], dv [B, K, S, H]), float32

The gradient has the `lse` and `delta` over all the keys there are, of this block and of others: then the
gradients of blocks add up.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from ringvision.errors import UserError
from ringvision.ops.attention import (
    AttentionInputs,
    KernelGradients,
    Partial,
    group,
    heads_first,
    merge_grouped,
    repeat_tokens,
    ungroup,
)
from ringvision.ops.mask import MaskSpec, Tokens
from ringvision.ops.reach import order_queries

Name = Literal["xla", "splash", "cudnn"]


class Kernel(NamedTuple):
    """The two functions of a kernel, and how they want to be called.

    `folds`: it wants query heads that share a KV head as rows of one (attention.group). `accumulates`: both
    functions also take `initial`, the result over other keys, (out, lse) or dq, and give the result over
    those and the block's.
    """

    folds: bool
    accumulates: bool
    forward: Callable[..., Partial]
    backward: Callable[..., KernelGradients]

    def starting_from(self, initial: Any) -> dict[str, Any]:
        """The extra argument that lets either function start from `initial`, where the kernel can: what it
        then gives goes through `merge` or `add`.
        """
        return {"initial": initial} if self.accumulates and initial is not None else {}

    def merge(self, initial: Partial, result: Partial) -> Partial:
        """out float32 [B, K, G, T, H] and lse float32 [B, K, G, T] over earlier keys and of this call -> over
        all of them.
        """
        return result if self.accumulates else merge_grouped(initial, result)

    def add(self, initial: jax.Array, result: jax.Array) -> jax.Array:
        """dq float32 [B, K, G, T, H] of earlier keys and of this call -> of all of them."""
        return result if self.accumulates else initial + result


def load(name: Name, mesh: Mesh | AbstractMesh | None = None) -> Kernel:
    """The two functions of a kernel for the devices of `mesh` (None: the default ones). Where those are no
    TPUs splash is interpreted.
    """
    module = import_module(f"{__name__}.{name}")
    options = {"interpret": platform_of(mesh) != "tpu"} if name == "splash" else {}
    return Kernel(
        folds=name == "xla",
        accumulates=name == "xla",
        forward=partial(module.forward, **options),
        backward=partial(module.backward, **options),
    )


def choose(name: Name | None, mesh: Mesh | AbstractMesh, q: jax.Array) -> Name:
    """`name`, checked (UserError); or for None the one for the mesh's devices: splash on TPUs, cudnn on GPUs
    where it takes q [..., H] by type and width, else xla.
    """
    if name is not None:
        if name not in get_args(Name):
            raise UserError(
                f"kernel={name!r}: expected one of {', '.join(get_args(Name))}, or None for the one "
                "that suits the devices"
            )
        return name
    platform = platform_of(mesh)
    if platform == "tpu":
        return "splash"
    if platform in ("gpu", "cuda"):
        from ringvision.ops.kernels import cudnn

        return "cudnn" if cudnn.takes(q) else "xla"
    return "xla"


def platform_of(mesh: Mesh | AbstractMesh | None) -> str:
    """What JAX calls the kind of the mesh's devices (None: of the default ones): "cpu", "tpu", "gpu" …"""
    return mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else jax.default_backend()


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    q_positions: jax.Array,
    k_positions: jax.Array,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    q_earliest: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    kernel: Name = "xla",
) -> Partial:
    """Attention on one device. Scores exist one tile at a time. Not differentiable by itself:
    `ring_attention` is.

    Args:
        q: queries [B, T, N, H], of any floating-point type.
        k: keys [B, S, K, H], of q's type; K divides N.
        v: values [B, S, K, H], of q's type.
        q_positions: int32 [B, T].
        k_positions: int32 [B, S].
        q_segment_ids: int32 [B, T]; a query attends to keys of its own segment, 0 is padding.
        k_segment_ids: int32 [B, S].
        q_earliest: int32 [B, T], the lowest position that each query attends to; None: any.
        causal: a query attends to positions up to its own only.
        window: it attends to positions less than this far away only; None: to any.
        scale: of the scores; None: H ** -0.5.
        kernel: what computes it.

    Returns:
        out [B, T, N, H] and the natural log-sum-exp [B, N, T], both float32.

    Raises:
        UserError: the kernel cannot take such arrays.
    """
    mask_spec = MaskSpec(causal, window, q.shape[-1] ** -0.5 if scale is None else scale)
    q_tokens = Tokens(q_positions, q_segment_ids, q_earliest)
    k_tokens = Tokens(k_positions, k_segment_ids)
    out, lse = forward(load(kernel), q, heads_first(k), heads_first(v), q_tokens, k_tokens, mask_spec)
    return ungroup(out, q.shape[1]), jnp.swapaxes(ungroup(lse, q.shape[1]), 1, 2)


def forward(
    kernel: Kernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_tokens: Tokens,
    k_tokens: Tokens,
    mask_spec: MaskSpec,
) -> Partial:
    """The forward pass of a kernel, for queries that are not grouped yet.

    Args:
        kernel: as `load` gives it.
        q: queries [B, T, N, H].
        k: keys [B, K, S, H], of q's type.
        v: values [B, K, S, H], of q's type.
        q_tokens: int32 [B, T].
        k_tokens: int32 [B, S].
        mask_spec: which positions a query attends to.

    Returns:
        out and lse as they come from the kernel, float32: [B, K, G, T, H] and [B, K, G, T], or folded [B, K,
        1, T G, H] and [B, K, 1, T G]; `attention.ungroup` with the length T undoes either.

    Raises:
        UserError: the kernel cannot take such arrays.
    """
    kv_heads = k.shape[1]
    taken = order_queries(q_tokens)
    rows = repeat_tokens(q_tokens.map(taken.apply), q.shape[2] // kv_heads, kernel.folds)
    inputs = AttentionInputs(group(taken.apply(q), kv_heads, kernel.folds), k, v, rows, k_tokens)
    out, lse = kernel.forward(inputs, mask_spec)
    return taken.undo(out, axis=3), taken.undo(lse, axis=3)
