"""The transformer: a Llama (Touvron et al., 2023) whose attention runs round the ring of devices.

    tokens, positions, segment_ids [B, L] int32 ─embed→ [B, L, D] ─layers→ [B, L, D] ─norm→ hidden ─head→
    logits [B, L, V]

Letters: B batch, L length, D model width, N query heads, K key/value heads, H head width, V vocabulary
(layers.py has the whole legend). Every parameter of a layer is stacked on a leading axis and the layers are
one `jax.lax.scan`: compilation time and code size do not grow with depth.

Positions and segment ids come with every token (segment 0 is padding) and nothing is inferred from an index,
so the tokens may lie in any layout that the devices like. The same code runs on one device and on a mesh.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from ringvision.mesh import RULES, Rules, make_mesh, sharding
from ringvision.models.cache import Cache, Stored, store
from ringvision.models.layers import Attention, Embedding, FeedForward, RMSNorm, Unembedding, blockwise
from ringvision.models.parameters import gathered, on_shards
from ringvision.models.presets import PRESETS, TransformerConfig
from ringvision.models.remat import rematerialised
from ringvision.ops.attended import attended_by_group
from ringvision.ops.attention import Partial, heads_first, merge
from ringvision.ops.cached import cached_attention
from ringvision.ops.kernels import attend
from ringvision.ops.mask import ANY, Tokens
from ringvision.ops.ring import ring_attention, ring_attention_with_lse
from ringvision.ops.rope import rope

__all__ = ["PRESETS", "Transformer", "TransformerConfig"]

Pair = tuple[Stored, Stored]
"""Keys and values."""


class Layers(nnx.Module):
    """All blocks at once: each parameter is `[num_layers, ...]`."""

    def __init__(self, config: TransformerConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Random parameters.

        Args:
            config: the shape of the model.
            dtype: of the parameters.
            rngs: the stream `params` is used.
        """
        stacked = (config.num_layers, config.embed_dim)
        self.attention_norm = RMSNorm(stacked, config.norm_eps, dtype)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.feed_forward_norm = RMSNorm(stacked, config.norm_eps, dtype)
        self.feed_forward = FeedForward(*stacked, config.hidden_dim, dtype=dtype, rngs=rngs)


