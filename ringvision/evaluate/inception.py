"""The Inception network of FID: frames in, the 2048 features of its last average pool out (Szegedy et al.
2015; Heusel et al. 2017).

It is the network of the file `inception-2015-12-05`, with which FID was defined, not the later InceptionV3:
its 3x3 average pools leave the padding out of the mean, and the pool of its last block takes the maximum.
Pictures of any size are enlarged to 299x299 as TensorFlow 1 did (bilinear, corners at pixel 0, no half-pixel
shift) and scaled to (pixel - 128) / 128.

Weights: `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid) or `weights-inception-2015-12-05-6726825d.pth`
(torch-fidelity), which hold the same tensors under the same names, saved as safetensors under these names;
CONVERT does that. Every convolution NAME has NAME.conv.weight and NAME.bn.{weight, bias, running_mean,
running_var}; the classifier `fc` is not used.
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ringvision.evaluate import features
from ringvision.evaluate.features import Ask, Shape

WIDTH = 2048
SIDE = 299
NORM_EPSILON = 1e-3
BATCH = 8  # 299x299 activations of one picture take some 30 MB at their widest
CONVERT = (
    """where torch is installed, save it anew once with python -c "import torch; """
    """from safetensors.torch import save_file; save_file({name: x.clone() for name, x in """
    """torch.load('pt_inception-2015-12-05-6726825d.pth', weights_only=True).items()}, """
    """'inception.safetensors')\""""
)

Pool = Callable[[jax.Array], jax.Array]
Chain = Callable[..., jax.Array]  # what _chains returns


