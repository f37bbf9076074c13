"""Cross-entropy over a large vocabulary, a chunk of positions at a time: the logits [B, L, V] never exist as
a whole.

In: hidden states, the output matrix, targets, weights and, where wanted, to which group each target belongs.
Out: three sums, which the caller divides as it likes, and the same for each group.

Letters: B batch, L length, D model width, V vocabulary, C positions of a chunk, G groups.

When a gradient is wanted it is made in the same pass, while a chunk's logits are at hand (a sum of losses has
one scalar cotangent, which can be multiplied in later), so the large product is never computed again.

On a mesh each device goes through its own share of the batch and length. It gathers the head once before its
first chunk, sums the head's gradient over its own tokens in float32, and after its last chunk the devices'
sums are added and scattered in one operation. Left to the compiler, they are added after every chunk.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from ringvision.errors import UserError
from ringvision.mesh import RULES, Rules, fitted_spec, mesh_axes, num_shards


class Sums(NamedTuple):
    """What a mean cross-entropy and an accuracy are made of, float32.

    loss: [], the weighted sum of -log p(target) in nats.
    weight: [], the sum of the weights.
    correct: [], the sum of the weights whose target has the largest logit (a tie counts as right).
    groups: [G, 3], these three for each group; no gradient goes through them.
    """

    loss: jax.Array
    weight: jax.Array
    correct: jax.Array
    groups: jax.Array


class Groups(NamedTuple):
    """Which group each target belongs to: ids int32 [B, L] in 0 … number-1."""

    ids: jax.Array
    number: int


def chunked_cross_entropy(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    chunk: int,
    groups: Groups | None = None,
    mesh: Mesh | None = None,
    rules: Rules = RULES,
) -> Sums:
    """The sums that a mean cross-entropy and an accuracy are made of. Differentiable in hidden, head and
    weights.

    Args:
        hidden: float [B, L, D].
        head: float [D, V].
        targets: int [B, L] in 0 ... V-1; where the weight is 0, any.
        weights: float [B, L], 0 where nothing is learned.
        chunk: how many positions of each row, or on a mesh of a device's share of it, have logits at once.
        groups: of which group each target is; None: all of one.
        mesh: over whose axes batch and length are spread; None: arrays that the compiler may spread as it
            likes.
        rules: how the head is spread over the mesh.

    Returns:
        The sums over all positions, and over those of each group.

    Raises:
        UserError: the shapes do not fit together, or the mesh does not divide them.
    """
    if hidden.ndim != 3 or head.ndim != 2 or head.shape[0] != hidden.shape[2]:
        raise UserError(f"hidden {hidden.shape} and head {head.shape}: expected [B, L, D] and [D, V]")
    groups = groups or Groups(jnp.zeros(targets.shape, jnp.int32), 1)
    for name, array in (("targets", targets), ("weights", weights), ("groups", groups.ids)):
        if array.shape != hidden.shape[:2]:
            raise UserError(
                f"{name} of shape {array.shape}: expected one for every hidden state, {hidden.shape[:2]}"
            )
    if chunk < 1:
        raise UserError(f"chunk={chunk}: expected at least 1 position")
    if mesh is not None:
        shards = num_shards(mesh, "batch", rules), num_shards(mesh, "length", rules)
        if hidden.shape[0] % shards[0] or hidden.shape[1] % shards[1]:
            raise UserError(
                f"hidden states of {hidden.shape[0]} rows and {hidden.shape[1]} positions: expected "
                f"multiples of what the mesh spreads them over, {shards[0]} and {shards[1]}"
            )
        mesh = mesh if shards != (1, 1) else None
    spread = None if mesh is None else _Spread(mesh, rules)
    labels = _Labels(targets, groups.ids)
    fixed = _Fixed(chunk, groups.number, spread)
    return _sums(hidden, head, labels, weights.astype(jnp.float32), fixed)


class _Labels(NamedTuple):
    """int32 [B, L] each."""

    targets: jax.Array
    groups: jax.Array


class _Spread(NamedTuple):
    """How arrays lie on a mesh."""

    mesh: Mesh
    rules: Rules

    def head(self, head: jax.Array) -> PartitionSpec:
        """Of the head's model width; its vocabulary is the compiler's to split."""
        return fitted_spec(self.mesh, ("embed", None), head.shape, self.rules)

    @property
    def tokens(self) -> PartitionSpec:
        """Of what has a batch and a length."""
        return PartitionSpec(*(self._present(axes) for axes in (self.rules.batch, self.rules.length)))

    @property
    def token_axes(self) -> tuple[str, ...]:
        """The mesh axes over which tokens are spread."""
        return self._present((*self.rules.batch, *self.rules.length))

    def _present(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(axis for axis in axes if axis in self.mesh.shape)


class _Fixed(NamedTuple):
    """What is fixed when compiling. spread None: the compiler spreads arrays as it likes."""

    chunk: int
    num_groups: int
    spread: _Spread | None


class _Chunk(NamedTuple):
    """What one chunk's logits say. logits float32 [B, C, V]; the rest float32 [B, C]."""

    logits: jax.Array
    lse: jax.Array
    loss: jax.Array
    correct: jax.Array


