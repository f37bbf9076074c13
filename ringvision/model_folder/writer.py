"""Writing a model folder: tensors come in any order, whole or a layer at a time; the folder appears at once
and whole.

In: names, shapes and dtypes, then arrays. Memory: one tensor.

Written by hand, although safetensors.numpy.save_file exists, for memory: that needs all arrays of a file at
once, and a model may be larger than memory.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ringvision.errors import UserError
from ringvision.model_folder.files import (
    CONFIG_FILE,
    DTYPES,
    INDEX_FILE,
    MAX_FILE,
    WEIGHTS_FILE,
    Spec,
    check_room,
    nbytes,
    sync,
    weight_names,
)

FileOffset = tuple[int, int]  # (number of the file, first byte in it)
_WRITE_AT_ONCE = 1 << 28


def save_model(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    max_file: int = MAX_FILE,
) -> Path:
    """Write `folder`/config.json and the weights; other files in it (cards, text.model) stay. All files are
    written under other names first; each is then renamed into place, the weights before the config.

    Args:
        folder: the model's, new or not.
        config: what JSON can hold.
        params: name -> array of any shape, as `flatten` gives.
        max_file: bytes above which the tensors are spread over several files.

    Returns:
        the folder.

    Raises:
        UserError: where the disk has too little space.
        ValueError: for a dtype that safetensors does not know.
    """
    announced = {name: (np.shape(value), _array_dtype(value)) for name, value in params.items()}
    with ModelWriter(folder, config, announced, max_file=max_file) as writer:
        for name, value in params.items():
            writer.write(name, value)
    return Path(folder)


class ModelWriter:
    """Writes a model folder whose tensors come one after another, or one layer after another; a context
    manager.

        with ModelWriter(folder, config, specs) as writer:
            writer.write("embed.table", table)
            for layer in range(layers):
                writer.write("layers.attention.query", query(layer), at=layer)

    Each file is laid out under another name in its full size and renamed into place when all is written,
    weights before the config; other files in the folder stay, older weights go, and so does what a killed
    writer left. Leaving the block by an error leaves the folder as it was. UserError where the disk has too
    little space for it all.

    Args:
        folder: the model's, new or not.
        config: what JSON can hold.
        specs: name -> (shape, dtype) of every tensor that will come.
        max_file: bytes above which the tensors are spread over several files.
        metadata: what each file's header says beside them.

    Raises:
        ValueError: for a dtype that safetensors does not know.
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
        self.folder = Path(folder)
        self._metadata = metadata
        self._specs = {
            name: (tuple(int(size) for size in shape), np.dtype(dtype))
            for name, (shape, dtype) in specs.items()
        }
        self._settings = json.dumps(dict(config), indent=2) + "\n"
        self._parts = _parts(self._specs, max_file)
        self._offsets: dict[str, FileOffset] = {}
        self._written: dict[str, set[int | None]] = {name: set() for name in self._specs}
        self._handles: list[int] = []
        self._unfinished: Path | None = None
        self._made = False

    def __enter__(self) -> "ModelWriter":
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for abandoned in self.folder.glob(".writing-*"):  # by a process that was killed
                shutil.rmtree(abandoned)
            check_room(self.folder, self._specs)
            self._unfinished = Path(tempfile.mkdtemp(dir=self.folder, prefix=".writing-"))
            for number, names in enumerate(self._parts):
                self._lay_out(number, names)
        except BaseException:
            self._clear()
            raise
        return self

    def write(self, name: str, array: Any, at: int | None = None) -> None:
        """Write a tensor [*shape], or with `at` the slice `[at]` of it, [*shape[1:]]. ValueError for a name,
        shape, dtype or index that was not announced, and for what has been written before.
        """
        shape, dtype = self._specs.get(name, ((), None))
        if dtype is None:
            raise ValueError(f"{name!r} was not announced; there are {', '.join(list(self._specs)[:6])} …")
        array = np.asarray(array)
        wanted = shape if at is None else shape[1:]
        if (
            array.shape != wanted
            or array.dtype != dtype
            or (at is not None and not (shape and 0 <= at < shape[0]))
        ):
            raise ValueError(
                f"{name} at {at}: {array.dtype} {list(array.shape)} was given, announced was {dtype} "
                f"{list(shape)}"
            )
        done = self._written[name]
        if at in done or None in done or (at is None and done):
            raise ValueError(f"{name} at {at} was written before")
        done.add(at)
        number, first = self._offsets[name]
        _put(
            self._handles[number],
            np.ascontiguousarray(array).reshape(-1).view(np.uint8),
            first + (at or 0) * array.nbytes,
        )

    def finish(self) -> Path:
        """Check that everything came, and give the folder its new files. ValueError names what is missing."""
        lacking = [name for name in self._specs if not self._whole(name)]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(self._specs)} tensors were not written whole: "
                f"{', '.join(lacking[:6])}"
            )
        if self._unfinished is None:
            raise ValueError("the writer is closed, or was never entered")
        for handle in self._handles:
            os.fsync(handle)
        files = [_file_name(number, len(self._parts)) for number in range(len(self._parts))]
        weights = list(files)
        older = _older(self.folder)
        if len(files) > 1:
            weights.append(INDEX_FILE)
            where = {name: files[number] for number, names in enumerate(self._parts) for name in names}
            index = {
                "metadata": {"total_size": sum(map(nbytes, self._specs.values()))},
                "weight_map": dict(sorted(where.items())),
            }
            _write_text(self._unfinished / INDEX_FILE, json.dumps(index, indent=2) + "\n")
        _write_text(self._unfinished / CONFIG_FILE, self._settings)
        for name in weights:
            os.replace(self._unfinished / name, self.folder / name)
        # a folder with both is read by its single file: what is older goes before the config comes
        for name in sorted(
            set(older) - set(weights), key=lambda name: name not in (WEIGHTS_FILE, INDEX_FILE)
        ):
            (self.folder / name).unlink(missing_ok=True)
        os.replace(self._unfinished / CONFIG_FILE, self.folder / CONFIG_FILE)
        self._made = False
        self._clear()
        sync(self.folder)
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._unfinished is not None:
                self.finish()
        finally:
            self._clear()

    def _whole(self, name: str) -> bool:
        done = self._written[name]
        shape = self._specs[name][0]
        return None in done or (bool(shape) and len(done) == shape[0])

    def _lay_out(self, number: int, names: list[str]) -> None:
        """One file with its header, in its full size; where each of its tensors goes."""
        assert self._unfinished is not None
        entries: dict[str, Any] = {}
        end = 0
        for name in names:
            begin = end
            end = end + nbytes(self._specs[name])
            shape, dtype = self._specs[name]
            entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        head = {"__metadata__": dict(self._metadata)} if self._metadata else {}
        header = json.dumps(head | entries, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        first = 8 + len(header)
        handle = os.open(
            self._unfinished / _file_name(number, len(self._parts)), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644
        )
        self._handles.append(handle)
        os.fchmod(handle, 0o644)
        os.ftruncate(handle, first + end)
        _put(handle, np.frombuffer(len(header).to_bytes(8, "little") + header, np.uint8), 0)
        self._offsets |= {name: (number, first + entry["data_offsets"][0]) for name, entry in entries.items()}

    def _clear(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []
        if self._unfinished is not None:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._unfinished = None
        if self._made:
            with contextlib.suppress(OSError):  # somebody put something else into it
                self.folder.rmdir()
            self._made = False


def _older(folder: Path) -> list[str]:
    """The names of weights that are to be removed; of a damaged index, the index."""
    try:
        return weight_names(folder)
    except UserError:
        return [INDEX_FILE]


def _parts(specs: Mapping[str, Spec], max_file: int) -> list[list[str]]:
    """The names of each file's tensors: wide numbers first, so that each lies at a multiple of its size, then
    by name.
    """
    wrong = [f"{name} ({dtype})" for name, (_, dtype) in specs.items() if dtype not in DTYPES]
    if wrong:
        raise ValueError(f"safetensors cannot hold {', '.join(wrong)}")
    parts: list[list[str]] = [[]]
    filled = 0
    rank = list(DTYPES)
    for name in sorted(specs, key=lambda name: (-rank.index(specs[name][1]), name)):
        size = nbytes(specs[name])
        if parts[-1] and filled + size > max_file:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _file_name(number: int, count: int) -> str:
    return WEIGHTS_FILE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _put(handle: int, values: np.ndarray, at: int) -> None:
    """All bytes of a flat uint8 array into a file, from byte `at` on."""
    view = values.data
    while len(view):
        count = os.pwrite(handle, view[:_WRITE_AT_ONCE], at)
        view = view[count:]
        at = at + count


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _array_dtype(value: Any) -> Any:
    return value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
