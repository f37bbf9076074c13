"""LPIPS: how unlike two pictures look, by the features of a VGG16 (Zhang et al. 2018, version 0.1, its `vgg`
variant).

Weights, in one safetensors file: the convolutions of torchvision's `vgg16-397923af.pth` (features.N.weight,
features.N.bias) and the five heads of the `lpips` package, `weights/v0.1/vgg.pth` (lin0.model.1.weight to
lin4.model.1.weight). What `lpips.LPIPS(net="vgg")` says its state dict is holds both, the convolutions as
net.sliceK.N, and is read as well: CONVERT saves that.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np

from ringvision.evaluate.features import (
    Ask,
    Shape,
    convolve,
    in_batches,
    kernel,
    layers_of,
    max_pool,
    read_weights,
)

# What the network sees is (x - SHIFT) / SCALE of x in [-1, 1], which is ImageNet's mean and deviation.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Stages, with a pool before each but the first: (convolutions, channels). N in features.N counts the ReLUs
# and pools, too.
STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
LEAST = 16  # pixels a side: what the four pools leave is one pixel
BATCH = 4
TINY = 1e-10
CONVERT = (
    """where the package lpips is installed, save them once with python -c "import lpips; from safetensors.torch import save_file; """
    """save_file({name: x.clone() for name, x in lpips.LPIPS(net='vgg').state_dict().items()}, 'lpips.safetensors')\""""
)


class Lpips:
    """frames and others, uint8 [n, H, W, 3], at least 16 pixels a side -> distances float32 [n], 0 for equal
    pictures.

    The weights are those of the file at `path`. UserError where they do not fit.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        tensors = read_weights(
            path, "LPIPS (torchvision's vgg16 with the five heads of lpips v0.1)", CONVERT, wanted()
        )
        names = layers_of(trunk, (1, LEAST, LEAST, 3))
        layers = {name: (kernel(tensors[f"{name}.weight"]), tensors[f"{name}.bias"]) for name in names}
        self._weights = jax.tree.map(
            jnp.asarray, (layers, [tensors[_head(stage)].reshape(-1) for stage in range(len(STAGES))])
        )
        self._run = jax.jit(
            lambda weights, one, other: distance(lambda name, _: weights[0][name], weights[1], one, other)
        )

    def __call__(self, frames: np.ndarray, others: np.ndarray) -> np.ndarray:
        parts = in_batches(BATCH, frames, others)
        return np.concatenate([np.asarray(self._run(self._weights, *pair))[:count] for count, pair in parts])


def wanted() -> dict[tuple[str, ...], Shape]:
    """What the file must hold: the names that a tensor may have -> its shape."""
    tensors: dict[tuple[str, ...], Shape] = {}
    slices = np.repeat(np.arange(1, len(STAGES) + 1), [count for count, _ in STAGES])
    for place, (name, (height, width, inputs, outputs)) in zip(
        slices, layers_of(trunk, (1, LEAST, LEAST, 3)).items()
    ):
        other = f"net.slice{place}.{name.removeprefix('features.')}"
        tensors[f"{name}.weight", f"{other}.weight"] = (outputs, inputs, height, width)
        tensors[f"{name}.bias", f"{other}.bias"] = (outputs,)
    return tensors | {(_head(stage),): (1, channels, 1, 1) for stage, (_, channels) in enumerate(STAGES)}


def trunk(ask: Ask, x: jax.Array) -> list[jax.Array]:
    """x [N, H, W, 3] -> what VGG16 gives after the last ReLU of each stage, [N, H / 2**stage, W / 2**stage,
    channels].
    """
    number = 0
    stages = []
    for stage, (count, channels) in enumerate(STAGES):
        if stage:
            x = max_pool(x, 2, 2)
            number = number + 1
        for _ in range(count):
            x = convolve(x, ask(f"features.{number}", (3, 3, x.shape[-1], channels)))
            number += 2
        stages.append(x)
    return stages


def distance(ask: Ask, heads: list[jax.Array], frames: jax.Array, others: jax.Array) -> jax.Array:
    """uint8 [N, H, W, 3] twice -> [N]: squared differences of unit features, weighed by channel, averaged
    over places, added up.
    """

    def seen(pictures: jax.Array) -> jax.Array:
        return (pictures.astype(jnp.float32) / 127.5 - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)

    def unit(features: jax.Array) -> jax.Array:
        return features / (jnp.sqrt((features**2).sum(-1, keepdims=True)) + TINY)

    pairs = zip(trunk(ask, seen(frames)), trunk(ask, seen(others)))
    return sum(
        (
            (((unit(one) - unit(other)) ** 2) * head).sum(-1).mean((1, 2))
            for (one, other), head in zip(pairs, heads)
        ),
        start=jnp.zeros(len(frames)),
    )


def _head(stage: int) -> str:
    return f"lin{stage}.model.1.weight"
