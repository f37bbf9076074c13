"""The VQGAN: images in, a small grid of codes out, and back.

    images [N, H, W, 3] float32 in the network's range (-1 to 1)
      -> latents(images) [N, h, w, C] -> quantize -> codes int32 [N, h, w], z_q [N, h, w, C] -> decode ->
      images

Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021), with two
things to choose: where there is attention (LWM's network has none, vqgan-jax's has it at 16x16 and in the
middle), and how many pixels enter as one (`patch_size`: 1 there; 4 in the tokenizer shipped here, where
convolving at full resolution would be nearly all of the work).

Axes: N images, H W pixels, h w codes, C channels of whatever is meant, K rows of the codebook.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ringvision.errors import UserError
from ringvision.fields import fitted
from ringvision.models.convolution import (
    Convolution,
    Downsample,
    GroupNorm,
    ResidualBlock,
    SpatialAttention,
    Upsample,
    make_norm,
)

SIZES = (
    "resolution",
    "in_channels",
    "channels",
    "z_channels",
    "embed_dim",
    "codebook_size",
    "patch_size",
    "norm_groups",
    "attention_heads",
)
MOST_BLOCKS = 16
MOST_LEVELS = 16
LATER = ("attention_heads", "pixel_range", "encoder_only", "entry_channels", "learned_resampling")


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of a VQGAN. `attention_resolutions` and `resolution` count rows: the first of feature maps, the
    second of pixels.

    The encoder has `num_res_blocks` residual blocks a level and the decoder one more; between levels the map
    is halved (doubled), so a code covers `patch_size * 2 ** (len(channel_mults) - 1)` pixels on a side.

    clip: decode() clips to pixel_range. local_codes: the encoder sees each code's own pixels alone, so that a
    thing has the same codes whatever is elsewhere in the picture; the decoder sees all of them.
    attention_heads: of every attention. pixel_range: the values of black and white in the network.
    encoder_only: there is no decoder, and codes cannot be made pixels again (Chameleon's is published so).
    entry_channels: of the encoder's first convolution, where that is not as wide as the first level (Taming
    Transformers' with a first multiple above 1). learned_resampling: maps are halved and doubled by
    convolutions; else by means and repetition.
    """

    resolution: int = 64
    in_channels: int = 3
    channels: int = 64
    channel_mults: tuple[int, ...] = (1, 2, 3)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = ()
    mid_attention: bool = False
    z_channels: int = 64
    embed_dim: int = 16
    codebook_size: int = 1024
    patch_size: int = 1
    norm_groups: int = 32
    norm_eps: float = 1e-6
    clip: bool = True
    local_codes: bool = False
    attention_heads: int = 1
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    encoder_only: bool = False
    entry_channels: int | None = None
    learned_resampling: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_mults", tuple(self.channel_mults))
        object.__setattr__(self, "attention_resolutions", tuple(self.attention_resolutions))
        object.__setattr__(self, "pixel_range", tuple(float(value) for value in self.pixel_range))
        if len(self.pixel_range) != 2 or not self.pixel_range[0] < self.pixel_range[1]:
            raise UserError(
                f"a VQGAN's pixel_range is {self.pixel_range}; give what black and what white are to "
                "it, such as (-1, 1)"
            )
        for name in SIZES:
            if getattr(self, name) < 1:
                raise UserError(f"a VQGAN's {name} is {getattr(self, name)}; it must be at least 1")
        if self.num_res_blocks > MOST_BLOCKS or len(self.channel_mults) > MOST_LEVELS:
            raise UserError(
                f"a VQGAN of {self.num_res_blocks} blocks a level and {len(self.channel_mults)} "
                f"levels; expected at most {MOST_BLOCKS} and "
                f"{MOST_LEVELS}"
            )
        if not self.channel_mults or min(self.channel_mults) < 1:
            raise UserError(
                f"a VQGAN's channel_mults is {self.channel_mults}; give a multiple of `channels` for "
                "each level, as in (1, 2)"
            )
        if self.resolution % self.pixels_per_code:
            raise UserError(
                f"a VQGAN of resolution {self.resolution} does not divide into codes of "
                f"{self.pixels_per_code} pixels "
                f"(patch_size {self.patch_size}, {len(self.channel_mults)} levels); choose a multiple "
                f"of {self.pixels_per_code}"
            )
        for width in (self.entry, *self.widths):
            for name in ("norm_groups", "attention_heads"):
                if width % getattr(self, name):
                    raise UserError(
                        f"a VQGAN's level of {width} channels does not divide into "
                        f"{name}={getattr(self, name)}"
                    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, highest resolution first."""
        return tuple(self.channels * multiple for multiple in self.channel_mults)

    @property
    def entry(self) -> int:
        """Channels that the encoder's first convolution gives."""
        return self.widths[0] if self.entry_channels is None else self.entry_channels

    @property
    def pixels_per_code(self) -> int:
        """Side of the square of pixels that a code covers."""
        return self.patch_size * 2 ** (len(self.channel_mults) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): the codes of one image."""
        return (self.resolution // self.pixels_per_code,) * 2

    def resized(self, resolution: int) -> "VQGANConfig":
        """The same network for images of another size: attention stays on the levels where it was."""
        if self.resolution == resolution:
            return self
        scaled = [rows * resolution / self.resolution for rows in self.attention_resolutions]
        return replace(
            self,
            resolution=resolution,
            attention_resolutions=tuple(int(rows) for rows in scaled if rows.is_integer()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold. Options that were added later (LATER) are left out where they have
        their default, so that the hash of a tokenizer, which its videos' codes carry, does not change when
        this class gets a new option.
        """
        values = asdict(self)
        same = [name for name in LATER if values[name] == type(self).__dataclass_fields__[name].default]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name not in same
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VQGANConfig":
        """The inverse of `to_dict`. UserError that names what is unknown or missing."""
        return cls(**fitted("a VQGAN's config", cls, values))


class Level(nnx.Module):
    """One resolution: residual blocks, an attention after each or none, then a change of resolution or none.

    Args:
        widths: channels before the first block and after each: one more than there are blocks.
        attention: whether an attention follows each block.
        resample: changes the resolution at the end; None: nothing does.
        config: of the network, for norms and heads.
        rngs: for the weights.
        condition: Z, the channels of a map that conditions all norms; None: there is none.
    """

    def __init__(
        self,
        widths: Sequence[int],
        attention: bool,
        resample: nnx.Module | None,
        config: VQGANConfig,
        rngs: nnx.Rngs,
        condition: int | None = None,
    ):
        norm: dict[str, Any] = {
            "groups": config.norm_groups,
            "eps": config.norm_eps,
            "condition": condition,
            "rngs": rngs,
        }
        self.blocks = nnx.List([ResidualBlock(before, after, **norm) for before, after in pairwise(widths)])
        self.attentions = nnx.List(
            [
                SpatialAttention(after, heads=config.attention_heads, **norm)
                for after in widths[1:]
                if attention
            ]
        )
        self.resample = resample

    def __call__(self, x: jax.Array, *condition: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H', W', C'], with twice or half as many rows and columns where it resamples;
        condition [N, h, w, Z].
        """
        for index, block in enumerate(self.blocks):
            x = block(x, *condition)
            if self.attentions:
                x = self.attentions[index](x, *condition)
        return x if self.resample is None else self.resample(x)


class Middle(nnx.Module):
    """Two residual blocks at the lowest resolution, attention between them where the config says so.

    Args:
        width: channels, the same throughout.
        config: of the network.
        rngs: for the weights.
        condition: Z, the channels of a map that conditions all norms; None: there is none.
    """

    def __init__(self, width: int, config: VQGANConfig, rngs: nnx.Rngs, condition: int | None = None):
        norm: dict[str, Any] = {
            "groups": config.norm_groups,
            "eps": config.norm_eps,
            "condition": condition,
            "rngs": rngs,
        }
        self.block1 = ResidualBlock(width, width, **norm)
        self.attention = (
            SpatialAttention(width, heads=config.attention_heads, **norm) if config.mid_attention else None
        )
        self.block2 = ResidualBlock(width, width, **norm)

    def __call__(self, x: jax.Array, *condition: jax.Array) -> jax.Array:
        """[N, h, w, C] -> [N, h, w, C]; condition [N, h, w, Z]."""
        x = self.block1(x, *condition)
        return self.block2(x if self.attention is None else self.attention(x, *condition), *condition)


class VQGANEncoder(nnx.Module):
    """images [N, H, W, 3] -> [N, h, w, z_channels]. `levels` run from the highest resolution to the
    lowest.
    """

    def __init__(self, config: VQGANConfig, rngs: nnx.Rngs):
        widths = config.widths
        rows = config.resolution // config.patch_size
        self.patch_size = config.patch_size
        self.conv_in = Convolution(config.in_channels * config.patch_size**2, config.entry, 3, rngs=rngs)
        levels = []
        before = config.entry
        for index, width in enumerate(widths):
            resample = (
                Downsample(width, learned=config.learned_resampling, rngs=rngs)
                if index + 1 < len(widths)
                else None
            )
            through = [before] + [width] * config.num_res_blocks
            levels.append(
                Level(through, rows >> index in config.attention_resolutions, resample, config, rngs)
            )
            before = width
        self.levels = nnx.List(levels)
        self.middle = Middle(before, config, rngs)
        self.norm_out = GroupNorm(before, groups=config.norm_groups, eps=config.norm_eps, rngs=rngs)
        self.conv_out = Convolution(before, config.z_channels, 3, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [N, H, W, 3] -> [N, h, w, z_channels]."""
        x = self.conv_in(space_to_depth(images, self.patch_size))  # (N, H/patch, W/patch, C)
        for level in self.levels:
            x = level(x)  # half as many rows and columns, but for the last
        return self.conv_out(jax.nn.silu(self.norm_out(self.middle(x))))


class VQGANDecoder(nnx.Module):
    """[N, h, w, z_channels] -> images [N, H, W, 3]. `levels` run from the lowest resolution to the highest.

    Made with a `condition`, the channels Z of a map [N, h, w, Z], it is also called with that map, which
    conditions all its norms (Emu3).
    """

    def __init__(self, config: VQGANConfig, rngs: nnx.Rngs, condition: int | None = None):
        widths = config.widths
        rows = config.resolution // config.patch_size
        self.patch_size = config.patch_size
        before = widths[-1]
        self.conv_in = Convolution(config.z_channels, before, 3, rngs=rngs)
        self.middle = Middle(before, config, rngs, condition)
        levels = []
        for index in reversed(range(len(widths))):
            width = widths[index]
            resample = Upsample(width, learned=config.learned_resampling, rngs=rngs) if index > 0 else None
            through = [before] + [width] * (config.num_res_blocks + 1)
            levels.append(
                Level(
                    through, rows >> index in config.attention_resolutions, resample, config, rngs, condition
                )
            )
            before = width
        self.levels = nnx.List(levels)
        self.norm_out = make_norm(
            before, groups=config.norm_groups, eps=config.norm_eps, condition=condition, rngs=rngs
        )
        self.conv_out = Convolution(before, config.in_channels * config.patch_size**2, 3, rngs=rngs)

    def __call__(self, z: jax.Array, *condition: jax.Array) -> jax.Array:
        """z [N, h, w, z_channels], condition [N, h, w, Z] -> float32 [N, H, W, 3]."""
        x = self.middle(self.conv_in(z), *condition)  # (N, h, w, C)
        for level in self.levels:
            x = level(x, *condition)  # twice as many rows and columns, but for the last
        return depth_to_space(self.conv_out(jax.nn.silu(self.norm_out(x, *condition))), self.patch_size)


class Quantizer(nnx.Module):
    """What networks with a codebook [K, C] have in common: from latents to codes and back. `latents` is each
    one's own.
    """

    codebook: nnx.Param

    @abstractmethod
    def latents(self, images: jax.Array) -> jax.Array:
        """images float32 [N, H, W, 3] in the pixel_range -> what is about to be quantized, [N, h, w, C]."""

    def quantize(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z [..., C] -> (z_q [..., C], codes int32 [...]): the nearest row of the codebook by Euclidean
        distance, and which.
        """
        codes = nearest(z, self.codebook[...])
        return self.embed(codes), codes

    def encode(self, images: jax.Array) -> jax.Array:
        """images float32 [N, H, W, 3] in the pixel_range -> codes int32 [N, h, w]."""
        return self.quantize(self.latents(images))[1]

    def embed(self, codes: jax.Array) -> jax.Array:
        """codes int [...] -> their rows of the codebook, z_q [..., C]."""
        return self.codebook[...][codes]


class VQGAN(Quantizer):
    """Encoder, codebook, decoder. Weights are float32 `nnx.Param`s; split it (`nnx.split`) and it is a plain
    pytree.
    """

    def __init__(self, config: VQGANConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = VQGANEncoder(config, rngs)
        self.quant_conv = Convolution(config.z_channels, config.embed_dim, 1, rngs=rngs)
        self.codebook = nnx.Param(jax.random.normal(rngs.params(), (config.codebook_size, config.embed_dim)))
        self.post_quant_conv = Convolution(config.embed_dim, config.z_channels, 1, rngs=rngs)
        self.decoder = None if config.encoder_only else VQGANDecoder(config, rngs)

    def latents(self, images: jax.Array) -> jax.Array:
        """images float32 [N, H, W, 3] in the pixel_range -> what is about to be quantized, [N, h, w, C]."""
        if not self.config.local_codes:
            return self.quant_conv(self.encoder(images))
        size = self.config.pixels_per_code
        n = images.shape[0]
        h = images.shape[1] // size
        w = images.shape[2] // size
        tiles = images.reshape(n, h, size, w, size, -1).transpose(0, 1, 3, 2, 4, 5)
        tiles = tiles.reshape(n * h * w, size, size, -1)  # (N*h*w, size, size, 3)
        return self.quant_conv(self.encoder(tiles)).reshape(n, h, w, -1)

    def decode(self, z_q: jax.Array, *, clip: bool | None = None) -> jax.Array:
        """z_q [N, h, w, C] -> images float32 [N, H, W, 3]; clipped to the pixel_range where `clip`, by
        default as the config says. UserError where there is no decoder.
        """
        if self.decoder is None:
            raise UserError(
                "this tokenizer has an encoder alone, so codes cannot be made pixels; use one whose "
                "weights hold a decoder"
            )
        images = self.decoder(self.post_quant_conv(z_q))
        clip = self.config.clip if clip is None else clip
        return jnp.clip(images, *self.config.pixel_range) if clip else images


def nearest(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """z [..., C], codebook [K, C] -> int32 [...]: the nearest row, the first of equals. Of the squared
    distance |z|^2 - 2 z c + |c|^2 the first term is the same for all rows: left out.
    """
    products = jnp.einsum("...c,kc->...k", z, codebook, precision=jax.lax.Precision.HIGHEST)  # (..., K)
    return jnp.argmin(jnp.sum(codebook**2, axis=-1) - 2 * products, axis=-1).astype(jnp.int32)


def space_to_depth(images: jax.Array, size: int) -> jax.Array:
    """[N, H, W, C] -> [N, H/size, W/size, size*size*C]: every square of pixels becomes one cell."""
    if size == 1:
        return images
    n, h, w, c = images.shape
    cells = images.reshape(n, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(n, h // size, w // size, size * size * c)


def depth_to_space(cells: jax.Array, size: int) -> jax.Array:
    """The inverse of `space_to_depth`: [N, H/size, W/size, size*size*C] -> [N, H, W, C]."""
    if size == 1:
        return cells
    n, h, w, c = cells.shape
    images = cells.reshape(n, h, w, size, size, c // size**2).transpose(0, 1, 3, 2, 4, 5)
    return images.reshape(n, h * size, w * size, c // size**2)
