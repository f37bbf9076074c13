"""The parts that the VQGAN and its discriminator are built from: convolution, group normalisation, residual block,
attention over a feature map, and the two changes of resolution.

In and out: feature maps [N, H, W, C], channels last, the layout in which XLA's convolutions are fast on CPUs and TPUs.
Weights are laid out as Flax lays them out: kernels [rows, columns, C in, C out].
"""

import jax
import jax.numpy as jnp
from flax import nnx


class Convolution(nnx.Module):
    """A square convolution with bias. `padding` is as in jax.lax: "SAME", "VALID" or pairs."""

    def __init__(self, c_in: int, c_out: int, size: int, *, stride: int = 1, padding="SAME", rngs: nnx.Rngs):
        self.stride, self.padding = stride, padding
        init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (size, size, c_in, c_out)))
        self.bias = nnx.Param(jnp.zeros(c_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1:3] == (1, 1) and self.padding == "SAME":  # a single place: zeros all round it, and only the kernel's middle counts
            middle = self.kernel.shape[0] // 2
            return x @ self.kernel[...][middle, middle] + self.bias[...]
        strides, names = (self.stride,) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, self.kernel[...], strides, self.padding, dimension_numbers=names) + self.bias[...]


class GroupNorm(nnx.Module):
    """Wu and He, "Group Normalization" (ECCV 2018): mean and variance over a group of channels and all places of an image."""

    def __init__(self, channels: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        n, _, _, c = x.shape

        def by_group(values: jax.Array) -> jax.Array:  # [N, C] -> [N, C]: each channel gets its group's mean
            means = values.reshape(n, self.groups, c // self.groups).mean(axis=-1, keepdims=True)
            return jnp.broadcast_to(means, (n, self.groups, c // self.groups)).reshape(n, c)

        # Sums over places first, then over a group's channels: the large array is read in order and touched twice.
        mean = by_group(x.mean(axis=(1, 2)))
        variance = jnp.maximum(by_group(jnp.mean(x * x, axis=(1, 2))) - mean * mean, 0)
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.eps)
        return x * factor[:, None, None] + (self.bias[...] - mean * factor)[:, None, None]


class ResidualBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on the short way where the width changes."""

    def __init__(self, c_in: int, c_out: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(c_in, groups=groups, eps=eps, rngs=rngs)
        self.conv1 = Convolution(c_in, c_out, 3, rngs=rngs)
        self.norm2 = GroupNorm(c_out, groups=groups, eps=eps, rngs=rngs)
        self.conv2 = Convolution(c_out, c_out, 3, rngs=rngs)
        self.shortcut = Convolution(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Attention2D(nnx.Module):
    """x + attention among all places of a feature map: one head as wide as the map has channels, scaled by C**-0.5."""

    def __init__(self, channels: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, groups=groups, eps=eps, rngs=rngs)
        self.query = Convolution(channels, channels, 1, rngs=rngs)
        self.key = Convolution(channels, channels, 1, rngs=rngs)
        self.value = Convolution(channels, channels, 1, rngs=rngs)
        self.out = Convolution(channels, channels, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        y = self.norm(x)
        q, k, v = (project(y).reshape(n, h * w, c) for project in (self.query, self.key, self.value))
        weights = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", q, k) * c**-0.5, axis=-1)
        return x + self.out(jnp.einsum("nqk,nkc->nqc", weights, v).reshape(n, h, w, c))


class Downsample(nnx.Module):
    """Half the resolution: a row and a column of zeros at the end only, then 3x3 with stride 2 (as Taming Transformers has it)."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Convolution(channels, channels, 3, stride=2, padding=((0, 1), (0, 1)), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the resolution: each value repeated twice in both directions, then 3x3."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Convolution(channels, channels, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        n, h, w, c = x.shape
        repeated = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
        return self.conv(repeated.reshape(n, 2 * h, 2 * w, c))
