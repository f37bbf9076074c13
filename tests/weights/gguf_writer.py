"""Writes small GGUF files with the package's own writer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter


def write_gguf(
    path: Path, arrays: dict[str, tuple[np.ndarray, Any]], keys: Sequence[tuple[str, str, Any]] = ()
) -> None:
    """arrays: name -> (what is stored, its type where it is quantised); keys: (the writer's method, key,
    value).
    """
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    for add, name, value in keys:
        getattr(writer, add)(name, value)
    for name, (array, kind) in arrays.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
