"""A model folder of parameters that are spread over the devices of several processes.

    name -> array on the mesh  --save_gathered-->  config.json, model.safetensors, written by process 0

The parameters come to it one after another, those of the layers a layer at a time, so that neither a device
nor the host ever holds the whole model.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision.distributed import PATIENCE, failing_together, host_parts, is_main, reason_of
from ringvision.errors import UserError
from ringvision.model_folder import ModelWriter

_LAYERS = "layers."
"""What the names of parameters begin with that have the layers as their first axis."""


def save_gathered(
    folder: Path,
    settings: Mapping[str, Any],
    params: Mapping[str, jax.Array],
    files: Mapping[str, Path],
) -> None:
    """Write a model folder; returns when it is on disk. Every process of the run must call it.

    Args:
        folder: is made where it is missing; a model in it is replaced.
        settings: its config.json.
        params: name -> array [*shape] on the mesh.
        files: name -> what is copied into the folder under it; a name may have a folder of its own before a
            slash.

    Raises:
        UserError: on every process, where process 0 could not write it.
    """
    parts = (
        (name, index, part)
        for name, array in params.items()
        for index, part in host_parts(array, by_row=name.startswith(_LAYERS))
    )
    with failing_together("writing the model", seconds=6 * PATIENCE):
        try:
            if is_main():
                _write(folder, settings, params, parts, files)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the model could not be written to {folder}: {reason_of(error)}; put that right"
            ) from error
        finally:
            for _ in parts:  # what one process gathers all must, written or not
                pass


def _write(
    folder: Path,
    settings: Mapping[str, Any],
    params: Mapping[str, jax.Array],
    parts: Iterator[tuple[str, int | None, np.ndarray | None]],
    files: Mapping[str, Path],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        _copy(source, folder / name)
    specs = {name: (array.shape, array.dtype) for name, array in params.items()}
    with ModelWriter(folder, settings, specs) as writer:
        for name, index, part in parts:
            writer.write(name, part, at=index)


def _copy(source: Path, dest: Path) -> None:
    """Copy a file, its times included, unless it was copied before."""
    if dest.is_file() and filecmp.cmp(source, dest):
        return
    dest.parent.mkdir(exist_ok=True)
    aside = dest.with_name(f"{dest.name}.partial")
    shutil.copy2(source, aside)
    os.replace(aside, dest)
