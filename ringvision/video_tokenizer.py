"""A video tokenizer opened from its folder: frames in, codes out, and back.

    frames uint8 [T, H, W, 3] -> encode -> codes int32 [T, h, w] -> embed -> z_q [T, h, w, C]
                                                                 -> decode -> frames

A folder of tokenizers/ holds config.json, `{"kind": "vqgan", "name": …, "size": pixels, "vqgan":
{VQGANConfig}}`, and model.safetensors; NETWORKS says which kinds there are, and each has its network's config
under its own name. Frames go through the network in batches of one fixed size, the last one padded, so that
each direction is compiled once, memory does not grow with the video, and a frame's codes depend on no other
frame, nor on how many came along. Several devices take turns with the batches. Arrays here are numpy; the
network's own range is its config's pixel_range, mostly [-1, 1].
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ringvision.errors import UserError
from ringvision.model_folder import load_model, read_config, specs
from ringvision.models.emu3_tokenizer import Emu3Tokenizer, Emu3TokenizerConfig
from ringvision.models.vqgan import VQGAN, VQGANConfig
from ringvision.tree import unflatten

BATCH = 16
AHEAD = 2
"""Batches handed to a device before the first of them is waited for."""
NETWORKS: dict[str, tuple[Any, Any]] = {
    "vqgan": (VQGANConfig, VQGAN),
    "emu3": (Emu3TokenizerConfig, Emu3Tokenizer),
}
"""Kind of a tokenizer's folder -> the classes of its config and its network."""
Config = VQGANConfig | Emu3TokenizerConfig


def load_video_tokenizer(
    folder: str | os.PathLike[str],
    *,
    batch: int = BATCH,
    size: int | tuple[int, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> "VideoTokenizer":
    """Open a tokenizer's folder.

    Args:
        folder: with config.json and model.safetensors.
        batch: frames that go through the network at once.
        size: of the frames in pixels, one number or (height, width), where the network is to work at another
            than its own.
        devices: that take turns with the batches; None: the first one alone.

    Returns:
        The tokenizer, with its weights on the devices.

    Raises:
        UserError: it is not such a folder, or its weights do not fit its config.
    """
    settings, config = _described(folder)
    kind = settings["kind"]
    network = NETWORKS[kind][1]
    resized = config.resized(size) if isinstance(size, int) else config
    graph, like = nnx.split(nnx.eval_shape(lambda: network(resized, rngs=nnx.Rngs(0))))
    arrays = load_model(folder, specs(like))
    params = unflatten(arrays, like)
    hash = hash_of(config, arrays)
    tokenizer_class = CausalVideoTokenizer if kind == "emu3" else VideoTokenizer
    frame = size if isinstance(size, tuple) else None
    name = str(settings.get("name", "unnamed"))
    return tokenizer_class(name, resized, graph, params, hash, batch, devices, frame)


def _described(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], Config]:
    """The config.json of a tokenizer's folder, and that of its network. UserError where it is another
    folder.
    """
    settings = read_config(folder)
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise UserError(
            f'{folder}/config.json says "kind": {json.dumps(kind)}; give the folder of a '
            f"tokenizer (kind {' or '.join(NETWORKS)})"
        )
    missing = [name for name in ("size", kind) if name not in settings]
    if missing or not isinstance(settings[kind], dict):
        raise UserError(
            f"{folder}/config.json lacks {' and '.join(missing) or 'an object'} ({kind}); copy "
            "the tokenizer's folder again"
        )
    config = NETWORKS[kind][0].from_dict(settings[kind])
    if settings["size"] != config.resolution:
        raise UserError(
            f"{folder}/config.json has size {settings['size']} but a {kind} of resolution "
            f"{config.resolution}; they must agree"
        )
    return settings, config


class Identity(NamedTuple):
    """What codes have to do with the tokenizer that made them. hash: SHA-256 of its config and weights;
    num_codes: below this is each code.
    """

    hash: str
    num_codes: int


def identify(folder: str | os.PathLike[str]) -> Identity:
    """Which tokenizer a folder holds; nothing is brought to a device. UserError as `load_video_tokenizer`."""
    settings, config = _described(folder)
    network = NETWORKS[settings["kind"]][1]
    _, like = nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))))
    return Identity(hash_of(config, load_model(folder, specs(like))), config.codebook_size)


