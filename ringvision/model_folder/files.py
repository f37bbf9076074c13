"""The files of a model folder: config.json, and its weights in one safetensors file, or in several and an
index where one would be too large.

    config.json, model.safetensors
    config.json, model-00001-of-0000N.safetensors …, model.safetensors.index.json:
        {"metadata": {"total_size"}, "weight_map": {name: file}}

In: a folder. Out: which files hold its tensors, in a fixed order; a name that leads out of the folder is
refused.
"""

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ringvision.errors import UserError
from ringvision.untrusted_files import belongs, read_object

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_FILE = 5_000_000_000
"""Bytes of tensors in one file, as on Hugging Face."""
MOST_LICENCES = 4
LARGEST_LICENCE = 1 << 20

Spec = tuple[tuple[int, ...], Any]  # (shape, dtype)

DTYPES: dict[np.dtype, str] = {
    np.dtype(numpy): stored
    for numpy, stored in (
        (np.bool_, "BOOL"),
        (np.uint8, "U8"),
        (np.int8, "I8"),
        (np.int16, "I16"),
        (np.uint16, "U16"),
        (np.float16, "F16"),
        (ml_dtypes.bfloat16, "BF16"),
        (np.int32, "I32"),
        (np.uint32, "U32"),
        (np.float32, "F32"),
        (np.float64, "F64"),
        (np.int64, "I64"),
        (np.uint64, "U64"),
    )
}
"""In safetensors' own order, from the last of which to the first its files are sorted."""


def check_room(folder: Path, specs: Mapping[str, Spec]) -> None:
    """UserError where the disk of a folder has too few free bytes for these tensors."""
    needed = sum(map(nbytes, specs.values()))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free, and the model takes {needed / 1e9:.1f} GB; "
            "make room or choose another place"
        )


def weight_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that hold the folder's tensors, in a fixed order. UserError where it has none, or some are
    missing.
    """
    folder = Path(folder)
    names = [name for name in weight_names(folder) if name != INDEX_FILE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        what = ", ".join(missing) or f"{WEIGHTS_FILE} (or {INDEX_FILE})"
        raise UserError(
            f"{folder} holds no {what}; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}: check the path"
        )
    return [folder / name for name in names]


def weight_names(folder: Path) -> list[str]:
    """The names of the folder's weights as its single file or its index tells them, the index among them; []
    where it has none. UserError where the index is damaged or names files elsewhere.
    """
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
        raise UserError(
            f"{path} names {', '.join(outside[:3]) or 'no files'}; expected files beside it: copy "
            "the model folder again"
        )
    return [*names, INDEX_FILE]


def own_files(folder: Path) -> list[Path]:
    """The files directly in a model folder that may be copied out of it, sorted: config, weights, and all
    others but links that lead elsewhere. UserError where its index is damaged.
    """
    read = {CONFIG_FILE, *weight_names(folder)}
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and (path.name in read or belongs(path, folder))
    ]


def licence_files(folder: Path) -> list[Path]:
    """The licences directly in a folder (LICENSE*) that may be copied out of it, sorted: at most
    MOST_LICENCES, none large, and no links that lead elsewhere.
    """
    return [
        path
        for path in sorted(folder.glob("LICENSE*"))[:MOST_LICENCES]
        if path.is_file() and belongs(path, folder) and path.stat().st_size <= LARGEST_LICENCE
    ]


def nbytes(spec: Spec) -> int:
    """How many bytes a tensor of this (shape, dtype) takes."""
    return math.prod(spec[0]) * np.dtype(spec[1]).itemsize


def sync(path: Path) -> None:
    """Write a file, or a folder's list of names, through to the disk: a rename must not overtake what it
    names.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
