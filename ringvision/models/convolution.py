"""The parts that the VQGAN and its discriminator are built from: convolution, group normalisation (also one
conditioned on a second map), residual block, attention over a feature map, and the two changes of resolution.

In and out: feature maps [N, H, W, C], channels last, the layout in which XLA's convolutions are fast on CPUs
and TPUs. Weights are laid out as Flax lays them out: kernels [rows, columns, C in, C out].

Axes: N images, H W rows and columns of a map, C channels, Z channels of a conditioning map z [N, h, w, Z],
each of whose cells covers a square of x's.
"""

import jax
import jax.numpy as jnp
from flax import nnx


class Convolution(nnx.Module):
    """A square convolution with bias.

    Args:
        c_in: channels that come in.
        c_out: channels that go out.
        size: rows, and columns, of the kernel.
        stride: cells from one application of the kernel to the next.
        padding: as in jax.lax: "SAME", "VALID" or pairs (before, after), one for rows and one for columns.
        rngs: for the weights.
    """

    def __init__(self, c_in: int, c_out: int, size: int, *, stride: int = 1, padding="SAME", rngs: nnx.Rngs):
        self.stride = stride
        self.padding = padding
        init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (size, size, c_in, c_out)))
        self.bias = nnx.Param(jnp.zeros(c_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [N, H, W, C in] -> [N, H', W', C out]."""
        if x.shape[1:3] == (1, 1) and self.padding == "SAME":
            # A single cell has zeros all round it: only the kernel's middle counts.
            middle = self.kernel.shape[0] // 2
            return x @ self.kernel[...][middle, middle] + self.bias[...]
        strides = (self.stride,) * 2
        names = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, self.kernel[...], strides, self.padding, dimension_numbers=names)
        return y + self.bias[...]


class GroupNorm(nnx.Module):
    """Wu and He, "Group Normalization" (ECCV 2018): mean and variance over a group of channels and all cells
    of a map.

    Args:
        channels: C of the map.
        groups: that the channels are divided into.
        eps: added to the variance.
        rngs: not needed, since the weights begin as ones and zeros; here as in every layer.
    """

    def __init__(self, channels: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.groups = groups
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, C]."""
        n, _, _, c = x.shape

        def by_group(values: jax.Array) -> jax.Array:
            """[N, C] -> [N, C]: each channel gets its group's mean."""
            means = values.reshape(n, self.groups, c // self.groups).mean(axis=-1, keepdims=True)
            return jnp.broadcast_to(means, (n, self.groups, c // self.groups)).reshape(n, c)

        # Sums over cells first, then over a group's channels: the large array is read in order and touched
        # twice. The mean of squares less the squared mean may come out below 0 by rounding.
        mean = by_group(x.mean(axis=(1, 2)))  # (N, C)
        variance = jnp.maximum(by_group(jnp.mean(x * x, axis=(1, 2))) - mean * mean, 0)
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.eps)  # (N, C)
        return x * factor[:, None, None] + (self.bias[...] - mean * factor)[:, None, None]


class SpatialNorm(nnx.Module):
    """GroupNorm(x) * factor(z) + shift(z): scale and shift come from a second map, cell by cell (Zheng et
    al., "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation", NeurIPS 2022).

    Args:
        channels: C of x.
        condition: Z, the channels of the second map.
        groups: that the channels of x are divided into.
        eps: added to the variance.
        rngs: for the weights.
    """

    def __init__(self, channels: int, condition: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, groups=groups, eps=eps, rngs=rngs)
        self.factor = Convolution(condition, channels, 1, rngs=rngs)
        self.shift = Convolution(condition, channels, 1, rngs=rngs)

    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """x [N, H, W, C], z [N, h, w, Z] -> [N, H, W, C]."""
        times = x.shape[1] // z.shape[1]
        # A convolution of single cells and repeating them give the same in either order: first the smaller.
        return self.norm(x) * repeat(self.factor(z), times) + repeat(self.shift(z), times)


def make_norm(channels: int, *, groups: int, eps: float, condition: int | None, rngs: nnx.Rngs) -> nnx.Module:
    """A normalisation over groups of channels.

    Args:
        channels: C of the map.
        groups: that the channels are divided into.
        eps: added to the variance.
        condition: Z, the channels of the map that conditions it; None: there is none.
        rngs: for the weights.

    Returns:
        A GroupNorm, called with x; or with a condition a SpatialNorm, called with x and z.
    """
    if condition is None:
        return GroupNorm(channels, groups=groups, eps=eps, rngs=rngs)
    return SpatialNorm(channels, condition, groups=groups, eps=eps, rngs=rngs)


class ResidualBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution of x where the width changes.

    Args:
        c_in: channels that come in.
        c_out: channels that go out.
        groups: of the norms.
        eps: of the norms.
        condition: Z, the channels of a map z that the norms are conditioned on; it is then called with x and
            z. None: with x alone.
        rngs: for the weights.
    """

    def __init__(
        self, c_in: int, c_out: int, *, groups: int, eps: float, condition: int | None = None, rngs: nnx.Rngs
    ):
        self.norm1 = make_norm(c_in, groups=groups, eps=eps, condition=condition, rngs=rngs)
        self.conv1 = Convolution(c_in, c_out, 3, rngs=rngs)
        self.norm2 = make_norm(c_out, groups=groups, eps=eps, condition=condition, rngs=rngs)
        self.conv2 = Convolution(c_out, c_out, 3, rngs=rngs)
        self.shortcut = Convolution(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

    def __call__(self, x: jax.Array, *z: jax.Array) -> jax.Array:
        """x [N, H, W, C in], z [N, h, w, Z] -> [N, H, W, C out]."""
        y = self.conv1(jax.nn.silu(self.norm1(x, *z)))
        y = self.conv2(jax.nn.silu(self.norm2(y, *z)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class SpatialAttention(nnx.Module):
    """x + attention among all cells of a feature map: `heads` of C/heads channels each, scaled by the root of
    that width.

    Args:
        channels: C of the map.
        groups: of the norm.
        eps: of the norm.
        heads: of the attention; they divide C.
        condition: Z, the channels of a map z that the norm is conditioned on; it is then called with x and z.
            None: with x alone.
        rngs: for the weights.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int,
        eps: float,
        heads: int = 1,
        condition: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.heads = heads
        self.norm = make_norm(channels, groups=groups, eps=eps, condition=condition, rngs=rngs)
        self.query = Convolution(channels, channels, 1, rngs=rngs)
        self.key = Convolution(channels, channels, 1, rngs=rngs)
        self.value = Convolution(channels, channels, 1, rngs=rngs)
        self.out = Convolution(channels, channels, 1, rngs=rngs)

    def __call__(self, x: jax.Array, *z: jax.Array) -> jax.Array:
        """x [N, H, W, C], z [N, h, w, Z] -> [N, H, W, C]."""
        n, h, w, c = x.shape
        width = c // self.heads
        y = self.norm(x, *z)

        def split(part: jax.Array) -> jax.Array:
            """[N, H, W, C] -> [N*heads, H*W, C/heads]."""
            by_head = part.reshape(n, h * w, self.heads, width).swapaxes(1, 2)  # (N, heads, H*W, C/heads)
            return by_head.reshape(n * self.heads, h * w, width)

        q, k, v = (split(project(y)) for project in (self.query, self.key, self.value))
        scores = jnp.einsum("nqc,nkc->nqk", q, k) * width**-0.5  # (N*heads, H*W, H*W)
        weights = jax.nn.softmax(scores, axis=-1)
        joined = jnp.einsum("nqk,nkc->nqc", weights, v).reshape(n, self.heads, h * w, width).swapaxes(1, 2)
        return x + self.out(joined.reshape(n, h, w, c))


class Downsample(nnx.Module):
    """Half the resolution: a row and a column of zeros at the end only, then 3x3 with stride 2 (as Taming
    Transformers has it).

    Without weights where not `learned`: the mean of each square of four.
    """

    def __init__(self, channels: int, *, learned: bool = True, rngs: nnx.Rngs):
        self.conv = (
            Convolution(channels, channels, 3, stride=2, padding=((0, 1), (0, 1)), rngs=rngs)
            if learned
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, H/2, W/2, C]."""
        if self.conv is not None:
            return self.conv(x)
        n, h, w, c = x.shape
        return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


class Upsample(nnx.Module):
    """Twice the resolution: each value repeated twice in both directions, then 3x3 where `learned`."""

    def __init__(self, channels: int, *, learned: bool = True, rngs: nnx.Rngs):
        self.conv = Convolution(channels, channels, 3, rngs=rngs) if learned else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, 2*H, 2*W, C]."""
        x = repeat(x, 2)
        return x if self.conv is None else self.conv(x)


def repeat(x: jax.Array, times: int) -> jax.Array:
    """[N, H, W, C] -> [N, times*H, times*W, C]: every cell becomes a square of equal ones."""
    n, h, w, c = x.shape
    cells = jnp.broadcast_to(x[:, :, None, :, None], (n, h, times, w, times, c))
    return cells.reshape(n, times * h, times * w, c)