class VideoTokenizer:
    """A VQGAN with its weights, as a function on videos of any length. Made by `load_video_tokenizer`.

    Args:
        name: what its folder calls it.
        config: of the network.
        graph: the network without its weights.
        params: the weights, a pytree of arrays.
        hash: SHA-256 of config and weights: two tokenizers of one hash give the same codes.
        batch: frames that go through the network at once.
        devices: that take turns with the batches; None: the first one alone.
        frame: (height, width) of a frame in pixels; None: the config's resolution, a square.

    Raises:
        UserError: a code's pixels do not divide the frame.
    """

    any_size = False
    """Whether frames may have other sizes than `size`; they are then multiples of the pixels that a code
    covers.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        graph: nnx.GraphDef,
        params: Any,
        hash: str,
        batch: int = BATCH,
        devices: Sequence[jax.Device] | None = None,
        frame: tuple[int, int] | None = None,
    ):
        self.name = name
        self.config = config
        self.hash = hash
        self.batch = batch
        self.frame = frame or (config.resolution,) * 2
        if min(self.frame) < 1 or any(side % config.pixels_per_code for side in self.frame):
            raise UserError(
                f"frames of {list(self.frame)} pixels; expected multiples of "
                f"{config.pixels_per_code}, the pixels of a code"
            )
        self._devices = list(devices or jax.local_devices()[:1])
        self._params = [jax.device_put(params, device) for device in self._devices]

        self._encode = self._compiled(
            graph, lambda model, images: model.encode(in_range(images, config.pixel_range))
        )
        self._latents = self._compiled(
            graph, lambda model, images: model.latents(in_range(images, config.pixel_range))
        )
        self._decode = self._compiled(graph, lambda model, codes: model.decode(model.embed(codes)))

    @staticmethod
    def _compiled(graph: nnx.GraphDef, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return jax.jit(lambda params, x: method(nnx.merge(graph, params), x))

    @property
    def size(self) -> int:
        """Height and width of a frame, in pixels, where both are one; of one that is not square see
        `frame`.
        """
        return self.config.resolution

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): rows and columns of a frame's codes."""
        pixels = self.config.pixels_per_code
        return self.frame[0] // pixels, self.frame[1] // pixels

    @property
    def codes_per_frame(self) -> int:
        """h * w."""
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
        """frames [T, size, size, 3], uint8 or float in the pixel_range -> codes int32 [T, h, w]. Memory: one
        batch of activations.
        """
        frames = self._checked_frames(frames)
        return self._batched(self._encode, frames, self._grid_of(frames), np.int32)

    def latents(self, frames: np.ndarray) -> np.ndarray:
        """frames as `encode` takes them -> what it quantizes, float32 [T, h, w, C]: a code is the nearest row
        of the codebook.
        """
        frames = self._checked_frames(frames)
        return self._batched(
            self._latents, frames, (*self._grid_of(frames), self.codebook.shape[1]), np.float32
        )

    def embed(self, codes: np.ndarray) -> np.ndarray:
        """codes int [T, h, w] -> their rows of the codebook, float32 [T, h, w, C]."""
        return self.codebook[self._checked(codes)]

    def decode(self, codes: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """codes int [T, h, w] -> frames [T, size, size, 3]: float32 in the network's range, or pixels where
        dtype is uint8.
        """
        codes = self._checked(codes)
        if np.dtype(dtype) == np.uint8:
            return self._batched(self._decode, codes, self._frame_of(codes), np.uint8, self._to_pixels)
        return self._batched(self._decode, codes, self._frame_of(codes), dtype)

    def _grid_of(self, frames: np.ndarray) -> tuple[int, int]:
        return frames.shape[1] // self.config.pixels_per_code, frames.shape[2] // self.config.pixels_per_code

    def _frame_of(self, codes: np.ndarray) -> tuple[int, int, int]:
        pixels = self.config.pixels_per_code
        return codes.shape[1] * pixels, codes.shape[2] * pixels, self.config.in_channels

    def _to_pixels(self, images: jax.Array) -> np.ndarray:
        return to_pixels(images, self.config.pixel_range)

    def _checked_frames(self, frames: np.ndarray) -> np.ndarray:
        frames = np.asarray(frames)
        pixels = self.config.pixels_per_code
        fits = frames.ndim == 4 and frames.shape[3] == self.config.in_channels and min(frames.shape[1:3]) > 0
        if self.any_size:
            fits = fits and frames.shape[1] % pixels == 0 and frames.shape[2] % pixels == 0
            side = f"multiples of {pixels}"
            hint = f"resize it to sides that {pixels} divides"
        else:
            fits = fits and frames.shape[1:3] == self.frame
            side = f"{self.frame[0]}, {self.frame[1]}"
            hint = f"sample the video at size {self.size}, or open the tokenizer with a size"
        if not fits or not (frames.dtype == np.uint8 or np.issubdtype(frames.dtype, np.floating)):
            raise UserError(
                f"frames of {frames.dtype} {list(frames.shape)}; expected uint8, or floats in "
                f"{list(self.config.pixel_range)}, "
                f"[T, {side}, {self.config.in_channels}]; {hint}"
            )
        return frames if frames.dtype == np.uint8 else frames.astype(np.float32)

    def _checked(self, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes)
        fits = codes.ndim == 3 and (
            codes.shape[1:] == self.grid or (self.any_size and min(codes.shape[1:]) > 0)
        )
        if not fits or not np.issubdtype(codes.dtype, np.integer):
            expected = "h, w" if self.any_size else f"{self.grid[0]}, {self.grid[1]}"
            raise UserError(
                f"codes of {codes.dtype} {list(codes.shape)}; expected integers of [T, {expected}]"
            )
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_codes):
            raise UserError(
                f"codes run from {codes.min()} to {codes.max()}; this tokenizer's from 0 to "
                f"{self.num_codes - 1}: use the one they are of"
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
        """items [T, ...] through a compiled function, batch by batch -> [T, *shape] of `dtype`. `finish`
        makes a batch's result a numpy array on the host.
        """
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
            padded = np.concatenate(
                [chunk, np.zeros((self.batch - len(chunk), *chunk.shape[1:]), chunk.dtype)]
            )
            device = turn % len(self._devices)
            on_device = jax.device_put(padded, self._devices[device])
            running.append((start, function(self._params[device], on_device)))
        while running:
            collect()
        return results


class CausalVideoTokenizer(VideoTokenizer):
    """Emu3's tokenizer. `encode` and `decode` take each frame for an image, as every VideoTokenizer does, so
    that its codes depend on no other frame; `encode_video` and `decode_video` make one grid of codes of
    `temporal_factor` consecutive frames.

    Args:
        name: what its folder calls it.
        config: of the network, an Emu3TokenizerConfig.
        graph: the network without its weights.
        *rest: as VideoTokenizer takes them.
    """

    any_size = True

    def __init__(self, name: str, config: Config, graph: nnx.GraphDef, *rest: Any):
        super().__init__(name, config, graph, *rest)
        self._encode_frames = self._compiled(
            graph, lambda model, frames: model.encode_frames(in_range(frames, config.pixel_range))
        )
        self._encode_time = self._compiled(
            graph, lambda model, latents: model.quantize(model.encode_time(latents))[1]
        )
        self._decode_time = self._compiled(
            graph, lambda model, codes: jnp.stack(model.decode_time(model.embed(codes)), axis=2)
        )
        self._decode_frames = self._compiled(
            graph, lambda model, latents: model.decode_frames(latents[:, 0], latents[:, 1])
        )

    @property
    def temporal_factor(self) -> int:
        """Frames of which `encode_video` makes one grid of codes."""
        assert isinstance(self.config, Emu3TokenizerConfig)
        return self.config.temporal_factor

    def encode_video(self, frames: np.ndarray) -> np.ndarray:
        """frames [T, H, W, 3], uint8 or float in the pixel_range -> codes int32 [T/temporal_factor, h, w];
        UserError where that is no grid.

        Memory: one batch of activations, and the latents of all frames, which are as small as the codes. Each
        T is compiled once.
        """
        frames = self._checked_frames(frames)
        if not len(frames) or len(frames) % self.temporal_factor:
            raise UserError(
                f"a video of {len(frames)} frames; {self.temporal_factor} make one grid of codes: "
                "leave out its last "
                f"{len(frames) % self.temporal_factor}, or repeat the last until "
                f"{self.temporal_factor} divides them"
            )
        latents = self._batched(
            self._encode_frames, frames, (*self._grid_of(frames), self.codebook.shape[1]), np.float32
        )
        return np.asarray(self._encode_time(self._params[0], latents[None])[0])

    def decode_video(self, codes: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
        """codes int [t, h, w] -> frames [t*temporal_factor, H, W, 3]: float32 in the network's range, or
        pixels where dtype is uint8.
        """
        codes = self._checked(codes)
        latents = np.asarray(self._decode_time(self._params[0], codes[None])[0])
        finish = self._to_pixels if np.dtype(dtype) == np.uint8 else np.asarray
        return self._batched(self._decode_frames, latents, self._frame_of(codes), dtype, finish)


def in_range(images: jax.Array, pixel_range: tuple[float, float] = (-1.0, 1.0)) -> jax.Array:
    """uint8 [...] -> float32 [...], black and white as pixel_range says; floats pass as they are."""
    black, white = pixel_range
    if images.dtype != jnp.uint8:
        return images
    return images.astype(jnp.float32) / (255 / (white - black)) + black


def to_pixels(images: jax.Array, pixel_range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    """float [...] in the pixel_range -> uint8 [...], rounded; values outside are clipped."""
    black, white = pixel_range
    return np.clip(np.rint((np.asarray(images) - black) * (255 / (white - black))), 0, 255).astype(np.uint8)


def hash_of(config: Config, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the config and every array [...] with its name, dtype and shape, in the names' order: the
    same however the file is laid out.
    """
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
