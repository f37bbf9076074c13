"""Rotary position embedding (Su et al., 2021): each pair of a head's channels turns by an angle that grows
with the position.

In: queries or keys [B, T, N, H] and the position of every token. Out: the same, turned. The pairs are (i, i +
H/2), the "halves" convention of Hugging Face's Llama; weights made for adjacent pairs are permuted when they
are loaded. A trained context is stretched by `RopeScaling`, and `scaling_from` reads one from a config of
Hugging Face's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.errors import UserError

Kind = Literal["llama3", "linear", "yarn", "folded"]


@dataclass(frozen=True)
class RopeScaling:
    """How turns are slowed so that a context of `trained_length` reaches `factor` times as far.

    "linear": all by `factor` (Chen et al., 2023). "llama3" (Llama 3.1) and "yarn" (Peng et al., 2023): those
    of fewer turns per trained context than `low_frequency` by `factor`, those of more than `high_frequency`
    not at all, and those between by a blend: for "llama3" even in turns per context, for "yarn" even from
    channel to channel, both ends rounded outward to whole ones. Cosines and sines are multiplied by
    `amplitude`, which YaRN wants above 1.

    "folded": each pair makes a whole number of turns in `trained_length` positions, the nearest one, and the
    slowest none. A distance then looks as it does modulo that length: however long a stream becomes, there is
    no angle that was not seen in training, and which of the tokens that look alike is meant has to be told
    from what they say. `factor` and frequencies are not looked at.

    `turning`: the share of pairs that turn at all, the fastest ones; p-RoPE (Barbero et al., 2024). What is
    found by what it says, wherever it stands, needs channels that no distance turns away.
    """

    factor: float
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    trained_length: int = 8192
    kind: Kind = "llama3"
    amplitude: float = 1.0
    turning: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"rope scaling kind={self.kind!r}: expected one of {', '.join(get_args(Kind))}")
        if not self.factor >= 1:
            raise UserError(f"rope scaling factor={self.factor}: expected at least 1")
        if not 0 < self.low_frequency <= self.high_frequency or self.trained_length < 1:
            raise UserError(
                f"rope scaling low_frequency={self.low_frequency}, high_frequency={self.high_frequency}, "
                f"trained_length={self.trained_length}: expected 0 < low_frequency <= high_frequency "
                "and trained_length >= 1"
            )
        if not self.amplitude > 0:
            raise UserError(f"rope scaling amplitude={self.amplitude}: expected more than 0")
        if not 0 < self.turning <= 1:
            raise UserError(f"rope scaling turning={self.turning}: expected more than 0 and at most 1")


def scaling_from(values: Mapping[str, Any] | None, max_length: int) -> RopeScaling | None:
    """`rope_scaling` (transformers 4) or `rope_parameters` (5) of a Hugging Face config -> what it says, None
    where nothing is scaled.

    max_length: the config's `max_position_embeddings`. The base of the turns, `rope_theta`, is not looked at.
    UserError for a kind that changes the turns with the length of the text or that this package does not
    know, and for values that are missing or no numbers.
    """
    values = values or {}
    kind = values.get("rope_type", values.get("type", "default"))
    if values.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"partial_rotary_factor={repr(values['partial_rotary_factor'])[:60]} is not "
            "supported; expected all channels to turn"
        )
    if kind == "default":
        return None
    if kind not in ("llama3", "linear", "yarn"):
        raise UserError(
            f"rope scaling of kind {repr(kind)[:60]} is not supported; expected one of default, "
            "linear, llama3, yarn"
        )
    if kind == "yarn" and values.get("truncate") is False:
        raise UserError(
            "rope scaling of kind 'yarn' with \"truncate\": false is not supported; expected true"
        )
    trained = values.get("original_max_position_embeddings")
    try:
        factor = values.get("factor")
        factor = (
            float(max_length / trained)
            if factor is None and kind == "yarn" and trained
            else float(values["factor"])
        )
        if kind == "linear":
            return RopeScaling(factor, kind="linear")
        trained = int(trained or max_length)
        if kind == "llama3":
            return RopeScaling(
                factor, float(values["low_freq_factor"]), float(values["high_freq_factor"]), trained
            )
        slow = float(values.get("beta_slow") or 1)
        fast = float(values.get("beta_fast") or 32)
        return RopeScaling(factor, slow, fast, trained, "yarn", _yarn_amplitude(values, factor))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"rope scaling {repr(dict(values))[:200]} cannot be read ({repr(error)[:100]}); "
            "expected numbers, as transformers writes them"
        ) from error


def _yarn_amplitude(values: Mapping[str, Any], factor: float) -> float:
    """What is given, or 0.1 ln(factor) + 1, or the quotient of two such with weights of their own
    (DeepSeek's).
    """

    def amplitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if values.get("attention_factor") is not None:
        return float(values["attention_factor"])
    above = values.get("mscale")
    below = values.get("mscale_all_dim")
    return amplitude(float(above)) / amplitude(float(below)) if above and below else amplitude(1.0)


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """float32 [head_dim / 2]: radians a position, from 1 down to about 1/theta, or to 0 where not all turn.
    UserError where head_dim is odd.
    """
    if head_dim < 2 or head_dim % 2:
        raise UserError(f"head_dim={head_dim}: rotary embedding turns pairs of channels, so it must be even")
    turns = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is not None and scaling.kind == "folded":
        whole_turns = np.round(turns * scaling.trained_length / (2 * math.pi))
        turns = whole_turns * (2 * math.pi / scaling.trained_length)
    elif scaling is not None:
        kept = _kept(turns, head_dim, theta, scaling)
        turns = turns * (kept + (1 - kept) / scaling.factor)
    if scaling is not None:
        turns[math.ceil(scaling.turning * len(turns)) :] = 0
    return turns.astype(np.float32)


def _kept(turns: np.ndarray, head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """How much of each pair's turn stays as it was, from 0 to 1."""
    if scaling.kind == "linear":
        return np.zeros_like(turns)
    low = scaling.low_frequency
    high = scaling.high_frequency
    length = scaling.trained_length
    if scaling.kind == "llama3":
        width = max(high - low, np.finfo(np.float64).tiny)
        return np.clip((length * turns / (2 * math.pi) - low) / width, 0, 1)
    # The pairs, as real numbers, that make `high` and `low` turns in the trained context
    first, last = (
        head_dim * math.log(length / (count * 2 * math.pi)) / (2 * math.log(theta)) for count in (high, low)
    )
    first = max(math.floor(first), 0)
    last = min(math.ceil(last), head_dim - 1)
    width = last - first if last != first else 0.001
    return 1 - np.clip((np.arange(len(turns)) - first) / width, 0, 1)


def rope(
    x: jax.Array, positions: jax.Array, *, theta: float, scaling: RopeScaling | None = None
) -> jax.Array:
    """The same queries or keys with each pair of channels turned. The product of a turned query and a turned
    key depends on the difference of their positions alone.

    Args:
        x: [B, T, N, H], H even, of any floating-point type.
        positions: int [B, T].
        theta: base of the frequencies; the slowest pair turns by about 1/theta radians a position.
        scaling: how turns are slowed; None: they are not.

    Returns:
        [B, T, N, H] in x's type; angles, sines and products are float32.

    Raises:
        UserError: H is odd.
    """
    if scaling is not None and scaling.kind == "folded":
        positions = positions % scaling.trained_length  # the same angles, exact however far they are
    angles = positions.astype(jnp.float32)[:, :, None] * frequencies(
        x.shape[-1], theta, scaling
    )  # (B, T, H/2)
    sine = jnp.sin(angles)[:, :, None, :]  # (B, T, 1, H/2)
    cosine = jnp.cos(angles)[:, :, None, :]
    if scaling is not None and scaling.amplitude != 1:
        sine = sine * scaling.amplitude
        cosine = cosine * scaling.amplitude
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)  # (B, T, N, H/2)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
