"""Weights for a network that nothing has to be learned by: they take no compilation."""

from collections.abc import Callable

import numpy as np
from flax import nnx

from ringvision.model_folder import specs


def random_weights(make: Callable[[], nnx.Module], std: float) -> dict[str, np.ndarray]:
    """Normal numbers for every parameter of what `make` makes, ones for scales and biases; drawn by numpy,
    since jax would compile each shape.
    """
    random = np.random.default_rng(1)
    return {
        name: np.ones(shape, dtype)
        if name.rsplit(".", 1)[-1] in ("scale", "bias")
        else (std * random.standard_normal(shape)).astype(dtype)
        for name, (shape, dtype) in specs(nnx.state(nnx.eval_shape(make), nnx.Param)).items()
    }