def _read(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> _Chunk:
    logits = jnp.einsum("BCD,DV->BCV", hidden, head, preferred_element_type=jnp.float32)
    largest = logits.max(axis=-1)  # (B, C); subtracted, so that no exponential is above 1
    lse = largest + jnp.log(jnp.exp(logits - largest[..., None]).sum(axis=-1))
    # what is never predicted may have an id beyond the head, and weighs nothing
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="clip")[..., 0]
    return _Chunk(logits, lse, lse - chosen, (chosen >= largest).astype(jnp.float32))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sums(hidden: jax.Array, head: jax.Array, labels: _Labels, weights: jax.Array, fixed: _Fixed) -> Sums:
    def local(hidden: jax.Array, head: jax.Array, labels: _Labels, weights: jax.Array) -> Sums:
        def step(sums: Sums, piece: Any) -> tuple[Sums, None]:
            hidden, labels, weights = piece
            return _added(sums, _read(hidden, head, labels.targets), labels, weights), None

        pieces = _split((hidden, labels, weights), fixed.chunk)
        return jax.lax.scan(step, _nothing(fixed.num_groups), pieces)[0]

    spread = fixed.spread
    if spread is None:
        return local(hidden, head, labels, weights)
    spec = spread.head(head)

    def on_a_device(hidden: jax.Array, head: jax.Array, labels: _Labels, weights: jax.Array) -> Sums:
        return jax.lax.psum(local(hidden, _gather(head, spec), labels, weights), spread.token_axes)

    return _on_mesh(on_a_device, spread, spec, PartitionSpec())(hidden, head, labels, weights)


def _sums_forward(
    hidden: jax.Array, head: jax.Array, labels: _Labels, weights: jax.Array, fixed: _Fixed
) -> tuple[Sums, tuple[jax.Array, ...]]:
    """The sums, and what the backward pass multiplies by its cotangents: d_hidden [B, L, D], d_head [D, V],
    and the loss of each position, float32 [B, L].
    """
    spread = fixed.spread
    if spread is None:
        sums, d_hidden, d_head, loss = _with_gradients(hidden, head, labels, weights, fixed)
        return sums, (d_hidden, d_head.astype(head.dtype), loss)
    spec = spread.head(head)
    scattered = mesh_axes(spec, 0)
    rest = tuple(axis for axis in spread.token_axes if axis not in scattered)

    def on_a_device(
        hidden: jax.Array, head: jax.Array, labels: _Labels, weights: jax.Array
    ) -> tuple[Sums, jax.Array, jax.Array, jax.Array]:
        whole = _gather(head, spec)  # (D, V)
        sums, d_hidden, d_head, loss = _with_gradients(hidden, whole, labels, weights, fixed)
        for axis in scattered:
            d_head = jax.lax.psum_scatter(d_head, axis, scatter_dimension=0, tiled=True)
        d_head = jax.lax.psum(d_head, rest).astype(head.dtype)
        return jax.lax.psum(sums, spread.token_axes), d_hidden, d_head, loss

    out_specs = (PartitionSpec(), spread.tokens, spec, spread.tokens)
    sums, *saved = _on_mesh(on_a_device, spread, spec, out_specs)(hidden, head, labels, weights)
    return sums, tuple(saved)


def _sums_backward(
    fixed: _Fixed, saved: tuple[jax.Array, ...], cotangents: Sums
) -> tuple[jax.Array, jax.Array, None, jax.Array]:
    d_hidden, d_head, loss = saved
    d_loss = cotangents.loss
    d_weights = cotangents.weight
    return (
        (d_hidden * d_loss).astype(d_hidden.dtype),
        (d_head * d_loss).astype(d_head.dtype),
        None,
        d_loss * loss + d_weights,
    )


_sums.defvjp(_sums_forward, _sums_backward)


