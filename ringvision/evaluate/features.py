"""What the networks of LPIPS and Inception share: their layers, weights from a safetensors file, fixed
batches.

A network is a function that calls `ask` for each of its layers, by name and shape. `layers_of` traces it
without computing anything to learn what it asks for; `read_weights` reads just that, and names everything
that is missing or of another shape at once. Pickles (.pth, .pt) are not read, since loading one can run any
code.

The networks are written out here because their published implementations (lpips, pytorch-fid) need torch.
"""

# Letters of shapes: N pictures, H height, W width, C channels.

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
Layer = tuple[jax.Array, jax.Array]  # kernel float32 [height, width, in, out], bias float32 [out]
Ask = Callable[[str, Shape], Layer]  # a layer's name and its kernel's shape -> the layer


def layers_of(network: Callable[..., object], *inputs: Shape) -> dict[str, Shape]:
    """The kernels that a network asks for: name -> [height, width, in, out]. Nothing is computed.

    network: called as network(ask, *arrays). inputs: the shapes of these arrays, which are float32.
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
    """A convolution, its bias and a ReLU.

    Args:
        x: float32 [N, H, W, in].
        layer: kernel float32 [height, width, in, out] and bias float32 [out].
        stride: of both axes.
        padding: "SAME" or "VALID". At stride 1 "SAME" pads both sides alike for odd kernels, as torch does.

    Returns:
        float32 [N, H', W', out].
    """
    kernel, bias = layer
    convolved = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return jax.nn.relu(convolved + bias)  # (N, H', W', out)


def max_pool(x: jax.Array, window: int, stride: int, padding: str = "VALID") -> jax.Array:
    """The maximum in each window.

    Args:
        x: float32 [N, H, W, C].
        window: its height and width.
        stride: of both axes.
        padding: "VALID" or "SAME".

    Returns:
        float32 [N, H', W', C].
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding)


def in_batches(batch: int, *arrays: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Splits arrays [n, ...] of any dtype into parts of `batch` rows. The last part is filled up with zeros,
    so that only one shape is compiled. -> (how many rows are real, the part [batch, ...] of each array), in
    turn.
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
    """Reads the tensors that a network needs. Others in the file are not read.

    Args:
        path: a safetensors file.
        what: what the weights are, for messages.
        convert: how to make such a file, for messages.
        wanted: the names that a tensor may have -> its shape in the file.

    Returns:
        The tensors by the first of their names: float32 [...], of the shapes wanted.

    Raises:
        UserError: names every tensor that is missing or of another shape, before any is read.
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
    """torch's order [out, in, height, width] -> [height, width, in, out], of the same dtype."""
    return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0))