class Transformer(nnx.Module):
    """`graphdef, params = nnx.split(model)` gives the parameters as a plain pytree, with names such as
    `embed.table`, `layers.attention.query`, `layers.feed_forward.gate`, `norm.scale`, `unembed.kernel`.

    `nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))` describes a model of any size without
    making it.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32):
        self.config = config
        self.embed = Embedding(config.vocab_size, config.embed_dim, dtype=dtype, rngs=rngs)
        if config.frame_period:
            self.cells = Embedding(
                config.frame_period, config.embed_dim, dtype=dtype, rngs=rngs, rows="frame"
            )
        self.layers = Layers(config, dtype=dtype, rngs=rngs)
        self.norm = RMSNorm((config.embed_dim,), config.norm_eps, dtype)
        if not config.tie_embeddings:
            self.unembed = Unembedding(config.embed_dim, config.vocab_size, dtype=dtype, rngs=rngs)

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        mesh: Mesh | None = None,
        rules: Rules = RULES,
    ) -> jax.Array:
        """What the layers make of each token, after the last norm.

        Between the layers hidden states are pinned to batch x length, and each layer's parameters are
        gathered along the model width where they are used: what travels is weights and the ring's keys, never
        hidden states.

        Args:
            tokens: int32 [B, L], in any order along L that positions tell; L is a multiple of the mesh axes
                `context` x `ulysses`.
            positions: int32 [B, L].
            segment_ids: int32 [B, L]; segment 0 is padding.
            mesh: None: one device.
            rules: how the parameters lie on the mesh.

        Returns:
            [B, L, D] in the parameters' dtype.
        """
        mesh = mesh or _one_device()
        graphdef, stacked = nnx.split(self.layers)
        earliest = self._earliest(tokens, positions)
        sharpness = self._sharpness(tokens, positions)

        def look_up(embedding: Embedding, rows: jax.Array) -> jax.Array:
            graph, table = nnx.split(embedding)
            return on_shards(lambda t, rows: nnx.merge(graph, t)(rows), table, rows, mesh=mesh, rules=rules)

        def block(x: jax.Array, layer_params: nnx.State) -> tuple[jax.Array, None]:
            layer: Layers = nnx.merge(graphdef, layer_params)
            graph, projections = nnx.split(layer.attention)
            layer.attention = nnx.merge(graph, gathered(projections, mesh, rules))
            q, k, v = self._queries_keys_values(layer, x, positions, sharpness)
            heads = ring_attention(
                q,
                k,
                v,
                mesh=mesh,
                positions=positions,
                segment_ids=segment_ids,
                earliest=earliest,
                window=self.config.window,
            )
            return _pinned(self._rest_of_block(layer, x, heads, mesh, rules), mesh), None

        x = _pinned(self._embed(tokens, positions, look_up), mesh)
        x, _ = jax.lax.scan(rematerialised(block, self.config.remat, mesh, rules), x, stacked)
        return self.norm(x)

    def extend(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        cache: Cache,
        *,
        mesh: Mesh | None = None,
        fresh: bool = False,
        reach: int | None = None,
        prefix: Cache | None = None,
        shared: jax.Array | int | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Read T more tokens in every row after those in the cache: a block of a prompt, or the one token
        that was just decoded.

        A block attends to itself round the ring, to what came before in its row's cache, and to a prefix that
        all rows share; there queries travel and keys stay, and the parts are merged by their log-sum-exps.
        The cache is read during the scan and written once after it.

        Args:
            tokens: int32 [B, T]; T is 1 or a multiple of the mesh's context x ulysses.
            positions: int32 [B, T].
            segment_ids: int32 [B, T]; padding (segment 0) may stand anywhere in a block.
            cache: of B rows, of any lengths.
            mesh: the devices (None: one).
            fresh: promises that the cache is empty and spares looking into it.
            reach: promises that no token sees so many positions back or more (`TransformerConfig.reach`) and
                that every device took the tokens of a row in the order of their positions; spares looking at
                what stands before (None: no such promise).
            prefix: what all rows read before their own tokens: a cache with a row for every share of the
                batch (mesh axes data x fsdp), all of them alike. It is read and not changed.
            shared: int32 [], of the prefix only positions below it (None: all).

        Returns:
            Hidden states [B, T, D] after the last norm, and the cache with the tokens in it. Where they did
            not fit (see `Cache.free`), hidden is NaN.
        """
        mesh = mesh or _one_device()
        own = None if fresh else cache
        prefix = None if prefix is None else _below(prefix, shared)
        if reach is not None:
            own = None if own is None else own.recent(reach, mesh=mesh)
            prefix = None if prefix is None else prefix.recent(reach, mesh=mesh)
        x, (k, v), _ = self._extended(
            tokens, positions, segment_ids, cache.dtype, mesh, own=own, prefix=prefix
        )
        cache = cache.append(k, v, positions, segment_ids, mesh=mesh)
        return jnp.where(cache.overflowed, jnp.nan, self.norm(x)), cache

    def attended(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        weights: jax.Array,
        prefix: Cache,
        groups: jax.Array,
        num_groups: int,
        *,
        mesh: Mesh | None = None,
        shared: jax.Array | int | None = None,
    ) -> jax.Array:
        """How much of the attention of some tokens is on each group of what was read before them: the tokens
        are read once more, and nothing is kept.

        Args:
            tokens: int32 [B, T], as for `extend`, with a row for every row of the prefix.
            positions: int32 [B, T].
            segment_ids: int32 [B, T].
            weights: float32 [B, W, T], what each token's attention counts in each of W sums.
            prefix: what they stand behind.
            groups: int32 [P], the group of the token at each position; one outside 0 to num_groups - 1 is
                none, and so is that of a position from P on.
            num_groups: how many groups there are.
            mesh: the devices (None: one).
            shared: int32 [], of the prefix only positions below it (None: all).

        Returns:
            float32 [layers, B, N, W, num_groups]: of each head, sums over tokens of weight times probability.
        """
        mesh = mesh or _one_device()
        visible = _below(prefix, shared)
        whose = Tokens(positions, segment_ids, self._earliest(tokens, positions))
        group = jnp.take(groups, visible.positions, mode="fill", fill_value=-1)  # (B, S)

        def observe(q: jax.Array, lse: jax.Array, keys: Stored) -> jax.Array:
            return attended_by_group(
                q,
                keys.read(q.dtype),
                lse,
                weights,
                group,
                num_groups,
                mesh=mesh,
                q_tokens=whose,
                k_tokens=Tokens(visible.positions, visible.segment_ids),
                window=self.config.window,
            )

        _, _, seen = self._extended(
            tokens, positions, segment_ids, prefix.dtype, mesh, own=None, prefix=visible, observe=observe
        )
        return seen

    def _extended(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        dtype: jnp.dtype,
        mesh: Mesh,
        *,
        own: Cache | None,
        prefix: Cache | None,
        observe: Callable[[jax.Array, jax.Array, Stored], jax.Array] | None = None,
    ) -> tuple[jax.Array, Pair, Any]:
        """See `extend`. dtype: of the cache for which keys and values are stored. observe: gets of each layer
        the queries [B, T, N, H], their lse float32 [B, N, T] over all that they attend to, and the prefix's
        keys [B, K, S, H].

        Returns:
            Hidden states [B, T, D] before the last norm, the new keys and values [layers, B, K, T, H], and
            what `observe` gave, stacked.
        """
        graphdef, stacked = nnx.split(self.layers)
        whose = Tokens(positions, segment_ids, self._earliest(tokens, positions))
        sharpness = self._sharpness(tokens, positions)

        def block(
            x: jax.Array, scanned: tuple[nnx.State, Pair | None, Pair | None]
        ) -> tuple[jax.Array, tuple[Pair, Any]]:
            layer_params, old, common = scanned
            layer = nnx.merge(graphdef, layer_params)
            q, k, v = self._queries_keys_values(layer, x, positions, sharpness)
            # what attention reads now is what it will read from the cache
            keys = store(k, dtype)
            values = store(v, dtype)
            out, lse = self._attend_to_itself(q, keys.read(q.dtype), values.read(q.dtype), whose, mesh)
            for pair, among in ((old, own), (common, prefix)):
                if pair is not None and among is not None:
                    out, lse = self._attend_to_cache(q, pair, whose, among, mesh, (out, lse))
            seen = None
            if observe is not None and common is not None:
                seen = observe(q, lse, common[0])
                out = out + 0 * jnp.sum(seen)  # what follows waits for it; see _attend_to_cache
            kept = jax.tree.map(heads_first, (keys, values))
            return self._rest_of_block(layer, x, out, mesh), (kept, seen)

        scanned = (
            stacked,
            None if own is None else own.stored,
            None if prefix is None else prefix.stored,
        )
        x, (new, seen) = jax.lax.scan(block, self._embed(tokens, positions), scanned)
        return x, new, seen

    def _attend_to_itself(
        self, q: jax.Array, k: jax.Array, v: jax.Array, whose: Tokens, mesh: Mesh
    ) -> Partial:
        """Attention of a block to itself: q [B, T, N, H], k and v [B, T, K, H]."""
        positions, segment_ids, earliest = whose
        if q.shape[1] > 1:
            return ring_attention_with_lse(
                q,
                k,
                v,
                mesh=mesh,
                positions=positions,
                segment_ids=segment_ids,
                earliest=earliest,
                window=self.config.window,
            )
        # a token sees itself through any window
        return attend(
            q,
            k,
            v,
            q_positions=positions,
            k_positions=positions,
            q_segment_ids=segment_ids,
            k_segment_ids=segment_ids,
        )

    def _attend_to_cache(
        self, q: jax.Array, pair: Pair, whose: Tokens, keys: Cache, mesh: Mesh, done: Partial
    ) -> Partial:
        """`done`, merged with attention of q [B, T, N, H] to one layer's keys and values [B, K, S, H], whose
        positions and segments `keys` has.
        """
        # Two exchanges of which neither waits for the other may begin in another order on another device, and
        # wait for each other for ever: this one waits for what was attended to before. A barrier would not do
        # it: the CPU's compiler drops those.
        if mesh.size > 1:
            q = q + 0 * done[0].astype(q.dtype)
        part = cached_attention(
            q,
            pair[0].read(q.dtype),
            pair[1].read(q.dtype),
            mesh=mesh,
            q_positions=whose.positions,
            k_positions=keys.positions,
            q_segment_ids=whose.segment_ids,
            k_segment_ids=keys.segment_ids,
            q_earliest=whose.earliest,
            window=self.config.window,
        )
        return merge(done, part)

    def _embed(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        look_up: Callable[[Embedding, jax.Array], jax.Array] = lambda embedding, rows: embedding(rows),
    ) -> jax.Array:
        """int32 [B, L] twice -> [B, L, D]. `look_up` takes rows [B, L] of a table."""
        x = self._rows(tokens, look_up)
        if not self.config.frame_period:
            return x
        cells = look_up(self.cells, positions % self.config.frame_period)  # (B, L, D)
        return x + jnp.where(self.config.is_video(tokens)[..., None], cells, 0)

    def _rows(self, tokens: jax.Array, look_up: Callable[[Embedding, jax.Array], jax.Array]) -> jax.Array:
        """int32 [B, L] -> [B, L, D]: the row of each token, of a time stamp those of its second and its
        minute together, and one more where words name it.
        """
        if not self.config.stamp_rows:
            return look_up(self.embed, tokens)
        seconds = self.config.vocab_size - self.config.stamp_rows  # the first row of them
        time = tokens - self.config.vocab_size  # below 0: no stamp
        is_stamp = time >= 0
        minute = time // 60 % (self.config.stamp_rows - 61)
        x = look_up(self.embed, jnp.where(is_stamp, seconds + time % 60, tokens))
        minutes = look_up(self.embed, jnp.where(is_stamp, seconds + 60 + minute, 0))
        asked = look_up(self.embed, jnp.full_like(tokens, self.config.vocab_size - 1))
        x = x + jnp.where(is_stamp[..., None], minutes, 0)
        return x + jnp.where((time >= self.config.num_stamps)[..., None], asked, 0)

    def _earliest(self, tokens: jax.Array, positions: jax.Array) -> jax.Array | None:
        """int32 [B, L] twice -> int32 [B, L], the lowest position that each token sees; None: all see all."""
        if self.config.video_window is None:
            return None
        earliest = positions - (self.config.video_window - 1)
        return jnp.where(self.config.is_video(tokens), earliest, ANY)

    def _sharpness(self, tokens: jax.Array, positions: jax.Array) -> jax.Array | None:
        """int32 [B, L] twice -> float32 [B, L, 1, 1], what each token's queries are multiplied by; None: by
        nothing.
        """
        start = self.config.sharpened_from
        if start is None:
            return None
        growth = jnp.log1p(positions.astype(jnp.float32)) / math.log1p(start)
        if self.config.video_window is not None:  # what is seen through a window does not grow
            growth = jnp.where(self.config.is_video(tokens), 1.0, growth)
        return jnp.maximum(growth, 1.0)[:, :, None, None]

    def head(self) -> jax.Array:
        """float [D, V]: hidden states times this are the logits."""
        return self.embed.table[...].T if self.config.tie_embeddings else self.unembed.kernel[...]

    def logits(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        *,
        mesh: Mesh | None = None,
        rules: Rules = RULES,
    ) -> jax.Array:
        """The logits of every token, whole: for short rows.

        Args:
            tokens: int32 [B, L].
            positions: int32 [B, L]; None: 0, 1, 2 …
            segment_ids: int32 [B, L]; None: 1 everywhere.
            mesh: None: one device.
            rules: how the parameters lie on the mesh.

        Returns:
            float32 [B, L, V].
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones(tokens.shape, jnp.int32)
        hidden = self.hidden(tokens, positions, segment_ids, mesh=mesh, rules=rules)
        return jnp.einsum("BLD,DV->BLV", hidden, self.head(), preferred_element_type=jnp.float32)

    @property
    def _norms_behind(self) -> bool:
        return self.config.norm_placement == "after"

    def _queries_keys_values(
        self, layer: Layers, x: jax.Array, positions: jax.Array, sharpness: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v = layer.attention.project(x if self._norms_behind else layer.attention_norm(x))
        if sharpness is not None:
            q = (q * sharpness).astype(q.dtype)
        theta = self.config.rope_theta
        scaling = self.config.rope_scaling
        return (
            rope(q, positions, theta=theta, scaling=scaling),
            rope(k, positions, theta=theta, scaling=scaling),
            v,
        )

    def _rest_of_block(
        self, layer: Layers, x: jax.Array, heads: jax.Array, mesh: Mesh, rules: Rules = RULES
    ) -> jax.Array:
        """From what attention gave, [B, L, N, H], to the next layer's input, [B, L, D]."""
        attended = layer.attention.combine(heads)  # (B, L, D)
        x = x + (layer.attention_norm(attended) if self._norms_behind else attended)
        parts = (layer.feed_forward_norm, layer.feed_forward)
        graphdef, params = nnx.split(parts)

        def feed_forward(params: nnx.State, part: jax.Array) -> jax.Array:
            norm, feed_forward = nnx.merge(graphdef, params)
            if self._norms_behind:
                return part + norm(feed_forward(part))
            return part + feed_forward(norm(part))

        chunk = self.config.feed_forward_chunk
        if x.shape[1] == 1:  # a decoded token: its products travel, not the weights
            return feed_forward(params, x)
        if chunk is None:
            return feed_forward(gathered(params, mesh, rules), x)
        return blockwise(feed_forward, params, x, chunk=chunk, mesh=mesh, rules=rules)


def _pinned(x: jax.Array, mesh: Mesh) -> jax.Array:
    """Hidden states [B, L, D] stay spread over batch and length, whatever the weights beside them are."""
    if mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(mesh, "batch", "length", None))


def _below(prefix: Cache, shared: jax.Array | int | None) -> Cache:
    """The prefix as it is seen where only positions below `shared` are (None: all)."""
    if shared is None:
        return prefix
    return prefix.truncate(shared)


def _one_device() -> Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])
