"""The discriminator of the tokenizer's training: is a patch of an image real or reconstructed?

images float32 [N, H, W, 3] in [-1, 1] -> logits [N, h, w], one a patch; high means real (PatchGAN: Isola et
al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017). It takes 4x4 pixels at a
time for the same reason as the shipped tokenizer does: at full resolution it would cost more than the network
that it judges.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ringvision.models.convolution import Convolution, GroupNorm


class Discriminator(nnx.Module):
    """Three convolutions and a last one to a logit; a logit sees 26 pixels on a side.

    Args:
        in_channels: of the images.
        channels: after the first convolution; each of the next two doubles them.
        norm_groups: that the channels are divided into for normalisation.
        rngs: for the weights.
    """

    def __init__(self, *, in_channels: int = 3, channels: int = 32, norm_groups: int = 8, rngs: nnx.Rngs):
        norm: dict[str, Any] = {"groups": norm_groups, "eps": 1e-6}
        self.conv_in = Convolution(in_channels, channels, 6, stride=4, rngs=rngs)
        self.conv1 = Convolution(channels, 2 * channels, 3, rngs=rngs)
        self.norm1 = GroupNorm(2 * channels, **norm, rngs=rngs)
        self.conv2 = Convolution(2 * channels, 4 * channels, 4, stride=2, rngs=rngs)
        self.norm2 = GroupNorm(4 * channels, **norm, rngs=rngs)
        self.conv_out = Convolution(4 * channels, 1, 1, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [N, H, W, 3] in [-1, 1] -> logits float32 [N, H/8, W/8]."""
        x = jax.nn.leaky_relu(self.conv_in(images), 0.2)
        x = jax.nn.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        x = jax.nn.leaky_relu(self.norm2(self.conv2(x)), 0.2)
        return self.conv_out(x)[..., 0]


def hinge_loss(real: jax.Array, reconstructed: jax.Array) -> jax.Array:
    """What the discriminator minimises, a scalar, from its logits [N, h, w] for either kind of image."""
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + reconstructed)))
