"""A data set of TFDS, prepared as ArrayRecord, in; its examples as VideoSources, and their frames, out.

Records are read by the layout that features.json states, without TensorFlow and without importing what it
names: TFDS itself builds its Video feature, and reads compressed tensors, with TensorFlow alone.
"""

import functools
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.tfds import PREFIX, Split, kinds, not_features, open_split, split_name
from ringvision.data.video import Limits, VideoError, VideoInfo
from ringvision.errors import UserError
from ringvision.tokenize.source import VideoSource

PICTURE_NAMES = ("video", "frames", "image")
TEXT_NAMES = ("caption", "captions", "text", "label")
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "GIF")


@dataclass(frozen=True, eq=False)
class _Dataset:
    """One split. key: the feature that holds the frames: encoded pictures, or a uint8 tensor of `shape` (-1:
    any length) in `encoding`. text: the feature that says what they show, a class by `labels`.
    """

    split: Split
    key: str
    shape: tuple[int, ...] | None
    encoding: str
    text: str | None
    labels: list[str]

    def example(self, index: int) -> Any:
        """The features, by name, of tf.train.Example."""
        try:
            return self.split.example(index)
        except UserError as error:
            kind = "damaged" if os.path.exists(self.split.shard(index)) else "missing"
            raise VideoError(str(error), kind) from None

    def caption(self, index: int) -> str:
        if self.text is None:
            return ""
        value = self.example(index)[self.text]
        texts = [text.decode("utf-8", "replace") for text in value.bytes_list.value]
        texts += [self.labels[label] for label in value.int64_list.value if 0 <= label < len(self.labels)]
        return "\n".join(dict.fromkeys(filter(str.strip, texts)))


def examples(given: str) -> Iterator[VideoSource]:
    """A VideoSource for each example of `tfds:NAME/SPLIT` or `tfds:FOLDER/SPLIT`. Raises UserError where TFDS
    has prepared no such data set.
    """
    folder, name, split = split_name(given)
    whole = f"{PREFIX}{folder or name}/{split}"
    dataset = open_dataset(whole)
    return (
        VideoSource(f"{whole}#{n}", dataset=whole, index=n, caption=dataset.caption(n))
        for n in range(len(dataset.split))
    )


@functools.lru_cache(maxsize=8)
def open_dataset(whole: str) -> _Dataset:
    """Opens `tfds:NAME/SPLIT` as one of videos or images; it stays open, because its examples come one by
    one.
    """
    split = open_split(whole)
    key, shape, encoding, text = _features(split)
    labels = Path(split.folder, f"{text}.labels.txt")
    names = labels.read_text("utf-8").splitlines() if labels.exists() else []
    return _Dataset(split, key, shape, encoding, text, list(filter(str.strip, names)))


