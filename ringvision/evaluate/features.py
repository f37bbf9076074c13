"""Other people's networks for measuring pictures: their weights from a safetensors file, their layers, and
fixed batches.

A network is a function that asks for each of its layers by name and shape. `layers_of` runs it without
numbers to learn what it will ask for; `read_weights` reads just that, and says all that is missing or
misshaped at once. Pickles (.pth, .pt) are not read.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from safetensors import SafetensorError, safe_open

from ringvision.errors import UserError

Shape = tuple[int, ...]
Layer = tuple[jax.Array, jax.Array]  # kernel [height, width, in, out] and bias [out]
Ask = Callable[[str, Shape], Layer]  # a layer's name and its kernel's shape -> the layer


def layers_of(network: Callable[..., object], *inputs: Shape) -> dict[str, Shape]:
    """The kernels that `network(ask, *inputs)` asks for: name -> [height, width, in, out]. Nothing is
    computed.
    """
    found: dict[str, Shape] = {}

    def ask(name: str, shape: Shape) -> Layer:
        found[name] = shape
        return jnp.zeros(shape), jnp.zeros(shape[-1])

    jax.eval_shape(
        lambda *arrays: network(ask, *arrays), *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in inputs)
    )
    return found


def convolve(x: jax.Array, layer: Layer, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """x [N, H, W, in] -> [N, H', W', out], with a ReLU. Odd kernels at stride 1: "SAME" pads evenly on both
    sides.
    """
    kernel, bias = layer
    wide = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return jax.nn.relu(wide + bias)


def max_pool(x: jax.Array, window: int, stride: int, padding: str = "VALID") -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding)


def in_batches(batch: int, *arrays: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(how many count, the parts): `batch` rows of each array at a time, the last part filled with zeros, so
    that one shape is compiled.
    """
    for start in range(0, len(arrays[0]), batch):
        parts = [array[start : start + batch] for array in arrays]
        count = len(parts[0])
        yield (
            count,
            [
                np.concatenate([part, np.zeros((batch - count, *part.shape[1:]), part.dtype)])
                for part in parts
            ],
        )


def read_weights(
    path: str | os.PathLike[str], what: str, convert: str, wanted: Mapping[tuple[str, ...], Shape]
) -> dict[str, np.ndarray]:
    """The tensors `wanted` of a file, float32, by the first of their names there.

    wanted: the names that a tensor may have -> its shape in the file. what: whose weights they are, and
    convert: how to make such a file; both for messages. Other tensors in the file are left alone. UserError
    names every tensor that is missing or of another shape, before one is read.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file; give the weights of {what} as a .safetensors file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            there = set(file.keys())
            names = {known: next((name for name in known if name in there), None) for known in wanted}
            shapes = {
                name: tuple(file.get_slice(name).get_shape()) for name in names.values() if name is not None
            }
            wrong = [f"{known[0]} is missing" for known, name in names.items() if name is None]
            wrong += [
                f"{name} has shape {list(shapes[name])}, expected {list(wanted[known])}"
                for known, name in names.items()
                if name is not None and shapes[name] != wanted[known]
            ]
            if wrong:
                more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
                raise UserError(
                    f"{path} does not hold the weights of {what}: {'; '.join(wrong[:4])}{more}; {convert}"
                )
            return {
                known[0]: file.get_tensor(name).astype(np.float32)
                for known, name in names.items()
                if name is not None
            }
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a safetensors file ({error}); pickles such as .pth are not read: {convert}"
        ) from None


def kernel(tensor: np.ndarray) -> np.ndarray:
    """torch's [out, in, height, width] -> [height, width, in, out]."""
    return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0))
