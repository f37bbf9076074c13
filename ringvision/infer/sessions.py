"""What was read of videos, kept in a folder for the processes that come after: prefixes as files.

    identity (hashes of model, tokenizer and videos, sampling, types …) ─SHA-256→ name of the file
    Prefix ─save→ FOLDER/<name>.safetensors ─load→ Prefix, laid out as if it had just been read

A file holds the tokens, and their keys and values in the tokens' order, so that it fits any mesh. It is
written under another name and renamed when it is whole; a folder holds at most so many bytes, and the files
that were unused for longest go first.

Nobody vouches for a file. Of its header only the numbers of tokens and frames and the checksums are read: all
else, sizes included, must be what this model would have written for so many tokens, and is compared before
memory is taken. Links are not followed. A file that is anything else is said in one line, and the video is
read as usual; so it is where the disk is full. The reader is written by hand, although safetensors has one,
for memory and for security: it fills the cache's own arrays row by row from a file that was opened once.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from ringvision.errors import UserError
from ringvision.infer.engine import SHORTEST, Engine, Prefix
from ringvision.model_folder.files import DTYPES, Spec, nbytes
from ringvision.model_folder.reader import SMALLEST_BOUNDARY
from ringvision.models.cache import BITS, Cache, shardings, spread
from ringvision.untrusted_files import parse_object

VERSION = 1
"""Of the files. It is part of their names: whoever changes how videos become tokens, or tokens keys, raises
it.
"""
LIMIT = 4 << 30
"""Bytes that a folder holds at most, unless it is told otherwise."""
LONGEST_HEADER = 1 << 16
ABANDONED = 3600.0
"""Seconds after which an unfinished file is taken for one of a process that was killed."""
NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
UNFINISHED = ".writing-"


class Unusable(Exception):
    """A file from which nothing is read; says why."""


def _warn(line: str) -> None:
    print(f"ringvision: {line}", file=sys.stderr, flush=True)


class Sessions:
    """The prefixes in a folder. Several processes may use one at the same time.

    UserError where it is no folder and cannot be made one.
    """

    def __init__(
        self, folder: str | os.PathLike[str], limit: int = LIMIT, warn: Callable[[str], None] = _warn
    ) -> None:
        """
        Args:
            folder: made where it is not there, for its owner alone.
            limit: bytes that its files take at most.
            warn: gets one line about each file that cannot be used or written.

        Raises:
            UserError: where the folder cannot be made.
        """
        self.folder = Path(folder)
        self.limit = limit
        self.warn = warn
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--sessions {folder} cannot be made a folder ({error.strerror}); choose another"
            ) from None

    def load(self, engine: Engine, identity: Mapping[str, Any]) -> Prefix | None:
        """What was saved under this identity, on the engine's devices.

        Args:
            engine: of the model that reads on.
            identity: what JSON can hold, all that a prefix depends on; see `save`.

        Returns:
            The prefix; None where there is none, or where it cannot be used, which is said.
        """
        path = self._path(identity)
        try:
            with _opened(path) as file:
                prefix = _read(file, engine, _key(identity))
                with contextlib.suppress(OSError):  # of a folder that may only be read
                    os.utime(file.fileno())  # it is the one used last
            return prefix
        except FileNotFoundError:
            return None
        except (OSError, Unusable) as error:
            self.warn(f"{path} is not used ({_reason(error)}); the video is read as usual")
            return None

    def save(self, engine: Engine, identity: Mapping[str, Any], prefix: Prefix) -> None:
        """Keeps a prefix; older ones go where there are too many bytes. What cannot be written is said, and
        then the folder is as it was, but for those that had to make room.

        Args:
            engine: that read it.
            identity: all that it depends on: another one is another file.
            prefix: what was read.
        """
        specs = _specs(engine, len(prefix))
        header = _header(specs, _metadata(_key(identity), prefix.frames, dict.fromkeys(specs, "0" * 64)))
        size = len(header) + sum(map(nbytes, specs.values()))
        path = self._path(identity)
        if size > self.limit:
            self.warn(
                f"what was read takes {size} bytes and --sessions-limit is {self.limit}: it is not kept in "
                f"{self.folder}"
            )
            return
        try:
            self._make_room(size, path)
            free = shutil.disk_usage(self.folder).free
            if size > free:
                raise OSError(0, f"{size} bytes are needed and {free} are free")
            self._write(path, specs, len(header), engine, identity, prefix)
        except OSError as error:
            self.warn(f"what was read is not kept in {self.folder} ({_reason(error)})")

    @property
    def nbytes(self) -> int:
        """Of all files of sessions in the folder, unfinished ones included."""
        return sum(size for _, _, size in self._files())

    def _path(self, identity: Mapping[str, Any]) -> Path:
        return self.folder / f"{_key(identity)}.safetensors"

    def _files(self) -> list[tuple[float, Path, int]]:
        """(last used, path, bytes) of every file of a session, the longest unused first; of others none."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not (NAME.fullmatch(entry.name) or entry.name.startswith(UNFINISHED)):
                    continue
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime, Path(entry.path), status.st_size))
        return sorted(found)

    def _make_room(self, size: int, path: Path) -> None:
        """Removes what a killed process left, and the longest unused files until `size` more bytes fit."""
        left = []
        for used, other, taken in self._files():
            unfinished = other.name.startswith(UNFINISHED)
            if other == path or (unfinished and used < time.time() - ABANDONED):
                other.unlink(missing_ok=True)
            else:
                left.append((other, taken, unfinished))
        total = size + sum(taken for _, taken, _ in left)
        for other, taken, unfinished in left:
            if total <= self.limit:
                return
            if not unfinished:
                other.unlink(missing_ok=True)
                total -= taken

    def _write(
        self,
        path: Path,
        specs: Mapping[str, Spec],
        header_size: int,
        engine: Engine,
        identity: Mapping[str, Any],
        prefix: Prefix,
    ) -> None:
        handle, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=self.folder)
        try:
            with open(handle, "wb") as file:
                file.seek(header_size)
                checksums = {}
                for name, rows in zip(specs, _rows_of(prefix, specs), strict=True):
                    digest = hashlib.sha256()
                    for row in rows:
                        data = _flat(np.ascontiguousarray(row))
                        digest.update(data)
                        file.write(data)
                    checksums[name] = digest.hexdigest()
                header = _header(specs, _metadata(_key(identity), prefix.frames, checksums))
                assert len(header) == header_size
                file.seek(0)
                file.write(header)
            os.replace(unfinished, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)


