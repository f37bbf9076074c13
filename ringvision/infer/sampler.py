"""From logits to the next token: greedy, or drawn at a temperature from the top k, the top p, or both.

In: logits float32 `[B, V]`, keys of jax.random and the settings, of each row or one for all. Out: ids int32
`[B]`. The settings are traced, so changing one compiles nothing anew.
"""

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.errors import UserError


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen.

    temperature: 0 takes the likeliest token and never draws. top_k: draw from the k likeliest only, 0 for
    all. top_p: draw from the fewest tokens whose probabilities (at the temperature, after top_k) reach p.
    seed: of the draws.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"temperature {self.temperature} was given; expected a number from 0 (always the "
                "likeliest token) upward"
            )
        if self.top_k < 0:
            raise UserError(
                f"top_k {self.top_k} was given; expected a whole number of tokens, or 0 for all of them"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p} was given; expected a probability above 0 and at most 1")

    def settings(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(temperature float32 [], top_k int32 [], top_p float32 []), as `choose` takes them."""
        return jnp.float32(self.temperature), jnp.int32(self.top_k), jnp.float32(self.top_p)

    def key(self) -> jax.Array:
        """The typed key [] of the seed."""
        return jax.random.key(self.seed)

    def key_data(self) -> np.ndarray:
        """The same as uint32 [2]."""
        return _key_data(self.seed)


@lru_cache(maxsize=256)
def _key_data(seed: int) -> np.ndarray:
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def keep_top_k(logits: jax.Array, top_k: jax.Array | int) -> jax.Array:
    """-inf for all but the `top_k` largest of each row (equal ones at the edge all stay); 0 keeps every one.

    logits: float32 [B, V]; top_k: int32 [] or [B]; -> float32 [B, V].
    """
    top_k = jnp.asarray(top_k)[..., None]  # (1,) or (B, 1)
    largest_first = jnp.sort(logits, axis=-1, descending=True)
    index = jnp.clip(jnp.where(top_k > 0, top_k, logits.shape[-1]) - 1, 0, logits.shape[-1] - 1)
    edge = jnp.take_along_axis(largest_first, jnp.broadcast_to(index, (*logits.shape[:-1], 1)), axis=-1)
    return jnp.where(logits >= edge, logits, -jnp.inf)


def keep_top_p(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """-inf for all but the fewest largest whose probabilities reach `top_p`; the largest always stays.

    logits: float32 [B, V]; top_p: float32 [] or [B]; -> float32 [B, V].
    """
    top_p = jnp.asarray(top_p)[..., None]  # (1,) or (B, 1)
    largest_first = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(largest_first, axis=-1)
    # A token stays while what came before it has not yet reached p; at p = 1 rounding must not drop the tail.
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    stays = ((before < top_p) | (top_p >= 1)).at[..., 0].set(True)
    edge = jnp.min(jnp.where(stays, largest_first, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= edge, logits, -jnp.inf)


def choose(
    logits: jax.Array, key: jax.Array, temperature: jax.Array, top_k: jax.Array, top_p: jax.Array
) -> jax.Array:
    """The next ids.

    Args:
        logits: float32 [B, V].
        key: typed keys of jax.random, [B]: rows draw by themselves; or [], of one draw for all of them.
        temperature: float32 [] or [B]; 0 takes the likeliest.
        top_k: int32 [] or [B].
        top_p: float32 [] or [B].

    Returns:
        int32 [B]. Nothing is sorted or drawn where every temperature is 0.
    """

    def likeliest() -> jax.Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def draw() -> jax.Array:
        heated = logits / jnp.maximum(temperature, 1e-6)[..., None]
        kept = keep_top_p(keep_top_k(heated, top_k), top_p)
        if key.ndim:
            drawn = jax.vmap(jax.random.categorical)(key, kept)
        else:
            drawn = jax.random.categorical(key, kept, axis=-1)
        return jnp.where(temperature > 0, drawn.astype(jnp.int32), likeliest())

    return jax.lax.cond(jnp.any(temperature > 0), draw, likeliest)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowState:
    """What a step reads and changes besides the cache; of R rows.

    token int32 [R]: drawn and not read yet; log_probability float32 [R]: of that token; position int32 [R]:
    where it will be read; alive int32 [R]: 0 or 1; draws int32 [R]: the number of the draw that gave it. key
    uint32 [R, 2], temperature float32 [R], top_k int32 [R], top_p float32 [R]: the sampler. given, without
    int32 [R], scale float32 [R]: the rows between whose logits guidance steers, and how far.
    """

    token: jax.Array
    position: jax.Array
    alive: jax.Array
    log_probability: jax.Array
    draws: jax.Array
    key: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    given: jax.Array
    without: jax.Array
    scale: jax.Array


def resting_rows(rows: int) -> dict[str, np.ndarray]:
    """The last eight fields of a `RowState` for rows without a sampler, which is greedy.

    Name -> array [rows]: draws, top_k, given, without int32; temperature, top_p, scale float32; key uint32
    [rows, 2].
    """
    number = np.arange(rows, dtype=np.int32)
    return {
        "draws": np.zeros(rows, np.int32),
        "key": np.zeros((rows, 2), np.uint32),
        "temperature": np.zeros(rows, np.float32),
        "top_k": np.zeros(rows, np.int32),
        "top_p": np.ones(rows, np.float32),
        "given": number.copy(),
        "without": number.copy(),
        "scale": np.ones(rows, np.float32),
    }


def draw(logits: jax.Array, state: RowState, *, guided: bool, one_draw: bool) -> tuple[jax.Array, jax.Array]:
    """Each row's next id, and how likely the model takes it to be; a draw depends on the row's key and the
    number of the draw alone.

    Args:
        logits: float32 [R, V].
        state: of the R rows.
        guided: some rows are a pair of guidance.
        one_draw: the first row's key is everybody's, and a row's part of the draw depends on its place.

    Returns:
        int32 [R]; and float32 [R], the logarithms of the ids' probabilities among all that may be drawn, as
        the logits say (after guidance, before temperature, top_k and top_p).
    """
    if guided:
        without = logits[state.without]
        logits = without + state.scale[:, None] * (logits[state.given] - without)
    keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(state.key), state.draws)
    ids = choose(logits, keys[0] if one_draw else keys, state.temperature, state.top_k, state.top_p)
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
    return ids, chosen - jax.nn.logsumexp(logits, axis=-1)
