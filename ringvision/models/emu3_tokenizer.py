"""Emu3's video tokenizer: a VQGAN frame by frame, with a stack that runs along time between its two halves
and the codes.

    video [N, T, H, W, 3] -> encoder, each frame alone [N, T, h, w, z]
      -> along time [N, T/4, h, w, C] -> codes int32 [N, T/4, h, w]
    codes -> rows of the codebook [N, T/4, h, w, C]
      -> along time, twice: what is decoded, and what conditions the decoder's norms
      -> decoder, each frame alone -> video [N, T, H, W, 3]

Time is causal: before a video there are zeros, and no moment sees a later one. An image is a video of one
moment: it is repeated as often as frames go into one moment, and of the frames decoded from it the first is
the image.

Wang et al., "Emu3: Next-Token Prediction is All You Need" (2024). The encoder and decoder are vqgan.py's;
batch normalisation uses the statistics that are stored with the weights, always.

Axes: N videos, T frames, t moments (of `temporal_factor` frames), H W pixels, h w codes, C channels of
whatever is meant; z and C of latents and codes are the same number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ringvision.errors import UserError
from ringvision.fields import fitted
from ringvision.models.vqgan import Quantizer, VQGANConfig, VQGANDecoder, VQGANEncoder

SPACE_TIME = ("NDHWC", "DHWIO", "NDHWC")


@dataclass(frozen=True)
class Emu3TokenizerConfig:
    """Shape of the tokenizer. Frames of other sizes than `frames.resolution` go through the same weights.

    frames: the shape of a VQGAN for single frames. temporal_factor: frames that go into one grid of codes, 1
    or a power of 2. batch_norm_eps: added to variances.
    """

    frames: VQGANConfig
    temporal_factor: int = 4
    batch_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.temporal_factor < 1 or self.temporal_factor & (self.temporal_factor - 1):
            raise UserError(
                f"a video tokenizer's temporal_factor is {self.temporal_factor}; it must be a power "
                "of 2, or 1"
            )
        if self.frames.local_codes or self.frames.encoder_only:
            raise UserError(
                "a video tokenizer of Emu3's kind has neither local_codes nor encoder_only; take "
                "them out of its config"
            )

    @property
    def resolution(self) -> int:
        """Height and width of a frame, in pixels."""
        return self.frames.resolution

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): the codes of one moment."""
        return self.frames.grid

    @property
    def pixels_per_code(self) -> int:
        """Side of the square of pixels that a code covers."""
        return self.frames.pixels_per_code

    @property
    def in_channels(self) -> int:
        """Channels of a frame."""
        return self.frames.in_channels

    @property
    def codebook_size(self) -> int:
        """Different codes."""
        return self.frames.codebook_size

    @property
    def pixel_range(self) -> tuple[float, float]:
        """The values of black and white in the network."""
        return self.frames.pixel_range

    @property
    def halvings(self) -> int:
        """How often time is halved on the way to the codes."""
        return self.temporal_factor.bit_length() - 1

    def resized(self, resolution: int) -> "Emu3TokenizerConfig":
        """The same network for frames of another size."""
        return replace(self, frames=self.frames.resized(resolution))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "frames": self.frames.to_dict(),
            "temporal_factor": self.temporal_factor,
            "batch_norm_eps": self.batch_norm_eps,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Emu3TokenizerConfig":
        """The inverse of `to_dict`. UserError that names what is unknown or missing."""
        return cls(**fitted("a video tokenizer's config", cls, values))


