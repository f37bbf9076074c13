"""The process that reads pickles: started by `table_of`, it writes one JSON object to stdout and ends.

Nothing in a pickle can be run (unpickler.py has no way to), but a hostile one can use memory and time, and an
error of ours should find nothing to do harm with. So this is a fresh interpreter with the standard library
alone. It holds one descriptor (of the file, for reading) and limits itself: address space, processor time, no
core, no written file, no further process (unless it is root's), and no network where the system lets it leave
that. The offsets that it answers with are checked against the file by the process that asked.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ringvision.errors import UserError
from ringvision.weights.readers.unpickler import Array, Tensor, Unpickler, leaves
from ringvision.weights.readers.weights_file import MOST_TENSORS, WeightsFile

SECONDS = 120
ANSWER_BYTES = 64 << 20
MOST_AXES = 16
LEAST_MEMORY = 128 << 20
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001
START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from "
    "ringvision.weights.readers.child import main; main()"
)


def table_of(
    file: WeightsFile, memory: int, kind: str, offset: int = 0, end: int | None = None
) -> dict[str, Any]:
    """What the pickle in `file` describes, found out in a process of limited memory and SECONDS of time.

    Args:
        file: the file that holds the pickle.
        memory: bytes that the process may use.
        kind: "pickle" (arrays lie in the file itself), "torch" (a zip's data.pkl) or "torch-legacy".
        offset: the pickle's first byte in the file.
        end: the byte behind its last; None: the file's end.

    Returns:
        {"tensors": {name: fields}}; for torch also {"storages": {key: [dtype, count]}}; for its legacy form
        also
        "keys" and "end".

    Raises:
        UserError: for what the process says of the file, and where it passes a limit.
    """
    memory = max(memory, LEAST_MEMORY)
    end = file.size if end is None else end
    request = {
        "path": str(file.path),
        "descriptor": file.descriptor,
        "memory": memory,
        "kind": kind,
        "offset": offset,
        "end": end,
    }
    root = str(Path(__file__).resolve().parents[3])
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", START, root, json.dumps(request)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(file.descriptor,),
        env={"MALLOC_ARENA_MAX": "1"},
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        answer = json.loads(_until_end(file, child.stdout.fileno()))
    except (ValueError, RecursionError):
        why = f"the process that reads it ended without an answer; it may need more than {memory >> 20} MB"
        raise file.damaged(why) from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def _until_end(file: WeightsFile, descriptor: int) -> bytes:
    data = bytearray()
    until = time.monotonic() + SECONDS
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while waiting.poll(max(0.0, until - time.monotonic()) * 1000):
        piece = os.read(descriptor, 1 << 20)
        if not piece:
            return bytes(data)
        data += piece
        if len(data) > ANSWER_BYTES:
            raise file.damaged("the table of its tensors is too large")
    raise file.damaged(f"going over it takes longer than {SECONDS} seconds")


def main() -> None:
    request = json.loads(sys.argv[1])
    limit_process(request["memory"])
    # everything that is built stays until the end: looking for garbage would take most of the time
    gc.disable()
    file = WeightsFile(request["path"], request["descriptor"])
    try:
        answer = table(file, request["kind"], request["offset"], request["end"])
    except UserError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": str(file.damaged(f"going over it needs more than {request['memory'] >> 20} MB"))}
    except Exception as error:
        answer = {"error": str(file.damaged(f"the pickle in it makes no sense ({type(error).__name__})"))}
    rest = memoryview(json.dumps(answer).encode())
    while rest:
        rest = rest[os.write(1, rest) :]


def limit_process(memory: int) -> None:
    """Takes away from this process what reading a pickle does not need."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
    }
    for limit, value in (limits | {resource.RLIMIT_NPROC: 0}).items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    with contextlib.suppress(Exception):
        unshare = ctypes.CDLL(None, use_errno=True).unshare
        if unshare(CLONE_NEWNET) != 0 and os.geteuid() != 0:
            unshare(CLONE_NEWUSER | CLONE_NEWNET)


def table(file: WeightsFile, kind: str, offset: int, end: int) -> dict[str, Any]:
    """`table_of`, in this process.

    Args:
        file: the file that holds the pickle.
        kind: "pickle", "torch" or "torch-legacy".
        offset: the pickle's first byte in the file.
        end: the byte behind its last.

    Returns:
        what `table_of` returns.

    Raises:
        UserError: where the pickle is not sound.
    """
    unpickler = Unpickler(file, offset, end, torch=kind != "pickle")
    answer: dict[str, Any] = {}
    if kind == "torch-legacy":
        if unpickler.load() != TORCH_MAGIC or unpickler.load() != TORCH_PROTOCOL:
            raise unpickler.damaged("it is no file of torch's")
        unpickler.load()
    root = unpickler.load()
    found = leaves(unpickler, root)
    if len(found) > MOST_TENSORS:
        raise unpickler.damaged(f"it speaks of {len(found)} tensors, and {MOST_TENSORS} are the most")
    answer["tensors"] = {name: _fields(unpickler, name, leaf, kind) for name, leaf in found.items()}
    if kind == "torch-legacy":
        keys = unpickler.load()
        answer |= {
            "keys": [unpickler.text(key) for key in keys] if isinstance(keys, list) else [],
            "end": unpickler.offset,
        }
    if unpickler.torch:
        answer["storages"] = {
            key: [storage.dtype, storage.count] for key, storage in unpickler.storages.items()
        }
    return answer


def _fields(unpickler: Unpickler, name: str, leaf: Array | Tensor, kind: str) -> dict[str, Any]:
    lengths = leaf.shape if isinstance(leaf, Array) else (*leaf.shape, *leaf.strides, leaf.offset)
    odd = any(type(length) is not int or not 0 <= length < 1 << 60 for length in lengths)
    if odd or len(leaf.shape) > MOST_AXES or len(lengths) > 2 * MOST_AXES + 1:
        raise unpickler.damaged(f"{name[:60]} has no shape that a tensor can have")
    if isinstance(leaf, Tensor):
        return {
            "shape": leaf.shape,
            "strides": leaf.strides,
            "offset": leaf.offset,
            "storage": leaf.storage.key,
            "dtype": leaf.storage.dtype,
        }
    if leaf.data is None or kind != "pickle":
        raise unpickler.damaged(f"{name[:60]} is an array without its numbers")
    fields = {"shape": leaf.shape, "dtype": leaf.dtype, "start": leaf.data.start, "length": leaf.data.length}
    return fields | {"fortran": leaf.fortran, "text": leaf.data.latin}
