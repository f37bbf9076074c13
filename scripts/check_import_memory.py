"""Whether a 7B model imports on a small machine: how much memory the import of a random LWM checkpoint takes
at its peak.

    python scripts/check_import_memory.py [--folder DIR] [--layers 32] [--limit 6.0]

Writes a checkpoint of LWM's shape with random numbers (streaming msgpack, bfloat16, 13.7 GB with all layers)
into a temporary folder of DIR, imports it in a process of its own, prints the most memory that this process
and its children held together, and deletes all of it. Exit code 1 where that is more than the limit. Needs
twice the checkpoint's size free on the disk.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from ringvision.weights.streaming import record

WIDTH = 4096
HIDDEN = 11008
TEXT = 32000
VISION = 8448
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PIECE = 1 << 24
"""Numbers that are drawn at once."""


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """LWM-7B's tensors, `layers` of its 32 layers."""
    block = "transformer/h/scan_decoder/"
    square = (layers, WIDTH, WIDTH)
    up = (layers, WIDTH, HIDDEN)
    down = (layers, HIDDEN, WIDTH)
    return {
        **{f"{block}attention/{name}/kernel": square for name in ("wq", "wk", "wv", "wo")},
        **{
            f"{block}feed_forward/{name}/kernel": shape
            for name, shape in (("w1", up), ("w2", down), ("w3", up))
        },
        **{f"{block}{name}/kernel": (layers, WIDTH) for name in ("attention_norm", "ffn_norm")},
        "transformer/ln_f/kernel": (WIDTH,),
        "transformer/wte/embedding": (TEXT, WIDTH),
        "transformer/vte/embedding": (VISION, WIDTH),
        "lm_head/kernel": (WIDTH, TEXT),
        "vision_head/kernel": (WIDTH, VISION),
    }


def numbers(random: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """bfloat16 [n] pieces, `count` numbers in all, between 1/32 and 1/16 in size: random bits below a fixed
    exponent, as fast as bits come.
    """
    for start in range(0, count, PIECE):
        bits = random.integers(0, 1 << 16, min(PIECE, count - start), np.uint16)
        yield ((bits & 0x807F) | 0x3D00).view(BFLOAT16)


def write_checkpoint(path: Path, layers: int) -> None:
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        for name, shape in shapes(layers).items():
            record(file, ["params", *name.split("/")], shape, BFLOAT16, numbers(random, int(np.prod(shape))))


def resident(process: int) -> int:
    """Bytes that a process and its children hold now: their own, and what they map of files."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return own + sum(resident(int(child)) for child in children)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where there is room; the system's temporary folder where it is left out"
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--limit", type=float, default=6.0, help="gigabytes (10^9 bytes)")
    options = parser.parse_args()
    size = 2 * sum(int(np.prod(shape)) for shape in shapes(options.layers).values())
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="import-memory-") as folder:
        free = shutil.disk_usage(folder).free
        if free < 2.1 * size:
            parser.error(
                f"{folder} has {free / 1e9:.0f} GB free, {2.1 * size / 1e9:.0f} are needed; choose "
                "another with --folder"
            )
        source = Path(folder, "params")
        dest = Path(folder, "model")
        write_checkpoint(source, options.layers)
        print(f"checkpoint: {source.stat().st_size / 1e9:.2f} GB, {size / 2e9:.2f}B parameters")
        code = (
            "import sys; from ringvision.weights.importing import import_weights as run; "
            "run(sys.argv[1], sys.argv[2])"
        )
        began = time.perf_counter()
        peak = 0
        process = subprocess.Popen([sys.executable, "-c", code, str(source), str(dest)])
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.02)
        if process.returncode:
            return 1
        files = sorted(path.name for path in dest.glob("*.safetensors"))
        seconds = time.perf_counter() - began
        largest = 2 * max(int(np.prod(shape)) for shape in shapes(options.layers).values())
        result = {
            "seconds": round(seconds),
            "peak_gb": round(peak / 1e9, 2),
            "largest_tensor_gb": round(largest / 1e9, 2),
            "files": len(files),
        }
        print(json.dumps(result))
    return int(peak > options.limit * 1e9)


if __name__ == "__main__":
    sys.exit(main())
