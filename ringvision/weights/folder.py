"""The weights of a model folder: one safetensors file, or several and an index where one would be too large.

    config.json, model.safetensors
    config.json, model-00001-of-0000N.safetensors …, model.safetensors.index.json {"metadata": {"total_size"}, "weight_map": {name: file}}

In: names, shapes and dtypes, then arrays in any order, whole or a layer at a time. Out: the folder, there at once and whole; and back,
one tensor at a time. Neither way holds more than one tensor in memory. `checkpoint.py` has the short forms for a whole model.
"""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ringvision.data.foreign_files import read_object
from ringvision.errors import UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_FILE = 5_000_000_000
"""Bytes of tensors in one file, as on Hugging Face."""

Spec = tuple[tuple[int, ...], Any]  # (shape, dtype)
Place = tuple[int, int]  # (number of the file, first byte in it)

DTYPES: dict[np.dtype, str] = {
    np.dtype(numpy): stored
    for numpy, stored in (
        (np.bool_, "BOOL"), (np.uint8, "U8"), (np.int8, "I8"), (np.int16, "I16"), (np.uint16, "U16"), (np.float16, "F16"),
        (ml_dtypes.bfloat16, "BF16"), (np.int32, "I32"), (np.uint32, "U32"), (np.float32, "F32"), (np.float64, "F64"),
        (np.int64, "I64"), (np.uint64, "U64"),
    )
}  # fmt: skip
"""In safetensors' own order, from the last of which to the first its files are sorted."""
_WRITE_AT_ONCE = 1 << 28


class ModelWriter:
    """Writes a model folder whose tensors come one after another, or one layer after another; a context manager.

        with ModelWriter(folder, config, specs) as writer:
            writer.write("embed.table", table)
            for layer in range(layers):
                writer.write("layers.attention.query", query(layer), at=layer)

    config: what JSON can hold. specs: name -> (shape, dtype) of every tensor that will come. metadata: what each file's header says beside
    them. Each file is laid out aside in its full size and renamed into place when all is written, weights before the config; other files
    that lie in the folder stay, older weights go, and so does what a killed writer left. Leaving the block by an error leaves the folder
    as it was. UserError where the disk has no room for it all.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: Mapping[str, Any],
        specs: Mapping[str, Spec],
        *,
        max_file: int = MAX_FILE,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self._metadata = Path(folder), metadata
        self._specs = {name: (tuple(int(size) for size in shape), np.dtype(dtype)) for name, (shape, dtype) in specs.items()}
        self._settings = json.dumps(dict(config), indent=2) + "\n"
        self._parts = _parts(self._specs, max_file)
        self._places: dict[str, Place] = {}
        self._written: dict[str, set[int | None]] = {name: set() for name in self._specs}
        self._handles: list[int] = []
        self._aside: Path | None = None
        self._made = False

    def __enter__(self) -> "ModelWriter":
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for left in self.folder.glob(".writing-*"):  # by a process that was killed
                shutil.rmtree(left)
            check_room(self.folder, self._specs)
            self._aside = Path(tempfile.mkdtemp(dir=self.folder, prefix=".writing-"))
            for number, names in enumerate(self._parts):
                self._lay_out(number, names)
        except BaseException:
            self._clear()
            raise
        return self

    def write(self, name: str, array: Any, at: int | None = None) -> None:
        """Put a tensor, or with `at` the slice `[at]` of it, into its place in its file. ValueError for a name, shape, dtype or place
        that was not announced, and for what has been written before."""
        shape, dtype = self._specs.get(name, ((), None))
        if dtype is None:
            raise ValueError(f"{name!r} was not announced; there are {', '.join(list(self._specs)[:6])} …")
        array = np.asarray(array)
        wanted = shape if at is None else shape[1:]
        if array.shape != wanted or array.dtype != dtype or (at is not None and not (shape and 0 <= at < shape[0])):
            raise ValueError(f"{name} at {at}: {array.dtype} {list(array.shape)} was given, announced was {dtype} {list(shape)}")
        done = self._written[name]
        if at in done or None in done or (at is None and done):
            raise ValueError(f"{name} at {at} was written before")
        done.add(at)
        number, first = self._places[name]
        _put(self._handles[number], np.ascontiguousarray(array).reshape(-1).view(np.uint8), first + (at or 0) * array.nbytes)

    def finish(self) -> Path:
        """Check that everything came, and give the folder its new files. ValueError names what is missing."""
        lacking = [name for name in self._specs if not self._whole(name)]
        if lacking:
            raise ValueError(f"{len(lacking)} of {len(self._specs)} tensors were not written whole: {', '.join(lacking[:6])}")
        if self._aside is None:
            raise ValueError("the writer is closed, or was never entered")
        for handle in self._handles:
            os.fsync(handle)
        files = [_file_name(number, len(self._parts)) for number in range(len(self._parts))]
        weights, older = list(files), _older(self.folder)
        if len(files) > 1:
            weights.append(INDEX_FILE)
            where = {name: files[number] for number, names in enumerate(self._parts) for name in names}
            index = {"metadata": {"total_size": sum(map(_nbytes, self._specs.values()))}, "weight_map": dict(sorted(where.items()))}
            _write_text(self._aside / INDEX_FILE, json.dumps(index, indent=2) + "\n")
        _write_text(self._aside / CONFIG_FILE, self._settings)
        for name in weights:
            os.replace(self._aside / name, self.folder / name)
        # a folder with both is read by its single file: what is older goes before the config comes
        for name in sorted(set(older) - set(weights), key=lambda name: name not in (WEIGHTS_FILE, INDEX_FILE)):
            (self.folder / name).unlink(missing_ok=True)
        os.replace(self._aside / CONFIG_FILE, self.folder / CONFIG_FILE)
        self._made = False
        self._clear()
        sync(self.folder)
        return self.folder

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self._aside is not None:
                self.finish()
        finally:
            self._clear()

    def _whole(self, name: str) -> bool:
        done, shape = self._written[name], self._specs[name][0]
        return None in done or (bool(shape) and len(done) == shape[0])

    def _lay_out(self, number: int, names: list[str]) -> None:
        """One file with its header, in its full size; where each of its tensors goes."""
        assert self._aside is not None
        entries: dict[str, Any] = {}
        end = 0
        for name in names:
            begin, end = end, end + _nbytes(self._specs[name])
            shape, dtype = self._specs[name]
            entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        said = {"__metadata__": dict(self._metadata)} if self._metadata else {}
        header = json.dumps(said | entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        first = 8 + len(header)
        handle = os.open(self._aside / _file_name(number, len(self._parts)), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._handles.append(handle)
        os.fchmod(handle, 0o644)
        os.ftruncate(handle, first + end)
        _put(handle, np.frombuffer(len(header).to_bytes(8, "little") + header, np.uint8), 0)
        self._places |= {name: (number, first + entry["data_offsets"][0]) for name, entry in entries.items()}

    def _clear(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []
        if self._aside is not None:
            shutil.rmtree(self._aside, ignore_errors=True)
            self._aside = None
        if self._made:
            with contextlib.suppress(OSError):  # somebody put something else into it
                self.folder.rmdir()
            self._made = False


class ModelReader:
    """Reads the tensors of a model folder one at a time; a context manager.

    specs: name -> (shape, dtype) of all of them, as they are stored. UserError where there are no weights or they are damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}  # name of a tensor -> the open file it is in
        self.specs: dict[str, Spec] = {}

    def __enter__(self) -> "ModelReader":
        with contextlib.ExitStack() as stack:
            for path in weight_files(self.folder):
                with _damage(path):
                    file = stack.enter_context(safe_open(str(path), framework="numpy"))
                    for name in file.keys():  # noqa: SIM118 (no mapping)
                        part = file.get_slice(name)
                        self.specs[name] = (tuple(part.get_shape()), _dtype(name, part.get_dtype()))
                        self._files[name] = file
            self._stack = stack.pop_all()
        return self

    def read(self, name: str) -> np.ndarray:
        """One tensor in its stored type. KeyError where there is none of this name."""
        with _damage(self.folder):
            return self._files[name].get_tensor(name)

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def check_room(folder: Path, specs: Mapping[str, Spec]) -> None:
    """UserError where the disk of a folder has no room for these tensors."""
    needed, free = sum(map(_nbytes, specs.values())), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, and the model takes {needed / 1e9:.1f} GB; make room or choose another place"
        )


