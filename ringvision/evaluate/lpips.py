"""LPIPS: how different two pictures look, by the features of a VGG16 (Zhang et al. 2018, version 0.1, variant
`vgg`).

Weights, in one safetensors file: the convolutions of torchvision's `vgg16-397923af.pth` (features.N.weight,
features.N.bias) and the five heads of the package lpips, `weights/v0.1/vgg.pth` (lin0.model.1.weight to
lin4.model.1.weight). The state dict of `lpips.LPIPS(net="vgg")` holds both, the convolutions as net.sliceK.N,
and is read as well: CONVERT saves it.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.evaluate import features
from ringvision.evaluate.features import Ask, Shape

# The network's input is (x - SHIFT) / SCALE for pixels x in [-1, 1]: ImageNet's mean and standard deviation.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# (convolutions, channels) of each stage; a pool precedes all but the first. N in features.N counts ReLUs and
# pools, too.
STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
LEAST = 16  # pixels a side, of which the four pools leave one
BATCH = 4
TINY = 1e-10
CONVERT = (
    """where the package lpips is installed, save them once with python -c "import lpips; """
    """from safetensors.torch import save_file; save_file({name: x.clone() for name, x in """
    """lpips.LPIPS(net='vgg').state_dict().items()}, 'lpips.safetensors')\""""
)


class Lpips:
    """Measures distances by the weights in the file at `path`. UserError where they do not fit."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        tensors = features.read_weights(
            path, "LPIPS (torchvision's vgg16 with the five heads of lpips v0.1)", CONVERT, wanted()
        )
        names = features.layers_of(trunk, (1, LEAST, LEAST, 3))
        layers = {
            name: (features.kernel(tensors[f"{name}.weight"]), tensors[f"{name}.bias"]) for name in names
        }
        self._weights = jax.tree.map(
            jnp.asarray, (layers, [tensors[_head(stage)].reshape(-1) for stage in range(len(STAGES))])
        )
        self._run = jax.jit(
            lambda weights, one, other: distance(lambda name, _: weights[0][name], weights[1], one, other)
        )

    def __call__(self, frames: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Two of uint8 [n, H, W, 3], at least 16 pixels a side -> distances float32 [n], 0 for equal
        pictures.
        """
        parts = features.in_batches(BATCH, frames, others)
        return np.concatenate([np.asarray(self._run(self._weights, *pair))[:count] for count, pair in parts])


def wanted() -> dict[tuple[str, ...], Shape]:
    """What the file must hold: the names that a tensor may have -> its shape."""
    tensors: dict[tuple[str, ...], Shape] = {}
    slices = np.repeat(np.arange(1, len(STAGES) + 1), [count for count, _ in STAGES])
    for stage, (name, (height, width, inputs, outputs)) in zip(
        slices, features.layers_of(trunk, (1, LEAST, LEAST, 3)).items()
    ):
        other = f"net.slice{stage}.{name.removeprefix('features.')}"
        tensors[f"{name}.weight", f"{other}.weight"] = (outputs, inputs, height, width)
        tensors[f"{name}.bias", f"{other}.bias"] = (outputs,)
    return tensors | {(_head(stage),): (1, channels, 1, 1) for stage, (_, channels) in enumerate(STAGES)}


def trunk(ask: Ask, x: jax.Array) -> list[jax.Array]:
    """VGG16. x float32 [N, H, W, 3] -> the output of the last ReLU of each stage, float32 [N, H / 2**stage,
    W / 2**stage, channels].
    """
    number = 0
    stages = []
    for stage, (count, channels) in enumerate(STAGES):
        if stage:
            x = features.max_pool(x, 2, 2)
            number += 1
        for _ in range(count):
            x = features.convolve(x, ask(f"features.{number}", (3, 3, x.shape[-1], channels)))
            number += 2
        stages.append(x)
    return stages


def distance(ask: Ask, heads: list[jax.Array], frames: jax.Array, others: jax.Array) -> jax.Array:
    """The distance of LPIPS: squared differences of normalised features, weighted by channel, averaged over
    positions, summed over stages.

    Args:
        ask: gives the layers of VGG16.
        heads: the weights of each stage's channels, float32 [channels].
        frames, others: the pictures to compare, uint8 [N, H, W, 3].

    Returns:
        float32 [N].
    """

    def scaled(pictures: jax.Array) -> jax.Array:
        """uint8 [N, H, W, 3] -> float32 [N, H, W, 3], as VGG16 was trained."""
        return (pictures.astype(jnp.float32) / 127.5 - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)

    def unit(stage: jax.Array) -> jax.Array:
        """float32 [N, H, W, C] -> the same shape: the channels of each position have length 1."""
        return stage / (jnp.sqrt((stage**2).sum(-1, keepdims=True)) + TINY)

    pairs = zip(trunk(ask, scaled(frames)), trunk(ask, scaled(others)))
    return sum(
        (
            (((unit(one) - unit(other)) ** 2) * head).sum(-1).mean((1, 2))
            for (one, other), head in zip(pairs, heads)
        ),
        start=jnp.zeros(len(frames)),
    )


def _head(stage: int) -> str:
    return f"lin{stage}.model.1.weight"
