"""A video tokenizer opened from its folder: frames in, codes out, and back.

    frames uint8 [T, H, W, 3] -> encode -> codes int32 [T, h, w] -> embed -> z_q [T, h, w, C]
                                                                 -> decode -> frames

A folder of tokenizers/ holds config.json, `{"kind": "vqgan", "name": …, "size": pixels, "vqgan": {VQGANConfig}}`, and
model.safetensors. Frames go through the network in batches of one fixed size, the last one padded, so that each direction is
compiled once, memory does not grow with the video, and a frame's codes depend on no other frame, nor on how many came along. Several
devices take turns with the batches. Arrays here are numpy; the network's own range is [-1, 1].
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ringvision.checkpoint import load_model, read_config, specs, unflatten
from ringvision.errors import UserError
from ringvision.models.vqgan import VQGAN, VQGANConfig

BATCH = 16
AHEAD = 2
"""Batches handed to a device before the first of them is waited for."""


def load_video_tokenizer(
    folder: str | os.PathLike[str], *, batch: int = BATCH, size: int | None = None, devices: Sequence[jax.Device] | None = None
) -> "VideoTokenizer":
    """Open a tokenizer's folder. UserError where it is not one, or where its weights do not fit its config.

    batch: frames that go through the network at once. size: of the frames, for a network that is to work at another than its own.
    devices: whose turn it is (None: the first one's alone).
    """
    settings = read_config(folder, "vqgan")
    missing = [name for name in ("size", "vqgan") if name not in settings]
    if missing or not isinstance(settings["vqgan"], dict):
        raise UserError(f"{folder}/config.json lacks {' and '.join(missing) or 'an object'} (vqgan); copy the tokenizer's folder again")
    config = VQGANConfig.from_dict(settings["vqgan"])
    if settings["size"] != config.resolution:
        raise UserError(f"{folder}/config.json has size {settings['size']} but a vqgan of resolution {config.resolution}; they must agree")
    here = config if size is None else replace(config, resolution=size)
    graph, like = nnx.split(nnx.eval_shape(lambda: VQGAN(here, rngs=nnx.Rngs(0))))
    arrays = load_model(folder, specs(like))
    params, hash = unflatten(arrays, like), hash_of(config, arrays)
    return VideoTokenizer(str(settings.get("name", "unnamed")), here, graph, params, hash, batch, devices)


class VideoTokenizer:
    """A VQGAN with its weights, as a function on videos of any length. Made by `load_video_tokenizer`.

    name: what its folder calls it. hash: SHA-256 of config and weights: two tokenizers of one hash give the same codes.
    """

    def __init__(
        self,
        name: str,
        config: VQGANConfig,
        graph: nnx.GraphDef,
        params: Any,
        hash: str,
        batch: int = BATCH,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.name, self.config, self.hash, self.batch = name, config, hash, batch
        self._devices = list(devices or jax.local_devices()[:1])
        self._params = [jax.device_put(params, device) for device in self._devices]

        def compiled(method: Callable[[VQGAN, jax.Array], jax.Array]) -> Callable[[Any, jax.Array], jax.Array]:
            return jax.jit(lambda params, x: method(nnx.merge(graph, params), x))

        self._encode = compiled(lambda model, images: model.encode(in_range(images)))
        self._decode = compiled(lambda model, codes: model.decode(model.embed(codes)))

    @property
    def size(self) -> int:
        """Height and width of a frame, in pixels."""
        return self.config.resolution

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): rows and columns of a frame's codes."""
        return self.config.grid

    @property
    def codes_per_frame(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_codes(self) -> int:
        """How many different codes there are: they run from 0 to num_codes - 1."""
        return self.config.codebook_size

    @property
    def codebook(self) -> np.ndarray:
        """float32 [num_codes, C]."""
        return np.asarray(self._params[0]["codebook"][...])

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """frames [T, size, size, 3], uint8 or float in [-1, 1] -> codes int32 [T, h, w]. Memory: one batch of activations."""
        frames = np.asarray(frames)
        shape = (self.size, self.size, self.config.in_channels)
        if frames.ndim != 4 or frames.shape[1:] != shape or not (frames.dtype == np.uint8 or np.issubdtype(frames.dtype, np.floating)):
            raise UserError(
                f"frames of {frames.dtype} {list(frames.shape)}; expected uint8, or floats in [-1, 1], [T, {', '.join(map(str, shape))}]; "
                f"sample the video at size {self.size}"
            )
        return self._batched(self._encode, frames if frames.dtype == np.uint8 else frames.astype(np.float32), self.grid, np.int32)

    def embed(self, codes: np.ndarray) -> np.ndarray:
        """codes [T, h, w] -> their rows of the codebook, float32 [T, h, w, C]."""
        return self.codebook[self._checked(codes)]

    def decode(self, codes: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """codes [T, h, w] -> frames [T, size, size, 3]: float32 in the network's range, or pixels where dtype is uint8."""
        shape = (self.size, self.size, self.config.in_channels)
        if np.dtype(dtype) == np.uint8:
            return self._batched(self._decode, self._checked(codes), shape, np.uint8, to_pixels)
        return self._batched(self._decode, self._checked(codes), shape, dtype)

    def _checked(self, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes)
        if codes.ndim != 3 or codes.shape[1:] != self.grid or not np.issubdtype(codes.dtype, np.integer):
            raise UserError(f"codes of {codes.dtype} {list(codes.shape)}; expected integers of [T, {self.grid[0]}, {self.grid[1]}]")
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise UserError(
                f"codes run from {codes.min()} to {codes.max()}; this tokenizer's from 0 to {self.num_codes - 1}: use the one they are of"
            )
        return codes.astype(np.int32)

    def _batched(
        self,
        function: Callable[[Any, jax.Array], jax.Array],
        items: np.ndarray,
        shape: tuple[int, ...],
        dtype: Any,
        finish: Callable[[jax.Array], np.ndarray] = np.asarray,
    ) -> np.ndarray:
        results = np.empty((len(items), *shape), dtype)
        running: deque[tuple[int, jax.Array]] = deque()

        def collect() -> None:
            start, result = running.popleft()
            part = results[start : start + self.batch]
            part[:] = finish(result)[: len(part)]

        for turn, start in enumerate(range(0, len(items), self.batch)):
            if len(running) == AHEAD * len(self._devices):
                collect()
            chunk = items[start : start + self.batch]
            padded = np.concatenate([chunk, np.zeros((self.batch - len(chunk), *chunk.shape[1:]), chunk.dtype)])
            at = turn % len(self._devices)
            running.append((start, function(self._params[at], jax.device_put(padded, self._devices[at]))))
        while running:
            collect()
        return results


def in_range(images: jax.Array) -> jax.Array:
    """uint8 pixels -> float32 in [-1, 1]; floats pass as they are."""
    return images.astype(jnp.float32) / 127.5 - 1 if images.dtype == jnp.uint8 else images


def to_pixels(images: jax.Array) -> np.ndarray:
    """float images in [-1, 1] -> uint8, rounded, what lies outside cut off."""
    return np.clip(np.rint((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)


def hash_of(config: VQGANConfig, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the config and every array with its name, in the names' order: the same however the file is laid out."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
