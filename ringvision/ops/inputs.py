"""What an attention call is given, checked before anything is compiled, so that a mistake is named in the
caller's own words.

In: the arguments of ring_attention (or cached_attention). Out: `Tokens` and an `AttentionSpec`.
"""

from typing import TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from ringvision.errors import UserError
from ringvision.mesh import make_mesh, num_shards
from ringvision.ops import kernels
from ringvision.ops import layout as layouts
from ringvision.ops.exchange import Exchange, choose_exchange
from ringvision.ops.layout import Layout
from ringvision.ops.mask import MaskSpec, Tokens
from ringvision.ops.route import count_hops
from ringvision.ops.spec import AXIS, AttentionSpec


class RingOptions(TypedDict, total=False):
    """The keyword arguments of `ring_attention`, which says what each means."""

    mesh: Mesh | AbstractMesh | None
    positions: jax.Array | None
    segment_ids: jax.Array | None
    earliest: jax.Array | None
    causal: bool
    window: int | None
    scale: float | None
    layout: Layout | None
    exchange: Exchange | None
    kernel: kernels.Name | None


def prepare(
    q: jax.Array, k: jax.Array, v: jax.Array, **options: Unpack[RingOptions]
) -> tuple[Tokens, AttentionSpec]:
    """The arguments of a ring attention call -> its tokens, and all of it that is fixed when compiling.

    Args:
        q: [B, T, N, H], of any floating-point type.
        k: [B, T, K, H], of q's type.
        v: [B, T, K, H], of q's type.
        **options: as `ring_attention` takes them.

    Returns:
        Tokens, int32 [B, T] each, and the spec.

    Raises:
        UserError: shapes, types, a mesh or names that do not fit.
    """
    positions = options.get("positions")
    segment_ids = options.get("segment_ids")
    layout = options.get("layout")
    mesh = resolve_mesh(options.get("mesh"))
    check_heads(q, k, v, mesh)
    if k.shape[1] != q.shape[1]:
        raise UserError(
            f"k of length {k.shape[1]}: expected q's, {q.shape[1]}; cached_attention takes keys "
            "of another length"
        )
    check_length("q", q.shape[1], mesh)
    mask = make_mask_spec(q, options.get("causal", True), options.get("window"), options.get("scale"))
    devices = mesh.shape[AXIS]
    check_layout(layout, positions, segment_ids, q.shape[:2], devices)
    exchange = choose_exchange(options.get("exchange"), mesh, q, k, mask)
    earliest = options.get("earliest")
    hops = None
    if segment_ids is None and earliest is None:
        if not mask.has_horizon:
            hops = devices - 1  # the last position attends to all the others
        elif positions is None and exchange == "ring":
            hops = count_hops(q.shape[1], devices, layout, mask)
    tokens = make_tokens("", positions, segment_ids, q.shape[:2], layout, devices, earliest=earliest)
    return tokens, AttentionSpec(mask, mesh, kernels.choose(options.get("kernel"), mesh, q), exchange, hops)


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
    """The rule of the attention mask.

    Args:
        q: queries [..., H]; only the head width H is looked at.
        causal: a query attends to positions up to its own only.
        window: it attends to positions less than this far away only; None: to any.
        scale: of the scores; None: H ** -0.5.

    Returns:
        The same in one value, as plain Python numbers.

    Raises:
        UserError: the window is empty.
    """
    if window is not None and window < 1:
        raise UserError(f"window={window}: expected at least 1 (a token sees itself), or None for no window")
    return MaskSpec(
        bool(causal),
        None if window is None else int(window),
        float(q.shape[-1] ** -0.5 if scale is None else scale),
    )


def check_heads(q: jax.Array, k: jax.Array, v: jax.Array, mesh: Mesh | AbstractMesh) -> None:
    """Whether q, k and v fit each other and the mesh axes of batch and heads.

    Args:
        q: [B, T, N, H], of any floating-point type.
        k: [B, S, K, H], of q's type.
        v: [B, S, K, H], of q's type.
        mesh: data x fsdp divides B, tensor divides K, and on a device ulysses divides the query heads and
            divides the KV heads or is a multiple of them.

    Raises:
        UserError: one of these does not hold.
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
    group = mesh.shape.get("ulysses", 1)
    heads, kv_heads = (x.shape[2] // num_shards(mesh, "heads") for x in (q, k))
    if heads % group or max(kv_heads, group) % min(kv_heads, group):
        raise UserError(
            f"{heads} query heads and {kv_heads} key/value heads on a device: expected the mesh's "
            f"ulysses={group} to divide the first, "
            f"and to divide the second or be a multiple of it"
        )


def check_length(name: str, length: int, mesh: Mesh | AbstractMesh) -> None:
    """UserError where the mesh's context x ulysses does not divide the length of the array `name`."""
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
    """Whether tokens can be in the layout that the caller named.

    Args:
        layout: the name, or None, which is always right.
        positions: int [B, T], or None: they follow from the layout. Looked at outside jit only.
        segment_ids: int [B, T], or None: all 1.
        shape: (B, T).
        devices: of the ring.

    Raises:
        UserError: there is no such layout, this length cannot be in it, or the positions contradict it.
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
    *,
    earliest: jax.Array | None = None,
) -> Tokens:
    """Positions, segment ids and how far back queries look, checked, with defaults for what is not given.

    Args:
        name: what goes before the arrays' names in an error, such as "q_".
        positions: int [B, T]; None: 0, 1, 2, ... in the order of `layout`.
        segment_ids: int [B, T]; None: all 1.
        shape: (B, T).
        layout: the order of default positions; None: as they stand.
        devices: of the ring, which a layout depends on.
        earliest: int [B, T], the lowest position that each query attends to; None: any.

    Returns:
        int32 [B, T] each; `earliest` stays None.

    Raises:
        UserError: an array of another shape or type.
    """
    if positions is None:
        positions = jnp.broadcast_to(
            jnp.asarray(layouts.order(shape[1], devices, layout or "contiguous")), shape
        )
    if segment_ids is None:
        segment_ids = jnp.ones(shape, jnp.int32)
    for part, array in (("positions", positions), ("segment_ids", segment_ids), ("earliest", earliest)):
        if array is None:
            continue
        if array.shape != shape:
            raise UserError(f"{name}{part} of shape {array.shape}: expected {shape}, one for every token")
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise UserError(f"{name}{part} of type {array.dtype}: expected integers")
    return Tokens(positions, segment_ids, earliest).map(lambda x: jnp.asarray(x, jnp.int32))


def _check_split(name: str, what: str, size: int, devices: int, axes: str) -> None:
    """UserError where the mesh axes `axes` do not divide an axis of an array."""
    if size % devices:
        raise UserError(f"{name} with {what} of {size}: expected a multiple of the mesh's {axes}, {devices}")
