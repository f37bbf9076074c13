"""The parts of a Llama block: root-mean-square norm, grouped-query attention's projections, gated
feed-forward.

Letters, here and in transformer.py:
    B batch            N query heads        D model width (embed_dim)
    L length           K key/value heads    F feed-forward width (hidden_dim)
    T queries          H head width         V rows of the vocabulary
    S keys and values  C devices in the mesh axis `context`

Every class holds the parameters of *all* layers, stacked on a leading axis; `jax.lax.scan` hands each call
one layer's slice. In and out: activations `[B, L, D]` in the parameters' dtype. Every parameter says its
logical axes where it is made; `Rules` in ringvision/mesh.py says where these go on a mesh.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from ringvision.mesh import RULES, Rules
from ringvision.models.parameters import on_shards, param
from ringvision.models.presets import TransformerConfig
from ringvision.models.products import gate_and_up, gated_feed_forward, joined_heads, normalised

INITIAL_STD = 0.02
LAYER_NORM_EPS = 1e-5
"""Chameleon's, whatever its config says of the other norms."""


def _normal(
    rngs: nnx.Rngs, shape: tuple[int, ...], axes: tuple[str, ...], dtype: jnp.dtype, std: float = INITIAL_STD
) -> nnx.Param:
    return param(std * jax.random.normal(rngs.params(), shape, dtype), *axes)


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, computed in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, shape: tuple[int, ...], eps: float, dtype: jnp.dtype):
        """`scale` of ones.

        Args:
            shape: `[D]`, or `[layers, D]` for the norms of all layers.
            eps: what is added to the mean square.
            dtype: of the scale.
        """
        self.eps = eps
        self.scale = param(jnp.ones(shape, dtype), *("layers", "norm")[-len(shape) :])

    def __call__(self, x: jax.Array) -> jax.Array:
        """float `[B, L, D]` -> `[B, L, D]` in the same dtype."""
        return rms_norm(x, self.scale[...], self.eps)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps) * scale` over the last axis.

    x float `[..., D]`, scale float `[D]` -> `[..., D]` in x's dtype, computed in float32. The gradient is
    written out (products.py).
    """
    return normalised(x, scale, eps)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last axis (Ba et al., 2016).

    Args:
        x: float `[..., D]`.
        scale: float, `[D]` or what broadcasts to x (`[N, H]`: one for every head).
        bias: as scale.
        eps: what is added to the variance.

    Returns:
        `[..., D]` in x's dtype, computed in float32.
    """
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


class Embedding(nnx.Module):
    """`table [V, D]`: a row for every token."""

    def __init__(
        self, vocab_size: int, embed_dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs, rows: str = "vocab"
    ):
        """Rows of the standard deviation INITIAL_STD.

        Args:
            vocab_size: V.
            embed_dim: D.
            dtype: of the table.
            rngs: the stream `params` is used.
            rows: the logical axis of the rows.
        """
        self.table = _normal(rngs, (vocab_size, embed_dim), (rows, "embed"), dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int32 `[B, L]` -> `[B, L, D]` in the table's dtype."""
        return self.table[...][tokens]


class Unembedding(nnx.Module):
    """`kernel [D, V]`: from hidden states to logits. A model with tied embeddings has none."""

    def __init__(self, embed_dim: int, vocab_size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        """A kernel of the standard deviation INITIAL_STD.

        Args:
            embed_dim: D.
            vocab_size: V.
            dtype: of the kernel.
            rngs: the stream `params` is used.
        """
        self.kernel = _normal(rngs, (embed_dim, vocab_size), ("embed", "vocab"), dtype)


class Attention(nnx.Module):
    """The four projections of grouped-query attention, and the norms of queries and keys where there are any.
    What happens between them depends on the mesh and the cache, so transformer.py writes it out.
    """

    def __init__(self, config: TransformerConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        layers = config.num_layers
        width = config.embed_dim
        head_dim = config.head_dim
        heads = (config.num_heads, head_dim)
        kv_heads = (config.num_kv_heads, head_dim)
        self.qk_norm = config.qk_norm
        self.norm_eps = config.norm_eps
        per_head = ("heads", "head_dim")
        per_kv_head = ("kv_heads", "head_dim")
        into = ("layers", "embed")
        self.query = _normal(rngs, (layers, width, *heads), (*into, *per_head), dtype)
        self.key = _normal(rngs, (layers, width, *kv_heads), (*into, *per_kv_head), dtype)
        self.value = _normal(rngs, (layers, width, *kv_heads), (*into, *per_kv_head), dtype)
        self.output = _normal(
            rngs, (layers, *heads, width), ("layers", *per_head, "embed"), dtype, _residual_std(layers)
        )

        def ones(shape: tuple[int, ...], *axes: str) -> nnx.Param:
            return param(jnp.ones((layers, *shape), dtype), "layers", *axes)

        def zeros(shape: tuple[int, ...], *axes: str) -> nnx.Param:
            return param(jnp.zeros((layers, *shape), dtype), "layers", *axes)

        if config.qkv_bias:
            self.query_bias = zeros(heads, *per_head)
            self.key_bias = zeros(kv_heads, *per_kv_head)
            self.value_bias = zeros(kv_heads, *per_kv_head)
        if config.qk_norm == "rms":
            self.query_norm = ones((head_dim,), "head_dim")
            self.key_norm = ones((head_dim,), "head_dim")
        if config.qk_norm == "layer":
            self.query_norm = ones(heads, *per_head)
            self.key_norm = ones(kv_heads, *per_kv_head)
            self.query_norm_bias = zeros(heads, *per_head)
            self.key_norm_bias = zeros(kv_heads, *per_kv_head)

    def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """float `[B, L, D]` -> queries `[B, L, N, H]`, keys and values `[B, L, K, H]`, not yet rotated, all
        in the parameters' dtype.
        """
        q = _adapted(self, "query", x, jnp.einsum("BLD,DNH->BLNH", x, self.query[...]))  # (B, L, N, H)
        k = _adapted(self, "key", x, jnp.einsum("BLD,DKH->BLKH", x, self.key[...]))  # (B, L, K, H)
        v = _adapted(self, "value", x, jnp.einsum("BLD,DKH->BLKH", x, self.value[...]))  # (B, L, K, H)
        if hasattr(self, "query_bias"):
            q = q + self.query_bias[...]
            k = k + self.key_bias[...]
            v = v + self.value_bias[...]
        if self.qk_norm == "rms":
            q = rms_norm(q, self.query_norm[...], self.norm_eps)
            k = rms_norm(k, self.key_norm[...], self.norm_eps)
        elif self.qk_norm == "layer":
            q = layer_norm(q, self.query_norm[...], self.query_norm_bias[...], LAYER_NORM_EPS)
            k = layer_norm(k, self.key_norm[...], self.key_norm_bias[...], LAYER_NORM_EPS)
        return q, k, v

    def combine(self, heads: jax.Array) -> jax.Array:
        """float `[B, L, N, H]` -> `[B, L, D]` in the parameters' dtype."""
        output = self.output[...]  # (N, H, D)
        heads = heads.astype(output.dtype)
        return _adapted(self, "output", heads, joined_heads(heads, output))


class FeedForward(nnx.Module):
    """`(silu(x gate) * (x up)) down` (SwiGLU: Shazeer, 2020)."""

    def __init__(self, num_layers: int, embed_dim: int, hidden_dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Random kernels for all layers.

        Args:
            num_layers: how many.
            embed_dim: D.
            hidden_dim: F.
            dtype: of the kernels.
            rngs: the stream `params` is used.
        """
        into = ("layers", "embed", "hidden")
        out_of = ("layers", "hidden", "embed")
        self.gate = _normal(rngs, (num_layers, embed_dim, hidden_dim), into, dtype)
        self.up = _normal(rngs, (num_layers, embed_dim, hidden_dim), into, dtype)
        self.down = _normal(
            rngs, (num_layers, hidden_dim, embed_dim), out_of, dtype, _residual_std(num_layers)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """float `[B, L, D]` -> `[B, L, D]` in the same dtype."""
        if x.shape[1] > 1 and not any(hasattr(self, f"{name}_lora") for name in ("gate", "up", "down")):
            return gated_feed_forward(x, self.gate[...], self.up[...], self.down[...])
        if x.shape[1] == 1:  # a decoded token: the weights are most of what is read, so they are not copied
            gate, up = (jnp.einsum("BLD,DF->BLF", x, kernel[...]) for kernel in (self.gate, self.up))
        else:  # as without pairs, to the bit
            gate, up = gate_and_up(x, self.gate[...], self.up[...])
        gate = _adapted(self, "gate", x, gate)
        up = _adapted(self, "up", x, up)
        inner = jax.nn.silu(gate) * up  # (B, L, F)
        return _adapted(self, "down", inner, jnp.einsum("BLF,FD->BLD", inner, self.down[...]))


def _adapted(module: nnx.Module, name: str, x: jax.Array, product: jax.Array) -> jax.Array:
    """`x` times the matrix of this name, and what the low-rank pair beside it adds where there is one
    (lora.py).
    """
    pair = getattr(module, f"{name}_lora", None)
    return product if pair is None else product + pair(x)


def _residual_std(num_layers: int) -> float:
    """Two branches a layer are added to the residual stream: keep its variance from growing with depth
    (GPT-2).
    """
    return INITIAL_STD / (2 * num_layers) ** 0.5


def blockwise(
    function: Callable[[nnx.State, jax.Array], jax.Array],
    params: nnx.State,
    x: jax.Array,
    *,
    chunk: int,
    mesh: Mesh,
    rules: Rules = RULES,
) -> jax.Array:
    """`function(params, x)` in pieces of `chunk` positions of each device's share, recomputed in the backward
    pass, so that its inner activations exist for one piece at a time (blockwise feed-forward: Liu and Abbeel,
    2023).

    On a mesh each device goes through its own share, with parameters that it gathers once (`on_shards`).

    Args:
        function: treats positions alike; its result has x's shape and dtype.
        params: parameters of one layer, spread by `rules`.
        x: float [B, L, D], spread over batch and length, which the mesh divides.
        chunk: positions.
        mesh: the devices.
        rules: how the parameters lie.

    Returns:
        [B, L, D], spread like x.
    """
    return on_shards(partial(_pieces, function, chunk=chunk), params, x, mesh=mesh, rules=rules)


def _pieces(
    function: Callable[[nnx.State, jax.Array], jax.Array], params: nnx.State, x: jax.Array, *, chunk: int
) -> jax.Array:
    """One device's share [B, L, D], `chunk` positions at a time."""
    batch, length, width = x.shape
    if length <= chunk:
        return function(params, x)
    function = jax.checkpoint(function)
    pieces, rest = divmod(length, chunk)
    stacked = x[:, : pieces * chunk].reshape(batch, pieces, chunk, width)
    done = jax.lax.map(partial(function, params), jnp.moveaxis(stacked, 1, 0))  # (pieces, B, chunk, D)
    done = jnp.moveaxis(done, 0, 1).reshape(batch, pieces * chunk, width)
    if rest:
        done = jnp.concatenate([done, function(params, x[:, pieces * chunk :])], axis=1)
    return done  # (B, L, D)