class Inception:
    """frames uint8 [n, H, W, 3] -> features float32 [n, 2048], by the weights in the file at `path`.
    UserError where they do not fit.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._layers = _folded(
            features.read_weights(path, "FID's Inception (pt_inception-2015-12-05)", CONVERT, wanted())
        )
        self._run = jax.jit(lambda layers, frames: pool3(lambda name, _: layers[name], enlarge(frames)))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """frames uint8 [n, H, W, 3] -> float32 [n, 2048]."""
        return np.concatenate(
            [
                np.asarray(self._run(self._layers, part))[:count]
                for count, (part,) in features.in_batches(BATCH, frames)
            ]
        )


def wanted() -> dict[tuple[str, ...], Shape]:
    """What the file must hold: (name,) -> shape."""
    tensors: dict[tuple[str, ...], Shape] = {}
    for name, (height, width, inputs, outputs) in features.layers_of(pool3, (1, SIDE, SIDE, 3)).items():
        tensors[(f"{name}.conv.weight",)] = (outputs, inputs, height, width)
        tensors |= {
            (f"{name}.bn.{part}",): (outputs,) for part in ("weight", "bias", "running_mean", "running_var")
        }
    return tensors


def _folded(tensors: dict[str, np.ndarray]) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The kernel and bias of each convolution, with the batch normalisation that follows multiplied in."""
    layers = {}
    for name in (name.removesuffix(".conv.weight") for name in tensors if name.endswith(".conv.weight")):
        scale, shift, mean, variance = (
            tensors[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / np.sqrt(variance + NORM_EPSILON)
        layers[name] = (
            jnp.asarray(features.kernel(tensors[f"{name}.conv.weight"]) * scale),
            jnp.asarray(shift - mean * scale),
        )
    return layers


def enlarge(frames: jax.Array) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, 299, 299, 3], from -1 to just below 1."""
    x = frames.astype(jnp.float32)
    for axis in (1, 2):
        length = frames.shape[axis]
        positions = jnp.arange(SIDE, dtype=jnp.float32) * (length / SIDE)  # (299,)
        low = jnp.minimum(positions.astype(jnp.int32), length - 1)
        weight = (positions - low).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        below = jnp.take(x, low, axis)
        above = jnp.take(x, jnp.minimum(low + 1, length - 1), axis)
        x = below + (above - below) * weight
    return (x - 128) / 128


def pool3(ask: Ask, images: jax.Array) -> jax.Array:
    """images float32 [N, 299, 299, 3] -> float32 [N, 2048]."""

    def conv(
        x: jax.Array, name: str, outputs: int, height: int, width: int, stride: int = 1, padding: str = "SAME"
    ) -> jax.Array:
        """One convolution with a ReLU.

        Args:
            x: float32 [N, H, W, C].
            name: of the layer.
            outputs: its number of channels.
            height, width: of its kernel.
            stride: of both axes.
            padding: "SAME" or "VALID".

        Returns:
            float32 [N, H', W', outputs].
        """
        return features.convolve(x, ask(name, (height, width, x.shape[-1], outputs)), stride, padding)

    x = conv(images, "Conv2d_1a_3x3", 32, 3, 3, 2, "VALID")  # (N, 149, 149, 32)
    x = conv(x, "Conv2d_2a_3x3", 32, 3, 3, 1, "VALID")
    x = features.max_pool(conv(x, "Conv2d_2b_3x3", 64, 3, 3), 3, 2)
    x = conv(x, "Conv2d_3b_1x1", 80, 1, 1)  # (N, 73, 73, 80)
    x = features.max_pool(conv(x, "Conv2d_4a_3x3", 192, 3, 3, 1, "VALID"), 3, 2)  # (N, 35, 35, 192)
    for block, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _small(_chains(conv, block), x, pooled)  # (N, 35, 35, 256), then 288 channels
    x = _shrink_to_17(_chains(conv, "Mixed_6a"), x)  # (N, 17, 17, 768)
    for block, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _seven(_chains(conv, block), x, inner)
    x = _shrink_to_8(_chains(conv, "Mixed_7a"), x)  # (N, 8, 8, 1280)
    x = _wide(_chains(conv, "Mixed_7b"), x, average_pool)  # (N, 8, 8, 2048)
    x = _wide(_chains(conv, "Mixed_7c"), x, lambda last: features.max_pool(last, 3, 1, "SAME"))
    return x.mean((1, 2))


def average_pool(x: jax.Array) -> jax.Array:
    """float32 [N, H, W, C] -> the same shape: means of 3x3 pixels at stride 1; at an edge the mean of those
    that are inside.
    """

    def total(each: jax.Array) -> jax.Array:
        """float32 [N, H, W, C] -> the same shape: the sum of each window."""
        return lax.reduce_window(each, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _chains(conv: Callable[..., jax.Array], block: str) -> Chain:
    """-> chain(x, (name, outputs, height, width, stride), ...): convolutions of a block, one after another.
    The stride may be left out (1); at stride 2 there is no padding.
    """

    def chain(x: jax.Array, *layers: tuple[str, int, int, int] | tuple[str, int, int, int, int]) -> jax.Array:
        """float32 [N, H, W, C] -> float32 [N, H', W', outputs of the last layer]."""
        for name, outputs, height, width, *stride in layers:
            x = conv(x, f"{block}.{name}", outputs, height, width, *((2, "VALID") if stride == [2] else ()))
        return x

    return chain


def _joined(*branches: jax.Array) -> jax.Array:
    """[N, H, W, C of each] -> [N, H, W, sum of C]."""
    return jnp.concatenate(branches, -1)


def _small(chain: Chain, x: jax.Array, pooled: int) -> jax.Array:
    return _joined(
        chain(x, ("branch1x1", 64, 1, 1)),
        chain(x, ("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 5)),
        chain(x, ("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3), ("branch3x3dbl_3", 96, 3, 3)),
        chain(average_pool(x), ("branch_pool", pooled, 1, 1)),
    )


def _shrink_to_17(chain: Chain, x: jax.Array) -> jax.Array:
    return _joined(
        chain(x, ("branch3x3", 384, 3, 3, 2)),
        chain(x, ("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3), ("branch3x3dbl_3", 96, 3, 3, 2)),
        features.max_pool(x, 3, 2),
    )


def _seven(chain: Chain, x: jax.Array, inner: int) -> jax.Array:
    double = (
        ("branch7x7dbl_1", inner, 1, 1),
        ("branch7x7dbl_2", inner, 7, 1),
        ("branch7x7dbl_3", inner, 1, 7),
    )
    return _joined(
        chain(x, ("branch1x1", 192, 1, 1)),
        chain(x, ("branch7x7_1", inner, 1, 1), ("branch7x7_2", inner, 1, 7), ("branch7x7_3", 192, 7, 1)),
        chain(x, *double, ("branch7x7dbl_4", inner, 7, 1), ("branch7x7dbl_5", 192, 1, 7)),
        chain(average_pool(x), ("branch_pool", 192, 1, 1)),
    )


def _shrink_to_8(chain: Chain, x: jax.Array) -> jax.Array:
    narrow = (("branch7x7x3_1", 192, 1, 1), ("branch7x7x3_2", 192, 1, 7), ("branch7x7x3_3", 192, 7, 1))
    return _joined(
        chain(x, ("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 3, 2)),
        chain(x, *narrow, ("branch7x7x3_4", 192, 3, 3, 2)),
        features.max_pool(x, 3, 2),
    )


def _wide(chain: Chain, x: jax.Array, pool: Pool) -> jax.Array:
    single = chain(x, ("branch3x3_1", 384, 1, 1))
    double = chain(x, ("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 3))
    return _joined(
        chain(x, ("branch1x1", 320, 1, 1)),
        chain(single, ("branch3x3_2a", 384, 1, 3)),
        chain(single, ("branch3x3_2b", 384, 3, 1)),
        chain(double, ("branch3x3dbl_3a", 384, 1, 3)),
        chain(double, ("branch3x3dbl_3b", 384, 3, 1)),
        chain(pool(x), ("branch_pool", 192, 1, 1)),
    )
