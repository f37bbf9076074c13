"""The parts of a Llama block: root-mean-square norm, grouped-query attention's projections, gated
feed-forward.

Letters, here and in transformer.py:
    B batch            N query heads        D model width (embed_dim)
    L length           K key/value heads    F feed-forward width (hidden_dim)
    T queries          H head width         V rows of the vocabulary
    S keys and values  C devices in the mesh axis `context`

Every class holds the parameters of *all* layers, stacked on a leading axis; `jax.lax.scan` hands each call
one layer's slice. In and out: activations `[B, L, D]` in the parameters' dtype.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ringvision.models.presets import TransformerConfig

INITIAL_STD = 0.02
LAYER_NORM_EPS = 1e-5
"""Chameleon's, whatever its config says of the other norms."""


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: jnp.dtype, std: float = INITIAL_STD) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, dtype))


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, computed in float32 (Zhang and Sennrich, 2019). `shape` ends in
    D.
    """

    def __init__(self, shape: tuple[int, ...], eps: float, dtype: jnp.dtype):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(shape, dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.scale[...], self.eps)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps) * scale` over the last axis, computed in float32, given in x's dtype."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * scale.astype(jnp.float32)).astype(x.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last axis (Ba et al., 2016), in float32,
    given in x's dtype.
    """
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


class Embedding(nnx.Module):
    """`table [V, D]`: a row for every token."""

    def __init__(self, vocab_size: int, embed_dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.table = _normal(rngs, (vocab_size, embed_dim), dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int32 `[B, L]` -> `[B, L, D]`."""
        return self.table[...][tokens]


class Unembedding(nnx.Module):
    """`kernel [D, V]`: from hidden states to logits. A model with tied embeddings has none."""

    def __init__(self, embed_dim: int, vocab_size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.kernel = _normal(rngs, (embed_dim, vocab_size), dtype)


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
        self.query = _normal(rngs, (layers, width, *heads), dtype)
        self.key = _normal(rngs, (layers, width, *kv_heads), dtype)
        self.value = _normal(rngs, (layers, width, *kv_heads), dtype)
        self.output = _normal(rngs, (layers, *heads, width), dtype, _residual_std(layers))
        if config.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros((layers, *heads), dtype))
            self.key_bias = nnx.Param(jnp.zeros((layers, *kv_heads), dtype))
            self.value_bias = nnx.Param(jnp.zeros((layers, *kv_heads), dtype))
        if config.qk_norm == "rms":
            self.query_norm = nnx.Param(jnp.ones((layers, head_dim), dtype))
            self.key_norm = nnx.Param(jnp.ones((layers, head_dim), dtype))
        if config.qk_norm == "layer":
            self.query_norm = nnx.Param(jnp.ones((layers, *heads), dtype))
            self.key_norm = nnx.Param(jnp.ones((layers, *kv_heads), dtype))
            self.query_norm_bias = nnx.Param(jnp.zeros((layers, *heads), dtype))
            self.key_norm_bias = nnx.Param(jnp.zeros((layers, *kv_heads), dtype))

    def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`[B, L, D]` -> queries `[B, L, N, H]`, keys and values `[B, L, K, H]`, not yet rotated."""
        q = _adapted(self, "query", x, jnp.einsum("BLD,DNH->BLNH", x, self.query[...]))
        k = _adapted(self, "key", x, jnp.einsum("BLD,DKH->BLKH", x, self.key[...]))
        v = _adapted(self, "value", x, jnp.einsum("BLD,DKH->BLKH", x, self.value[...]))
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
        """`[B, L, N, H]` -> `[B, L, D]`."""
        output = self.output[...]
        heads = heads.astype(output.dtype)
        flat = heads.reshape(*heads.shape[:2], -1)  # one axis: XLA lays out anew what is multiplied over two
        return _adapted(self, "output", heads, flat @ output.reshape(-1, output.shape[-1]))


class FeedForward(nnx.Module):
    """`(silu(x gate) * (x up)) down` (SwiGLU: Shazeer, 2020)."""

    def __init__(self, num_layers: int, embed_dim: int, hidden_dim: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.gate = _normal(rngs, (num_layers, embed_dim, hidden_dim), dtype)
        self.up = _normal(rngs, (num_layers, embed_dim, hidden_dim), dtype)
        self.down = _normal(rngs, (num_layers, hidden_dim, embed_dim), dtype, _residual_std(num_layers))

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1] == 1:  # a decoded token: the weights are most of what is read, so they are not copied
            gate, up = (jnp.einsum("BLD,DF->BLF", x, kernel[...]) for kernel in (self.gate, self.up))
        else:  # one product (E: gate, up) is a tenth less CPU time than two, and F stays spread over `tensor`
            both = jnp.einsum("BLD,DEF->BLEF", x, jnp.stack([self.gate[...], self.up[...]], axis=1))
            gate = both[:, :, 0]
            up = both[:, :, 1]
        gate = _adapted(self, "gate", x, gate)
        up = _adapted(self, "up", x, up)
        inner = jax.nn.silu(gate) * up
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
    function: Callable[[jax.Array], jax.Array], x: jax.Array, *, chunk: int, context: int
) -> jax.Array:
    """`function` on `[B, L, D]` in pieces of `chunk` positions of each device's share, recomputed in the
    backward pass, so that its inner activations exist for one piece at a time (blockwise feed-forward: Liu
    and Abbeel, 2023).

    The value is `function(x)` for any function that treats positions alike. `context` devices share the
    length axis; a piece takes the same number of positions from each, so that nothing has to travel.
    """
    batch, length, width = x.shape
    share = length // context if length % context == 0 else length
    if share <= chunk:
        return function(x)
    function = jax.checkpoint(function)
    pieces, rest = divmod(share, chunk)
    shares = x.reshape(batch, length // share, share, width)

    def on_shares(part: jax.Array) -> jax.Array:
        return function(part.reshape(batch, -1, width)).reshape(part.shape)

    stacked = shares[:, :, : pieces * chunk].reshape(batch, -1, pieces, chunk, width)
    done = jax.lax.map(on_shares, jnp.moveaxis(stacked, 2, 0))
    done = jnp.moveaxis(done, 0, 2).reshape(batch, -1, pieces * chunk, width)
    if rest:
        done = jnp.concatenate([done, on_shares(shares[:, :, pieces * chunk :])], axis=2)
    return done.reshape(batch, length, width)
