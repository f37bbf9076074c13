"""The local kernel for NVIDIA GPUs: cuDNN's fused attention for whatever part of a block it can express, and
the xla kernel for the rest.

NOT YET RUN ON A GPU. On a CPU it is tested with plain JAX in cuDNN's place, and that the real calls lower to
XLA's calls of cuDNN.

In and out: as kernels/__init__.py says; letters and shapes are those of ops/attention.py. Positions are data
and masks may be anything, but cuDNN knows two masks: none, and causal by index. So a block is judged at run
time by what its tokens are:

    EMPTY      no query attends to any key        nothing is computed
    FULL       every query attends to every key   cuDNN, no mask
    DIAGONAL   the t-th query attends to the      cuDNN, causal: a device's share in ascending order and
               first t + 1 keys                   itself
    PARTIAL    anything else                      its four quarters, judged alike; a PARTIAL quarter goes to
                                                  the xla kernel

Of one long document, causal, contiguous or zigzag (where a share's halves are runs), nothing is left to the
xla kernel. Elsewhere it gets what is cut by the end of a document, the edge of a window (where queries see
differently far, of any of theirs) or padding, or is of two kinds in two rows of a batch, which are one call.

cuDNN gives each part's out, and its gradients, rounded to q's type; they are merged and summed in float32.
The log-sum-exp is float32.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# as in JAX 0.10.2; jax.nn's function rounds the log-sum-exp to q's type
from jax._src.cudnn import fused_attention_stablehlo as fused

from ringvision.errors import UserError
from ringvision.ops import tiles
from ringvision.ops.attention import (
    AttentionInputs,
    KernelGradients,
    OutputGradient,
    Partial,
    empty,
    merge_grouped,
)
from ringvision.ops.kernels import xla
from ringvision.ops.mask import MaskSpec, Tokens

LAYOUT = fused.AttentionLayout.BNTH
DIAGONAL = 3
"""Beside tiles' EMPTY, PARTIAL and FULL: 0, 1 and 2."""


def takes(q: jax.Array) -> bool:
    """Whether cuDNN takes queries of this type and head width, q [..., H], on this process' devices."""
    return obstacle(q) is None


def obstacle(q: jax.Array) -> str | None:
    """Why cuDNN does not take queries q [..., H] of this type and head width here; None where it does. What
    JAX does not check itself is from NVIDIA/cudnn-frontend:
    include/cudnn_frontend/node/sdpa_support_surface.h.
    """
    width = q.shape[-1]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"q is {q.dtype}, expected bfloat16 or float16"
    if not fused.check_compute_capability("8.0"):
        return (
            f"the device is {jax.devices()[0].device_kind}, expected an NVIDIA GPU of compute "
            "capability 8.0 (Ampere) or higher"
        )
    if width > 128 and fused.check_compute_capability("10.0"):
        return f"heads are {width} wide, expected at most 128 for a backward pass on Blackwell"
    like = jax.ShapeDtypeStruct((1, 1, 1, width), q.dtype)
    try:
        version = fused.check_cudnn_version()
        fused.check_is_flash_attention(like, like, like, LAYOUT.value, version, False, True)
    except (RuntimeError, NotImplementedError) as error:
        return str(error).rstrip(".")
    return (
        f"cuDNN is {version}, whose attention is known to be faulty; expected 9.10.2 or newer"
        if version in (91000, 91001)
        else None
    )


def forward(inputs: AttentionInputs, mask_spec: MaskSpec, may_quarter: bool = True) -> Partial:
    """q [B, K, G, T, H], k and v [B, K, S, H] -> out [B, K, G, T, H] and lse [B, K, G, T], float32. UserError
    for an `obstacle`.

    `may_quarter=False`: this is a quarter already.
    """
    q, k, v, q_tokens, k_tokens = inputs
    _require(q)

    def fused_call(causal: bool) -> Partial:
        out, lse = _fused_forward(_flat_heads(q), k, v, scale=mask_spec.scale, causal=causal)
        assert lse.dtype == jnp.float32, lse.dtype
        return out.reshape(q.shape).astype(jnp.float32), lse.reshape(q.shape[:-1])

    def partial_block() -> Partial:
        if not (may_quarter and q.shape[3] % 2 == k.shape[2] % 2 == 0):
            return xla.forward(inputs, mask_spec)
        keys = _halves_of_keys(k, v, k_tokens)
        rows = [
            reduce(
                merge_grouped,
                (
                    forward(AttentionInputs(q, k, v, q_tokens, k_tokens), mask_spec, may_quarter=False)
                    for k, v, k_tokens in keys
                ),
            )
            for q, q_tokens in zip(jnp.split(q, 2, 3), _halves_of_tokens(q_tokens))
        ]
        return jnp.concatenate([out for out, _ in rows], 3), jnp.concatenate([lse for _, lse in rows], 3)

    return _switch(q_tokens, k_tokens, mask_spec, _Cases(partial(empty, q), partial_block, fused_call))


