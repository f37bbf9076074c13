"""Videos in, shards of codes out: from what a user asks to a library and an engine, and back to figures."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from ringvision.data.tokenized import TokenizedVideo, format_named, format_of
from ringvision.data.video import Limits
from ringvision.errors import UserError
from ringvision.outputs import check_output
from ringvision.tokenize.inputs import read_inputs
from ringvision.tokenize.job import FrameEncoder, Job, Outcome
from ringvision.tokenize.library import Library
from ringvision.tokenize.manifest import Manifest, ManifestRow, counts
from ringvision.tokenize.variants import with_variants

Engine = Literal["local", "ray"]


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


@dataclass(frozen=True)
class TokenizeSettings:
    """How videos are read, encoded and kept.

    Args:
        fps: frames a second that are read.
        size: pixels on a side of the frames; None: the tokenizer's.
        batch: frames that are encoded together.
        workers: videos that are decoded at once; None: processors and one more.
        engine: "local" or "ray".
        ray_address: of a Ray cluster; None: one is started here.
        format: of the shards.
        shard_size: sources to a file.
        variants: altered copies of each source (variants.py).
        limit: only the first so many sources.
        part: (i, n), only every n-th source from the i-th on: for the i-th of n machines, each with a folder
            of its own.
        retry_failed: whether sources that failed before are tried again.
        limits: of what a video may take to decode; None: the usual ones.
        decoder: as ringvision.data.video's `sample` takes it.

    Raises:
        UserError: a number that is to be above 0 is not.
    """

    fps: float = 1.0
    size: int | None = None
    batch: int = 64
    workers: int | None = None
    engine: Engine = "local"
    ray_address: str | None = None
    format: str = "array_record"
    shard_size: int = 256
    variants: int = 0
    limit: int | None = None
    part: tuple[int, int] = (1, 1)
    retry_failed: bool = False
    limits: Limits | None = None
    decoder: str = "auto"

    def __post_init__(self) -> None:
        for name in ("fps", "batch", "workers", "shard_size", "limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.replace('_', '-')} is {value}; give a number above 0")
        if self.variants < 0:
            raise UserError(f"--variants is {self.variants}; give a number from 0 on")


def tokenize_videos(
    inputs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    tokenizer: FrameEncoder | str | os.PathLike[str],
    fps: float = 1.0,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Codes for everything that `inputs` names, in a folder. What cannot be read is recorded as failed, with
    the kind of failure and its message, and the others go on; it is tried again only when its file changed or
    `retry_failed`.

    Args:
        inputs: what inputs.read_inputs takes.
        out: the folder, new or of an earlier run.
        tokenizer: an encoder or the folder of one.
        fps: frames a second that are read.
        progress: what is told while it goes on.
        **settings: the other fields of TokenizeSettings: size, batch, workers, engine, format, ...

    Returns:
        {"done", "failed", "pending", "frames"} over these inputs, whenever they were done, and "seconds",
        what this run took.

    Raises:
        UserError: for no inputs, a folder made with other settings, or one that another run is writing to
            or that lies inside an input.
    """
    inputs = list(inputs)
    check_output(out, inputs)
    began = time.monotonic()
    chosen = TokenizeSettings(fps=fps, **settings)
    progress = progress or Silent()
    format = format_named(chosen.format)
    sources = read_inputs(inputs)[chosen.part[0] - 1 :: chosen.part[1]][: chosen.limit]
    if not sources:
        raise UserError(
            "there is no video among the inputs; give video files, folders that hold some, or a manifest"
        )
    sources = with_variants(sources, chosen.variants)
    load = _loader(tokenizer, chosen.size)
    encoder = load()
    with Manifest(out, _manifest_settings(chosen, encoder)) as manifest:
        manifest.add(sources)
        progress.start(len(sources))
        library = Library(
            manifest,
            sources,
            format,
            shard_size=chosen.shard_size,
            fps=float(fps),
            encoder=encoder,
            retry_failed=chosen.retry_failed,
            settled=progress.settled,
        )
        _work(library, _engine(chosen, encoder, load, progress))
        return {**counts(library.finish()), "seconds": time.monotonic() - began}


def _manifest_settings(settings: TokenizeSettings, encoder: FrameEncoder) -> dict[str, Any]:
    """What must be the same in every run that writes to one folder."""
    return {
        "format": settings.format,
        "tokenizer": encoder.hash,
        "size": encoder.size,
        "fps": float(settings.fps),
        "shard_size": settings.shard_size,
    }


def _engine(
    settings: TokenizeSettings, encoder: FrameEncoder, load: Callable[[], FrameEncoder], progress: Progress
) -> Callable[[Iterable[Job]], Iterator[Outcome]]:
    """The `run` of the engine that the settings name."""
    common: dict[str, Any] = {
        "fps": settings.fps,
        "batch": settings.batch,
        "workers": settings.workers or (os.cpu_count() or 1) + 1,
        "limits": settings.limits,
        "decoder": settings.decoder,
        "encoded": progress.encoded,
    }
    if settings.engine == "ray":
        from ringvision.tokenize.cluster import RayEngine

        return RayEngine(load, size=encoder.size, address=settings.ray_address, **common).run
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
