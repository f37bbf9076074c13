"""The parts that the VQGAN and its discriminator are built from: convolution, group normalisation (also one
that a second map steers), residual block, attention over a feature map, and the two changes of resolution.

In and out: feature maps [N, H, W, C], channels last, the layout in which XLA's convolutions are fast on CPUs
and TPUs. Weights are laid out as Flax lays them out: kernels [rows, columns, C in, C out].
"""

import jax
import jax.numpy as jnp
from flax import nnx


class Convolution(nnx.Module):
    """A square convolution with bias. `padding` is as in jax.lax: "SAME", "VALID" or pairs."""

    def __init__(self, c_in: int, c_out: int, size: int, *, stride: int = 1, padding="SAME", rngs: nnx.Rngs):
        self.stride = stride
        self.padding = padding
        init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (size, size, c_in, c_out)))
        self.bias = nnx.Param(jnp.zeros(c_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        if (
            x.shape[1:3] == (1, 1) and self.padding == "SAME"
        ):  # a single place: zeros all round it, and only the kernel's middle counts
            middle = self.kernel.shape[0] // 2
            return x @ self.kernel[...][middle, middle] + self.bias[...]
        strides = (self.stride,) * 2
        names = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(x, self.kernel[...], strides, self.padding, dimension_numbers=names)
            + self.bias[...]
        )


class GroupNorm(nnx.Module):
    """Wu and He, "Group Normalization" (ECCV 2018): mean and variance over a group of channels and all places
    of an image.
    """

    def __init__(self, channels: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.groups = groups
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        n, _, _, c = x.shape

        def by_group(values: jax.Array) -> jax.Array:  # [N, C] -> [N, C]: each channel gets its group's mean
            means = values.reshape(n, self.groups, c // self.groups).mean(axis=-1, keepdims=True)
            return jnp.broadcast_to(means, (n, self.groups, c // self.groups)).reshape(n, c)

        # Sums over places first, then over a group's channels: the large array is read in order and touched
        # twice.
        mean = by_group(x.mean(axis=(1, 2)))
        variance = jnp.maximum(by_group(jnp.mean(x * x, axis=(1, 2))) - mean * mean, 0)
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.eps)
        return x * factor[:, None, None] + (self.bias[...] - mean * factor)[:, None, None]


class SteeredNorm(nnx.Module):
    """GroupNorm(x) * factor(z) + shift(z): a second map z [N, h, w, condition], each of whose places lies
    over a whole square of x's, says place by place how (Zheng et al., "MoVQ: Modulating Quantized Vectors for
    High-Fidelity Image Generation", NeurIPS 2022).
    """

    def __init__(self, channels: int, condition: int, *, groups: int, eps: float, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, groups=groups, eps=eps, rngs=rngs)
        self.factor = Convolution(condition, channels, 1, rngs=rngs)
        self.shift = Convolution(condition, channels, 1, rngs=rngs)

    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        times = (
            x.shape[1] // z.shape[1]
        )  # convolving each place alone and repeating it come to the same in either order
        return self.norm(x) * repeat(self.factor(z), times) + repeat(self.shift(z), times)


def make_norm(channels: int, *, groups: int, eps: float, condition: int | None, rngs: nnx.Rngs) -> nnx.Module:
    """A GroupNorm, or where a map of `condition` channels steers it, a SteeredNorm."""
    if condition is None:
        return GroupNorm(channels, groups=groups, eps=eps, rngs=rngs)
    return SteeredNorm(channels, condition, groups=groups, eps=eps, rngs=rngs)


class ResidualBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on the short way where the width
    changes.

    Called with x, and with the map z that steers its norms where it was made with a `condition`: z's
    channels.
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
        y = self.conv1(jax.nn.silu(self.norm1(x, *z)))
        y = self.conv2(jax.nn.silu(self.norm2(y, *z)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Attention2D(nnx.Module):
    """x + attention among all places of a feature map: `heads` of C/heads channels each, scaled by the root
    of that width.

    Called with x, and with the map z that steers its norm where it was made with a `condition`: z's channels.
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
        n, h, w, c = x.shape
        width = c // self.heads
        y = self.norm(x, *z)

        def split(part: jax.Array) -> jax.Array:  # [N, H, W, C] -> [N*heads, H*W, C/heads]
            return (
                part.reshape(n, h * w, self.heads, width).swapaxes(1, 2).reshape(n * self.heads, h * w, width)
            )

        q, k, v = (split(project(y)) for project in (self.query, self.key, self.value))
        weights = jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", q, k) * width**-0.5, axis=-1)
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
        if self.conv is not None:
            return self.conv(x)
        n, h, w, c = x.shape
        return x.reshape(n, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


class Upsample(nnx.Module):
    """Twice the resolution: each value repeated twice in both directions, then 3x3 where `learned`."""

    def __init__(self, channels: int, *, learned: bool = True, rngs: nnx.Rngs):
        self.conv = Convolution(channels, channels, 3, rngs=rngs) if learned else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = repeat(x, 2)
        return x if self.conv is None else self.conv(x)


def repeat(x: jax.Array, times: int) -> jax.Array:
    """[N, H, W, C] -> [N, times*H, times*W, C]: every place becomes a square of equal ones."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, times, w, times, c)).reshape(
        n, times * h, times * w, c
    )