def backward(
    inputs: AttentionInputs, gradient: OutputGradient, mask_spec: MaskSpec, may_quarter: bool = True
) -> KernelGradients:
    """This block's share of the gradients.

    Args:
        inputs: q [B, K, G, T, H], k and v [B, K, S, H], bfloat16 or float16, and their tokens.
        gradient: lse and delta [B, K, G, T] over all the keys, of this block and of others, and d_out [B, K,
            G, T, H].
        mask_spec: which positions a query attends to.
        may_quarter: False where this is a quarter already.

    Returns:
        dq [B, K, G, T, H], dk and dv [B, K, S, H], float32.

    Raises:
        UserError: there is an `obstacle`.
    """
    q, k, v, q_tokens, k_tokens = inputs
    lse, d_out, delta = gradient
    _require(q)

    def empty_block() -> KernelGradients:
        return (
            jnp.zeros(q.shape, jnp.float32),
            jnp.zeros(k.shape, jnp.float32),
            jnp.zeros(v.shape, jnp.float32),
        )

    def fused_call(causal: bool) -> KernelGradients:
        d_outs = d_out.astype(q.dtype)
        q_heads, *rest = (_flat_heads(x) for x in (q, lse, _out_for(delta, d_outs), d_outs))
        dq, dk, dv = (
            x.astype(jnp.float32)
            for x in _fused_backward(q_heads, k, v, *rest, scale=mask_spec.scale, causal=causal)
        )
        return dq.reshape(q.shape), dk, dv

    def partial_block() -> KernelGradients:
        if not (may_quarter and q.shape[3] % 2 == k.shape[2] % 2 == 0):
            return xla.backward(inputs, gradient, mask_spec)
        queries = zip(*(jnp.split(x, 2, 3) for x in (q, lse, d_out, delta)), _halves_of_tokens(q_tokens))
        keys = _halves_of_keys(k, v, k_tokens)
        # Quarters: a and b of the first queries, c and d of the second; a and c of the first keys.
        (a, b), (c, d) = (
            [
                backward(
                    AttentionInputs(q, k, v, q_tokens, k_tokens),
                    OutputGradient(lse, d_out, delta),
                    mask_spec,
                    may_quarter=False,
                )
                for k, v, k_tokens in keys
            ]
            for q, lse, d_out, delta, q_tokens in queries
        )
        dk, dv = (jnp.concatenate([a[i] + c[i], b[i] + d[i]], 2) for i in (1, 2))  # (B, K, S, H)
        return jnp.concatenate([a[0] + b[0], c[0] + d[0]], 3), dk, dv

    return _switch(q_tokens, k_tokens, mask_spec, _Cases(empty_block, partial_block, fused_call))


def _require(q: jax.Array) -> None:
    if reason := obstacle(q):
        raise UserError(
            f"cuDNN's attention cannot be used: {reason}; take the xla kernel, which computes the "
            "same anywhere"
        )


class _Cases(NamedTuple):
    """What to do with a block of each kind; `fused` takes whether cuDNN's mask is causal (DIAGONAL) or none
    (FULL).
    """

    empty: Callable[[], Any]
    partial: Callable[[], Any]
    fused: Callable[[bool], Any]


def _switch(q_tokens: Tokens, k_tokens: Tokens, mask_spec: MaskSpec, cases: _Cases) -> Any:
    """Does what the block's kind asks for; a causal call that can never be made is not compiled. cuDNN
    refuses some cases of one query.
    """
    if q_tokens.positions.shape[1] == 1:
        return cases.partial()
    diagonal = [partial(cases.fused, True)] if _may_be_diagonal(q_tokens, k_tokens, mask_spec) else []
    return jax.lax.switch(
        _kind(q_tokens, k_tokens, mask_spec),
        [cases.empty, cases.partial, partial(cases.fused, False), *diagonal],
    )


