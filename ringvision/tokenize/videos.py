"""Videos in, codes out, one file a content: OUT/codes/SHA256.npz, and OUT/manifest.sqlite with a row for every input.

Each .npz holds codes [T, h, w] (uint16, or int32 where the codebook needs it) and times float64 [T] in seconds. Files are written
aside and renamed, so what is there is whole; running again goes on where the last run ended, however it ended.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ringvision.data.video import Limits, VideoError, sample
from ringvision.data.video.container import identify
from ringvision.errors import UserError
from ringvision.tokenize.manifest import Manifest

SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg", ".flv", ".ogv", ".wmv", ".gif", ".3gp"}


class Encoder(Protocol):
    """What is asked of a tokenizer (video_tokenizer.VideoTokenizer is one)."""

    @property
    def size(self) -> int: ...
    @property
    def num_codes(self) -> int: ...
    @property
    def hash(self) -> str: ...
    def encode(self, frames: np.ndarray) -> np.ndarray: ...


def tokenize_videos(
    inputs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    tokenizer: Encoder | str | os.PathLike[str],
    fps: float = 1.0,
    *,
    batch: int = 16,
    limits: Limits | None = None,
    retry_failed: bool = False,
    progress: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Codes for every video of `inputs` (files and folders) under `out`, by `tokenizer` (or the folder of one).

    A video that cannot be read is recorded as failed, with the kind of failure and its message, and the others go on. Failed
    ones are tried again only when their file changed or `retry_failed`. `progress` is called with each source and its row.

    Returns {"done", "failed", "pending", "frames"} over these inputs, whenever they were done, and "seconds", what this run took.
    Raises UserError for no inputs, a folder made with other settings, or one that another run is writing to.
    """
    began = time.monotonic()
    sources = list(dict.fromkeys(_sources(inputs)))
    if not sources:
        raise UserError("there is no video among the inputs; give video files, or folders that hold some")
    encoder = _load(tokenizer)
    settings = {"tokenizer": encoder.hash, "size": encoder.size, "fps": float(fps)}
    with Manifest(out, settings) as manifest:
        manifest.add(sources)
        for source in sources:
            if _settled(manifest, source, retry_failed):
                continue
            _one(manifest, source, encoder, fps, batch, limits)
            if progress is not None:
                progress(source, manifest.row(source))
        return {**manifest.counts(sources), "seconds": time.monotonic() - began}


def read_codes(file: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [T, h, w] and times float64 [T] of one .npz."""
    with np.load(file, allow_pickle=False) as held:
        return held["codes"].astype(np.int32), held["times"]


def _settled(manifest: Manifest, source: str, retry_failed: bool) -> bool:
    """Whether a source needs no work: done and in place, or failed before, and its file has not changed since."""
    row = manifest.row(source)
    if row["status"] == "pending" or _stamp(source) != (row["bytes"], row["changed"]):
        return False
    if row["status"] == "failed":
        return not retry_failed
    return (manifest.folder / row["file"]).exists()


def _one(manifest: Manifest, source: str, encoder: Encoder, fps: float, batch: int, limits: Limits | None) -> None:
    size, changed = _stamp(source)
    manifest.write(source, status="pending", bytes=size, changed=changed, attempts=manifest.row(source)["attempts"] + 1)
    sha256 = None
    try:
        identify(source)
        sha256 = _sha256(source)
        file, frames = _done_before(manifest, sha256) or _encode(manifest.folder, source, sha256, encoder, fps, batch, limits)
    except VideoError as error:
        manifest.write(source, status="failed", sha256=sha256, kind=error.kind, message=str(error), file=None, frames=None)
        return
    manifest.write(source, status="done", sha256=sha256, kind=None, message=None, file=file, frames=frames)


def _done_before(manifest: Manifest, sha256: str) -> tuple[str, int] | None:
    row = manifest.same_content(sha256)
    return (row["file"], row["frames"]) if row and (manifest.folder / row["file"]).exists() else None


def _encode(folder: Path, source: str, sha256: str, encoder: Encoder, fps: float, batch: int, limits: Limits | None) -> tuple[str, int]:
    codes, times = [], []
    kept = np.uint16 if encoder.num_codes <= 1 << 16 else np.int32
    for part in sample(source, fps=fps, size=encoder.size, batch=batch, limits=limits):
        codes.append(np.asarray(encoder.encode(part.frames)).astype(kept))
        times.append(part.times)
    file = f"codes/{sha256}.npz"
    whole = folder / file
    aside = whole.with_name(f".{whole.name}.partial")
    try:
        whole.parent.mkdir(exist_ok=True)
        with open(aside, "wb") as written:
            np.savez_compressed(written, codes=np.concatenate(codes), times=np.concatenate(times))
            written.flush()
            os.fsync(written.fileno())
        os.replace(aside, whole)
    except OSError as error:
        raise UserError(f"{whole} cannot be written ({error.strerror}); make room, and run the same command again: it goes on") from None
    finally:
        aside.unlink(missing_ok=True)
    return file, sum(map(len, times))


def _sources(inputs: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """Files as given, by absolute path; of folders every file that is, or is named like, a video, in the order of their paths."""
    for given in inputs:
        path = Path(os.path.abspath(given))
        if not path.is_dir():
            yield str(path)
            continue
        for inside in sorted(path.rglob("*")):
            if inside.is_file() and not inside.name.startswith(".") and (inside.suffix.lower() in SUFFIXES or _is_video(inside)):
                yield str(inside)


def _is_video(path: Path) -> bool:
    try:
        identify(path)
    except VideoError as error:
        return error.kind == "truncated"
    return True


def _stamp(source: str) -> tuple[int | None, int | None]:
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return None, None
    return status.st_size, status.st_mtime_ns


def _sha256(source: str) -> str:
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(tokenizer: Encoder | str | os.PathLike[str]) -> Encoder:
    if not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    from ringvision.video_tokenizer import load_video_tokenizer

    return load_video_tokenizer(tokenizer)
