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
from ringvision.tokenize.job import FrameEncoder, Job, Outcome
from ringvision.tokenize.library import Library
from ringvision.tokenize.manifest import Manifest, ManifestRow, counts

Engine = Literal["local", "ray"]
BATCH = 64
SHARD_SIZE = 256


class Progress(Protocol):
    """What is told while a run goes on, from any thread."""

    def start(self, sources: int) -> None:
        """So many sources were named."""

    def encoded(self, frames: int) -> None:
        """So many more frames went through the encoder."""

    def settled(self, row: ManifestRow, worked: bool) -> None:
        """A source's outcome is known; `worked`: it took work in this run."""


class Silent:
    """A Progress that tells nobody."""

    def start(self, sources: int) -> None: ...
    def encoded(self, frames: int) -> None: ...
    def settled(self, row: ManifestRow, worked: bool) -> None: ...


def tokenize_videos(
    inputs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    tokenizer: FrameEncoder | str | os.PathLike[str],
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
    """Codes for everything that `inputs` names, in a folder. What cannot be read is recorded as failed, with
    the kind of failure and its message, and the others go on; it is tried again only when its file changed or
    `retry_failed`.

    Args:
        inputs: what inputs.read_inputs takes.
        out: the folder, new or of an earlier run.
        tokenizer: an encoder or the folder of one.
        fps: frames a second that are read.
        size: pixels on a side of the frames; None: the tokenizer's.
        batch: frames that are encoded together.
        workers: videos that are decoded at once; None: processors and one more.
        engine: "local" or "ray".
        ray_address: of a Ray cluster; None: one is started here.
        format: of the shards.
        shard_size: sources to a file.
        limit: only the first so many sources.
        part: (i, n), only every n-th source from the i-th on: for the i-th of n machines, each with a folder
            of its own.
        retry_failed: whether sources that failed before are tried again.
        limits: of what a video may take to decode; None: the usual ones.
        decoder: as ringvision.data.video's `sample` takes it.
        progress: what is told while it goes on.

    Returns:
        {"done", "failed", "pending", "frames"} over these inputs, whenever they were done, and "seconds",
        what
        this run took.

    Raises:
        UserError: for no inputs, a folder made with other settings, or one that another run is writing to.
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
        "workers": workers or (os.cpu_count() or 1) + 1,
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
        _work(library, _engine(engine, encoder, load, ray_address, common))
        return {**counts(library.finish()), "seconds": time.monotonic() - began}


def _engine(
    engine: Engine,
    encoder: FrameEncoder,
    load: Callable[[], FrameEncoder],
    ray_address: str | None,
    common: dict[str, Any],
) -> Callable[[Iterable[Job]], Iterator[Outcome]]:
    """The `run` of an engine; common: the arguments that both take."""
    if engine == "ray":
        from ringvision.tokenize.cluster import RayEngine

        return RayEngine(load, size=encoder.size, address=ray_address, **common).run
    from ringvision.tokenize.local import LocalEngine

    return LocalEngine(encoder, **common).run


def _work(library: Library, run: Callable[[Iterable[Job]], Iterator[Outcome]]) -> None:
    """All jobs, then those that were postponed, until no more are."""
    jobs: Iterable[Job] = library.jobs()
    while True:
        for outcome in run(jobs):
            library.settle(outcome)
        if not (jobs := library.postponed()):
            return


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


def _loader(tokenizer: FrameEncoder | str | os.PathLike[str], size: int | None) -> Callable[[], FrameEncoder]:
    """Makes the encoder, here or in another process."""
    if not isinstance(tokenizer, str | os.PathLike):
        if size not in (None, tokenizer.size):
            raise UserError(
                f"--size is {size}, the tokenizer's frames are of {tokenizer.size}; give its folder "
                "to open it at another size"
            )
        return partial(_itself, tokenizer)
    return partial(_open, os.path.abspath(tokenizer), size)


def _itself(encoder: FrameEncoder) -> FrameEncoder:
    return encoder


def _open(folder: str, size: int | None) -> FrameEncoder:
    import jax

    from ringvision.video_tokenizer import load_video_tokenizer

    return load_video_tokenizer(folder, size=size, devices=jax.local_devices())