def _reason(error: Exception) -> str:
    return str((isinstance(error, OSError) and error.strerror) or error)


# ------------------------------------------------------------------------------------------------ the format


def _key(identity: Mapping[str, Any]) -> str:
    """SHA-256 of an identity and the files' version, hexadecimal."""
    text = json.dumps({"version": VERSION, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _specs(engine: Engine, tokens: int) -> dict[str, Spec]:
    """name -> (shape, dtype) of the arrays of a file: tokens int32 [n], keys and values [layers, K, n, H] of
    the cache's type, and for int8 their scales float32 [layers, K, n].
    """
    config = engine.model.config
    heads = (config.num_layers, config.num_kv_heads, tokens)
    stacked = ((*heads, config.head_dim), np.dtype(engine.cache_dtype))
    specs: dict[str, Spec] = {"tokens": ((tokens,), np.dtype(np.int32)), "k": stacked, "v": stacked}
    if engine.cache_dtype == np.int8:
        specs |= dict.fromkeys(("k_scale", "v_scale"), (heads, np.dtype(np.float32)))
    return specs


def _metadata(key: str, frames: int, checksums: Mapping[str, str]) -> dict[str, str]:
    """frames has a fixed number of digits, and so every header of one prefix has one length."""
    sums = {f"sha256.{name}": checksum for name, checksum in checksums.items()}
    return {"format": "ringvision session", "key": key, "frames": f"{frames:010d}", **sums}


def _header(specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a safetensors file, up to its first array."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (shape, dtype) in specs.items():
        begin = end
        end += nbytes((shape, dtype))
        entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


# ------------------------------------------------------------------------------------------- reading a file


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file; Unusable for anything else, a link included."""
    try:
        # a pipe in the file's place would let a process wait for ever
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise Unusable("it is a link, and links are not followed") from error
        raise
    with open(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unusable("it is no file")
        yield file


def _read(file: BinaryIO, engine: Engine, key: str) -> Prefix:
    """The prefix in an open file. Unusable where it is not what this engine would have written."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(_bytes(file, 8), "little")
    if not 0 < length <= min(LONGEST_HEADER, size - 8):
        raise Unusable("it is damaged: its header has no such length")
    given = _bytes(file, length)
    tokens, frames, checksums = _numbers(given, key, engine)
    specs = _specs(engine, tokens)
    if _header(specs, _metadata(key, frames, checksums))[8:] != given:
        raise Unusable("its header is not of this model and these tokens")
    if size != 8 + length + sum(map(nbytes, specs.values())):
        raise Unusable("it is damaged: it has another size than its header says")
    read = np.empty(tokens, np.int32)
    _fill(file, [read], checksums["tokens"])
    if read.min() < 0 or read.max() >= engine.model.config.num_ids:
        raise Unusable("it is damaged: its tokens are none of the model's")
    return Prefix(_cache(file, engine, specs, checksums), read, frames)


def _numbers(header: bytes, key: str, engine: Engine) -> tuple[int, int, dict[str, str]]:
    """What a header alone knows: how many tokens and frames, and the checksums."""
    try:
        found = parse_object(header)
        metadata = found["__metadata__"]
        if metadata["key"] != key:
            raise Unusable("it is of another model, video or kind of cache")
        (tokens,) = found["tokens"]["shape"]
        frames = int(metadata["frames"])
        names = _specs(engine, 1)
        checksums = {name: str(metadata[f"sha256.{name}"]) for name in names}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable("it is damaged: its header cannot be read") from error
    if type(tokens) is not int or not 0 < tokens <= engine.model.config.max_length or frames < 0:
        raise Unusable("it is damaged: the model reads no such number of tokens")
    return tokens, frames, checksums


def _cache(file: BinaryIO, engine: Engine, specs: Mapping[str, Spec], checksums: Mapping[str, str]) -> Cache:
    """The arrays behind the tokens, each brought to the devices before the next is read."""
    tokens = specs["tokens"][0][0]
    length, slots, filled = prefix_layout(engine, tokens)
    places = shardings(engine.model.mesh)
    parts = {}
    for name, (shape, dtype) in specs.items():
        if name == "tokens":
            continue
        layers, heads, _, *rest = shape
        dtype = np.dtype(BITS.get(dtype, dtype))
        whole = _zeros((layers, heads, length, *rest), dtype)
        if np.array_equal(slots, np.arange(tokens)):
            rows = [whole[layer, head, :tokens] for layer in range(layers) for head in range(heads)]
            _fill(file, rows, checksums[name])
        else:
            row = np.empty((tokens, *rest), dtype)
            digest = hashlib.sha256()
            for layer, head in np.ndindex(layers, heads):
                _bytes_into(file, row)
                digest.update(_flat(row))
                whole[layer, head, slots] = row
            _check(digest, checksums[name])
        parts[name] = _placed(whole, 1, engine.shares, getattr(places, name))
    positions, segment_ids = np.zeros((2, length), np.int32)
    positions[slots] = np.arange(tokens)
    segment_ids[slots] = 1
    return Cache(
        **parts,
        positions=_placed(positions, 0, engine.shares, places.positions),
        segment_ids=_placed(segment_ids, 0, engine.shares, places.segment_ids),
        fill=_placed(filled.astype(np.int32), 1, engine.shares, places.fill),
    )


def prefix_layout(engine: Engine, tokens: int) -> tuple[int, np.ndarray, np.ndarray]:
    """How `Engine.prefill` lays out so many tokens: the cache's length, the slot of each token (int
    [tokens]), and how many each device has (int [C]).
    """
    length = engine.cache_length(engine.slots_for(tokens, blocks=engine.blocks), SHORTEST)
    filled = np.zeros(engine.ring, np.int64)
    slots = []
    for _, count in engine.plan(tokens, engine.blocks):
        device, place, sizes = spread(count, engine.ring)
        slots.append(device * (length // engine.ring) + filled[device] + place)
        filled += sizes
    return length, np.concatenate(slots), filled


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros [*shape] that begin where XLA wants it, so that a CPU device uses them in place, uncopied."""
    memory = np.zeros(nbytes((shape, dtype)) + SMALLEST_BOUNDARY, np.uint8)
    start = -memory.ctypes.data % SMALLEST_BOUNDARY
    return memory[start : start + nbytes((shape, dtype))].view(dtype).reshape(shape)


def _placed(row: np.ndarray, axis: int, shares: int, place: Any) -> jax.Array:
    """An array of one row -> with `shares` equal ones along a new `axis`, on the devices of its sharding."""
    whole = np.broadcast_to(np.expand_dims(row, axis), (*row.shape[:axis], shares, *row.shape[axis:]))
    return jax.block_until_ready(jax.make_array_from_callback(whole.shape, place, lambda at: whole[at]))


def _fill(file: BinaryIO, rows: list[np.ndarray], checksum: str) -> None:
    """Reads what comes next in the file into `rows`, and compares its checksum."""
    digest = hashlib.sha256()
    for row in rows:
        _bytes_into(file, row)
        digest.update(_flat(row))
    _check(digest, checksum)


def _check(digest: Any, checksum: str) -> None:
    if digest.hexdigest() != checksum:
        raise Unusable("it is damaged: a checksum differs")


def _bytes_into(file: BinaryIO, array: np.ndarray) -> None:
    view = _flat(array)
    while len(view):
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise Unusable("it is damaged: it ends too early")
        view = view[count:]


def _bytes(file: BinaryIO, count: int) -> bytes:
    array = np.empty(count, np.uint8)
    _bytes_into(file, array)
    return array.tobytes()


def _flat(array: np.ndarray) -> memoryview:
    """The bytes of an array [...] without gaps, where they lie."""
    return array.reshape(-1).view(np.uint8).data


# ------------------------------------------------------------------------------------------ taking it apart


def _rows_of(prefix: Prefix, specs: Mapping[str, Spec]) -> Iterator[Iterator[np.ndarray]]:
    """For each array of `specs` its rows in the order of the file: the tokens, and for every layer and head
    what [n, ...] the cache holds of them, in their order.
    """
    cache = prefix.cache
    positions = np.asarray(cache.positions[0])
    there = np.flatnonzero((np.asarray(cache.segment_ids[0]) > 0) & (positions < len(prefix)))
    slots = there[np.argsort(positions[there])]
    assert len(slots) == len(prefix)
    in_order = np.array_equal(slots, np.arange(len(slots)))

    def rows(array: np.ndarray) -> Iterator[np.ndarray]:
        for layer, head in np.ndindex(*array.shape[:2]):
            yield array[layer, head, : len(slots)] if in_order else array[layer, head, slots]

    for name in specs:
        if name == "tokens":
            yield iter([prefix.tokens.astype(np.int32)])
        else:
            yield rows(np.asarray(getattr(cache, name))[:, 0])  # of one CPU device where it lies: no copy
