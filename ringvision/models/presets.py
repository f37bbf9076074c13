"""What shape a transformer has: `TransformerConfig`, and the named ones from a test's to LWM's.

In: numbers, or a dictionary of them from a config.json. Out: a frozen, validated, hashable value. Sizes `3b`
to `30b` are those of the ring attention paper (Liu, Zaharia, Abbeel, 2024), which are OpenLLaMA's and
LLaMA's.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from ringvision.errors import UserError
from ringvision.fields import fitted
from ringvision.ops.rope import RopeScaling

AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a model and how it is computed. UserError from the constructor where the numbers do not
    fit together.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_dim: int
    rope_theta: float = 1e4
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    max_length: int = 4096
    """The longest stream that the model was trained on, in tokens."""
    feed_forward_chunk: int | None = None
    """Positions of one device's share that the feed-forward layer handles at a time; None: all at once."""
    frame_period: int = 0
    """Tokens from one frame of a video to the next, where the stream keeps to that: a token from
    `code_offset` on is then also told its place in the frame, position modulo period, by a learned row. 0: it
    has to find out.
    """
    code_offset: int = 0
    stamp_rows: int = 0
    """The last so many rows of the embedding are the 60 seconds and the minutes of time stamps, and one for
    times that words name. A stamp has an id from `vocab_size` on, one for each second of a video and behind
    them one for each second that words name, and is the sum of two rows or of three; it is never predicted.
    """
    remat: Literal["none", "block", "dots", "offload"] = "none"
    """What a layer keeps for the backward pass (remat.py): all; its input alone; its matrix products; or its
    input, in the host's memory.
    """
    qkv_bias: bool = False
    """Queries, keys and values are projected with a bias (Qwen2)."""
    qk_norm: Literal["none", "rms", "layer"] = "none"
    """Queries and keys are normalised over the head width before rotary positions are applied. "rms": by
    their root mean square, with one scale that all heads share (Qwen3); "layer": by mean and variance, with a
    scale and a bias for each head (Chameleon).
    """
    window: int | None = None
    """A token sees only those less than so many positions before it, in every layer (Mistral); None: all
    before it.
    """
    video_window: int | None = None
    """A token from `code_offset` on sees only those less than so many positions before it, in every layer;
    words, which are below it, see all before them. None: all see all. With `window` both hold.
    """
    sharpened_from: int | None = None
    """The queries of a token that sees everything before it are multiplied by the logarithm of its position
    over that of this one, where it is further on: among more keys scores are to differ more (Chiang and
    Cholak, 2022). None: they are not.
    """
    norm_placement: Literal["before", "after"] = "before"
    """Where a layer's two norms stand: before attention and feed-forward, or behind them, where each is of
    what is added to the residual stream (Swin Transformer v2; the larger Chameleon).
    """

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "embed_dim",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "hidden_dim",
            "max_length",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"a transformer with {name}={getattr(self, name)}: expected at least 1")
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}: "
                f"expected as many query heads to each key/value head"
            )
        if self.head_dim % 2:
            raise UserError(
                f"head_dim={self.head_dim} is odd: rotary positions turn its two halves against each "
                "other, so it must be even"
            )
        if self.feed_forward_chunk is not None and self.feed_forward_chunk < 1:
            raise UserError(
                f"feed_forward_chunk={self.feed_forward_chunk}: expected at least 1, or none to do without"
            )
        if self.frame_period < 0 or self.code_offset < 0:
            raise UserError(
                f"frame_period={self.frame_period}, code_offset={self.code_offset}: expected at least 0"
            )
        if self.stamp_rows and not 61 < self.stamp_rows < self.vocab_size - self.code_offset:
            raise UserError(
                f"stamp_rows={self.stamp_rows} of {self.vocab_size - self.code_offset} rows for videos: "
                "expected 60 for seconds, one for each minute and one for those of questions, beside those "
                "of codes; or 0"
            )
        if self.remat not in ("none", "block", "dots", "offload"):
            raise UserError(f"remat={self.remat!r}: expected 'none', 'block', 'dots' or 'offload'")
        if self.qk_norm not in ("none", "rms", "layer"):
            raise UserError(f"qk_norm={self.qk_norm!r}: expected 'none', 'rms' or 'layer'")
        if self.norm_placement not in ("before", "after"):
            raise UserError(f"norm_placement={self.norm_placement!r}: expected 'before' or 'after'")
        if self.window is not None and self.window < 1:
            raise UserError(
                f"window={self.window}: expected at least 1 (a token sees itself), or none to see "
                "everything before"
            )
        if self.video_window is not None and self.video_window < 1:
            raise UserError(
                f"video_window={self.video_window}: expected at least 1 (a token sees itself), or none for "
                "video tokens to see everything before"
            )
        if self.video_window is not None and self.code_offset < 1:
            raise UserError(
                f"video_window={self.video_window} with code_offset={self.code_offset}: expected the first "
                "token of a video as code_offset, above 0, since tokens below it are words"
            )
        if self.sharpened_from is not None and self.sharpened_from < 1:
            raise UserError(
                f"sharpened_from={self.sharpened_from}: expected a position from 1 on, or none to leave "
                "queries as they are"
            )
        if self.rope_theta <= 0 or self.norm_eps <= 0:
            raise UserError(
                f"rope_theta={self.rope_theta} and norm_eps={self.norm_eps}: both must be above 0"
            )

    @property
    def num_ids(self) -> int:
        """How many tokens there are to be read: rows of the embedding, and time stamps."""
        return self.vocab_size + 2 * self.num_stamps

    @property
    def num_stamps(self) -> int:
        """Seconds that have a time stamp of their own."""
        return 60 * max(0, self.stamp_rows - 61)

    def is_video(self, tokens: AnyArray) -> AnyArray:
        """int32 [...], of NumPy or of JAX -> bool [...]: codes, what stands around them, and the stamps of
        frames.
        """
        return (tokens >= self.code_offset) & (tokens < self.vocab_size + self.num_stamps)

    def reach(self, tokens: np.ndarray) -> int | None:
        """tokens int32 [...] -> how many positions, its own among them, the one that sees furthest back
        sees; None: all before it.
        """
        if self.video_window is None or not self.is_video(tokens).all():
            return self.window
        return min(self.video_window, self.window or self.video_window)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TransformerConfig":
        """The inverse of `to_dict`; fields with a default may be missing. UserError that names what is
        unknown or missing.
        """
        return cls(**fitted("a transformer's config", cls, values))


def _llama(embed_dim: int, num_layers: int, num_heads: int, hidden_dim: int) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=32000,
        embed_dim=embed_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=embed_dim // num_heads,
        hidden_dim=hidden_dim,
        norm_eps=1e-6,
        remat="block",
    )


PRESETS: dict[str, TransformerConfig] = {
    "tiny": TransformerConfig(512, 64, 2, 4, 2, 16, 176),
    "small": TransformerConfig(2048, 256, 6, 8, 4, 32, 704),
    "base": TransformerConfig(8192, 768, 12, 12, 4, 64, 2048),
    "1b": _llama(2048, 22, 16, 5504),
    "3b": _llama(3200, 26, 32, 8640),
    "7b": _llama(4096, 32, 32, 11008),
    "13b": _llama(5120, 40, 40, 13824),
    "30b": _llama(6656, 60, 52, 17920),
}
PRESETS["lwm-7b"] = replace(
    PRESETS["7b"], vocab_size=32000 + 8448, rope_theta=50e6, max_length=2**20, feed_forward_chunk=1024
)