def weight_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that hold the folder's tensors, in a fixed order. UserError where there are none, or some are missing."""
    folder = Path(folder)
    names = [name for name in weight_names(folder) if name != INDEX_FILE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        what = ", ".join(missing) or f"{WEIGHTS_FILE} (or {INDEX_FILE})"
        raise UserError(f"{folder} holds no {what}; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}: check the path")
    return [folder / name for name in names]


def weight_names(folder: Path) -> list[str]:
    """The names of the folder's weights as its single file or its index tells them, the index among them; [] where there are none.
    UserError where the index is damaged or names files elsewhere."""
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    path = folder / INDEX_FILE
    if not path.is_file():
        return []
    index = read_object(path, "copy the model folder again")
    try:
        names = sorted(set(index["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); copy the model folder again") from error
    if outside or not names:
        raise UserError(f"{path} names {', '.join(outside[:3]) or 'no files'}; expected files beside it: copy the model folder again")
    return [*names, INDEX_FILE]


def _older(folder: Path) -> list[str]:
    """The names of weights that are to go; of a damaged index, the index."""
    try:
        return weight_names(folder)
    except UserError:
        return [INDEX_FILE]


def _parts(specs: Mapping[str, Spec], max_file: int) -> list[list[str]]:
    """The names of each file's tensors: wide numbers first, so that each lies at a multiple of its size, then by name."""
    wrong = [f"{name} ({dtype})" for name, (_, dtype) in specs.items() if dtype not in DTYPES]
    if wrong:
        raise ValueError(f"safetensors cannot hold {', '.join(wrong)}")
    parts: list[list[str]] = [[]]
    filled, rank = 0, list(DTYPES)
    for name in sorted(specs, key=lambda name: (-rank.index(specs[name][1]), name)):
        size = _nbytes(specs[name])
        if parts[-1] and filled + size > max_file:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _nbytes(spec: Spec) -> int:
    return math.prod(spec[0]) * np.dtype(spec[1]).itemsize


def _file_name(number: int, count: int) -> str:
    return WEIGHTS_FILE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _dtype(name: str, stored: str) -> np.dtype:
    found = next((dtype for dtype, known in DTYPES.items() if known == stored), None)
    if found is None:
        raise UserError(f"{name} is stored as {stored}; expected one of {', '.join(DTYPES.values())}: convert the weights first")
    return found


def _put(handle: int, values: np.ndarray, at: int) -> None:
    """All bytes of a flat uint8 array into a file, from byte `at` on."""
    view = values.data
    while len(view):
        count = os.pwrite(handle, view[:_WRITE_AT_ONCE], at)
        view, at = view[count:], at + count


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Bring a file or a folder's list of names to the disk itself: a rename must not overtake what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _damage:
    """What the safetensors library complains of, as one line for the user."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, (SafetensorError, OSError)):
            raise UserError(f"{self.path} is damaged or cut short ({error}); copy the model folder again") from error