def _kind(q_tokens: Tokens, k_tokens: Tokens, mask_spec: MaskSpec) -> jax.Array:
    """EMPTY, PARTIAL, FULL or DIAGONAL, int32: what every row of the batch is, PARTIAL where they differ."""
    queries, keys = (tiles.ranges(tokens, tokens.positions.shape[1]) for tokens in (q_tokens, k_tokens))
    kinds = tiles.kinds(queries, keys, mask_spec)[:, 0]
    if _may_be_diagonal(q_tokens, k_tokens, mask_spec):
        q = q_tokens.positions  # (B, T)
        k = k_tokens.positions
        diagonal = queries.whole & keys.whole & (queries.first_segment == keys.first_segment)
        # k[0] <= q[0] < k[1] <= q[1] < ...: what is causal by position is causal by index, whatever the gaps
        diagonal &= (k <= q).all(1, keepdims=True) & (q[:, :-1] < k[:, 1:]).all(1, keepdims=True)
        if mask_spec.window is not None:
            diagonal &= queries.positions.all.high - keys.positions.all.low < mask_spec.window
        if queries.earliest is not None:
            diagonal &= keys.positions.all.low >= queries.earliest.all.high
        kinds = jnp.where(diagonal, DIAGONAL, kinds)
    return jnp.where((kinds == kinds[0]).all(), kinds[0, 0], tiles.PARTIAL).astype(jnp.int32)


def _may_be_diagonal(q_tokens: Tokens, k_tokens: Tokens, mask_spec: MaskSpec) -> bool:
    return mask_spec.causal and q_tokens.positions.shape == k_tokens.positions.shape


def _halves_of_tokens(tokens: Tokens) -> list[Tokens]:
    halves = tokens.map(lambda x: jnp.split(x, 2, 1))
    return [
        Tokens(*half) for half in zip(halves.positions, halves.segment_ids, halves.earliest or (None, None))
    ]


def _halves_of_keys(k: jax.Array, v: jax.Array, tokens: Tokens) -> list[tuple[jax.Array, jax.Array, Tokens]]:
    return list(zip(jnp.split(k, 2, 2), jnp.split(v, 2, 2), _halves_of_tokens(tokens)))


def _flat_heads(x: jax.Array) -> jax.Array:
    """[B, K, G, T, ...] -> [B, N, T, ...], which cuDNN takes as it lies."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _out_for(delta: jax.Array, d_out: jax.Array) -> jax.Array:
    """The shortest out [..., T, H] with `sum(d_out * out, -1) = delta`, in d_out's type.

    cuDNN's backward pass takes the out over all the keys and makes nothing but delta of it (cudnn-frontend,
    CompositeSDPABackwardNode). This one lies along d_out and is no longer than the real one (Cauchy and
    Schwarz), so that rounding it costs about as much.
    """
    largest = jnp.abs(d_out).max(-1, keepdims=True).astype(jnp.float32)
    largest = jnp.where(largest == 0, 1, largest)
    # Gradients may be so small that their squares are 0; divided by the largest of a row they are not.
    direction = d_out.astype(jnp.float32) / largest  # (..., T, H), at most 1
    squares = jnp.maximum((direction**2).sum(-1, keepdims=True), 1)  # at least 1, but for a row of zeros
    return (delta[..., None] / largest / squares * direction).astype(d_out.dtype)


def _fused_forward(q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, causal: bool) -> Partial:
    """q [B, N, T, H], k and v [B, K, S, H] -> out like q, lse [B, N, T]."""
    mask = fused.MaskType.CAUSAL if causal else fused.MaskType.NO_MASK
    return fused.dot_product_attention(
        q, k, v, scale=scale, mask_type=mask, qkv_layout=LAYOUT.name, return_residual=True
    )


def _fused_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lse: jax.Array,
    out: jax.Array,
    d_out: jax.Array,
    *,
    scale: float,
    causal: bool,
) -> list[jax.Array]:
    """q, out and d_out [B, N, T, H], k and v [B, K, S, H], lse float32 [B, N, T] -> dq, dk, dv in their type.

    The primitive, because the public function's gradient would be that of this block's own out and lse, not
    of those over all the keys.
    """
    unused = [jnp.zeros(0, q.dtype)] * 7  # bias, lengths, offsets, page tables
    options = {
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),
        "layout": LAYOUT.value,
        "sliding_window_length": None,
    }
    mask = fused.MaskType.CAUSAL if causal else fused.MaskType.NO_MASK
    return fused._dot_product_attention_bwd_p_wrapper.bind(
        q, k, v, *unused, lse, out, d_out, scale=scale, mask_type=mask, **options
    )
