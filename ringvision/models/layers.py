"""The parts of a Llama block: root-mean-square norm, grouped-query attention's projections, gated feed-forward.

Letters, here and in transformer.py:
    B batch            N query heads        D model width (embed_dim)
    L length           K key/value heads    F feed-forward width (hidden_dim)
    T queries          H head width         V rows of the vocabulary
    S keys and values  C devices in the mesh axis `context`

Every class holds the parameters of *all* layers, stacked on a leading axis; `jax.lax.scan` hands each call one layer's slice.
In and out: activations `[B, L, D]` in the parameters' dtype.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

INITIAL_STD = 0.02


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: jnp.dtype, std: float = INITIAL_STD) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, dtype))


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, computed in float32 (Zhang and Sennrich, 2019). `shape` ends in D."""

    def __init__(self, shape: tuple[int, ...], eps: float, dtype: jnp.dtype):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(shape, dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * self.scale[...].astype(jnp.float32)).astype(x.dtype)


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
    """The four projections of grouped-query attention. What happens between them depends on the mesh and the cache, so
    transformer.py writes it out."""

    def __init__(
        self,
        num_layers: int,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.query = _normal(rngs, (num_layers, embed_dim, num_heads, head_dim), dtype)
        self.key = _normal(rngs, (num_layers, embed_dim, num_kv_heads, head_dim), dtype)
        self.value = _normal(rngs, (num_layers, embed_dim, num_kv_heads, head_dim), dtype)
        self.output = _normal(rngs, (num_layers, num_heads, head_dim, embed_dim), dtype, _residual_std(num_layers))

    def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`[B, L, D]` -> queries `[B, L, N, H]`, keys and values `[B, L, K, H]`, not yet rotated."""
        q = jnp.einsum("BLD,DNH->BLNH", x, self.query[...])
        k = jnp.einsum("BLD,DKH->BLKH", x, self.key[...])
        v = jnp.einsum("BLD,DKH->BLKH", x, self.value[...])
        return q, k, v

    def combine(self, heads: jax.Array) -> jax.Array:
        """`[B, L, N, H]` -> `[B, L, D]`."""
        output = self.output[...]
        return jnp.einsum("BLNH,NHD->BLD", heads.astype(output.dtype), output)


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
            gate, up = both[:, :, 0], both[:, :, 1]
        return jnp.einsum("BLF,FD->BLD", jax.nn.silu(gate) * up, self.down[...])


def _residual_std(num_layers: int) -> float:
    """Two branches a layer are added to the residual stream: keep its variance from growing with depth (GPT-2)."""
    return INITIAL_STD / (2 * num_layers) ** 0.5


def blockwise(function: Callable[[jax.Array], jax.Array], x: jax.Array, *, chunk: int, context: int) -> jax.Array:
    """`function` on `[B, L, D]` in pieces of `chunk` positions of each device's share, recomputed in the backward pass, so that
    its inner activations exist for one piece at a time (blockwise feed-forward: Liu and Abbeel, 2023).

    The value is `function(x)` for any function that treats positions alike. `context` devices share the length axis; a piece takes the
    same number of positions from each, so that nothing has to travel.
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
