"""Opens anything that holds weights: which format it is, is found out from its bytes, and nothing in it is
ever run.

In goes a file, or a folder with one; out come `Tensors`: which tensors it has, known without reading them,
and each read when asked for.
"""

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from ringvision.errors import UserError
from ringvision.weights.readers.gguf import open_gguf
from ringvision.weights.readers.msgpack import open_streaming, open_tree
from ringvision.weights.readers.pickle import open_pickle
from ringvision.weights.readers.safetensors import HEADER_BYTES, open_index, open_safetensors
from ringvision.weights.readers.stored import DTYPES, TensorSpec
from ringvision.weights.readers.torch import open_torch
from ringvision.weights.readers.weights_file import WeightsFile

__all__ = ["DTYPES", "FORMS", "TensorSpec", "Tensors", "find_weights", "open_tensors", "weights_format_of"]

FORMS = ("safetensors", "streaming-msgpack", "flax-msgpack", "pickle", "torch", "gguf")
WHOLE = "model.safetensors"
INDEX = ".safetensors.index.json"
MEMORY = 2 << 30


class Tensors(Protocol):
    """The tensors of a file or of a sharded folder.

    form: one of FORMS. specs: each tensor's shape and dtype, by its name as it is stored: levels joined by
    "/" in msgpack and pickles, dotted in safetensors, torch's files and GGUF. metadata: GGUF's key-values,
    the __metadata__ of safetensors; empty for others.
    """

    form: str
    specs: dict[str, TensorSpec]
    metadata: dict[str, Any]

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One tensor in memory of its own, of the shape and dtype of `specs[name]` (GGUF: float32): [R, …]
        whole, or [end - first, …] where `rows` is (first, end), a range of its first axis.

        Raises UserError for a name or rows that it does not have.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_tensors(path: str | Path, form: str | None = None, *, memory: int = MEMORY) -> Tensors:
    """The weights at `path`, a file or a folder.

    form: one of FORMS, where it is known; else it is found out. memory: bytes that the process that goes over
    a pickle may use. Raises UserError for what is no weights, damaged, or made to do harm.
    """
    path = find_weights(Path(path))
    if path.name.endswith(INDEX):
        if form not in (None, "safetensors"):
            raise UserError(f"{path} is an index of safetensors, not {form}; leave the form out")
        return open_index(path)
    found = weights_format_of(path)
    if found is None:
        raise UserError(
            f"{path} is none of the kinds of weights that are read ({', '.join(FORMS)}); check "
            "that it was fetched whole"
        )
    if form is not None and form != found:
        raise UserError(f"{path} is {found} and not {form}; leave the form out, or give another file")
    match found:
        case "safetensors":
            return open_safetensors(path)
        case "streaming-msgpack":
            return open_streaming(path)
        case "flax-msgpack":
            return open_tree(path)
        case "pickle":
            return open_pickle(path, memory)
        case "torch":
            return open_torch(path, memory)
        case _:
            return open_gguf(path)


def find_weights(path: Path) -> Path:
    """The file of weights that `path` is or holds: a folder's model.safetensors, where transformers looks
    first, its index of safetensors, its one file of safetensors or of any other kind.

    Raises UserError where it holds none, or it is not clear which.
    """
    if not path.is_dir():
        return path
    try:
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"{path} cannot be looked into ({error.strerror}); give a folder with weights, or the file itself"
        ) from None
    if (whole := path / WHOLE) in files:
        return whole
    for kind in (INDEX, ".safetensors"):
        if len(found := [file for file in files if file.name.endswith(kind)]) == 1:
            return found[0]
    found = found or [
        file for file in files if file.suffix not in (".json", ".npz") and weights_format_of(file) is not None
    ]
    if not found:
        raise UserError(
            f"{path} holds no weights; give a folder with one file of {', '.join(FORMS)}, or the file itself"
        )
    if len(found) > 1:
        raise UserError(
            f"{path} holds several files of weights "
            f"({', '.join(file.name for file in found[:6])}); name the one that is meant"
        )
    return found[0]


def weights_format_of(path: Path) -> str | None:
    """Which of FORMS the file's first bytes begin; None where they begin none of them."""
    file = WeightsFile(path)
    try:
        first = file.take(0, min(32, file.size))
    finally:
        file.close()
    if first[8:9] == b"{" and int.from_bytes(first[:8], "little") <= HEADER_BYTES:
        return "safetensors"
    if first[:4] == b"GGUF":
        return "gguf"
    if first[:4] == b"PK\x03\x04":
        return "torch"
    if first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "torch" if b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in first else "pickle"
    if first[:1] == b"\x92" and first[1:2] and (0x90 <= first[1] <= 0x9F or first[1] in (0xDC, 0xDD)):
        return "streaming-msgpack"
    if first[:1] and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)):
        return "flax-msgpack"
    return None