class CausalConvolution(nnx.Module):
    """A convolution over time and space with bias: two moments of zeros in front, none behind; in space as
    many zeros as keep the size.

    Args:
        c_in: channels that come in.
        c_out: channels that go out.
        size: moments, rows and columns of the kernel.
        stride: moments from one application of the kernel to the next.
        rngs: for the weights.
    """

    def __init__(self, c_in: int, c_out: int, size: tuple[int, int, int], *, stride: int = 1, rngs: nnx.Rngs):
        self.strides = (stride, 1, 1)
        self.padding = ((2, 0), *((side // 2, side // 2) for side in size[1:]))
        init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (*size, c_in, c_out)))
        self.bias = nnx.Param(jnp.zeros(c_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, T, h, w, C in] -> [N, T / stride, h, w, C out]."""
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...], self.strides, self.padding, dimension_numbers=SPACE_TIME
        )
        return y + self.bias[...]


class BatchNorm(nnx.Module):
    """Ioffe and Szegedy, "Batch Normalization" (2015), as it is used after training: with the mean and
    variance that were kept.
    """

    def __init__(self, channels: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, T, h, w, C] -> [N, T, h, w, C]."""
        normed = (x - self.mean[...]) * jax.lax.rsqrt(self.variance[...] + self.eps)
        return normed * self.scale[...] + self.bias[...]


class TemporalBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), over time and space."""

    def __init__(self, channels: int, eps: float, rngs: nnx.Rngs):
        self.norm1 = BatchNorm(channels, eps)
        self.norm2 = BatchNorm(channels, eps)
        self.conv1 = CausalConvolution(channels, channels, (3, 3, 3), rngs=rngs)
        self.conv2 = CausalConvolution(channels, channels, (3, 3, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, T, h, w, C] -> [N, T, h, w, C]."""
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        return x + self.conv2(jax.nn.silu(self.norm2(y)))


class TemporalEncoder(nnx.Module):
    """[N, T, h, w, z] -> [N, T/temporal_factor, h, w, z]."""

    def __init__(self, config: Emu3TokenizerConfig, rngs: nnx.Rngs):
        channels = config.frames.z_channels
        self.halve = nnx.List(
            [
                CausalConvolution(channels, channels, (4, 3, 3), stride=2, rngs=rngs)
                for _ in range(config.halvings)
            ]
        )
        self.blocks = nnx.List(
            [
                TemporalBlock(channels, config.batch_norm_eps, rngs)
                for _ in range(config.frames.num_res_blocks)
            ]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, T, h, w, z] -> float32 [N, T/temporal_factor, h, w, z]."""
        for conv in self.halve:
            x = jax.nn.silu(conv(x))
        for block in self.blocks:
            x = block(x)
        return x


class TemporalDecoder(nnx.Module):
    """[N, t, h, w, z] -> [N, t*temporal_factor, h, w, z]."""

    def __init__(self, config: Emu3TokenizerConfig, rngs: nnx.Rngs):
        channels = config.frames.z_channels
        self.blocks = nnx.List(
            [
                TemporalBlock(channels, config.batch_norm_eps, rngs)
                for _ in range(config.frames.num_res_blocks)
            ]
        )
        self.double = nnx.List(
            [CausalConvolution(channels, channels, (3, 3, 3), rngs=rngs) for _ in range(config.halvings)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """float32 [N, t, h, w, z] -> float32 [N, t*temporal_factor, h, w, z]."""
        for block in self.blocks:
            x = block(x)
        for conv in self.double:
            x = jax.nn.silu(conv(jnp.repeat(x, 2, axis=1)))
        return x


class Emu3Tokenizer(Quantizer):
    """Encoder, codebook, decoder. For images it has the methods of a VQGAN; a video goes through them in two
    steps each way, of which only the one along time needs all frames at once: `encode_frames` and
    `encode_time`; `decode_time` and `decode_frames`.
    """

    def __init__(self, config: Emu3TokenizerConfig, *, rngs: nnx.Rngs):
        self.config = config
        frames = config.frames
        width = config.frames.embed_dim
        if width != frames.z_channels:
            raise UserError(
                f"a video tokenizer of Emu3's kind with embed_dim={width} and "
                f"z_channels={frames.z_channels}: expected as many, "
                "since codes and latents go through one stack along time"
            )
        self.encoder = VQGANEncoder(frames, rngs)
        self.temporal_encoder = TemporalEncoder(config, rngs)
        self.quant_conv = CausalConvolution(frames.z_channels, width, (3, 1, 1), rngs=rngs)
        self.codebook = nnx.Param(jax.random.normal(rngs.params(), (frames.codebook_size, width)))
        self.post_quant_conv = CausalConvolution(width, frames.z_channels, (3, 1, 1), rngs=rngs)
        self.temporal_decoder = TemporalDecoder(config, rngs)
        self.decoder = VQGANDecoder(frames, rngs, condition=width)

    def encode_frames(self, frames: jax.Array) -> jax.Array:
        """frames float32 [N, H, W, 3] -> float32 [N, h, w, z], each from its own frame alone."""
        return self.encoder(frames)

    def encode_time(self, latents: jax.Array) -> jax.Array:
        """What `encode_frames` gave, [N, T, h, w, z] -> what is about to be quantized, [N, T/temporal_factor,
        h, w, C].
        """
        return self.quant_conv(self.temporal_encoder(latents))

    def decode_time(self, z_q: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z_q [N, t, h, w, C] -> (what is decoded, what conditions the norms), both [N, t*temporal_factor, h,
        w, z].
        """
        return self.temporal_decoder(self.post_quant_conv(z_q)), self.temporal_decoder(z_q)

    def decode_frames(self, z: jax.Array, condition: jax.Array, *, clip: bool | None = None) -> jax.Array:
        """Both [N, h, w, z] -> frames float32 [N, H, W, 3]; clipped to the pixel_range where `clip`, by
        default as the config says.
        """
        frames = self.decoder(z, condition)
        clip = self.config.frames.clip if clip is None else clip
        return jnp.clip(frames, *self.config.pixel_range) if clip else frames

    def latents(self, images: jax.Array) -> jax.Array:
        """images float32 [N, H, W, 3] in the pixel_range -> what is about to be quantized, [N, h, w, C]."""
        latents = self.encode_frames(images)[:, None]  # (N, 1, h, w, z)
        return self.encode_time(jnp.repeat(latents, self.config.temporal_factor, axis=1))[:, 0]

    def decode(self, z_q: jax.Array, *, clip: bool | None = None) -> jax.Array:
        """z_q of images [N, h, w, C] -> images float32 [N, H, W, 3]: the first frame of the moment that each
        is.
        """
        z, condition = self.decode_time(z_q[:, None])
        return self.decode_frames(z[:, 0], condition[:, 0], clip=clip)
