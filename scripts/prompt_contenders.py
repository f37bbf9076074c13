"""The contenders of bench_prompt.py, each in a process of its own that sleeps while the other runs.

    python scripts/prompt_contenders.py ringvision FOLDER --devices 2
        a model folder of ours, in blocks by the engine, on a ring of so many CPU devices
    python scripts/prompt_contenders.py transformers FOLDER
        a Hugging Face folder, by torch, with its fused attention and its own cache

In, on stdin: a line of JSON, seed and number of tokens of a prompt `[seed, tokens]`, each time. Out, on
stdout: a line `{"ready": versions}` first, then for each prompt `{"seconds", "processor", "peak" bytes
resident while it was read, "before": bytes resident when that began, "logits"}`: float32, from the prompt's
tokens to the logits after its last one, with the cache that decoding would go on from. All cores are used by
each.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]
"""int32 [n] -> float32 [V]."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("who", choices=CONTENDERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--devices", type=int, default=2)
    options = parser.parse_args()
    vocab_size = json.loads((options.folder / "config.json").read_text())
    vocab_size = vocab_size.get("transformer", vocab_size)["vocab_size"]
    run = CONTENDERS[options.who](options)
    versions = {name: importlib.metadata.version(name) for name in NEEDS[options.who]}
    print(json.dumps({"ready": versions}), flush=True)
    for line in sys.stdin:
        seed, count = json.loads(line)
        prompt = np.random.default_rng(seed).integers(0, vocab_size, count).astype(np.int32)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of what comes
        before = _resident("VmRSS")
        began = time.perf_counter()
        processor = time.process_time()
        logits = run(prompt)
        result = {
            "seconds": time.perf_counter() - began,
            "processor": time.process_time() - processor,
            "peak": _resident("VmHWM"),
            "before": before,
            "logits": logits.tolist(),
        }
        print(json.dumps(result), flush=True)


def _resident(key: str) -> int:
    """Bytes: VmRSS what is resident, VmHWM the most that was since it was last set to that (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _ringvision(options: argparse.Namespace) -> Run:
    from ringvision.cli.devices import start_jax

    start_jax(options.devices)

    from ringvision.infer.engine import Engine, Rows
    from ringvision.infer.model import load_model
    from ringvision.mesh import make_mesh

    engine = Engine(load_model(options.folder, make_mesh(context=options.devices)))

    def run(prompt: np.ndarray) -> np.ndarray:
        rows = Rows(engine, 1, engine.slots_for(len(prompt), blocks=engine.blocks), blocks=engine.blocks)
        rows.read({0: prompt})
        return np.asarray(rows.logits)[0]

    return run


def _transformers(options: argparse.Namespace) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model: Any = AutoModelForCausalLM.from_pretrained(
        options.folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()

    @torch.inference_mode()
    def run(prompt: np.ndarray) -> np.ndarray:
        out = model(torch.from_numpy(prompt.astype(np.int64))[None], use_cache=True, logits_to_keep=1)
        return np.asarray(out.logits[0, -1])

    return run


CONTENDERS: dict[str, Callable[[argparse.Namespace], Run]] = {
    "ringvision": _ringvision,
    "transformers": _transformers,
}
NEEDS = {"ringvision": ("jax", "jaxlib", "flax"), "transformers": ("torch", "transformers")}

if __name__ == "__main__":
    main()
