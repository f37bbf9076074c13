"""The local kernels: attention of one block of queries to one block of keys, each in the form that a kind of
device is fast at.

    xla       plain JAX by tiles: the CPU's, and the reference
    splash    Pallas: the TPU's
    cudnn     cuDNN's fused attention: the GPU's

All have the same two functions; letters and shapes are those of ops/attention.py, results float32:

    forward(q, k, v, q_tokens, k_tokens, rule) -> (out, lse)
    backward(q, k, v, q_tokens, k_tokens, rule, lse, d_out, delta) -> (dq, dk, dv)

`lse` and `delta` = sum(d_out * out, -1) are over all the keys there are, of this block and of others: then
the gradients of blocks add up.
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
    MaskSpec,
    Partial,
    Tokens,
    group,
    heads_first,
    merge_grouped,
    rows_of,
    ungroup,
)

Name = Literal["xla", "splash", "cudnn"]


class Kernel(NamedTuple):
    """`folds`: it wants query heads that share a KV head as rows of one (attention.group). `goes_on`: its
    functions also take `onto`, what other keys gave before, (out, lse) or dq, and give the result over
    both.
    """

    folds: bool
    goes_on: bool
    forward: Callable[..., Partial]
    backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]

    def onto(self, before: Any) -> dict[str, Any]:
        """How to call either function after `before`; then `merged` or `added` takes what it gave."""
        return {"onto": before} if self.goes_on and before is not None else {}

    def merged(self, before: Partial, fresh: Partial) -> Partial:
        return fresh if self.goes_on else merge_grouped(before, fresh)

    def added(self, before: jax.Array, fresh: jax.Array) -> jax.Array:
        return fresh if self.goes_on else before + fresh


def load(name: Name, mesh: Mesh | AbstractMesh | None = None) -> Kernel:
    """The two functions of a kernel for the devices of `mesh` (None: the default ones). Where those are no
    TPUs splash is interpreted.
    """
    module = import_module(f"{__name__}.{name}")
    options = {"interpret": platform_of(mesh) != "tpu"} if name == "splash" else {}
    return Kernel(
        name == "xla", name == "xla", partial(module.forward, **options), partial(module.backward, **options)
    )


def choose(name: Name | None, mesh: Mesh | AbstractMesh, q: jax.Array) -> Name:
    """`name`, checked; or for None the one for the mesh's devices: splash on TPUs, cudnn on GPUs where it
    takes q, else xla.
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
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    kernel: Name = "xla",
) -> Partial:
    """On one device. q [B, T, N, H], k and v [B, S, K, H], tokens int32 [B, T] and [B, S] -> out [B, T, N, H]
    and lse [B, N, T], float32.

    `scale=None` is H ** -0.5. Scores exist one tile at a time. Not differentiable by itself: `ring_attention`
    is.
    """
    mask_spec = MaskSpec(causal, window, q.shape[-1] ** -0.5 if scale is None else scale)
    q_tokens = Tokens(q_positions, q_segment_ids)
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
    """q [B, T, N, H], k and v [B, K, S, H] -> out and lse as they come from the kernel, grouped."""
    kv_heads = k.shape[1]
    rows = rows_of(q_tokens, q.shape[2] // kv_heads, kernel.folds)
    return kernel.forward(group(q, kv_heads, kernel.folds), k, v, rows, k_tokens, mask_spec)
