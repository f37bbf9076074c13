"""Videos in, shards of codes out: from what a user asks to a library and an engine, and back to figures."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal, Protocol

from ringvision.data.tokenized import TokenizedVideo, format_named, format_of
from ringvision.data.video import Limits
from ringvision.errors import UserError
from ringvision.tokenize.inputs import read_inputs
from ringvision.tokenize.library import Encoder, Library
from ringvision.tokenize.manifest import Manifest, Row, counts

Engine = Literal["local", "ray"]
BATCH = 64
SHARD_SIZE = 256


class Progress(Protocol):
    """What is told while a run goes on, from any thread."""

    def start(self, sources: int) -> None:
        """So many sources were named."""

    def encoded(self, frames: int) -> None:
        """So many more frames went through the encoder."""

    def settled(self, row: Row, worked: bool) -> None:
        """A source's fate is known; `worked`: it took work in this run."""


class Silent:
    """A Progress that tells nobody."""

    def start(self, sources: int) -> None: ...
    def encoded(self, frames: int) -> None: ...
    def settled(self, row: Row, worked: bool) -> None: ...


def tokenize_videos(
    inputs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    tokenizer: Encoder | str | os.PathLike[str],
    fps: float = 1.0,
    *,
    size: int | None = None,
    batch: int = BATCH,
    workers: int | None = None,
    engine: Engine = "local",
    ray_address: str | None = None,
    format: str = "array_record",
    shard_size: int = SHARD_SIZE,
    limit: int | None = None,
    part: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    limits: Limits | None = None,
    decoder: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Codes for everything that `inputs` names (inputs.read_inputs says what may) under `out`, by `tokenizer`
    or the folder of one.

    What cannot be read is recorded as failed, with the kind of failure and its message, and the others go on;
    it is tried again only when its file changed or `retry_failed`. size: pixels a side of the frames (None:
    the tokenizer's). batch: frames that are encoded together. workers: videos that are decoded at once (None:
    processors and one more). shard_size: sources to a file. limit: only the first so many. part (i, n): only
    every n-th from the i-th on, for the i-th of n machines, each with a folder of its own.

    Returns {"done", "failed", "pending", "frames"} over these inputs, whenever they were done, and "seconds",
    what this run took. Raises UserError for no inputs, a folder made with other settings, or one that another
    run is writing to.
    """
    began = time.monotonic()
    _check(fps=fps, batch=batch, workers=workers, shard_size=shard_size, limit=limit)
    shape = format_named(format)
    progress = progress or Silent()
    sources = read_inputs(inputs)[part[0] - 1 :: part[1]][:limit]
    if not sources:
        raise UserError(
            "there is no video among the inputs; give video files, folders that hold some, or a manifest"
        )
    load = _loader(tokenizer, size)
    encoder = load()
    workers = workers or (os.cpu_count() or 1) + 1
    settings = {
        "format": shape.name,
        "tokenizer": encoder.hash,
        "size": encoder.size,
        "fps": float(fps),
        "shard_size": shard_size,
    }
    common: dict[str, Any] = {
        "fps": fps,
        "batch": batch,
        "workers": workers,
        "limits": limits,
        "decoder": decoder,
        "encoded": progress.encoded,
    }
    with Manifest(out, settings) as manifest:
        manifest.add(sources)
        progress.start(len(sources))
        library = Library(
            manifest,
            sources,
            shape,
            shard_size=shard_size,
            fps=float(fps),
            encoder=encoder,
            retry_failed=retry_failed,
            settled=progress.settled,
        )
        if engine == "ray":
            from ringvision.tokenize.cluster import RayEngine

            run = RayEngine(load, size=encoder.size, address=ray_address, **common).run
        else:
            from ringvision.tokenize.local import LocalEngine

            run = LocalEngine(encoder, **common).run
        jobs: Iterable = library.jobs()
        while True:
            for outcome in run(jobs):
                library.settle(outcome)
            if not (jobs := library.postponed()):
                break
        return {**counts(library.finish()), "seconds": time.monotonic() - began}


def read_examples(folder: str | os.PathLike[str]) -> Iterator[TokenizedVideo]:
    """Everything in a folder of codes, in the order of its shards. UserError where it is none, or a shard is
    damaged.
    """
    shape = format_of(folder)
    for path in shape.shards(folder):
        for record in shape.stream(path):
            yield shape.decode(record)


def _check(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give a number above 0")


def _loader(tokenizer: Encoder | str | os.PathLike[str], size: int | None) -> Callable[[], Encoder]:
    """Makes the encoder, here or in another process."""
    if not isinstance(tokenizer, str | os.PathLike):
        if size not in (None, tokenizer.size):
            raise UserError(
                f"--size is {size}, the tokenizer's frames are of {tokenizer.size}; give its folder "
                "to open it at another size"
            )
        return partial(_itself, tokenizer)
    return partial(_open, os.path.abspath(tokenizer), size)


def _itself(encoder: Encoder) -> Encoder:
    return encoder


def _open(folder: str, size: int | None) -> Encoder:
    import jax

    from ringvision.video_tokenizer import load_video_tokenizer

    return load_video_tokenizer(folder, size=size, devices=jax.local_devices())
