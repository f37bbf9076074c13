"""What an attention call is given, checked before anything is compiled, so that a mistake is named in the
caller's own words.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ringvision.errors import UserError
from ringvision.mesh import make_mesh, num_shards
from ringvision.ops import layout as layouts
from ringvision.ops.attention import MaskSpec, Tokens
from ringvision.ops.layout import Layout


def resolve_mesh(mesh: Mesh | AbstractMesh | None) -> Mesh | AbstractMesh:
    """`mesh`; or, for None, the mesh in context (`jax.set_mesh`) if it has an axis `context`; or else a ring
    of all devices.
    """
    if mesh is None:
        current = jax.sharding.get_abstract_mesh()
        return current if "context" in current.shape else make_mesh()
    if "context" not in mesh.shape:
        raise UserError(
            f"mesh with axes {tuple(mesh.shape)}: expected one named 'context', as "
            "ringvision.mesh.make_mesh makes it"
        )
    return mesh


def make_mask_spec(q: jax.Array, causal: bool, window: int | None, scale: float | None) -> MaskSpec:
    """The masking rule. UserError where the window is empty."""
    if window is not None and window < 1:
        raise UserError(f"window={window}: expected at least 1 (a token sees itself), or None for no window")
    return MaskSpec(
        bool(causal),
        None if window is None else int(window),
        float(q.shape[-1] ** -0.5 if scale is None else scale),
    )


def check_heads(q: jax.Array, k: jax.Array, v: jax.Array, mesh: Mesh | AbstractMesh) -> None:
    """UserError where q [B, T, N, H] and k, v [B, S, K, H] do not fit each other or the mesh axes of batch
    and heads.
    """
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim != 4:
            raise UserError(
                f"{name} of shape {array.shape}: expected four axes, [batch, length, heads, head width]"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype != q.dtype:
            raise UserError(
                f"{name} of type {array.dtype}, q of type {q.dtype}: expected the same floating-point "
                "type for q, k and v"
            )
    if v.shape != k.shape:
        raise UserError(f"v of shape {v.shape}: expected k's, {k.shape}")
    if (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise UserError(
            f"q of shape {q.shape} and k of shape {k.shape}: expected the same batch (first axis) "
            "and head width (last axis)"
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise UserError(
            f"{q.shape[2]} query heads and {k.shape[2]} key/value heads: expected a whole number "
            "of query heads to each"
        )
    _check_split("q", "batch", q.shape[0], num_shards(mesh, "batch"), "data x fsdp")
    _check_split("k", "key/value heads", k.shape[2], num_shards(mesh, "kv_heads"), "tensor")
    group, heads, kv_heads = (
        mesh.shape.get("ulysses", 1),
        *(x.shape[2] // num_shards(mesh, "heads") for x in (q, k)),
    )
    if heads % group or max(kv_heads, group) % min(kv_heads, group):
        raise UserError(
            f"{heads} query heads and {kv_heads} key/value heads on a device: expected the mesh's "
            f"ulysses={group} to divide the first, "
            f"and to divide the second or be a multiple of it"
        )


def check_length(name: str, length: int, mesh: Mesh | AbstractMesh) -> None:
    """UserError where the ring does not divide a length."""
    devices = num_shards(mesh, "length")
    if length % devices:
        padded = -(-length // devices) * devices
        axes = f"context={devices}" if mesh.shape.get("ulysses", 1) == 1 else f"context x ulysses, {devices}"
        raise UserError(
            f"{name} of length {length}: expected a multiple of the mesh's {axes}; pad to "
            f"{padded} with segment 0"
        )


def check_layout(
    layout: Layout | None,
    positions: jax.Array | None,
    segment_ids: jax.Array | None,
    shape: tuple[int, ...],
    devices: int,
) -> None:
    """UserError where a layout is none, cannot be had with this length, or is contradicted by positions that
    are known already.
    """
    if layout is None:
        return
    if positions is None:
        layouts.order(shape[1], devices, layout)
    elif not any(isinstance(x, jax.core.Tracer) for x in (positions, segment_ids)):
        segments = np.ones(shape, np.int32) if segment_ids is None else np.asarray(segment_ids)
        for row in zip(np.asarray(positions), segments):
            layouts.check(*row, devices, layout)


def make_tokens(
    name: str,
    positions: jax.Array | None,
    segment_ids: jax.Array | None,
    shape: tuple[int, ...],
    layout: Layout | None = None,
    devices: int = 1,
) -> Tokens:
    """int32 positions (None: 0, 1, 2, ... in the order of `layout`) and segment ids (None: all 1) of `shape`
    (B, T). UserError for other shapes and types.
    """
    if positions is None:
        positions = jnp.broadcast_to(
            jnp.asarray(layouts.order(shape[1], devices, layout or "contiguous")), shape
        )
    if segment_ids is None:
        segment_ids = jnp.ones(shape, jnp.int32)
    for part, array in (("positions", positions), ("segment_ids", segment_ids)):
        if array.shape != shape:
            raise UserError(f"{name}{part} of shape {array.shape}: expected {shape}, one for every token")
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise UserError(f"{name}{part} of type {array.dtype}: expected integers")
    return Tokens(jnp.asarray(positions, jnp.int32), jnp.asarray(segment_ids, jnp.int32))


def _check_split(name: str, what: str, size: int, devices: int, axes: str) -> None:
    if size % devices:
        raise UserError(f"{name} with {what} of {size}: expected a multiple of the mesh's {axes}, {devices}")