def _features(split: Split) -> tuple[str, tuple[int, ...] | None, str, str | None]:
    """Key, shape and encoding of the frames, videos before images and usual names first, and the key of the
    text that describes them.
    """
    features = split.features()
    try:
        found = [
            (kept[0], PICTURE_NAMES.index(key) if key in PICTURE_NAMES else 9, key, *kept[1:])
            for key, feature in features.items()
            if (kept := _kept(feature))
        ]
        text = next(
            (
                key
                for key in TEXT_NAMES
                if key in features and {"Text", "ClassLabel"} & {*kinds(features[key])}
            ),
            None,
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise not_features(split.folder, error) from None
    if not found:
        raise UserError(
            f"{split.folder} has no video or image of uint8 among its features "
            f"({', '.join(sorted(features))}); give one that has"
        )
    _, _, key, shape, encoding = min(found, key=lambda held: held[:3])
    return key, shape, encoding, text


def _kept(feature: dict[str, Any]) -> tuple[int, tuple[int, ...] | None, str] | None:
    """How a feature keeps uint8 frames: 0 for a video, 1 for an image, then shape and encoding as in
    _Dataset; None where it does not.
    """
    classes = kinds(feature)
    inner = feature.get("sequence", {}).get("feature", {})
    pictures = feature.get("video") or feature.get("image") or inner.get("image") or {}
    if classes in (["Video"], ["Image"], ["Sequence", "Image"]) and pictures.get("dtype", "uint8") == "uint8":
        return int(classes == ["Image"]), None, "pictures"
    if classes == ["Tensor"] and feature["tensor"]["dtype"] == "uint8":
        shape = tuple(int(length) for length in feature["tensor"]["shape"].get("dimensions", ()))
        if len(shape) in (3, 4) and shape[-1] in (1, 3):
            return 4 - len(shape), shape, feature["tensor"].get("encoding", "none")
    return None


def stored(source: VideoSource) -> tuple[list[bytes], list[int] | None, str]:
    """The frames of an example as they are stored: encoded pictures, or one tensor's bytes, its shape and its
    encoding.

    Raises VideoError where there is no such example, or no frames in it.
    """
    try:
        dataset = open_dataset(source.dataset)
    except UserError as error:
        raise VideoError(str(error), "missing") from None
    feature = dataset.example(source.index)
    key = dataset.key
    shape = list(dataset.shape) if dataset.shape else None
    if shape and shape.count(-1) > 1:
        key = f"{dataset.key}/value"
        shape = list(feature[f"{dataset.key}/shape"].int64_list.value)
    parts = list(feature[key].bytes_list.value)
    if dataset.encoding == "none":
        values = np.array(feature[key].int64_list.value, np.int64)
        if ((values < 0) | (values > 255)).any():
            raise VideoError(f"{source.name}: its frames are not uint8; prepare the data set again")
        parts = [values.astype(np.uint8).tobytes()] if len(values) else []
    if not parts:
        raise VideoError(
            f"{source.name} holds no frames; leave it out, or prepare the data set again", "empty"
        )
    return parts, shape, dataset.encoding


def frames_of(source: VideoSource, limits: Limits) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3], one after another. VideoError where they are damaged or over `limits`, which are
    checked before they are decoded.
    """
    parts, shape, encoding = stored(source)
    _check(source.name, 0, 0, len(parts), limits)
    if encoding == "pictures":
        yield from (_picture(source.name, part, limits) for part in parts)
        return
    *frames, height, width, channels = shape if shape and len(shape) in (3, 4) else (0, 0, 0)
    _check(source.name, height, width, max(frames, default=1), limits)
    try:
        packed = zlib.decompressobj().decompress(parts[0], limits.memory) if encoding == "zlib" else parts[0]
        array = np.frombuffer(packed, np.uint8).reshape(shape or 0)
        array = array.reshape(-1, *array.shape[-3:])
    except (ValueError, zlib.error) as error:
        raise VideoError(
            f"{source.name}: its frames are damaged ({error}); prepare the data set again"
        ) from None
    if array.ndim != 4 or channels not in (1, 3) or not array.size:
        raise VideoError(
            f"{source.name}: its frames are {list(array.shape)}, not [frames, height, width, 1 or "
            "3]; prepare the data set again"
        )
    _check(source.name, array.shape[1], array.shape[2], len(array), limits)
    yield from array if channels == 3 else array.repeat(3, -1)


def _check(name: str, height: int, width: int, frames: int, limits: Limits) -> None:
    limits.check(name, VideoInfo(name, width, height, frames, 0.0, 0.0, 0, "", "tfds"))


def _picture(name: str, part: bytes, limits: Limits) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(part), formats=PICTURE_FORMATS) as picture:
            _check(name, picture.height, picture.width, 1, limits)
            if picture.mode[0] in "IF":
                raise VideoError(
                    f"{name} holds pictures of more than 8 bits; convert them to 8 first", "not-video"
                )
            return np.asarray(picture.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise VideoError(f"{name}: {error}", "limit") from None
    except (OSError, ValueError, SyntaxError, zlib.error) as error:
        raise VideoError(
            f"{name}: a picture in it is damaged ({error}); prepare the data set again"
        ) from None