# -------------------------------------------------------------------------------------------- on one device


def _with_gradients(
    hidden: jax.Array, head: jax.Array, labels: _Labels, weights: jax.Array, fixed: _Fixed
) -> tuple[Sums, jax.Array, jax.Array, jax.Array]:
    """The sums; d_hidden [B, L, D] in hidden's dtype; d_head float32 [D, V]; the loss, float32 [B, L]."""

    def step(
        carry: tuple[Sums, jax.Array], piece: Any
    ) -> tuple[tuple[Sums, jax.Array], tuple[jax.Array, jax.Array]]:
        sums, d_head = carry
        hidden, labels, weights = piece
        targets = labels.targets
        read = _read(hidden, head, targets)
        target = targets[..., None] == jnp.arange(head.shape[1], dtype=targets.dtype)  # (B, C, V)
        # softmax - one-hot, each between -1 and 1: rounding it to hidden's dtype loses no range
        d_logits = (weights[..., None] * (jnp.exp(read.logits - read.lse[..., None]) - target)).astype(
            hidden.dtype
        )
        d_hidden = jnp.einsum("BCV,DV->BCD", d_logits, head, preferred_element_type=jnp.float32)
        d_head = d_head + jnp.einsum("BCD,BCV->DV", hidden, d_logits, preferred_element_type=jnp.float32)
        return (_added(sums, read, labels, weights), d_head), (d_hidden.astype(hidden.dtype), read.loss)

    start = (_nothing(fixed.num_groups), jnp.zeros(head.shape, jnp.float32))
    pieces = _split((hidden, labels, weights), fixed.chunk)
    (sums, d_head), (d_hidden, loss) = jax.lax.scan(step, start, pieces)
    length = hidden.shape[1]
    return sums, _joined(d_hidden, length), d_head, _joined(loss, length)


def _nothing(num_groups: int) -> Sums:
    return Sums(jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.zeros((num_groups, 3), jnp.float32))


def _added(sums: Sums, read: _Chunk, labels: _Labels, weights: jax.Array) -> Sums:
    """`sums` and what a chunk's positions add to them."""
    each = jnp.stack([weights * read.loss, weights, weights * read.correct], axis=-1)  # (B, C, 3)
    of_group = labels.groups[..., None] == jnp.arange(sums.groups.shape[0], dtype=jnp.int32)  # (B, C, G)
    groups = jnp.where(of_group[..., None], each[..., None, :], 0).sum(axis=(0, 1))  # (G, 3)
    loss, weight, correct = each.sum(axis=(0, 1))
    return Sums(sums.loss + loss, sums.weight + weight, sums.correct + correct, sums.groups + groups)


def _split(arrays: Any, chunk: int) -> Any:
    """A tree of [B, L, …] -> [pieces, B, C, …], padded with zeros. A piece takes every (L/C)-th position of a
    row, not neighbours: where the compiler has spread L over devices, each then works on its part of every
    piece.
    """
    length = jax.tree.leaves(arrays)[0].shape[1]
    pieces = -(-length // chunk)
    padding = -length % pieces

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, pieces, *x.shape[2:]), 2, 0)

    return jax.tree.map(split, arrays)


def _joined(x: jax.Array, length: int) -> jax.Array:
    """The inverse of `_split` for one array: [pieces, B, C, …] -> [B, L, …]."""
    x = jnp.moveaxis(x, 0, 2)  # (B, C, pieces, …)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


# ------------------------------------------------------------------------------------------------ on a mesh


def _gather(head: jax.Array, spec: PartitionSpec) -> jax.Array:
    """A device's rows of the head -> all, [D, V]. One mesh axis after the other, as `d_head` is scattered:
    the TPU's compiler makes an all-reduce of a reduce-scatter over several axes of the torus at once.
    """
    for axis in reversed(mesh_axes(spec, 0)):
        head = jax.lax.all_gather(head, axis, axis=0, tiled=True)
    return head


def _on_mesh(local: Any, spread: _Spread, head_spec: PartitionSpec, out_specs: Any) -> Any:
    """`local` on each device's tokens. The axis `tensor`, which splits the vocabulary, is left to the
    compiler.
    """
    mesh = spread.mesh
    tokens = spread.tokens
    manual = spread.token_axes if mesh.shape.get("tensor", 1) > 1 else mesh.axis_names
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(tokens, head_spec, tokens, tokens),
        out_specs=out_specs,
        axis_names=set(manual),
        check_vma=False,
    )
